//! The number of a runtime's release.

use std::fmt;

/// Major, minor and patch number of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(pub u32, pub u32, pub u32);

impl Release {
    /// The number in a version such as `v2.1.0`, `1.6.20~ds1` or `1.7.23-k3s2`; `None` if it has none.
    #[must_use]
    pub fn parse(version: &str) -> Option<Self> {
        let mut parts = version.trim_start_matches('v').splitn(3, '.');
        let mut number = || {
            let part = parts.next()?;
            let end = part.find(|c: char| !c.is_ascii_digit());
            part.get(..end.unwrap_or(part.len()))?.parse().ok()
        };
        Some(Self(number()?, number()?, number().unwrap_or(0)))
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_distributions_have_a_release() {
        for (version, expected) in [
            ("1.6.20~ds1", Some(Release(1, 6, 20))),
            ("v2.2.0-rc.1", Some(Release(2, 2, 0))),
            ("1.7.23-k3s2", Some(Release(1, 7, 23))),
            ("2.1", Some(Release(2, 1, 0))),
            ("2", None),
            ("", None),
            ("unknown", None),
            ("99999999999.1.2", None),
        ] {
            assert_eq!(Release::parse(version), expected, "{version}");
        }
        assert!(Release(2, 1, 0) > Release(1, 7, 30));
    }
}
