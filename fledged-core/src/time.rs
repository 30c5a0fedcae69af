//! Arithmetic on timestamps that saturates at the ends of the range.

use std::time::Duration;

use jiff::Timestamp;

/// The moment `duration` after `now`; [`Timestamp::MAX`] where there is none.
#[must_use]
pub fn after(now: Timestamp, duration: Duration) -> Timestamp {
    now.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// The time from `from` to `to`; zero where `to` is earlier.
#[must_use]
pub fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_the_ends_of_the_range() {
        let now = Timestamp::UNIX_EPOCH;
        let second = Duration::from_secs(1);
        assert_eq!(between(now, after(now, second)), second);
        assert_eq!(between(after(now, second), now), Duration::ZERO);
        assert_eq!(after(now, Duration::MAX), Timestamp::MAX);
        assert_eq!(after(Timestamp::MAX, second), Timestamp::MAX);
    }
}
