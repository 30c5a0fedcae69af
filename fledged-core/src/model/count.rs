//! A number or a share.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::shown::shown;

/// Why a string is neither a number nor a percentage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid number or percentage \"{}\": it {PROBLEM}", shown(.value))]
pub struct ParseCountError {
    value: String,
}

/// What is wrong with whatever is not valid.
const PROBLEM: &str = "must be a number from 1 up, or a percentage from 1% to 100%";

impl ParseCountError {
    /// What is wrong with it, without the text itself.
    #[must_use]
    pub fn problem(&self) -> &str {
        PROBLEM
    }
}

/// A number, or a percentage such as `"25%"` (`intstr.IntOrString`).
///
/// One that was parsed is valid; one that was read with serde, or put together, may not be:
/// [`CountOrPercent::check`] says so.
///
/// ```
/// use fledged_core::model::CountOrPercent;
///
/// let quarter: CountOrPercent = "25%".parse()?;
/// assert_eq!(quarter.of(1000), Some(250));
/// assert!("0".parse::<CountOrPercent>().is_err());
/// # Ok::<(), fledged_core::model::ParseCountError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CountOrPercent {
    /// That many.
    Count(u32),
    /// That share of the whole, written `N%`.
    Percent(String),
}

impl FromStr for CountOrPercent {
    type Err = ParseCountError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let parsed = match value.parse() {
            Ok(count) => Self::Count(count),
            Err(_) => Self::Percent(value.to_owned()),
        };
        parsed.check()?;
        Ok(parsed)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for CountOrPercent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CountOrPercent".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "x-kubernetes-int-or-string": true,
        })
    }
}

impl fmt::Display for CountOrPercent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(text) => f.write_str(text),
        }
    }
}

impl CountOrPercent {
    /// Checks that it is a number from 1 up, or a percentage from 1% to 100%.
    ///
    /// # Errors
    ///
    /// [`ParseCountError`] with the value.
    pub fn check(&self) -> Result<(), ParseCountError> {
        match self.of(100) {
            Some(_) => Ok(()),
            None => Err(ParseCountError {
                value: self.to_string(),
            }),
        }
    }

    /// The number it comes to among `whole`, rounded up; at least one. `None` when it is malformed.
    #[must_use]
    pub fn of(&self, whole: usize) -> Option<usize> {
        let count = match self {
            Self::Count(0) => return None,
            Self::Count(n) => usize::try_from(*n).ok()?,
            Self::Percent(text) => {
                let digits = text.strip_suffix('%')?;
                if !digits.bytes().all(|b| b.is_ascii_digit()) {
                    return None;
                }
                let share: usize = digits.parse().ok()?;
                if !(1..=100).contains(&share) {
                    return None;
                }
                whole.saturating_mul(share).div_ceil(100)
            }
        };
        Some(count.max(1))
    }
}
