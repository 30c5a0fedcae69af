//! Limits on the bytes that are received in a second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fledged_core::model::{ByteSize, CacheId, PullLimit, PullRate};
use tokio::time::Instant;

use super::pressure_limit::{PressureLimits, PressureWatch};
use crate::slowdowns::{PullSlowdowns, SlowedBy};

/// Capacity that was not used is kept for this long, so that late readers do not lower the rate.
const BURST: Duration = Duration::from_millis(100);
/// The reduced rate: enough to keep connections alive.
pub(super) const SLOW: u64 = 1024 * 1024;
/// Shortest pause of a pull that waits for a connection because its rate is used up.
const WAIT: Duration = Duration::from_millis(100);

/// A rate as logs show it: `8.0 MiB/s`.
pub(super) fn per_second(bytes: u64) -> String {
    format!("{}/s", ByteSize::new(bytes))
}

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

/// What limits the bytes that all pulls of a runtime receive.
#[derive(Debug, Clone, Default)]
pub(crate) struct RateOptions {
    /// Bytes a second, at most.
    pub(crate) limit: Option<PullRate>,
    pub(crate) pressure: PressureLimits,
    /// Counts what slows them down.
    pub(crate) slowdowns: PullSlowdowns,
}

/// A limit on received bytes that all connections share: the lowest of a fixed rate, the rate while other clients pull,
/// and the rate under pressure.
#[derive(Debug)]
pub(crate) struct RateLimit {
    limit: Option<PullRate>,
    pressure: PressureWatch,
    slowdowns: PullSlowdowns,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bucket: Bucket,
    /// How many pulls see pulls of other clients. While there is one, the rate is reduced to [`SLOW`].
    yielding: usize,
}

/// Reduces the rate to 1 MiB a second until it is dropped, because other clients pull.
#[cfg(any(test, feature = "cri"))]
#[derive(Debug)]
pub(crate) struct Yielding<'a>(&'a RateLimit);

#[cfg(any(test, feature = "cri"))]
impl Drop for Yielding<'_> {
    fn drop(&mut self) {
        self.0.change_yielding(|pulls| pulls.saturating_sub(1));
    }
}

impl RateLimit {
    pub(crate) fn new(options: RateOptions) -> Self {
        Self {
            limit: options.limit,
            pressure: PressureWatch::new(options.pressure),
            slowdowns: options.slowdowns,
            state: Mutex::new(State {
                bucket: Bucket::new(),
                yielding: 0,
            }),
        }
    }

    /// The fixed rate.
    pub(crate) fn limit(&self) -> Option<PullRate> {
        self.limit
    }

