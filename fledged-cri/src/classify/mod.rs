//! From what runtimes and registries say to a failure: HTTP statuses, and error texts where a runtime
//! gives nothing else.

mod delay;
mod http;
mod redact;
mod text;
mod words;

pub use delay::retry_after_of_text;
pub use http::{from_status, retry_after};
pub use redact::redact;
pub(crate) use text::known_reason_of_text;
pub use text::{failure_of_text, reason_of_text};
