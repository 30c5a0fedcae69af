//! `fledged demo`: a registry, some images and a store, all of its own.

mod images;
mod registry;
mod script;

pub use images::{DemoContent, DemoImage, generate};
pub use registry::{DemoRegistry, Traffic};
pub use script::{DemoError, run};
