//! HTTP statuses and headers of registries.

use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use jiff::Timestamp;

/// The failure for an HTTP status of a registry, with the text that came along.
#[must_use]
pub fn from_status(status: u16, message: impl Into<String>) -> Failure {
    Failure::new(reason_of_status(status).unwrap_or(Reason::Unknown), message)
}

/// The reason for a status that says what is wrong; `None` for all others.
pub(super) fn reason_of_status(status: u16) -> Option<Reason> {
    match status {
        401 | 403 => Some(Reason::Unauthorized),
        404 => Some(Reason::ImageNotFound),
        408 => Some(Reason::ConnectionFailed),
        429 => Some(Reason::TooManyRequests),
        507 => Some(Reason::DiskFull),
        500..=599 => Some(Reason::RegistryError),
        _ => None,
    }
}

/// The delay that a `Retry-After` header asks for: seconds, or an HTTP date (RFC 9110, 10.2.3).
///
/// `None` where it is malformed or in the past.
#[must_use]
pub fn retry_after(header: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = header.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(header.trim()).ok()?;
    let now = std::time::SystemTime::from(now);
    date.duration_since(now).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_reasons() {
        for (status, reason) in [
            (401, Reason::Unauthorized),
            (403, Reason::Unauthorized),
            (404, Reason::ImageNotFound),
            (429, Reason::TooManyRequests),
            (503, Reason::RegistryError),
            (507, Reason::DiskFull),
            (418, Reason::Unknown),
        ] {
            assert_eq!(from_status(status, "").reason, reason, "{status}");
        }
    }

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
}
