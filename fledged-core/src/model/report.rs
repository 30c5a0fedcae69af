//! The report of one node: the contract from the warmer to the planner.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{AssignedImage, ByteSize, Digest, ImageRef, PullLimit};
use crate::error::Reason;

/// Where one image stands on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub enum ImagePhase {
    /// Not looked at yet, or waiting for a free place to pull in.
    Pending,
    /// A pull is under way.
    Pulling,
    /// The last attempt failed; another follows within the same round.
    BackingOff,
    /// Present, as far as the last inventory or pull knows.
    Cached,
    /// The round ended without success; another starts later.
    Failed,
    /// A removal is under way or due.
    Removing,
    /// Absent, as asked for.
    Removed,
    /// To be absent, but kept: a container uses it, it is pinned, or it shares an image that stays.
    InUse,
}

impl ImagePhase {
    /// Whether nothing more happens without a change from outside or a new round.
    #[must_use]
    pub fn is_settled(self) -> bool {
        matches!(
            self,
            Self::Cached | Self::Failed | Self::Removed | Self::InUse
        )
    }

    /// Whether the node works on the image, or does so next. An image that backs off only waits.
    #[must_use]
    pub fn is_busy(self) -> bool {
        matches!(self, Self::Pending | Self::Pulling | Self::Removing)
    }

    /// The phase as written in status and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Pulling => "Pulling",
            Self::BackingOff => "BackingOff",
            Self::Cached => "Cached",
            Self::Failed => "Failed",
            Self::Removing => "Removing",
            Self::Removed => "Removed",
            Self::InUse => "InUse",
        }
    }
}

impl fmt::Display for ImagePhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Most superseded digests of one image that a node remembers. Older ones are left to the garbage collection of
/// the kubelet.
pub const SUPERSEDED_MAX: usize = 4;

/// What fetched the layers of an image in its last pull, where the program can fetch them itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PulledVia {
    /// The program, over several connections; the runtime may have fetched some of the layers.
    Fetcher,
    /// The runtime, for this reason.
    Runtime(String),
}

impl PulledVia {
    /// The runtime, for this reason. Its pulls cannot be limited: a limit that was not kept is added to the reason.
    #[must_use]
    pub fn runtime(why: impl Into<String>, limit: Option<&PullLimit>) -> Self {
        let why = why.into();
        Self::Runtime(match limit {
            Some(limit) => format!("{why}; not limited to {}", limit.rate),
            None => why,
        })
    }
}

/// As `fetcher` or `runtime: the reason`.
impl fmt::Display for PulledVia {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fetcher => f.write_str("fetcher"),
            Self::Runtime(why) => write!(f, "runtime: {why}"),
        }
    }
}

/// One image on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageReport {
    /// The image.
    pub image: ImageRef,
    /// The phase of the image.
    pub phase: ImagePhase,
    /// Digest of the present image, if the runtime reports it.
    pub digest: Option<Digest>,
    /// Size of the present image, as the runtime counts it.
    pub size: Option<ByteSize>,
    /// What fetched the layers, if the present image was pulled by a runtime that says so.
    pub via: Option<PulledVia>,
    /// Attempts of the current or last round; zero for an image that was found present.
    pub attempts: u32,
    /// Start of the current or last round's first attempt.
    pub started_at: Option<Timestamp>,
    /// End of the last round; `None` during a round, and for an image that was found present.
    pub finished_at: Option<Timestamp>,
    /// When the next attempt is due, while backing off, failed or held back.
    pub next_attempt_at: Option<Timestamp>,
    /// The revision that was last satisfied; see [`AssignedImage::revision`](super::AssignedImage).
    pub revision: Option<u64>,
    /// The reason for the phase, if it needs one.
    pub reason: Option<Reason>,
    /// The runtime's own text.
    pub message: Option<String>,
    /// Digests that the tag named before, oldest first, and that are to be removed from the node. At most
    /// [`SUPERSEDED_MAX`].
    pub superseded: Vec<Digest>,
}

impl ImageReport {
    /// A report with only the phase.
    #[must_use]
    pub fn new(image: ImageRef, phase: ImagePhase) -> Self {
        Self {
            image,
            phase,
            digest: None,
            size: None,
            via: None,
            attempts: 0,
            started_at: None,
            finished_at: None,
            next_attempt_at: None,
            revision: None,
            reason: None,
            message: None,
            superseded: Vec::new(),
        }
    }

    /// Whether the node held the image for its assignment, or began to pull it.
    #[must_use]
    pub fn is_held(&self) -> bool {
        match self.phase {
            ImagePhase::Cached | ImagePhase::Removing | ImagePhase::InUse => true,
            ImagePhase::Removed => false,
            // The revision is that of an earlier presence.
            _ => self.revision.is_some() || self.attempts > 0,
        }
    }

