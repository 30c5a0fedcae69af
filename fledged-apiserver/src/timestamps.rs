//! The clock behind the timestamps of objects.

use std::fmt;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// The clock behind the timestamps that the API server sets: `creationTimestamp`, `deletionTimestamp`,
/// the times of managed fields and conditions, and the ages in tables.
///
/// Timers (bookmarks, the end of a watch) always follow tokio's clock.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// The system clock. It keeps running while tokio's clock is paused.
    #[must_use]
    pub fn system() -> Self {
        Self::from_fn(Timestamp::now)
    }

    /// A clock that shows `start` now and advances with tokio's clock, also where that is paused.
    #[must_use]
    pub fn tokio(start: Timestamp) -> Self {
        let origin = Instant::now();
        Self::from_fn(move || {
            SignedDuration::try_from(origin.elapsed())
                .ok()
                .and_then(|elapsed| start.checked_add(elapsed).ok())
                .unwrap_or(Timestamp::MAX)
        })
    }

    /// A clock of the caller's own.
    #[must_use]
    pub fn from_fn(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl Default for Clock {
    /// The [system clock](Self::system).
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
