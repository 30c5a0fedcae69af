//! What the process prints: results on stdout, everything else on stderr.

mod bars;
mod log;
mod outcome;
#[cfg(feature = "demo")]
mod pane;
mod progress;
mod removal_watch;
mod table;
mod terminal;

pub use log::init as init_log;
pub(crate) use outcome::short_digest;
pub use outcome::{ImageOutcome, Outcome, Summary, pluralised, rounded_seconds};
#[cfg(feature = "demo")]
pub(crate) use pane::Pane;
pub use progress::LiveProgress;
pub use removal_watch::RemovalWatch;
#[cfg(feature = "cluster")]
pub(crate) use table::Widths;
pub use table::{Align, Table};
pub use terminal::Terminal;
