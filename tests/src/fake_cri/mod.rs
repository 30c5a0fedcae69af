//! A scripted CRI runtime, for failures that cannot be provoked in a real one.

mod fake;
mod server;
mod state;

pub use fake::FakeCri;
pub use state::{CriRequest, FakeContainer, FakeImage, Interface, SentAuth};
pub use tonic::Code;
