//! How many connections fetch layers.

use std::num::NonZeroUsize;
use std::str::FromStr;

/// Number of connections that fetch layers, from 1 to [`ConnectionLimit::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionLimit(NonZeroUsize);

/// Why something is not a [`ConnectionLimit`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a number from 1 to {max}", max = ConnectionLimit::MAX)]
pub struct ConnectionLimitError;

impl ConnectionLimit {
    /// The highest number: with parts of 8 MiB, 512 MiB are in memory. Registries limit the connections of one client.
    pub const MAX: usize = 64;

    /// That number of connections.
    ///
    /// # Errors
    ///
    /// It is zero, or more than [`MAX`](Self::MAX).
    pub fn new(connections: usize) -> Result<Self, ConnectionLimitError> {
        NonZeroUsize::new(connections)
            .filter(|connections| connections.get() <= Self::MAX)
            .map(Self)
            .ok_or(ConnectionLimitError)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> usize {
        self.0.get()
    }
}

impl Default for ConnectionLimit {
    /// Eight. One rarely fills a link, because of its latency or of the registry's limit for each.
    fn default() -> Self {
        Self(NonZeroUsize::MIN.saturating_add(7))
    }
}

impl FromStr for ConnectionLimit {
    type Err = ConnectionLimitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .map_err(|_| ConnectionLimitError)
            .and_then(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_has_a_lowest_and_a_highest_number() {
        let of = |text: &str| text.parse().map(ConnectionLimit::get);
        assert_eq!(of("1"), Ok(1));
        assert_eq!(of("64"), Ok(64));
        for text in [
            "",
            "0",
            "-1",
            "65",
            "1000000000",
            "99999999999999999999",
            "8x",
        ] {
            let error = of(text).unwrap_err();
            assert_eq!(error.to_string(), "must be a number from 1 to 64", "{text}");
        }
    }
}
