//! Sizes, counts and durations.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

/// A number of bytes. Displays in binary units (`1.5 MiB`); serialises as the plain number.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ByteSize(u64);

impl ByteSize {
    /// No bytes.
    pub const ZERO: Self = Self(0);

    /// A size in bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The difference; zero if `other` is larger.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl From<u64> for ByteSize {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl Add for ByteSize {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for ByteSize {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for ByteSize {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

/// The error for a string that is not a number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid number of bytes \"{}\": it {SIZE_PROBLEM}", shown(.value))]
pub struct ParseByteSizeError {
    value: String,
}

/// The problem of every invalid size.
const SIZE_PROBLEM: &str =
    "must be a number with or without a unit (k, M, G, T, Ki, Mi, Gi or Ti), for example 20Mi";

impl ParseByteSizeError {
    /// What is wrong with it, without the text itself.
    #[must_use]
    pub fn problem(&self) -> &str {
        SIZE_PROBLEM
    }
}

impl FromStr for ByteSize {
    type Err = ParseByteSizeError;

    /// Parses a quantity of bytes as Kubernetes writes it: `1000`, `500k`, `20Mi`, `1.5Gi`. `k`, `M`, `G` and `T` are
    /// powers of 1000, `Ki`, `Mi`, `Gi` and `Ti` of 1024. At most three decimals; the rest of a byte is dropped.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseByteSizeError {
            value: text.to_owned(),
        };
        let end = text.find(|c: char| c.is_ascii_alphabetic());
        let (number, unit) = text.split_at(end.unwrap_or(text.len()));
        let unit: u64 = match unit {
            "" => 1,
            "k" => 1_000,
            "M" => 1_000_000,
            "G" => 1_000_000_000,
            "T" => 1_000_000_000_000,
            "Ki" => 1 << 10,
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            "Ti" => 1 << 40,
            _ => return Err(error()),
        };
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let is_number =
            |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        if !is_number(whole) || !is_number(decimals) || decimals.len() > 3 {
            return Err(error());
        }
        let whole: u64 = whole.parse().map_err(|_| error())?;
        let thousandths: u64 = format!("{decimals:0<3}").parse().map_err(|_| error())?;
        let bytes = whole.checked_mul(unit).and_then(|whole| {
            let part = u128::from(thousandths) * u128::from(unit) / 1000;
            whole.checked_add(u64::try_from(part).ok()?)
        });
        bytes.map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        // More precision than 2^53 bytes is not needed for display.
        #[allow(clippy::cast_precision_loss)]
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = UNITS.iter();
        let mut name = unit.next().copied().unwrap_or_default();
        while value >= 1023.95 {
            let Some(next) = unit.next() else { break };
            value /= 1024.0;
            name = next;
        }
        f.pad(&format!("{value:.1} {name}"))
    }
}

/// The error for a string that is neither a number nor a percentage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid number or percentage \"{}\": it {PROBLEM}", shown(.value))]
pub struct ParseCountError {
    value: String,
}

/// The problem of every invalid value.
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
/// A parsed value is valid. A value from serde or from a constructor may be invalid:
/// [`CountOrPercent::check`] returns the error.
///
/// ```
/// use fledged_core::model::CountOrPercent;
///
/// let quarter: CountOrPercent = "25%".parse()?;
/// assert_eq!(quarter.of(1000), Some(250));
/// assert!("0".parse::<CountOrPercent>().is_err());
/// # Ok::<(), fledged_core::model::ParseCountError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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

impl<'de> Deserialize<'de> for CountOrPercent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CountOrPercentVisitor)
    }
}

/// Reads a [`CountOrPercent`]; its errors name the value, which those of an untagged enum do not.
struct CountOrPercentVisitor;

impl CountOrPercentVisitor {
    fn invalid<E: de::Error>(value: impl fmt::Display) -> E {
        E::custom(format_args!("{value}: {PROBLEM}"))
    }
}

