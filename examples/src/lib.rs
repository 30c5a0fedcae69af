//! What the examples share: their log, and a cluster to try them on.

mod log;
mod playground;

pub use log::set_up;
pub use playground::Playground;
