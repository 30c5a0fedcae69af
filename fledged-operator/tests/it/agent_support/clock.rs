//! A clock that runs faster.

use std::time::Duration;

use async_trait::async_trait;
use fledged_core::port::Clock;
use jiff::Timestamp;
use tokio::time::Instant;

/// Time that passes so many times as fast as it does, from now on.
pub(crate) struct FastClock {
    speed: u32,
    start: Timestamp,
    began: Instant,
}

impl FastClock {
    pub(crate) fn new(speed: u32) -> Self {
        Self {
            speed,
            start: Timestamp::now(),
            began: Instant::now(),
        }
    }
}

#[async_trait]
impl Clock for FastClock {
    fn now(&self) -> Timestamp {
        self.start + self.began.elapsed() * self.speed
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration / self.speed).await;
    }
}
