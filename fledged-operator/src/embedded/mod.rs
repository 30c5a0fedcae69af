//! A Kubernetes API server inside the process, for tests and the demo.
//!
//! It keeps its objects in memory and speaks plain HTTP on a loopback address, close enough to a real
//! kube-apiserver (1.33 and later) that kube clients and `kubectl` can't tell the difference for the kinds it
//! knows: it defaults, validates, prunes, merges, watches and collects garbage. What it doesn't know it
//! refuses with a proper `Status`, as a server that quietly took everything would prove nothing.
//!
//! Roles, admission policies and webhooks are objects like others: they are checked and kept, but nobody is refused
//! because of them. Whoever speaks to the server is an administrator.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use fledged_operator::embedded::EmbeddedServer;
//!
//! let server = EmbeddedServer::builder().start().await?;
//! let client = server.client()?;
//! println!("{}", client.apiserver_version().await?.git_version);
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod api;
mod apply;
mod builder;
mod collect;
mod connection;
mod error;
mod faults;
mod hollow_node;
mod kinds;
mod merge;
mod protobuf;
mod schema;
mod select;
mod server;
mod stats;
mod store;
mod validate;

pub use builder::Builder;
pub use error::StartError;
pub use faults::{Failure, RequestFilter};
pub use hollow_node::HollowNode;
pub use server::EmbeddedServer;
pub use stats::RequestKey;