impl Visitor<'_> for CountOrPercentVisitor {
    type Value = CountOrPercent;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number from 1 up, or a percentage from 1% to 100%")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        u32::try_from(value)
            .map(CountOrPercent::Count)
            .map_err(|_| Self::invalid(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        u32::try_from(value)
            .map(CountOrPercent::Count)
            .map_err(|_| Self::invalid(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        Err(Self::invalid(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(CountOrPercent::Percent(value.to_owned()))
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

    /// The number of `whole` that the value is, rounded up and at least one. `None` if the value is invalid.
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

/// The error for a string that is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid duration {value:?}: {problem}; write it as 1h30m, 90s or 500ms")]
pub struct ParseDurationError {
    value: String,
    problem: &'static str,
}

/// A duration in Go's syntax (`time.ParseDuration`): `1h30m`, `1.5s`, `500ms`, `0`.
///
/// Signs are parsed, but negative durations such as `-1s` are refused. Precision is a nanosecond; further
/// digits are cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub Duration);

/// Longest duration in Go: `int64` nanoseconds, about 292 years.
const NANOS_MAX: u128 = i64::MAX as u128;

impl FromStr for GoDuration {
    type Err = ParseDurationError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let fail = |problem| ParseDurationError {
            value: value.to_owned(),
            problem,
        };
        let (negative, mut rest) = match value.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, value.strip_prefix('+').unwrap_or(value)),
        };
        if rest.is_empty() {
            return Err(fail("it is empty"));
        }
        if rest == "0" {
            return Ok(Self(Duration::ZERO));
        }
        let mut nanos: u128 = 0;
        while !rest.is_empty() {
            let (term, next) = term(rest).map_err(fail)?;
            nanos += term;
            if nanos > NANOS_MAX {
                return Err(fail("it is too long"));
            }
            rest = next;
        }
        if negative && nanos > 0 {
            return Err(fail("it is negative"));
        }
        let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| fail("it is too long"))?;
        let below = u32::try_from(nanos % 1_000_000_000).map_err(|_| fail("it is too long"))?;
        Ok(Self(Duration::new(seconds, below)))
    }
}

/// Parses one number with its unit. Returns its nanoseconds and the rest of the text.
fn term(text: &str) -> Result<(u128, &str), &'static str> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = text.split_at(digits(text));
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err("a number is missing");
    }
    let end = rest
        .find(|c: char| c == '.' || c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(end);
    let scale: u128 = match unit {
        "ns" => 1,
        // The micro sign U+00B5 and the Greek letter U+03BC, as in Go.
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        "" => return Err("a unit is missing (ns, us, ms, s, m, h)"),
        _ => return Err("it has an unknown unit (known: ns, us, ms, s, m, h)"),
    };
    // int64 holds at most 19 digits; a longer number is too large in any unit.
    let whole: u128 = match whole.trim_start_matches('0') {
        "" => 0,
        digits if digits.len() > 19 => return Err("it is too long"),
        digits => digits.parse().map_err(|_| "it is too long")?,
    };
    let mut nanos = whole * scale;
    let mut share = scale;
    for digit in fraction.bytes() {
        share /= 10;
        nanos += share * u128::from(digit - b'0');
    }
    Ok((nanos, rest))
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.subsec_nanos();
        let seconds = self.0.as_secs();
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        match nanos {
            0 if seconds == 0 && (hours > 0 || minutes > 0) => Ok(()),
            0 => write!(f, "{seconds}s"),
            _ if seconds == 0 && nanos.is_multiple_of(1_000_000) => {
                write!(f, "{}ms", nanos / 1_000_000)
            }
            _ => {
                let fraction = format!("{nanos:09}");
                write!(f, "{seconds}.{}s", fraction.trim_end_matches('0'))
            }
        }
    }
}

/// Longest part of an invalid input that an error repeats, in characters.
const SHOWN_MAX: usize = 120;