    /// Lets pulls of other clients go first.
    #[cfg(any(test, feature = "cri"))]
    pub(crate) fn yield_to_others(&self) -> Yielding<'_> {
        self.change_yielding(|pulls| pulls + 1);
        Yielding(self)
    }

    #[cfg(any(test, feature = "cri"))]
    fn change_yielding(&self, change: impl FnOnce(usize) -> usize) {
        let mut state = self.lock();
        let before = state.yielding;
        state.yielding = change(before);
        match (before, state.yielding) {
            (0, 1) => {
                let rate = per_second(SLOW);
                tracing::info!(%rate, "pulls slowed down for a pull of another client");
            }
            (1, 0) => {
                tracing::info!("pulls no longer slowed down for a pull of another client");
            }
            _ => return,
        }
        state.bucket = Bucket::new();
    }

    /// Counts received bytes, and returns the time before which their receiver must not receive more. `own` is that time by
    /// the rate of the receiver's ImageCache.
    pub(crate) fn received(&self, bytes: u64, own: Option<Instant>) -> Option<Instant> {
        let pressure = self.pressure.received(bytes, &self.slowdowns);
        let mut state = self.lock();
        let limit = self.limit.map(|limit| (limit.bytes(), SlowedBy::Limit));
        let others = (state.yielding > 0).then_some((SLOW, SlowedBy::OtherPulls));
        let lowest = [limit, others, pressure].into_iter().flatten().min();
        let all = lowest.map(|(rate, by)| (state.bucket.received(bytes, rate), by));
        drop(state);
        let own = own.map(|until| (until, SlowedBy::Limit));
        let (until, by) = all.max(own)?;
        self.slowdowns.waits(by, until);
        Some(until)
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
    use super::*;
    use crate::captured_log::CapturedLog;

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

    fn mk_limited(limit: Option<PullRate>) -> RateLimit {
        RateLimit::new(RateOptions {
            limit,
            pressure: PressureLimits::none(),
            slowdowns: PullSlowdowns::default(),
        })
    }

    fn mk_rate(rate: u64) -> PullRate {
        PullRate::new(ByteSize::new(rate)).unwrap()
    }

    fn mk_limit(cache: &str, rate: u64) -> PullLimit {
        PullLimit::new(CacheId::new("shop", cache, cache), mk_rate(rate))
    }

    #[tokio::test(start_paused = true)]
    async fn any_two_seconds_are_within_five_percent() {
        for connections in [1, 3, 8] {
            let limit = mk_limited(Some(mk_rate(RATE)));
            let lasting = Duration::from_secs(10);
            let ticks = receive(connections, lasting, |bytes| limit.received(bytes, None)).await;
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
        let limit = mk_limited(PullRate::new(ByteSize::new(1_000_000)).ok());
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let after = |millis| Some(Instant::now() + Duration::from_millis(millis));
        assert_eq!(limit.received(1_000_000, None), after(900));
        assert_eq!(limit.received(500_000, None), after(1_400));
    }

    #[tokio::test(start_paused = true)]
    async fn the_largest_count_is_bounded() {
        let limit = mk_limited(Some(PullRate::LEAST));
        let far = limit.received(u64::MAX, None);
        assert!(limit.received(u64::MAX, None) >= far);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pull_of_another_client_leaves_no_debt() {
        let limit = mk_limited(None);
        assert_eq!(limit.received(u64::MAX, None), None);
        let first = limit.yield_to_others();
        let after = |seconds| Some(Instant::now() + Duration::from_secs(seconds));
        assert_eq!(limit.received(60 * SLOW, None), after(60));
        let second = limit.yield_to_others();
        assert_eq!(limit.received(SLOW, None), after(61));
        drop(first);
        assert_eq!(limit.received(SLOW, None), after(62));
        drop(second);
        assert_eq!(limit.received(SLOW, None), None);
        // A lower limit stays in force.
        let limit = mk_limited(Some(PullRate::LEAST));
        let _yielding = limit.yield_to_others();
        assert_eq!(
            limit.received(10 * PullRate::LEAST.bytes(), None),
            after(10)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn yielding_to_others_is_logged_once() {
        let log = CapturedLog::start();
        let limit = mk_limited(None);
        let first = limit.yield_to_others();
        let second = limit.yield_to_others();
        drop(first);
        assert_eq!(
            log.lines(),
            ["INFO pulls slowed down for a pull of another client rate=1.0 MiB/s"]
        );
        drop(second);
        assert_eq!(
            log.lines(),
            ["INFO pulls no longer slowed down for a pull of another client"]
        );
    }

    /// Bytes of the ticks in MiB.
    fn mib(ticks: &[u64]) -> f64 {
        let bytes: u64 = ticks.iter().sum();
        u32::try_from(bytes / 1024).map(f64::from).unwrap() / 1024.0
    }

    #[tokio::test(start_paused = true)]
    async fn connections_slow_down_under_pressure_and_recover() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("proc/pressure")).unwrap();
        let set_io = |share: u32| {
            let text = format!("some avg10={share}.00 avg60=0.00 avg300=0.00 total=0\n");
            std::fs::write(root.path().join("proc/pressure/io"), text).unwrap();
        };
        set_io(0);
        let mut options = RateOptions {
            limit: Some(mk_rate(RATE)),
            ..RateOptions::default()
        };
        options.pressure.root = root.path().to_owned();
        let slowdowns = options.slowdowns.clone();
        let limit = RateLimit::new(options);
        let workload = async {
            tokio::time::sleep(Duration::from_secs(11)).await;
            set_io(50);
            tokio::time::sleep(Duration::from_secs(8)).await;
            set_io(90);
            tokio::time::sleep(Duration::from_secs(12)).await;
            set_io(1);
        };
        let received = receive(4, Duration::from_secs(60), |bytes| {
            limit.received(bytes, None)
        });
        let (ticks, ()) = tokio::join!(received, workload);
        let rate = |from: usize, to: usize| mib(&ticks[from * 10..to * 10]) / (to - from) as f64;
        let all: Vec<f64> = (0..60).map(|second| rate(second, second + 1)).collect();
        assert!((19.0..=21.0).contains(&rate(2, 11)), "{all:?}");
        assert!(rate(14, 19) < 11.0 && rate(14, 19) > 7.0, "{all:?}");
        assert!((0.7..=1.3).contains(&rate(22, 31)), "{all:?}");
        assert!((19.0..=21.0).contains(&rate(45, 59)), "{all:?}");
        let time = |by| slowdowns.time(by).as_secs();
        assert!((25..35).contains(&time(SlowedBy::Io)), "{slowdowns:?}");
        assert!((25..35).contains(&time(SlowedBy::Limit)), "{slowdowns:?}");
        assert_eq!((time(SlowedBy::OtherPulls), time(SlowedBy::Memory)), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_lowest_rate_counts_with_its_cause() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("proc/pressure")).unwrap();
        std::fs::write(
            root.path().join("proc/pressure/memory"),
            "some avg10=30.00 avg60=0.00 avg300=0.00 total=0\n",
        )
        .unwrap();
        let now = Instant::now();
        let own = Some(now + Duration::from_secs(2));
        for (limit, others_pull, own, expected) in [
            (None, false, None, SlowedBy::Memory),
            (Some(PullRate::LEAST), true, None, SlowedBy::Limit),
            (Some(mk_rate(RATE)), true, None, SlowedBy::OtherPulls),
            (Some(mk_rate(RATE)), false, own, SlowedBy::Limit),
        ] {
            let mut options = RateOptions {
                limit,
                ..RateOptions::default()
            };
            options.pressure.root = root.path().to_owned();
            let slowdowns = options.slowdowns.clone();
            let limit = RateLimit::new(options);
            let _yielding = others_pull.then(|| limit.yield_to_others());
            assert!(limit.received(SLOW, own) > Some(now), "{expected:?}");
            for by in SlowedBy::ALL {
                let waits = slowdowns.time(by) > Duration::ZERO;
                assert_eq!(waits, by == expected, "{by:?} for {expected:?}");
            }
        }
    }
}
