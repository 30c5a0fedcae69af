//! What the process prints: results go to stdout, everything else to stderr.

mod format;
#[cfg(feature = "cluster")]
mod frames;
mod progress;
mod terminal;
mod text_table;

#[cfg(feature = "cluster")]
pub(crate) use format::{age, span};
pub(crate) use format::{
    on_one_line, pluralised, printable, pulled_bytes, rounded_seconds, short_digest, took,
};
#[cfg(feature = "cluster")]
pub(crate) use frames::Frames;
pub(crate) use progress::LiveProgress;
#[cfg(feature = "cluster")]
pub(crate) use terminal::Pane;
pub(crate) use terminal::{Terminal, init_log};
#[cfg(feature = "cluster")]
pub(crate) use text_table::Widths;
pub(crate) use text_table::{Align, Table};