    /// Whether the image is present, and credentials that are named for it could not be used. The message names
    /// them.
    #[must_use]
    pub fn is_cached_without_credentials(&self) -> bool {
        self.phase == ImagePhase::Cached && self.reason == Some(Reason::CredentialsUnavailable)
    }

    /// Whether the image is present, and its refresh does not begin because the image file system is too full.
    #[must_use]
    pub fn is_refresh_held(&self) -> bool {
        self.phase == ImagePhase::Cached && self.reason == Some(Reason::ImageFsAboveThreshold)
    }

    /// With the digest of what is present.
    #[must_use]
    pub fn with_digest(mut self, digest: impl Into<Option<Digest>>) -> Self {
        self.digest = digest.into();
        self
    }

    /// With the size of what is present.
    #[must_use]
    pub fn with_size(mut self, size: impl Into<Option<ByteSize>>) -> Self {
        self.size = size.into();
        self
    }

    /// With what fetched the layers.
    #[must_use]
    pub fn with_via(mut self, via: impl Into<Option<PulledVia>>) -> Self {
        self.via = via.into();
        self
    }

    /// With the start of the current or last round.
    #[must_use]
    pub fn with_started_at(mut self, started_at: impl Into<Option<Timestamp>>) -> Self {
        self.started_at = started_at.into();
        self
    }

    /// With the time at which that round ended.
    #[must_use]
    pub fn with_finished_at(mut self, finished_at: impl Into<Option<Timestamp>>) -> Self {
        self.finished_at = finished_at.into();
        self
    }

    /// With the time at which the next attempt is due.
    #[must_use]
    pub fn with_next_attempt_at(mut self, next_attempt_at: impl Into<Option<Timestamp>>) -> Self {
        self.next_attempt_at = next_attempt_at.into();
        self
    }

    /// With the revision that was last satisfied.
    #[must_use]
    pub fn with_revision(mut self, revision: impl Into<Option<u64>>) -> Self {
        self.revision = revision.into();
        self
    }

    /// With the reason for its phase.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<Option<Reason>>) -> Self {
        self.reason = reason.into();
        self
    }

    /// With the number of attempts of the current or last round.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// With the last of these digests that the tag named before, oldest first.
    #[must_use]
    pub fn with_superseded(mut self, digests: impl IntoIterator<Item = Digest>) -> Self {
        self.superseded.clear();
        for digest in digests {
            self.supersede(digest);
        }
        self
    }

    /// Adds a digest that the tag named until now. The oldest one is dropped where there are too many.
    pub fn supersede(&mut self, digest: Digest) {
        self.superseded.retain(|known| *known != digest);
        if self.superseded.len() >= SUPERSEDED_MAX {
            self.superseded.remove(0);
        }
        self.superseded.push(digest);
    }

    /// With the runtime's own text.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<Option<String>>) -> Self {
        self.message = message.into();
        self
    }
}

/// The state of all images of one node, in the order of the assignment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeReport {
    /// The record that the assignment was read from; see [`Assignment::record`](super::Assignment).
    pub record: Option<String>,
    /// Generation of the assignment that the report acknowledges.
    pub observed_generation: u64,
    /// When the runtime's inventory was last read; `None` before the first reading, and if the driver does not
    /// report it.
    pub inventory_at: Option<Timestamp>,
    /// The namespaces of the caches with images that [are busy](ImagePhase::is_busy). Not recorded: it decides when a
    /// report is written.
    pub busy_namespaces: BTreeSet<String>,
    /// The images.
    pub images: Vec<ImageReport>,
}

impl NodeReport {
    /// A report on the assignment of this generation, without the time of the inventory.
    pub fn new(observed_generation: u64, images: impl IntoIterator<Item = ImageReport>) -> Self {
        Self {
            record: None,
            observed_generation,
            inventory_at: None,
            busy_namespaces: BTreeSet::new(),
            images: images.into_iter().collect(),
        }
    }

    /// With the namespaces of the caches that want these images.
    #[must_use]
    pub fn with_busy<'a>(mut self, images: impl IntoIterator<Item = &'a AssignedImage>) -> Self {
        self.busy_namespaces.clear();
        for id in images.into_iter().flat_map(|image| &image.wanted_by) {
            if !self.busy_namespaces.contains(&id.namespace) {
                self.busy_namespaces.insert(id.namespace.clone());
            }
        }
        self
    }

    /// With the record of the assignment.
    #[must_use]
    pub fn with_record(mut self, record: impl Into<Option<String>>) -> Self {
        self.record = record.into();
        self
    }

    /// With the time at which the runtime's inventory was last read.
    #[must_use]
    pub fn with_inventory_at(mut self, at: impl Into<Option<Timestamp>>) -> Self {
        self.inventory_at = at.into();
        self
    }
}
