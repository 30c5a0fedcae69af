//! What the tests of the agent stand on: an API server, a line to it that counts and fails as asked,
//! a runtime in memory, a clock that runs faster.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test crate uses its own part"
)]

mod clock;
mod line;
mod node;
mod runtime;
mod server;

pub use clock::FastClock;
pub use line::{Fault, Line};
pub use node::{Node, image, images};
pub use runtime::FakeRuntime;
pub use server::{Server, eventually, unique};
