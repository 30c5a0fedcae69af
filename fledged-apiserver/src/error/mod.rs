//! Errors as the API tells them: `Status` objects.

mod field;
mod start;
mod status;

pub(crate) use field::{Fault, FieldError};
pub use start::StartError;
pub(crate) use status::{ApiError, ApiResult, NO_SUCH_PATH, qualified};
