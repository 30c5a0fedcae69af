//! Arithmetic on timestamps that never fails.

use std::time::Duration;

use jiff::Timestamp;

/// Shortest interval and deadline that are taken seriously: with none at all the loop would spin.
pub(super) const SHORTEST: Duration = Duration::from_secs(1);

/// The moment that long after `now`; the end of time where there is none.
pub(crate) fn after(now: Timestamp, duration: Duration) -> Timestamp {
    now.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// How long it is from `from` to `to`; zero where `to` comes first.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_stops_at_the_ends_of_time() {
        let now = Timestamp::UNIX_EPOCH;
        let second = Duration::from_secs(1);
        assert_eq!(between(now, after(now, second)), second);
        assert_eq!(between(after(now, second), now), Duration::ZERO);
        assert_eq!(after(now, Duration::MAX), Timestamp::MAX);
        assert_eq!(after(Timestamp::MAX, second), Timestamp::MAX);
    }
}
