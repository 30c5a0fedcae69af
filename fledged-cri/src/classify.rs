//! From what runtimes and registries say to a reason: HTTP statuses, and error texts where a runtime
//! gives nothing else.

use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use jiff::Timestamp;

/// The failure for an HTTP status of a registry, with the text that came along.
#[must_use]
pub fn from_status(status: u16, message: impl Into<String>) -> Failure {
    let reason = match status {
        401 | 403 => Reason::Unauthorized,
        404 => Reason::ImageNotFound,
        429 => Reason::TooManyRequests,
        507 => Reason::DiskFull,
        500..=599 => Reason::RegistryError,
        408 => Reason::ConnectionFailed,
        _ => Reason::Unknown,
    };
    Failure::new(reason, message)
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

/// The reason in a runtime's error text, where the runtime gives no code of its own.
///
/// The texts are those of containerd, CRI-O, Docker and the registries behind them; the runtime's
/// words come first, because they quote the registry's.
#[must_use]
pub fn reason_of_text(message: &str) -> Reason {
    const TEXTS: &[(Reason, &[&str])] = &[
        (
            Reason::DiskFull,
            &["no space left on device", "disk quota exceeded", "enospc"],
        ),
        (
            Reason::TooManyRequests,
            &["429", "toomanyrequests", "too many requests", "rate limit"],
        ),
        (
            Reason::PlatformNotFound,
            &[
                "no match for platform",
                "no matching manifest",
                "no image found in manifest list",
            ],
        ),
        (
            Reason::Unauthorized,
            &[
                "401",
                "403",
                "unauthorized",
                "forbidden",
                "authorization failed",
                "authentication required",
                "no basic auth credentials",
                "access denied",
                "access to the resource is denied",
                "denied:",
                "invalid username/password",
            ],
        ),
        (
            Reason::ImageNotFound,
            &[
                "404",
                "not found",
                "manifest unknown",
                "name unknown",
                "does not exist",
                "no such image",
            ],
        ),
        (
            Reason::DigestMismatch,
            &[
                "unexpected commit digest",
                "digest mismatch",
                "failed size validation",
                "digest verification failed",
            ],
        ),
        (
            Reason::DeadlineExceeded,
            &["deadline exceeded", "timeout exceeded while awaiting"],
        ),
        (
            Reason::RegistryError,
            &[
                "500 internal",
                "502 bad",
                "503 service",
                "504 gateway",
                "unexpected status",
            ],
        ),
        (
            Reason::ConnectionFailed,
            &[
                "connection refused",
                "connection reset",
                "no such host",
                "i/o timeout",
                "unexpected eof",
                "broken pipe",
                "no route to host",
                "network is unreachable",
                "tls:",
                "x509:",
                "eof",
            ],
        ),
        (
            Reason::InvalidReference,
            &[
                "invalid reference",
                "couldn't parse image reference",
                "failed to parse image reference",
            ],
        ),
        (
            Reason::InvalidImage,
            &[
                "unsupported manifest",
                "invalid manifest",
                "unsupported media type",
                "mediatype",
            ],
        ),
    ];
    let text = message.to_lowercase();
    TEXTS
        .iter()
        .find(|(_, needles)| needles.iter().any(|needle| text.contains(needle)))
        .map_or(Reason::Unknown, |(reason, _)| *reason)
}
