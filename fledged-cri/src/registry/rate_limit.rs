//! A limit on the bytes that are received in a second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fledged_core::model::ByteSize;
use tokio::time::Instant;

/// Capacity that was not used is kept for this long, so that late readers do not lower the rate.
const BURST: Duration = Duration::from_millis(100);
/// The lowest rate. A registry ends connections that are slower.
const LEAST: u64 = 64 * 1024;
/// The reduced rate: enough to keep connections alive.
const SLOW: u64 = 1024 * 1024;

/// A limit on received bytes that several connections share: a token bucket.
#[derive(Debug)]
pub(crate) struct RateLimit {
    /// Bytes a second. `None`: no limit.
    limit: Option<u64>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When everything that was received so far is within the rate.
    even: Instant,
    /// Whether the rate is reduced to [`SLOW`].
    slow: bool,
}

impl RateLimit {
    /// A limit of that many bytes a second; limits below 64 KiB/s are raised to that.
    pub(crate) fn new(limit: Option<ByteSize>) -> Self {
        Self {
            limit: limit.map(|limit| limit.bytes().max(LEAST)),
            state: Mutex::new(State {
                even: Instant::now(),
                slow: false,
            }),
        }
    }

    /// Reduces the rate to 1 MiB a second, or ends that.
    #[cfg(any(test, feature = "cri"))]
    pub(crate) fn set_slow(&self, slow: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.slow != slow {
            state.slow = slow;
            state.even = Instant::now();
        }
    }

    /// Counts received bytes, and returns the time before which their receiver must not receive more.
    pub(crate) fn received(&self, bytes: u64) -> Option<Instant> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = match (self.limit, state.slow) {
            (None, false) => return None,
            (None, true) => SLOW,
            (Some(limit), false) => limit,
            (Some(limit), true) => limit.min(SLOW),
        };
        let now = Instant::now();
        let oldest = now.checked_sub(BURST).unwrap_or(now);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let lasting = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let start = oldest.max(state.even);
        state.even = start.checked_add(lasting).unwrap_or(start);
        Some(state.even)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u64 = 300_000;

    /// Receives chunks over some connections for a time, and returns the bytes of each 100 ms.
    async fn receive(rate: u64, connections: usize, lasting: Duration) -> Vec<u64> {
        let limit = RateLimit::new(Some(ByteSize::new(rate)));
        let start = Instant::now();
        let ticks = usize::try_from(lasting.as_millis() / 100).unwrap();
        let received = Mutex::new(vec![0; ticks]);
        let connection = async |_| {
            while start.elapsed() < lasting {
                let tick = usize::try_from(start.elapsed().as_millis() / 100).unwrap();
                received.lock().unwrap()[tick] += CHUNK;
                tokio::time::sleep_until(limit.received(CHUNK).unwrap()).await;
            }
        };
        futures_util::future::join_all((0..connections).map(connection)).await;
        received.into_inner().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn any_two_seconds_are_within_five_percent() {
        let rate = 20 * 1024 * 1024;
        for connections in [1, 3, 8] {
            let ticks = receive(rate, connections, Duration::from_secs(10)).await;
            // The first chunks come at once.
            for window in ticks[5..].windows(20) {
                let sum: u64 = window.iter().sum();
                let most = 2 * rate;
                assert!(
                    sum.abs_diff(most) * 20 <= most,
                    "{sum} of {most}, {ticks:?}"
                );
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_unused_rate_is_not_saved_up() {
        let limit = RateLimit::new(Some(ByteSize::new(1_000_000)));
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let after = |millis| Some(Instant::now() + Duration::from_millis(millis));
        assert_eq!(limit.received(1_000_000), after(900));
        assert_eq!(limit.received(500_000), after(1_400));
    }

    #[tokio::test(start_paused = true)]
    async fn the_lowest_rate_and_the_largest_count_are_bounded() {
        let limit = RateLimit::new(Some(ByteSize::new(1)));
        let second = Instant::now() + Duration::from_secs(1);
        assert!(limit.received(LEAST) <= Some(second));
        let far = limit.received(u64::MAX);
        assert!(limit.received(u64::MAX) >= far);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_phase_leaves_no_debt() {
        let limit = RateLimit::new(None);
        assert_eq!(limit.received(u64::MAX), None);
        limit.set_slow(true);
        let after = |seconds| Some(Instant::now() + Duration::from_secs(seconds));
        assert_eq!(limit.received(60 * SLOW), after(60));
        limit.set_slow(true);
        assert_eq!(limit.received(SLOW), after(61));
        limit.set_slow(false);
        assert_eq!(limit.received(SLOW), None);
        // A lower limit stays in force.
        let limit = RateLimit::new(Some(ByteSize::new(LEAST)));
        limit.set_slow(true);
        assert_eq!(limit.received(10 * LEAST), after(10));
    }
}
