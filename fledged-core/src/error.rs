//! Error classes and reasons: one source for backoff, conditions, events and metric labels.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How a failure is treated. Selects the back-off; see [`Backoff`](crate::backoff::Backoff).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ErrorClass {
    /// Transient: retry soon (connection resets, 5xx, the runtime restarting).
    Retryable,
    /// The registry throttles; honour the delay it names.
    Throttled,
    /// Credentials are missing or refused; an operator has to act.
    Unauthorized,
    /// The registry has no such image, or none for this platform.
    NotFound,
    /// The disk is full: no pull can succeed until space is freed.
    DiskFull,
    /// The request or the image itself is malformed.
    Invalid,
    /// The node's configuration of the registry does not fit the registry; an operator has to act.
    Misconfigured,
    /// No operation on this node can succeed until its software or configuration changes.
    Fatal,
}

impl ErrorClass {
    /// Whether a retry within the same round may succeed without action by an operator.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Retryable | Self::Throttled)
    }
}

/// Why something failed or was left undone, in one CamelCase word.
///
/// The word is the condition reason, the event reason and the metric label alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub enum Reason {
    /// The registry refused the credentials, or wants some (401, 403).
    Unauthorized,
    /// Credentials were named but could not be read.
    CredentialsUnavailable,
    /// The registry has no such repository, tag or digest (404).
    ImageNotFound,
    /// The image exists, but not for this node's operating system and architecture.
    PlatformNotFound,
    /// The registry throttles (429).
    TooManyRequests,
    /// The registry failed on its side (5xx).
    RegistryError,
    /// No connection, or one that broke.
    ConnectionFailed,
    /// The node's configuration does not fit the registry: plain HTTP instead of HTTPS, an unknown
    /// certificate authority, an expired certificate or one of another name, no usable mirror.
    RegistryMisconfigured,
    /// The pull outlived its deadline.
    DeadlineExceeded,
    /// Content did not have the digest it was asked for by.
    DigestMismatch,
    /// The node's image file system is full.
    DiskFull,
    /// The node's image file system is fuller than pulls may make it: nothing is pulled, so that the kubelet does not
    /// have to collect images.
    ImageFsAboveThreshold,
    /// The reference was refused by the runtime.
    InvalidReference,
    /// The manifest, configuration or a layer is malformed or of an unknown type.
    InvalidImage,
    /// The runtime does not answer.
    RuntimeUnavailable,
    /// The runtime does not serve what is needed (CRI v1alpha2 only, for instance).
    RuntimeUnsupported,
    /// Where images are kept cannot be used as it is: read-only, or without permission for instance.
    StoreUnusable,
    /// The image is in use by a container and was therefore not removed.
    InUse,
    /// The image is pinned by the runtime and was therefore not removed.
    Pinned,
    /// The operator of the node protects the image from removal.
    Protected,
    /// The runtime can only remove the whole image, and another name of it must stay.
    SharedImage,
    /// The image was there and is gone: collected or removed behind our back.
    Evicted,
    /// The record of the node is full: it has no room for the images of this cache.
    NodeRecordFull,
    /// None of the above; the message has the runtime's own words.
    Unknown,
}

impl Reason {
    /// The class of the reason.
    #[must_use]
    pub fn class(self) -> ErrorClass {
        match self {
            Self::Unauthorized | Self::CredentialsUnavailable => ErrorClass::Unauthorized,
            Self::ImageNotFound | Self::PlatformNotFound => ErrorClass::NotFound,
            Self::TooManyRequests => ErrorClass::Throttled,
            Self::DiskFull | Self::ImageFsAboveThreshold => ErrorClass::DiskFull,
            Self::InvalidReference | Self::InvalidImage => ErrorClass::Invalid,
            Self::RegistryMisconfigured => ErrorClass::Misconfigured,
            Self::RuntimeUnsupported | Self::StoreUnusable => ErrorClass::Fatal,
            Self::RegistryError
            | Self::ConnectionFailed
            | Self::DeadlineExceeded
            | Self::DigestMismatch
            | Self::RuntimeUnavailable
            | Self::InUse
            | Self::Pinned
            | Self::Protected
            | Self::SharedImage
            | Self::Evicted
            | Self::NodeRecordFull
            | Self::Unknown => ErrorClass::Retryable,
        }
    }

    /// Whether an image is kept for that reason although it is to be absent. No retry changes that.
    #[must_use]
    pub fn keeps_image(self) -> bool {
        matches!(
            self,
            Self::InUse | Self::Pinned | Self::Protected | Self::SharedImage
        )
    }

