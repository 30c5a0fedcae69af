//! What the tests of the agent stand on: an API server, a line to it that counts and fails as asked,
//! a runtime in memory, a clock that runs faster.
mod clock;
mod line;
mod node;
mod runtime;
mod server;

pub(crate) use clock::FastClock;
pub(crate) use line::{Fault, Line};
pub(crate) use node::{Node, image, images};
pub(crate) use runtime::FakeRuntime;
pub(crate) use server::{Server, eventually, unique};
