//! Shared code of the examples: logging, and an embedded cluster.

mod log;
mod playground;

pub use log::set_up;
pub use playground::Playground;
