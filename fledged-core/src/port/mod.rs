//! The ports: traits through which the loops act. Implement them for another runtime, credential store,
//! cluster or clock.
//!
//! All are object-safe (`async-trait`), their futures are `Send`, and each has a `mockall` mock behind
//! the feature `mock`. Their parameters are created with `new` and `with_…`, so that fields can be added.

mod cluster;
mod credentials;
mod runtime;

#[cfg(feature = "mock")]
pub use {cluster::MockCluster, credentials::MockCredentials, runtime::MockImageRuntime};

pub use cluster::{Cluster, WriteFailure};
pub use credentials::{
    Anonymous, Credentials, CredentialsProblem, CredentialsRequest, FoundCredentials, RegistryAuth,
};
pub use runtime::{
    FilesystemUsage, ImageId, ImageRuntime, ImageUse, ProgressSink, PullProgress, PullRequest,
    Removal, RemovalScope, RuntimeImage, RuntimeInfo, SharedPullLimit,
};

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

/// The clock of the loops.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Clock: Send + Sync {
    /// The current time. Must never go back, even when the wall clock is set back.
    fn now(&self) -> Timestamp;

    /// Returns once `now()` has advanced by `duration`.
    async fn sleep(&self, duration: Duration);
}
