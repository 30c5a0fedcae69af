//! The agent of one node: brings the node's images to what its
//! [`NodeImageCache`](crate::crd::NodeImageCache) asks for, and says there how far it has got.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use fledged_core::model::NodeName;
//! use fledged_operator::agent::Agent;
//!
//! let client = kube::Client::try_default().await?;
//! let runtime = fledged_cri::open(&"unix:///run/containerd/containerd.sock".parse()?, Default::default())?;
//! let agent = Agent::builder(client, NodeName::new("node-1")?, runtime).build();
//! let mut signals = fledged_core::tokio::ShutdownSignal::listen()?;
//! agent.run(async move { drop(signals.recv().await) }).await?;
//! # Ok(())
//! # }
//! ```

mod builder;
mod credentials;
mod health;
mod inputs;
mod list_watch;
#[cfg(test)]
mod list_watch_tests;
mod measured;
mod metrics;
mod observer;
mod rejoin;
mod run;
pub(crate) mod secrets;
mod watch;

pub use builder::AgentBuilder;
pub use credentials::KubeCredentials;
pub use health::AgentHealth;
pub use run::{Agent, AgentError};

/// Field manager of everything that agents write.
pub const FIELD_MANAGER: &str = "fledged-agent";
