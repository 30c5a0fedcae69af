//! Values as text: counts, durations, digests, and untrusted text.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use fledged_core::model::{ByteSize, Digest, ImageReport};
#[cfg(feature = "cluster")]
use jiff::Timestamp;

/// `1 image`, `2 images`.
pub(crate) fn pluralised(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

/// Seconds, rounded to milliseconds.
pub(crate) fn rounded_seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

/// The first twelve digits of a digest, with its algorithm.
pub(crate) fn short_digest(digest: &Digest) -> String {
    let hex: String = digest.hex().chars().take(12).collect();
    format!("{}:{hex}", digest.algorithm())
}

/// Time from the first attempt to the end; `None` without an attempt or an end.
pub(crate) fn took(report: &ImageReport) -> Option<Duration> {
    let (start, end) = (report.started_at?, report.finished_at?);
    if report.attempts == 0 {
        return None;
    }
    Duration::try_from(end.duration_since(start)).ok()
}

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// The time since then, in kubectl's notation: `45s`, `3m12s`, `5h`, `4d`.
#[cfg(feature = "cluster")]
pub(crate) fn age(since: Timestamp, now: Timestamp) -> String {
    span(now.as_second().saturating_sub(since.as_second()))
}

/// The bytes of a pull: `1.2 GiB of 3.4 GiB, 45.0 MiB/s, 50s left`, as far as they are known. The rate is in bytes a
/// second, the remaining time in seconds.
pub(crate) fn pulled_bytes(
    done: u64,
    total: Option<u64>,
    rate: Option<u64>,
    left: Option<u64>,
) -> String {
    let mut text = ByteSize::new(done).to_string();
    if let Some(total) = total {
        let _ = write!(text, " of {}", ByteSize::new(total));
    }
    if let Some(rate) = rate {
        let _ = write!(text, ", {}/s", ByteSize::new(rate));
    }
    if let Some(left) = left {
        let left = span(i64::try_from(left).unwrap_or(i64::MAX));
        let _ = write!(text, ", {left} left");
    }
    text
}

/// A number of seconds, rounded as `k8s.io/apimachinery/pkg/util/duration` rounds it.
pub(crate) fn span(seconds: i64) -> String {
    let two = |large: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit}{small}{small_unit}"),
    };
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / MINUTE, seconds / HOUR, seconds / DAY);
    if seconds < 2 * MINUTE {
        format!("{seconds}s")
    } else if minutes < 10 {
        two(minutes, "m", seconds % MINUTE, "s")
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if days < 8 {
        two(days, "d", hours % 24, "h")
    } else if days < 2 * 365 {
        format!("{days}d")
    } else if days < 8 * 365 {
        two(seconds / YEAR, "y", days % 365, "d")
    } else {
        format!("{}y", seconds / YEAR)
    }
}

/// Untrusted text with control characters escaped, except line feeds and tabs.
///
/// Manifests, registries and runtimes can send text that moves the cursor, changes colours, or reverses the
/// writing direction so that a line reads as another.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |c| matches!(c, '\n' | '\t'))
}

/// As [`printable`], with line feeds and tabs escaped too, so that untrusted text cannot start a new line.
pub(crate) fn on_one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

fn escaped(text: &str, is_allowed: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_plain = |c: char| {
        // `escape_debug` escapes quotes and backslashes only for Rust's literals.
        matches!(c, '\'' | '"' | '\\') || is_allowed(c) || c.escape_debug().len() == 1
    };
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_plain(c) {
            out.push(c);
        } else {
            out.extend(c.escape_debug());
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_formatted_as_by_kubectl() {
        for (seconds, text) in [
            (-5, "0s"),
            (119, "119s"),
            (120, "2m"),
            (599, "9m59s"),
            (600, "10m"),
            (3 * HOUR, "3h"),
            (3 * HOUR + 60, "3h1m"),
            (8 * HOUR, "8h"),
            (2 * DAY, "2d"),
            (2 * DAY + HOUR, "2d1h"),
            (8 * DAY, "8d"),
            (3 * YEAR + DAY, "3y1d"),
            (9 * YEAR, "9y"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }

    #[test]
    fn printable_text_is_unchanged() {
        for text in [
            "",
            "a \"b\" 'c' \\d",
            "größer als 5 – 图像",
            "one\ntwo\tthree",
        ] {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("x\u{1b}[31m\r\u{7}"), r"x\u{1b}[31m\r\u{7}");
        assert_eq!(
            printable("a\u{202e}b\u{9b}1m\u{7f}"),
            r"a\u{202e}b\u{9b}1m\u{7f}"
        );
        assert_eq!(printable("a\u{2066}\u{200f}b"), r"a\u{2066}\u{200f}b");
        assert_eq!(on_one_line("a\nerror: b\tc"), r"a\nerror: b\tc");
    }
}
