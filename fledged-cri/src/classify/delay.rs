//! The delay that an error text names.

use std::time::Duration;

/// Words after which a delay stands.
const MARKERS: [&str; 6] = [
    "retry-after",
    "retry_after",
    "retry after",
    "retry in",
    "try again after",
    "try again in",
];

/// The delay that an error text asks for, as in `retry-after: 985.86µs, allowed: 44000/minute` or
/// `retry after 5 seconds`.
///
/// Understands durations as Go prints them, numbers with a unit in words, and bare numbers of
/// seconds. `None` where the text names none.
#[must_use]
pub fn retry_after_of_text(message: &str) -> Option<Duration> {
    let text = message.to_lowercase();
    MARKERS.iter().find_map(|marker| {
        let (_, rest) = text.split_once(marker)?;
        duration(rest.trim_start_matches(|c: char| c.is_whitespace() || ":=\"'".contains(c)))
    })
}

/// The duration that a text begins with.
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
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

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
