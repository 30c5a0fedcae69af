//! A CRI runtime that does what it is told, for what a real one can't be made to do.

mod fake;
mod server;
mod state;

pub use fake::FakeCri;
pub use state::{CriRequest, FakeContainer, FakeImage, Interface, SentAuth};
pub use tonic::Code;
