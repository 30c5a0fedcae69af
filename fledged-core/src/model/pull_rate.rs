//! Limits on the bytes of layers that are received in a second.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use super::{ByteSize, CacheId};

/// The lowest rate. A registry ends connections that are slower.
const LEAST: ByteSize = ByteSize::new(64 * 1024);
/// The highest rate, far above any network. Kubernetes does not store every larger number.
const MOST: ByteSize = ByteSize::new(1 << 40);

/// A limit on the bytes of layers that are received in a second: from 64 KiB to 1 TiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PullRate(ByteSize);

/// Why something is not a [`PullRate`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PullRateError(String);

impl PullRate {
    /// The lowest rate: 64 KiB a second.
    pub const LEAST: Self = Self(LEAST);

    /// A limit of that many bytes a second.
    ///
    /// # Errors
    ///
    /// [`PullRateError`] below 64 KiB and above 1 TiB.
    pub fn new(bytes: ByteSize) -> Result<Self, PullRateError> {
        if bytes < LEAST {
            return Err(PullRateError("must be at least 64Ki".to_owned()));
        }
        if bytes > MOST {
            return Err(PullRateError("must be at most 1Ti".to_owned()));
        }
        Ok(Self(bytes))
    }

    /// The bytes a second.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0.bytes()
    }
}

impl FromStr for PullRate {
    type Err = PullRateError;

    /// Parses bytes a second, as [`ByteSize`] does: `20Mi`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = text.parse::<ByteSize>();
        Self::new(bytes.map_err(|error| PullRateError(error.problem().to_owned()))?)
    }
}

/// As `20.0 MiB/s`.
impl fmt::Display for PullRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/s", self.0))
    }
}

/// A number of bytes as written in a spec, a string such as `20Mi` or a number. It may be invalid; its user parses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ByteQuantity(String);

impl ByteQuantity {
    /// A quantity with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for ByteQuantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ByteQuantityVisitor)
    }
}

struct ByteQuantityVisitor;

impl Visitor<'_> for ByteQuantityVisitor {
    type Value = ByteQuantity;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes, for example 20Mi")
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(ByteQuantity::new(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(ByteQuantity::new(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(ByteQuantity::new(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        Ok(ByteQuantity::new(value.to_string()))
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for ByteQuantity {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ByteQuantity".into()
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

/// The limit of a pull: all pulls of a node that are limited for the same ImageCache share its rate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct PullLimit {
    /// The ImageCache.
    pub cache: CacheId,
    /// Its rate.
    pub rate: PullRate,
}

impl PullLimit {
    /// The rate that the pulls for an ImageCache share.
    #[must_use]
    pub fn new(cache: CacheId, rate: PullRate) -> Self {
        Self { cache, rate }
    }

    /// The limit of an image that two ImageCaches list: the higher one, the first if they are equal, and none if one of
    /// them has none.
    #[must_use]
    pub fn higher(first: Option<Self>, second: Option<Self>) -> Option<Self> {
        let (first, second) = (first?, second?);
        Some(if second.rate > first.rate {
            second
        } else {
            first
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_from_64_kib_to_1_tib() {
        for (text, expected) in [
            ("64Ki", Ok(LEAST)),
            ("65535", Err("must be at least 64Ki")),
            ("0", Err("must be at least 64Ki")),
            ("1Ti", Ok(MOST)),
            ("1099511627777", Err("must be at most 1Ti")),
        ] {
            let parsed = text.parse::<PullRate>();
            let expected = expected.map(PullRate).map_err(str::to_owned);
            assert_eq!(
                parsed.map_err(|error| error.to_string()),
                expected,
                "{text}"
            );
        }
        assert!("fast".parse::<PullRate>().is_err());
        assert!("-20Mi".parse::<PullRate>().is_err());
        assert_eq!(
            "20Mi".parse::<PullRate>().unwrap().to_string(),
            "20.0 MiB/s"
        );
    }

    #[test]
    fn the_higher_limit_of_two_caches_counts() {
        let limit = |name: &str, rate: &str| {
            let cache = CacheId::new("shop", name, name);
            Some(PullLimit::new(cache, rate.parse().unwrap()))
        };
        let (slow, fast, same) = (limit("a", "1Mi"), limit("b", "2Mi"), limit("c", "2Mi"));
        let higher =
            |a: &Option<PullLimit>, b: &Option<PullLimit>| PullLimit::higher(a.clone(), b.clone());
        assert_eq!(higher(&slow, &fast), fast);
        assert_eq!(higher(&fast, &slow), fast);
        assert_eq!(higher(&fast, &same), fast);
        assert_eq!(higher(&slow, &None), None);
        assert_eq!(higher(&None, &slow), None);
    }

    #[test]
    fn a_quantity_is_read_from_a_string_or_a_number() {
        for (json, text) in [
            (r#""20Mi""#, "20Mi"),
            ("1000000", "1000000"),
            ("-5", "-5"),
            ("2e6", "2000000"),
        ] {
            let quantity: ByteQuantity = serde_json::from_str(json).unwrap();
            assert_eq!(quantity.as_str(), text);
        }
        assert!(serde_json::from_str::<ByteQuantity>("true").is_err());
    }
}
