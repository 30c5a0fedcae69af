//! Limits on the bytes that are received in a second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fledged_core::model::{CacheId, PullLimit, PullRate};
use tokio::time::Instant;

/// Capacity that was not used is kept for this long, so that late readers do not lower the rate.
const BURST: Duration = Duration::from_millis(100);
/// The reduced rate: enough to keep connections alive.
const SLOW: u64 = 1024 * 1024;
/// Shortest pause of a pull that waits for a connection because its rate is used up.
const WAIT: Duration = Duration::from_millis(100);

/// A token bucket.
#[derive(Debug)]
struct Bucket {
    /// When everything that was received so far is within the rate.
    even: Instant,
}

impl Bucket {
    fn new() -> Self {
        Self {
            even: Instant::now(),
        }
    }

    /// Counts bytes that were received at a rate. Returns the time before which their receiver must not receive more.
    fn received(&mut self, bytes: u64, rate: u64) -> Instant {
        let now = Instant::now();
        let oldest = now.checked_sub(BURST).unwrap_or(now);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
        let lasting = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let start = oldest.max(self.even);
        self.even = start.checked_add(lasting).unwrap_or(start);
        self.even
    }
}

/// A limit on received bytes that all connections share.
#[derive(Debug)]
pub(crate) struct RateLimit {
    limit: Option<PullRate>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bucket: Bucket,
    /// Whether the rate is reduced to [`SLOW`].
    slow: bool,
}

impl RateLimit {
    pub(crate) fn new(limit: Option<PullRate>) -> Self {
        Self {
            limit,
            state: Mutex::new(State {
                bucket: Bucket::new(),
                slow: false,
            }),
        }
    }

    /// Reduces the rate to 1 MiB a second, or ends that.
    #[cfg(any(test, feature = "cri"))]
    pub(crate) fn set_slow(&self, slow: bool) {
        let mut state = self.lock();
        if state.slow != slow {
            state.slow = slow;
            state.bucket = Bucket::new();
        }
    }

