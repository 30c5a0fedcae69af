//! The ports: traits through which the loops act. Implement them for another runtime, credential store,
//! cluster or clock.
//!
//! All are object-safe (`async-trait`), their futures are `Send`, and each has a `mockall` mock behind
//! the feature `mock`. What is handed through them is made by `new` and `with_…`, so that it can grow.

mod cluster;
mod credentials;
mod runtime;

#[cfg(feature = "mock")]
pub use {cluster::MockCluster, credentials::MockCredentials, runtime::MockImageRuntime};

pub use cluster::{Cluster, WriteFailure};
pub use credentials::{Anonymous, Credentials, CredentialsRequest, RegistryAuth};
pub use runtime::{
    FilesystemUsage, ImageId, ImageRuntime, ProgressSink, PullProgress, PullRequest, Removal,
    RemovalScope, RuntimeImage, RuntimeInfo,
};

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

/// Time, as the loops see it.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Clock: Send + Sync {
    /// The time now. Must never go back, also when the wall clock is set back.
    fn now(&self) -> Timestamp;

    /// Returns once `now()` has advanced by `duration`.
    async fn sleep(&self, duration: Duration);
}
