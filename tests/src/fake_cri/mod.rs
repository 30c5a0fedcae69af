//! A scripted CRI runtime, for failures that a real one cannot be made to have.

mod fake;
mod server;
mod state;

pub use fake::FakeCri;
pub use state::{CriRequest, FakeContainer, FakeImage, Interface, SentAuth};
pub use tonic::Code;
