//! `fledged demo`: an API server, a registry, a controller and nodes with agents, all inside this process.

mod acts;
mod args;
mod caches;
mod error;
mod folder;
mod images;
mod labels;
mod node;
mod part;
mod registry;
mod run;
mod screen;
mod served;
mod signals;
mod stage;

pub use args::DemoArgs;
pub use error::DemoError;
pub use images::{DemoContent, DemoImage, generate, storefront};
pub use registry::{DemoRegistry, Traffic};
pub use run::run;
