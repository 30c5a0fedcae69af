//! The port to time.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

/// Time, as the driver sees it.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait Clock: Send + Sync {
    /// The time now. Must never go back, whatever happens to the machine's wall clock.
    fn now(&self) -> Timestamp;

    /// Returns when `now()` has passed that far.
    async fn sleep(&self, duration: Duration);
}
