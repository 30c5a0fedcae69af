//! A campaign of faults against real parts.
//!
//! Real containerd (two nodes, one on a small disk), docker-registry behind a proxy, an API server, and the real
//! controller and agents as processes. In each round random faults are injected, several at a time, while users edit,
//! refresh, purge and delete ImageCaches. Then the faults end, and everything must converge. [`run`] judges from what
//! the runtimes hold, asked over CRI, and from containerd's log, never from what fledged reports alone.
//!
//! A seed gives the same faults each time, but not the same history: the parts run in real time.

mod api_server;
mod cri_images;
mod figures;
mod ledger;
mod parts;
mod plan;
mod run;
mod tls_trap;
mod users;

pub use figures::Outcome;
pub use run::{CONVERGENCE, NEEDED, Options, run};
