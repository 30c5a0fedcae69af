//! Support for the tests of the agent: an API server inside the process, a client that counts requests and
//! injects faults, and a runtime in memory. The tests run on paused tokio time.
mod line;
mod node;
mod runtime;
mod server;

pub(crate) use line::{Fault, Line};
pub(crate) use node::{Node, image, images};
pub(crate) use runtime::FakeRuntime;
pub(crate) use server::{Server, eventually};
