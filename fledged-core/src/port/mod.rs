//! The ports: what the machines act through. Implement them for a runtime, a credential store or a
//! clock of your own.
//!
//! All are object-safe (`async-trait`), their futures are `Send`, and each has a `mockall` mock behind
//! the feature `mock`. What is handed through them is made by `new` and `with_…`, so that it can grow.

mod clock;
mod cluster;
mod credentials;
mod pull;
mod runtime;
mod runtime_image;

#[cfg(feature = "mock")]
pub use {
    clock::MockClock, cluster::MockCluster, credentials::MockCredentials, runtime::MockImageRuntime,
};

pub use clock::Clock;
pub use cluster::{Cluster, WriteFailure};
pub use credentials::{Anonymous, Credentials, CredentialsRequest, RegistryAuth};
pub use pull::{ProgressSink, PullProgress, PullRequest};
pub use runtime::{FilesystemUsage, ImageRuntime, Removal};
pub use runtime_image::{ImageId, RemovalScope, RuntimeImage, RuntimeInfo};
