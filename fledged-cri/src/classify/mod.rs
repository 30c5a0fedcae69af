//! From what runtimes and registries answer to a [`Failure`]: for authors of a backend.
//!
//! A backend implements [`ImageRuntime`](fledged_core::port::ImageRuntime) and returns failures. Their
//! [`Reason`] decides about back-off, conditions, events and metrics, so it has to be found where a
//! runtime gives no more than a text:
//!
//! ```
//! use fledged_core::error::Reason;
//! use fledged_cri::classify::{failure_of_text, from_status, redact};
//!
//! let failure = failure_of_text("toomanyrequests: retry-after: 30s");
//! assert_eq!(failure.reason, Reason::TooManyRequests);
//! assert_eq!(failure.retry_after.map(|delay| delay.as_secs()), Some(30));
//! assert_eq!(from_status(503, "").reason, Reason::RegistryError);
//! assert_eq!(redact("login with hunter2 failed", &["hunter2"]), "login with [redacted] failed");
//! ```

mod redact;
mod retry_after;
#[cfg(test)]
mod tests;
mod words;

use fledged_core::error::{Failure, Reason};

pub use redact::redact;
pub use retry_after::{retry_after, retry_after_of_text};

use words::Words;

/// The failure for an HTTP status of a registry, with the registry's text as message.
#[must_use]
pub fn from_status(status: u16, message: impl Into<String>) -> Failure {
    Failure::new(reason_of_status(status).unwrap_or(Reason::Unknown), message)
}

/// The reason for an HTTP status, or `None` if the status alone has none.
fn reason_of_status(status: u16) -> Option<Reason> {
    match status {
        // 402, 412 and 451 are refusals by account, by policy (Harbor's content trust) and by law: they
        // last until the registry is changed.
        401 | 402 | 403 | 412 | 451 => Some(Reason::Unauthorized),
        404 | 410 => Some(Reason::ImageNotFound),
        // The registry has the image in no form that was asked for.
        406 => Some(Reason::InvalidImage),
        // The proxy on the way requires credentials.
        407 => Some(Reason::RegistryMisconfigured),
        408 => Some(Reason::ConnectionFailed),
        429 => Some(Reason::TooManyRequests),
        500..=599 => Some(Reason::RegistryError),
        _ => None,
    }
}

/// The reason in a runtime's error text, or [`Reason::Unknown`] if it contains no known phrase.
///
/// Knows the texts of containerd, CRI-O, Docker and registries. Names of images, hosts and files in a
/// text are ignored, as are digits in digests, ports and sizes.
#[must_use]
pub fn reason_of_text(message: &str) -> Reason {
    known_reason_of_text(message).unwrap_or(Reason::Unknown)
}

/// The failure for a runtime's error text: its reason, its delay, and the text as message, as [`redact`] leaves it.
#[must_use]
pub fn failure_of_text(message: &str) -> Failure {
    Failure::new(reason_of_text(message), redact(message, &[]))
        .with_retry_after(retry_after_of_text(message))
}

/// As [`reason_of_text`], but `None` for an unknown text. `Some(Reason::Unknown)` is a known text that
/// is not about the image.
pub(crate) fn known_reason_of_text(message: &str) -> Option<Reason> {
    let words = Words::of(message);
    phrase_in(&words.own(), OF_THE_NODE)
        .or_else(|| phrase_in(&words, BEFORE_STATUS))
        .or_else(|| words.http_status().and_then(reason_of_status))
        .or_else(|| phrase_in(&words, AFTER_STATUS))
}

fn phrase_in(words: &Words, table: &[(Reason, &[&str])]) -> Option<Reason> {
    table
        .iter()
        .find(|(_, phrases)| phrases.iter().any(|phrase| words.contain(phrase)))
        .map(|(reason, _)| *reason)
}

/// Problems of the node. A registry's text can't report them: it is quoted after an HTTP status. Written
/// like [`Words`]: lower case, no punctuation around a word.
const OF_THE_NODE: &[(Reason, &[&str])] = &[
    (
        Reason::DiskFull,
        &["no space left on device", "disk quota exceeded", "enospc"],
    ),
    (Reason::StoreUnusable, &["read-only file system"]),
    // Problems of the node that end in "not found" but say nothing about the registry.
    (
        Reason::Unknown,
        &[
            "executable file not found",
            "content digest not found",
            "parent snapshot",
            // Two concurrent pulls of the same layer in containerd.
            "locked for",
        ],
    ),
    (
        Reason::RuntimeUnavailable,
        &[
            "server is not initialized yet",
            "cannot connect to the docker daemon",
        ],
    ),
];