/// Formats a value for an error: escapes characters that do not print or that change how the rest prints, and
/// cuts the value to [`SHOWN_MAX`] characters.
pub(super) fn shown(value: &str) -> String {
    let mut out: String = value
        .chars()
        .take(SHOWN_MAX)
        .flat_map(|c| {
            let plain = (c == '\'').then_some(c);
            let escaped = plain.is_none().then(|| c.escape_debug());
            plain.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect();
    if value.chars().count() > SHOWN_MAX {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed_like_quantities() {
        for (text, bytes) in [
            ("0", 0),
            ("65536", 65_536),
            ("500k", 500_000),
            ("20Mi", 20 << 20),
            ("1.5Gi", 3 << 29),
            ("0.001k", 1),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize::new(bytes)), "{text}");
        }
        for text in [
            "",
            "Mi",
            "-1",
            "+1",
            "1 Mi",
            "1MB",
            "1mi",
            "1K",
            "1.Mi",
            ".5Mi",
            "1.2.3",
            "1e3",
            "20MiB",
            "0.0005k",
            "18446744073709551616",
            "99999999Ti",
            "١",
        ] {
            let error = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.contains("20Mi"), "{error}");
        }
    }

    #[test]
    fn sizes_are_shown_in_binary_units() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1, "1 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            // A value that rounds up to 1024.0 is shown as 1.0 of the next unit.
            (1024 * 1024 - 1, "1.0 MiB"),
            (512 * 1024 * 1024, "512.0 MiB"),
            (1 << 30, "1.0 GiB"),
            (1 << 40, "1.0 TiB"),
            (1 << 50, "1.0 PiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(ByteSize::new(bytes).to_string(), shown);
        }
        assert_eq!(format!("{:>9}|", ByteSize::new(1024)), "  1.0 KiB|");
    }

    #[test]
    fn sizes_are_added_without_overflow() {
        let most = ByteSize::new(u64::MAX);
        assert_eq!(most + ByteSize::new(1), most);
        assert_eq!(
            [1, 2, 3].map(ByteSize::new).into_iter().sum::<ByteSize>(),
            ByteSize::new(6)
        );
        assert_eq!(ByteSize::new(1).saturating_sub(most), ByteSize::ZERO);
        assert_eq!(serde_json::to_string(&ByteSize::new(7)).unwrap(), "7");
    }

    fn nanos(text: &str) -> u128 {
        text.parse::<GoDuration>().unwrap().0.as_nanos()
    }

    /// Rows of `parseDurationTests` in Go's `time/time_test.go`.
    #[test]
    fn durations_of_go_are_parsed() {
        const MS: u128 = 1_000_000;
        const S: u128 = 1_000 * MS;
        for (text, want) in [
            ("0", 0),
            ("0s", 0),
            ("+0", 0),
            ("-0", 0),
            ("-0s", 0),
            ("5s", 5 * S),
            ("+5s", 5 * S),
            ("1478s", 1478 * S),
            ("5.0s", 5 * S),
            ("5.6s", 5 * S + 600 * MS),
            ("5.s", 5 * S),
            (".5s", 500 * MS),
            ("1.004s", S + 4 * MS),
            ("1.0040s", S + 4 * MS),
            ("100.00100s", 100 * S + MS),
            ("10ns", 10),
            ("11us", 11_000),
            ("12µs", 12_000),
            ("12μs10ns", 12_010),
            ("13ms", 13 * MS),
            ("15m", 900 * S),
            ("16h", 16 * 3600 * S),
            ("3h30m", 12_600 * S),
            ("10.5s4m", 250 * S + 500 * MS),
            ("2m3.4s", 123 * S + 400 * MS),
            ("1h2m3s4ms5us6ns", 3723 * S + 4_005_006),
            ("52763797000ns", 52_763_797_000),
            ("0.3333333333333333333h", 1200 * S),
            ("9223372036854775807ns", (1 << 63) - 1),
            ("9223372036s854ms775us807ns", (1 << 63) - 1),
            ("0.100000000000000000000h", 360 * S),
        ] {
            let got = nanos(text);
            // Go rounds a fraction of many digits in floating point, so the results may differ by one part in 1e9.
            assert!(got.abs_diff(want) <= want / 1_000_000_000, "{text}: {got}");
        }
    }

    #[test]
    fn invalid_and_negative_durations_are_refused() {
        for text in [
            "",
            "3",
            "-",
            "s",
            ".",
            "-.",
            ".s",
            "+.s",
            "1d",
            "1 s",
            " 1s",
            "1s ",
            "5m x",
            "-1s",
            "+-5s",
            "9223372036854775808ns",
            "9223372036854775.808us",
            "9223372036855ms",
            "3000000h",
            "99999999999999999999h",
            "1.5",
            "1S",
            "٣s",
        ] {
            assert!(text.parse::<GoDuration>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn a_duration_error_names_value_and_remedy() {
        let error = "5 minutes".parse::<GoDuration>().unwrap_err().to_string();
        assert!(error.contains("\"5 minutes\""), "{error}");
        assert!(error.contains("unknown unit"), "{error}");
        assert!(error.contains("1h30m"), "{error}");
    }

    #[test]
    fn durations_display_in_the_syntax_of_go() {
        for text in ["5m", "1h30m", "500ms", "0s", "1.25s", "15m", "1h0.5s"] {
            let duration: GoDuration = text.parse().unwrap();
            assert_eq!(duration.to_string().parse(), Ok(duration), "{text}");
        }
        assert_eq!("90s".parse::<GoDuration>().unwrap().to_string(), "1m30s");
        assert_eq!(GoDuration(Duration::ZERO).to_string(), "0s");
    }
}
