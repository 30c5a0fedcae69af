//! Docker Engine as an image runtime, over its HTTP API.

mod connection;
mod failure;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod images;
mod progress;
mod runtime;

pub use runtime::DockerRuntime;
