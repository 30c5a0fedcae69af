//! The commands.

mod apply;
mod check;
mod completions;
mod dispatch;
mod error;
mod input;
mod list;
mod man;
mod print;
mod purge;
mod round;
mod run;

pub use dispatch::dispatch;
pub use error::CommandError;
#[cfg(feature = "cluster")]
pub(crate) use input::warn_unread;
#[cfg(feature = "cluster")]
pub(crate) use print::print;
