//! Limits in percent.

use std::str::FromStr;

/// A limit on a share, in percent. Written as `80%` or `80`; `0%` and `100%` are no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShareLimit(u8);

/// Why something is not a [`ShareLimit`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a whole number from 0% to 100%")]
pub struct ShareLimitError;

impl ShareLimit {
    /// The share from 1 to 99, if it is a limit.
    #[must_use]
    pub fn percent(self) -> Option<u8> {
        Some(self.0).filter(|percent| (1..100).contains(percent))
    }
}

impl FromStr for ShareLimit {
    type Err = ShareLimitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = text.strip_suffix('%').unwrap_or(text).parse();
        let percent = number.ok().filter(|percent| *percent <= 100);
        percent.map(Self).ok_or(ShareLimitError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_nothing_or_all_is_no_limit() {
        let of = |text: &str| text.parse().map(ShareLimit::percent);
        for (text, limit) in [
            ("80%", Some(80)),
            ("1", Some(1)),
            ("0%", None),
            ("100%", None),
        ] {
            assert_eq!(of(text), Ok(limit), "{text}");
        }
        for text in ["", "%", "-1%", "101%", "80.5%", "80 %"] {
            assert_eq!(of(text), Err(ShareLimitError), "{text}");
        }
    }
}