/// Phrases that decide before an HTTP status in the same text, in order of precedence.
const BEFORE_STATUS: &[(Reason, &[&str])] = &[
    (
        Reason::TooManyRequests,
        &[
            "toomanyrequests",
            "too many requests",
            "rate limit",
            "qps exceeded",
        ],
    ),
    (
        Reason::PlatformNotFound,
        &[
            "no match for platform",
            "no matching manifest",
            "no image found in manifest list",
            "no image found in image index",
            "cannot be used on this platform",
            "does not match the specified platform",
            "does not provide the specified platform",
        ],
    ),
    (
        Reason::DigestMismatch,
        &[
            "unexpected commit digest",
            "unexpected commit size",
            "digest mismatch",
            "digest did not match",
            "failed size validation",
            "digest verification failed",
            "layer verification failed",
        ],
    ),
    (
        Reason::InvalidImage,
        &[
            "unexpected media type",
            "unsupported media type",
            "unsupported manifest",
            "unsupported docker v1",
            "invalid manifest",
            "manifest invalid",
            "manifest_invalid",
            "invalid tar header",
            "gzip invalid header",
            "signaturevalidationfailed",
        ],
    ),
];

/// Phrases that decide if the text has no HTTP status that does.
const AFTER_STATUS: &[(Reason, &[&str])] = &[
    (Reason::RegistryMisconfigured, MISCONFIGURED),
    (
        Reason::Unauthorized,
        &[
            "unauthorized",
            "forbidden",
            "authorization failed",
            "authentication required",
            "authentication failed",
            "no basic auth credentials",
            "invalid username/password",
            "incorrect username or password",
            "invalid auth config",
            "insufficient_scope",
            "not authorized",
            // Docker and containerd say "pull access denied, repository does not exist or may require
            // authorization" for both, because registries hide private repositories from anonymous
            // clients. It counts as missing credentials, because those can be fixed.
            "access denied",
            "resource is denied",
            "registry denied",
            "code denied",
            "denied denied",
            "denied permission",
            "denied requested",
            // Artifact Registry.
            "denied unauthenticated",
            "do not have permission",
            "does not have permission",
            // The signature policy of CRI-O.
            "rejected by policy",
            // The firewall of Azure's registries.
            "denied client",
            "is not allowed access",
        ],
    ),
    (
        Reason::ImageNotFound,
        &[
            "manifest unknown",
            "manifest_unknown",
            "name unknown",
            "name_unknown",
            "blob unknown",
            "blob_unknown",
            "not known to registry",
            "repository does not exist",
            "tag does not exist",
            "no such image",
            "not found",
        ],
    ),
    (
        Reason::ConnectionFailed,
        &[
            "connection refused",
            "connection reset",
            "connection timed out",
            "connection closed",
            "no such host",
            "server misbehaving",
            "i/o timeout",
            "handshake timeout",
            "exceeded while awaiting headers",
            "request canceled while waiting for connection",
            "broken pipe",
            "no route to host",
            "network is unreachable",
            "short read",
            "tls",
            "eof",
        ],
    ),
    (
        Reason::RegistryError,
        &[
            "unexpected status",
            "unexpected http status",
            "registryunavailable",
        ],
    ),
    (Reason::DeadlineExceeded, &["deadline exceeded"]),
    // A runtime cancels its own pull with this text if it makes no progress.
    (
        Reason::ConnectionFailed,
        &["context canceled", "context cancelled"],
    ),
    (
        Reason::InvalidReference,
        &[
            "invalid reference",
            "couldn't parse image reference",
            "failed to parse image reference",
            "couldn't parse image name",
            "could not parse reference",
            // Short names that CRI-O and Podman refuse to complete.
            "did not resolve to an alias",
            "short name resolution enforced",
        ],
    ),
    (
        Reason::InvalidImage,
        &[
            "failed to unmarshal",
            "looking for beginning of value",
            "mediatype",
        ],
    ),
];

/// Texts about the node's configuration of a registry: they stay true until the configuration or the
/// registry changes.
const MISCONFIGURED: &[&str] = &[
    "server gave http response to https client",
    "sent an http request to an https server",
    "plain http request was sent to https port",
    "no required ssl certificate was sent",
    "first record does not look like a tls handshake",
    "unsupported protocol scheme",
    "invalid proxy address",
    "proxy authentication required",
    // Every error of Go's certificate verification.
    "x509",
    // Alerts of a server that requires another certificate, or another version of TLS.
    "tls bad certificate",
    "tls certificate required",
    "tls expired certificate",
    "tls handshake failure",
    "tls protocol version not supported",
    "tls revoked certificate",
    "tls unknown certificate",
    "tls unknown certificate authority",
    "tls unrecognized name",
    "tls unsupported certificate",
    "tls server selected unsupported protocol version",
    // containerd's hosts.toml.
    "no resolve hosts",
    "no pull hosts",
    "unable to read ca cert",
    "unable to load ca cert",
    "unable to read cert file",
    // CRI-O's registries.conf: "registry r.example is blocked in /etc/containers/registries.conf".
    "is blocked in",
];
