//! A limit on the bytes that are received in a second.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use fledged_core::model::ByteSize;
use tokio::time::Instant;

/// Capacity that was not used is kept for this long, so that late readers do not lower the rate.
const BURST: Duration = Duration::from_millis(100);
/// The lowest rate. A registry ends connections that are slower.
const LEAST: ByteSize = ByteSize::new(64 * 1024);
/// The reduced rate: enough to keep connections alive.
const SLOW: u64 = 1024 * 1024;

/// A limit on the bytes of layers that are received in a second: at least 64 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PullRate(ByteSize);

/// Why something is not a [`PullRate`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PullRateError(String);

impl PullRate {
    /// A limit of that many bytes a second.
    ///
    /// # Errors
    ///
    /// [`PullRateError`] below 64 KiB.
    pub fn new(bytes: ByteSize) -> Result<Self, PullRateError> {
        if bytes < LEAST {
            return Err(PullRateError("must be at least 64Ki".to_owned()));
        }
        Ok(Self(bytes))
    }
}

impl FromStr for PullRate {
    type Err = PullRateError;

    /// Parses bytes a second, as [`ByteSize`] does: `20Mi`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.parse::<ByteSize>();
        Self::new(bytes.map_err(|error| PullRateError(error.problem().to_owned()))?)
    }
}

/// As `20.0 MiB/s`.
impl fmt::Display for PullRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/s", self.0))
    }
}

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
    pub(crate) fn new(limit: Option<PullRate>) -> Self {
        Self {
            limit: limit.map(|limit| limit.0.bytes()),
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

    #[test]
    fn a_rate_is_at_least_64_kib() {
        for (text, expected) in [
            ("64Ki", Ok(LEAST)),
            ("65535", Err("must be at least 64Ki")),
            ("0", Err("must be at least 64Ki")),
        ] {
            let parsed = text.parse::<PullRate>();
            let expected = expected.map(PullRate).map_err(str::to_owned);
            assert_eq!(
                parsed.map_err(|error| error.to_string()),
                expected,
                "{text}"
            );
        }
        assert!("fast".parse::<PullRate>().is_err());
        assert_eq!(
            "20Mi".parse::<PullRate>().unwrap().to_string(),
            "20.0 MiB/s"
        );
    }

    const CHUNK: u64 = 300_000;

    /// Receives chunks over some connections for a time, and returns the bytes of each 100 ms.
    async fn receive(rate: u64, connections: usize, lasting: Duration) -> Vec<u64> {
        let limit = RateLimit::new(PullRate::new(ByteSize::new(rate)).ok());
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
        let limit = RateLimit::new(PullRate::new(ByteSize::new(1_000_000)).ok());
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let after = |millis| Some(Instant::now() + Duration::from_millis(millis));
        assert_eq!(limit.received(1_000_000), after(900));
        assert_eq!(limit.received(500_000), after(1_400));
    }

    #[tokio::test(start_paused = true)]
    async fn the_largest_count_is_bounded() {
        let limit = RateLimit::new(PullRate::new(LEAST).ok());
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
        let limit = RateLimit::new(PullRate::new(LEAST).ok());
        limit.set_slow(true);
        assert_eq!(limit.received(10 * LEAST.bytes()), after(10));
    }
}
