//! The delay that a registry asks for, in a header or in an error text.

use std::time::Duration;

use jiff::Timestamp;

/// Longest delay that is believed. Rate limits of registries have windows of minutes to hours; a longer
/// value is a mistake, and would hold every image of the registry.
const DELAY_MAX: Duration = Duration::from_secs(3600);

/// The delay that a `Retry-After` header asks for: seconds, or an HTTP date (RFC 9110, 10.2.3).
///
/// At most an hour. `None` if it is malformed or in the past.
#[must_use]
pub fn retry_after(header: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = header.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(DELAY_MAX));
    }
    let date = httpdate::parse_http_date(header.trim()).ok()?;
    let now = std::time::SystemTime::from(now);
    let delay = date.duration_since(now).ok()?;
    Some(delay.min(DELAY_MAX))
}

/// Phrases that precede a delay.
const MARKERS: [&str; 6] = [
    "retry-after",
    "retry_after",
    "retry after",
    "retry in",
    "try again after",
    "try again in",
];

/// The delay in an error text, as in `retry-after: 985.86µs, allowed: 44000/minute` or
/// `retry after 5 seconds`.
///
/// Reads Go durations, numbers with a unit in words, and bare numbers of seconds. At most an hour. `None` if the text has
/// no delay.
#[must_use]
pub fn retry_after_of_text(message: &str) -> Option<Duration> {
    let text = message.to_lowercase();
    MARKERS.iter().find_map(|marker| {
        let (_, rest) = text.split_once(marker)?;
        duration(rest.trim_start_matches(|c: char| c.is_whitespace() || ":=\"'".contains(c)))
    })
}

/// The duration at the start of a text.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds: Option<f64> = None;
    loop {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at_checked(digits)?;
        // A full stop at the end belongs to the sentence.
        let Ok(number) = number.trim_end_matches('.').parse::<f64>() else {
            break;
        };
        let after = after.trim_start_matches(' ');
        let letters = after
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at_checked(letters)?;
        match scale(unit) {
            Some(scale) => seconds = Some(seconds.unwrap_or(0.0) + number * scale),
            None => return from_seconds(seconds.unwrap_or(number)),
        }
        rest = next;
    }
    from_seconds(seconds?)
}

fn scale(unit: &str) -> Option<f64> {
    Some(match unit {
        "h" | "hour" | "hours" => 3600.0,
        "m" | "min" | "minute" | "minutes" => 60.0,
        "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
        "ms" | "millisecond" | "milliseconds" => 1e-3,
        // The micro sign and the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    })
}

fn from_seconds(seconds: f64) -> Option<Duration> {
    let delay = Duration::try_from_secs_f64(seconds).ok()?;
    Some(delay.min(DELAY_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
        let seconds = |s| Some(Duration::from_secs(s));
        assert_eq!(retry_after("120", now), seconds(120));
        assert_eq!(
            retry_after("Fri, 01 May 2026 12:00:30 GMT", now),
            seconds(30)
        );
        assert_eq!(retry_after("Fri, 01 May 2026 11:00:00 GMT", now), None);
        assert_eq!(retry_after("soon", now), None);
    }

    #[test]
    fn delays_are_found() {
        for (text, millis) in [
            ("toomanyrequests: retry-after: 30s", 30_000),
            ("Too many requests, retry after 5 seconds", 5_000),
            ("Retry-After: 120", 120_000),
            ("429 Too Many Requests (retry-after=2)", 2_000),
            ("please try again in 1m30s.", 90_000),
            ("retry in 1.5 minutes", 90_000),
            ("retry after 7.", 7_000),
            ("retry-after: 250ms, allowed: 44000/minute", 250),
            ("retry after 3 requests", 3_000),
        ] {
            assert_eq!(
                retry_after_of_text(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        let micro =
            retry_after_of_text("toomanyrequests: retry-after: 985.86µs, allowed: 44000/minute");
        assert_eq!(micro, Some(Duration::from_nanos(985_860)));
    }

    #[test]
    fn a_delay_is_at_most_an_hour() {
        let now: Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
        let hour = Some(Duration::from_secs(3600));
        for header in [
            "86400",
            "18446744073709551615",
            "Sat, 02 May 2026 12:00:00 GMT",
        ] {
            assert_eq!(retry_after(header, now), hour, "{header}");
        }
        assert_eq!(retry_after_of_text("retry-after: 24h"), hour);
    }

    #[test]
    fn texts_without_a_delay_have_none() {
        for text in [
            "toomanyrequests: You have reached your pull rate limit.",
            "retry after some time",
            "retry-after: -5",
            "retry-after",
            "retry in 99999999999999999999999999 hours",
        ] {
            assert_eq!(retry_after_of_text(text), None, "{text}");
        }
    }
}
