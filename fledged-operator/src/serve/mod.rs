//! What a process tells of itself over HTTP: metrics for Prometheus, and the probes of its pod.
//!
//! ```
//! use std::sync::Arc;
//! use fledged_operator::serve::{BindAddress, Routes, Server};
//! use prometheus_client::registry::Registry;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let routes = Routes::new()
//!     .with_metrics(Arc::new(Registry::default()))
//!     .with_readiness("cache", || Err("not synced yet".to_owned()));
//! if let Some(address) = BindAddress::parse(":8080")? {
//!     let server = Server::bind(&address, routes).await?;
//!     tokio::spawn(server.run(std::future::pending()));
//! }
//! # Ok(())
//! # }
//! ```

mod address;
mod build_info;
mod checks;
mod routes;
mod server;

pub use address::{BindAddress, InvalidBindAddress};
pub use build_info::register_build_info;
pub use routes::Routes;
#[cfg(feature = "webhook")]
pub(crate) use server::listen;
pub use server::{BindError, Server};