    /// The reason as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unauthorized => "Unauthorized",
            Self::CredentialsUnavailable => "CredentialsUnavailable",
            Self::ImageNotFound => "ImageNotFound",
            Self::PlatformNotFound => "PlatformNotFound",
            Self::TooManyRequests => "TooManyRequests",
            Self::RegistryError => "RegistryError",
            Self::ConnectionFailed => "ConnectionFailed",
            Self::RegistryMisconfigured => "RegistryMisconfigured",
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::DigestMismatch => "DigestMismatch",
            Self::DiskFull => "DiskFull",
            Self::ImageFsAboveThreshold => "ImageFsAboveThreshold",
            Self::InvalidReference => "InvalidReference",
            Self::InvalidImage => "InvalidImage",
            Self::RuntimeUnavailable => "RuntimeUnavailable",
            Self::RuntimeUnsupported => "RuntimeUnsupported",
            Self::StoreUnusable => "StoreUnusable",
            Self::InUse => "InUse",
            Self::Pinned => "Pinned",
            Self::Protected => "Protected",
            Self::SharedImage => "SharedImage",
            Self::Evicted => "Evicted",
            Self::NodeRecordFull => "NodeRecordFull",
            Self::Unknown => "Unknown",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The failure of one operation: a reason for programs, a message for users.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
#[non_exhaustive]
pub struct Failure {
    /// The reason, which decides the class.
    pub reason: Reason,
    /// The runtime's or registry's own text. Never holds credentials.
    pub message: String,
    /// The delay before the next request that the server asked for (`Retry-After`), if any.
    pub retry_after: Option<Duration>,
    /// Whether the node's image file systems have room although the pull found a full disk: the failure
    /// then concerns this image alone.
    pub node_has_room: bool,
}

impl Failure {
    /// A failure with this reason and text.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            retry_after: None,
            node_has_room: false,
        }
    }

    /// With the delay that the server asked for.
    #[must_use]
    pub fn with_retry_after(mut self, delay: Option<Duration>) -> Self {
        self.retry_after = delay;
        self
    }

    /// The class of its reason.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        self.reason.class()
    }
}

/// A text from a node, a runtime or a registry as one line of at most `max` characters, for logs and statuses:
/// control and formatting characters are dropped, and white space counts as one space.
///
/// ```
/// use fledged_core::error::plain_text;
///
/// assert_eq!(plain_text("denied:\n\u{1b}[31mno\u{202e}", 100), "denied: [31mno");
/// assert_eq!(plain_text("denied", 3), "den…");
/// ```
#[must_use]
pub fn plain_text(text: &str, max: usize) -> String {
    let hidden = |c: &char| {
        let formatting = matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}' | '\u{feff}');
        !c.is_whitespace() && (c.is_control() || formatting)
    };
    let mut plain = String::new();
    let mut count = 0;
    let mut space = false;
    for c in text.chars().filter(|c| !hidden(c)) {
        if c.is_whitespace() {
            space = count > 0;
            continue;
        }
        if count + usize::from(space) >= max {
            plain.push('…');
            break;
        }
        if std::mem::take(&mut space) {
            plain.push(' ');
            count += 1;
        }
        plain.push(c);
        count += 1;
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_serialize_as_their_name() {
        for reason in [
            Reason::Unauthorized,
            Reason::CredentialsUnavailable,
            Reason::ImageNotFound,
            Reason::PlatformNotFound,
            Reason::TooManyRequests,
            Reason::RegistryError,
            Reason::ConnectionFailed,
            Reason::RegistryMisconfigured,
            Reason::DeadlineExceeded,
            Reason::DigestMismatch,
            Reason::DiskFull,
            Reason::ImageFsAboveThreshold,
            Reason::InvalidReference,
            Reason::InvalidImage,
            Reason::RuntimeUnavailable,
            Reason::RuntimeUnsupported,
            Reason::StoreUnusable,
            Reason::InUse,
            Reason::Pinned,
            Reason::Protected,
            Reason::SharedImage,
            Reason::Evicted,
            Reason::NodeRecordFull,
            Reason::Unknown,
        ] {
            assert_eq!(reason.to_string(), reason.as_str());
            let wire = serde_json::to_value(reason).unwrap();
            assert_eq!(wire, reason.as_str());
            assert_eq!(serde_json::from_value::<Reason>(wire).unwrap(), reason);
            assert!(reason.as_str().bytes().all(|b| b.is_ascii_alphabetic()));
        }
    }

    #[test]
    fn only_retryable_and_throttled_are_transient() {
        assert!(Reason::ConnectionFailed.class().is_transient());
        assert!(Reason::TooManyRequests.class().is_transient());
        for reason in [
            Reason::Unauthorized,
            Reason::ImageNotFound,
            Reason::RegistryMisconfigured,
            Reason::DiskFull,
            Reason::InvalidImage,
            Reason::RuntimeUnsupported,
            Reason::StoreUnusable,
        ] {
            assert!(!reason.class().is_transient(), "{reason}");
        }
    }
}
