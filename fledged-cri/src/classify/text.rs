//! The reason in a runtime's error text, where the runtime gives no code of its own.

use fledged_core::error::{Failure, Reason};

use super::delay::retry_after_of_text;
use super::http::reason_of_status;
use super::words::Words;

/// Phrases that say what is wrong more surely than an HTTP status beside them, the surest first.
/// Written as [`Words`] are: lower case, no punctuation around a word.
const BEFORE_STATUS: &[(Reason, &[&str])] = &[
    (
        Reason::DiskFull,
        &["no space left on device", "disk quota exceeded", "enospc"],
    ),
    (Reason::StoreUnusable, &["read-only file system"]),
    // The node's own troubles, which end in "not found" but say nothing of the registry.
    (
        Reason::Unknown,
        &[
            "executable file not found",
            "content digest not found",
            "parent snapshot",
            // Two pulls want the same layer at once in containerd.
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
    (
        Reason::TooManyRequests,
        &["toomanyrequests", "too many requests", "rate limit"],
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

/// Phrases that decide where no HTTP status does.
const AFTER_STATUS: &[(Reason, &[&str])] = &[
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
            // authorization" for both: registries hide private repositories from strangers. Taken for
            // missing credentials, because that is what somebody can mend.
            "access denied",
            "resource is denied",
            "registry denied",
            "code denied",
            "denied denied",
            "denied permission",
            "denied requested",
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
            "server gave http response to https client",
            "broken pipe",
            "no route to host",
            "network is unreachable",
            "short read",
            "tls",
            "x509",
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
    // A runtime that saw no progress gives up its own pull with these words.
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
            "could not parse reference",
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

/// The reason in a runtime's error text; [`Reason::Unknown`] where it says nothing that is known.
///
/// The texts are those of containerd, CRI-O, Docker and the registries behind them. Names of images,
/// hosts and files in a text never decide, nor do digits in digests, ports and sizes.
#[must_use]
pub fn reason_of_text(message: &str) -> Reason {
    known_reason_of_text(message).unwrap_or(Reason::Unknown)
}

/// The reason in a runtime's error text with the delay it names, the text as message.
#[must_use]
pub fn failure_of_text(message: &str) -> Failure {
    Failure::new(reason_of_text(message), message).with_retry_after(retry_after_of_text(message))
}

/// As [`reason_of_text`], but apart: a text known to say nothing of the image, and an unknown text.
pub(crate) fn known_reason_of_text(message: &str) -> Option<Reason> {
    let words = Words::of(message);
    phrase_in(&words, BEFORE_STATUS)
        .or_else(|| words.http_status().and_then(reason_of_status))
        .or_else(|| phrase_in(&words, AFTER_STATUS))
}

fn phrase_in(words: &Words, table: &[(Reason, &[&str])]) -> Option<Reason> {
    table
        .iter()
        .find(|(_, phrases)| phrases.iter().any(|phrase| words.contain(phrase)))
        .map(|(reason, _)| *reason)
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
