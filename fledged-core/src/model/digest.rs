//! Content digests.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use super::shown::shown;

/// Whether it is that many lower-case hexadecimal digits.
pub(super) fn is_lower_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Why a string is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid digest \"{}\": {problem}", shown(.value))]
pub struct ParseDigestError {
    value: String,
    problem: &'static str,
}

impl ParseDigestError {
    /// What is wrong with it, without the text itself.
    #[must_use]
    pub fn problem(&self) -> &str {
        self.problem
    }
}

/// A content digest, `sha256:`, `sha384:` or `sha512:` with lower-case hexadecimal digits (OCI image
/// specification, descriptor digests).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    /// Parses `algorithm:hex`.
    ///
    /// # Errors
    ///
    /// [`ParseDigestError`] for an unregistered algorithm, a wrong length, or digits that are not
    /// lower-case hexadecimal.
    pub fn parse(value: &str) -> Result<Self, ParseDigestError> {
        let fail = |problem| {
            Err(ParseDigestError {
                value: value.to_owned(),
                problem,
            })
        };
        let Some((algorithm, hex)) = value.split_once(':') else {
            return fail("must be algorithm:hex");
        };
        let digits = match algorithm {
            "sha256" => 64,
            "sha384" => 96,
            "sha512" => 128,
            _ => return fail("must use sha256, sha384 or sha512"),
        };
        if hex.len() != digits {
            return fail("has the wrong number of digits for its algorithm");
        }
        if !is_lower_hex(hex, digits) {
            return fail("must be lower-case hexadecimal");
        }
        Ok(Self(value.to_owned()))
    }

    /// `algorithm:hex`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The algorithm, `sha256` for instance.
    #[must_use]
    pub fn algorithm(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }

    /// The digits without the algorithm.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Self::parse(value)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}