    /// Counts received bytes, and returns the time before which their receiver must not receive more.
    pub(crate) fn received(&self, bytes: u64) -> Option<Instant> {
        let mut state = self.lock();
        let limit = self.limit.map(PullRate::bytes);
        let slow = state.slow.then_some(SLOW);
        let rate = limit.into_iter().chain(slow).min()?;
        Some(state.bucket.received(bytes, rate))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The limits of single ImageCaches, each shared by all pulls for the cache.
#[derive(Debug, Clone, Default)]
pub(crate) struct CacheLimits(Arc<Mutex<BTreeMap<CacheId, Arc<CachePulls>>>>);

/// What is received for one ImageCache.
#[derive(Debug)]
struct CachePulls(Mutex<CacheState>);

#[derive(Debug)]
struct CacheState {
    bucket: Bucket,
    /// How many connections receive for it, or wait to.
    connections: usize,
}

impl CachePulls {
    fn lock(&self) -> MutexGuard<'_, CacheState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a new one would be the same.
    fn is_idle(&self) -> bool {
        let state = self.lock();
        state.connections == 0 && state.bucket.even <= Instant::now()
    }
}

impl CacheLimits {
    /// Counts bytes that were received under a limit, and returns the time before which their receiver must not receive
    /// more.
    pub(crate) fn received(&self, limit: &PullLimit, bytes: u64) -> Instant {
        let pulls = self.pulls_of(&limit.cache);
        let mut state = pulls.lock();
        state.bucket.received(bytes, limit.rate.bytes())
    }

    /// Claims a connection for a pull under a limit. A cache gets more than `least` only while it receives less than its
    /// rate, so that slow pulls do not take the connections of others.
    ///
    /// # Errors
    ///
    /// The time to try again.
    pub(crate) fn try_connect(
        &self,
        limit: &PullLimit,
        least: usize,
    ) -> Result<CacheConnection, Instant> {
        let pulls = self.pulls_of(&limit.cache);
        let mut state = pulls.lock();
        let now = Instant::now();
        if state.connections >= least && state.bucket.even > now {
            return Err(state.bucket.even.max(now + WAIT));
        }
        state.connections += 1;
        drop(state);
        Ok(CacheConnection(pulls))
    }

    fn pulls_of(&self, cache: &CacheId) -> Arc<CachePulls> {
        let mut caches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = caches.get(cache) {
            return Arc::clone(known);
        }
        caches.retain(|_, pulls| Arc::strong_count(pulls) > 1 || !pulls.is_idle());
        let new = Arc::new(CachePulls(Mutex::new(CacheState {
            bucket: Bucket::new(),
            connections: 0,
        })));
        caches.insert(cache.clone(), Arc::clone(&new));
        new
    }
}

/// A connection of an ImageCache, until it is dropped.
#[derive(Debug)]
pub(crate) struct CacheConnection(Arc<CachePulls>);

impl Drop for CacheConnection {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.connections = state.connections.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use fledged_core::model::ByteSize;

    use super::*;

    const CHUNK: u64 = 300_000;

    /// Receives chunks over some connections for a time, and returns the bytes of each 100 ms. `count` counts them.
    async fn receive(
        connections: usize,
        lasting: Duration,
        count: impl Fn(u64) -> Option<Instant>,
    ) -> Vec<u64> {
        let start = Instant::now();
        let ticks = usize::try_from(lasting.as_millis() / 100).unwrap();
        let received = Mutex::new(vec![0; ticks]);
        let connection = async |_| {
            while start.elapsed() < lasting {
                let tick = usize::try_from(start.elapsed().as_millis() / 100).unwrap();
                received.lock().unwrap()[tick] += CHUNK;
                tokio::time::sleep_until(count(CHUNK).unwrap()).await;
            }
        };
        futures_util::future::join_all((0..connections).map(connection)).await;
        received.into_inner().unwrap()
    }

    /// Every two seconds have twice the rate, within five percent. The first chunks come at once.
    fn check_two_seconds(ticks: &[u64], rate: u64) {
        for window in ticks[5..].windows(20) {
            let sum: u64 = window.iter().sum();
            let most = 2 * rate;
            assert!(
                sum.abs_diff(most) * 20 <= most,
                "{sum} of {most}, {ticks:?}"
            );
        }
    }

    const RATE: u64 = 20 * 1024 * 1024;

    fn mk_rate(rate: u64) -> PullRate {
        PullRate::new(ByteSize::new(rate)).unwrap()
    }

    fn mk_limit(cache: &str, rate: u64) -> PullLimit {
        PullLimit::new(CacheId::new("shop", cache, cache), mk_rate(rate))
    }

    #[tokio::test(start_paused = true)]
    async fn any_two_seconds_are_within_five_percent() {
        for connections in [1, 3, 8] {
            let limit = RateLimit::new(Some(mk_rate(RATE)));
            let lasting = Duration::from_secs(10);
            let ticks = receive(connections, lasting, |bytes| limit.received(bytes)).await;
            check_two_seconds(&ticks, RATE);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_pulls_of_a_cache_share_its_rate() {
        let limits = CacheLimits::default();
        let (web, job) = (mk_limit("web", RATE), mk_limit("job", RATE / 4));
        let pulls = |limit: PullLimit, connections| {
            let limits = limits.clone();
            receive(connections, Duration::from_secs(10), move |bytes| {
                Some(limits.received(&limit, bytes))
            })
        };
        let ticks = tokio::join!(pulls(web.clone(), 1), pulls(web, 5), pulls(job, 3));
        let both: Vec<u64> = ticks.0.iter().zip(ticks.1).map(|(a, b)| a + b).collect();
        check_two_seconds(&both, RATE);
        check_two_seconds(&ticks.2, RATE / 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_rate_of_a_cache_counts_at_once() {
        let limits = CacheLimits::default();
        let after = |millis| Instant::now() + Duration::from_millis(millis);
        assert_eq!(
            limits.received(&mk_limit("web", 1_000_000), 1_000_000),
            after(1_000)
        );
        assert_eq!(
            limits.received(&mk_limit("web", 100_000), 100_000),
            after(2_000)
        );
        assert_eq!(
            limits.received(&mk_limit("web", 1_000_000), 100_000),
            after(2_100)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_cache_at_its_rate_gets_no_more_connections() {
        let limits = CacheLimits::default();
        let limit = mk_limit("web", 1_000_000);
        let connect = || limits.try_connect(&limit, 1);
        let first = connect().unwrap();
        // Nothing is received yet: one connection may be too slow.
        let second = connect().unwrap();
        limits.received(&limit, 500_000);
        assert_eq!(
            connect().unwrap_err(),
            Instant::now() + Duration::from_millis(500)
        );
        drop(first);
        assert!(connect().is_err());
        drop(second);
        // Without one, it would never receive anything.
        let first = connect().unwrap();
        assert!(connect().is_err());
        let other = limits.try_connect(&mk_limit("job", 1_000_000), 1);
        assert!(other.is_ok());
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(connect().unwrap());
        drop((first, other));
        limits.received(&mk_limit("api", 64 * 1024), 1);
        assert_eq!(
            limits.0.lock().unwrap().len(),
            1,
            "the others are forgotten"
        );
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
        let limit = RateLimit::new(Some(PullRate::LEAST));
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
        let limit = RateLimit::new(Some(PullRate::LEAST));
        limit.set_slow(true);
        assert_eq!(limit.received(10 * PullRate::LEAST.bytes()), after(10));
    }
}
