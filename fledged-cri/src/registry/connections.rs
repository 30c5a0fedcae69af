//! The connections that downloads share, and who may have one.

use std::sync::Arc;
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use fledged_core::port::SharedPullLimit;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::connection_limit::ConnectionLimit;
use super::meter::Meter;
use super::rate_limit::{CacheConnection, CacheLimits, RateLimit, RateOptions};
use super::session::Session;

/// Bytes of one part. Large enough that the time of a request does not matter, small enough for some
/// connections' worth of it in memory.
pub(crate) const PART: u64 = 8 * 1024 * 1024;
/// The share of a second whose bytes are one part if the rate is limited. Parts after a gap are lost when a pull ends early,
/// and so is what the kernel has received ahead.
const PARTS_PER_SECOND: u64 = 4;
/// Bytes of one part at the lowest rates.
const PART_MIN: u64 = 256 * 1024;
/// How long a part waits for a byte before it is requested over another connection, at first; each further time twice as
/// long. Nothing else of the blob is handed over meanwhile.
const STALLED_AFTER: Duration = Duration::from_secs(10);
/// The share of the connections that a pull may have whose own rate is used up: a quarter, so that three such pulls, the
/// default number of parallel pulls, leave some.
const LIMITED_SHARE: usize = 4;

/// The connections that all downloads of a runtime share.
///
/// A connection is occupied from the request of a part until the part has been handed over, so that at
/// most connections × part bytes are in memory.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    pub(super) permits: Arc<Semaphore>,
    /// How many connections a pull may have whose own rate is used up.
    limited: usize,
    /// Bytes of one part without a limit of the rate.
    part: u64,
    /// How long a part waits for a byte at first.
    pub(super) stalled_after: Duration,
    rate: Arc<RateLimit>,
    caches: CacheLimits,
}

/// An occupied connection.
pub(super) struct Connection {
    _permit: OwnedSemaphorePermit,
    _of_cache: Option<CacheConnection>,
}

impl Connections {
    /// `rate`: what all of them receive in a second.
    pub(crate) fn new(limit: ConnectionLimit, rate: RateOptions) -> Self {
        Self::with_part(limit, rate, PART)
    }

    pub(super) fn with_part(limit: ConnectionLimit, rate: RateOptions, part: u64) -> Self {
        let limit = limit.get();
        Self {
            permits: Arc::new(Semaphore::new(limit)),
            // One of two continues while the other is between two parts.
            limited: (limit / LIMITED_SHARE).max(1),
            part,
            stalled_after: STALLED_AFTER,
            rate: Arc::new(RateLimit::new(rate)),
            caches: CacheLimits::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn stalled_after(mut self, time: Duration) -> Self {
        self.stalled_after = time;
        self
    }

    /// The limit on what all connections receive.
    #[cfg(feature = "cri")]
    pub(crate) fn rate(&self) -> &RateLimit {
        &self.rate
    }
}

/// What the downloads of one pull share.
#[derive(Clone)]
pub(crate) struct Downloads {
    pub(crate) session: Arc<Session>,
    pub(crate) connections: Connections,
    /// Counts bytes as they arrive.
    pub(crate) meter: Arc<Meter>,
    /// The limit of this pull, beside that of all connections.
    pub(crate) limit: SharedPullLimit,
}

impl Downloads {
    /// Occupies a connection as soon as one is free and the pull may have it.
    pub(super) async fn connect(&self) -> Result<Connection, Failure> {
        let connections = &self.connections;
        let of_cache = loop {
            let Some(limit) = self.limit.get() else {
                break None;
            };
            match connections.caches.try_connect(&limit, connections.limited) {
                Ok(connection) => break Some(connection),
                Err(at) => tokio::time::sleep_until(at).await,
            }
        };
        let permit = Arc::clone(&connections.permits).acquire_owned().await;
        Ok(Connection {
            _permit: permit.map_err(|error| Failure::new(Reason::Unknown, error.to_string()))?,
            _of_cache: of_cache,
        })
    }

    /// Occupies a connection if one is free and the pull may have it.
    pub(super) fn try_connect(&self) -> Option<Connection> {
        let connections = &self.connections;
        let permit = Arc::clone(&connections.permits).try_acquire_owned().ok()?;
        let of_cache = match self.limit.get() {
            Some(limit) => Some(
                connections
                    .caches
                    .try_connect(&limit, connections.limited)
                    .ok()?,
            ),
            None => None,
        };
        Some(Connection {
            _permit: permit,
            _of_cache: of_cache,
        })
    }

    /// Bytes of one part.
    pub(super) fn part(&self) -> u64 {
        let own = self.limit.get().map(|limit| limit.rate);
        let rates = own.into_iter().chain(self.connections.rate.limit());
        part_at(rates.map(|rate| rate.bytes()).min(), self.connections.part)
    }

    /// Counts received bytes, and returns the time before which their receiver must not receive more.
    pub(super) fn received(&self, bytes: u64) -> Option<Instant> {
        let own = self.limit.get();
        let own = own.map(|limit| self.connections.caches.received(&limit, bytes));
        self.connections.rate.received(bytes, own)
    }
}

/// Bytes of one part at this rate, in bytes a second.
fn part_at(rate: Option<u64>, longest: u64) -> u64 {
    rate.map_or(longest, |rate| {
        longest.min((rate / PARTS_PER_SECOND).max(PART_MIN))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_smaller_at_low_rates() {
        const KIB: u64 = 1024;
        for (rate, part) in [
            (None, 8192),
            (Some(64), 256),
            (Some(1024), 256),
            (Some(2048), 512),
            (Some(20 * 1024), 5 * 1024),
            (Some(1024 * 1024), 8192),
        ] {
            let rate = rate.map(|rate| rate * KIB);
            assert_eq!(part_at(rate, PART), part * KIB, "{rate:?}");
        }
    }
}
