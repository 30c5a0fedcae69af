//! Arithmetic on timestamps that never fails.

use std::time::Duration;

use jiff::Timestamp;

/// Shortest interval and deadline that are taken seriously: with none at all the loop would spin.
pub(super) const SHORTEST: Duration = Duration::from_secs(1);

/// The moment that long after `now`; the end of time where there is none.
pub(super) fn after(now: Timestamp, duration: Duration) -> Timestamp {
    now.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// How long it is from `from` to `to`; zero where `to` comes first.
pub(super) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}
