//! How many requests may be made in a second.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fledged_core::port::Clock;
use jiff::Timestamp;

use crate::report::after;

/// Spaces requests of many nodes.
#[derive(Debug)]
pub(super) struct Pace {
    gap: Duration,
    next: Mutex<Timestamp>,
}

impl Pace {
    pub(super) fn new(per_second: NonZeroU32) -> Self {
        Self {
            gap: Duration::from_secs(1) / per_second.get(),
            next: Mutex::new(Timestamp::MIN),
        }
    }

    /// Waits until it is the caller's turn.
    pub(super) async fn turn(&self, clock: &dyn Clock) {
        let pause = self.reserve(clock.now());
        if !pause.is_zero() {
            clock.sleep(pause).await;
        }
    }

    fn reserve(&self, now: Timestamp) -> Duration {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = now.max(*next);
        *next = after(at, self.gap);
        Duration::try_from(at.duration_since(now)).unwrap_or_default()
    }

    /// Nobody's turn comes for that long: the server has asked for it.
    pub(super) fn hold(&self, delay: Duration, now: Timestamp) {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = (*next).max(after(now, delay));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_spaced_and_a_wish_of_the_server_is_everybodys() {
        let pace = Pace::new(NonZeroU32::new(20).unwrap());
        let now = Timestamp::UNIX_EPOCH;
        let pauses: Vec<u128> = (0..4).map(|_| pace.reserve(now).as_millis()).collect();
        assert_eq!(pauses, [0, 50, 100, 150]);
        pace.hold(Duration::from_secs(7), now);
        assert_eq!(pace.reserve(now).as_millis(), 7_000);
        assert_eq!(pace.reserve(now).as_millis(), 7_050);
        // Time that passed unused is not saved up.
        let later = after(now, Duration::from_secs(60));
        assert_eq!(pace.reserve(later).as_millis(), 0);
        assert_eq!(pace.reserve(later).as_millis(), 50);
    }
}
