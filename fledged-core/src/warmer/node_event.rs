//! The events and commands of a warmer.

use jiff::Timestamp;

use super::Inventory;
use crate::error::Failure;
use crate::model::{Assignment, ByteSize, ImageRef, ImageReport, PullLimit};
use crate::port::{CredentialsRequest, Removal, RuntimeImage};

/// One pull attempt. Never used twice by a warmer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PullId(pub u64);

/// One reading of the inventory. Later readings have greater numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct InventoryId(pub u64);

/// An event of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeEvent {
    /// The reports from before a restart, from which the warmer knows the revisions that are already
    /// satisfied. Optional; must precede the first assignment.
    Resumed(Vec<ImageReport>),
    /// A new assignment, which replaces the last one.
    Assigned(Assignment),
    /// Verify presence, pull images with policy `Always` again, and retry failed images, all now.
    RefreshRequested,
    /// The inventory may have changed and is read now.
    ResyncRequested,
    /// The running operations were abandoned and will have no result. Every image is checked against a
    /// new inventory.
    Interrupted,
    /// The reading of an inventory ended.
    InventoryRead {
        /// Which reading.
        id: InventoryId,
        /// The inventory.
        result: Result<Inventory, Failure>,
    },
    /// A running pull has received bytes. Optional: without it, no pull gets more time than its deadline.
    PullProgressed {
        /// Which pull.
        id: PullId,
        /// Bytes received since the start of the pull.
        done: ByteSize,
    },
    /// A pull ended. Ignored for a pull that was cancelled.
    PullEnded {
        /// Which pull.
        id: PullId,
        /// The pulled image.
        result: Result<RuntimeImage, Failure>,
        /// Sources of credentials that were named for the image and could not be used, each with its problem.
        unused_credentials: Option<String>,
    },
    /// A removal ended.
    RemovalEnded {
        /// Which image.
        image: ImageRef,
        /// How.
        result: Result<Removal, Failure>,
    },
}

/// A command to the loop.
///
/// Exhaustive on purpose: a loop must execute every command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeCommand {
    /// Read the inventory and send [`NodeEvent::InventoryRead`].
    ReadInventory {
        /// Repeated in the event.
        id: InventoryId,
        /// Whether the images in use are needed; otherwise their list may be empty.
        with_usage: bool,
        /// Whether the used share of the image file systems is needed.
        with_disk: bool,
    },
    /// Pull an image and send [`NodeEvent::PullEnded`].
    Pull {
        /// Repeated in the event.
        id: PullId,
        /// The image, and the sources of its credentials.
        credentials: CredentialsRequest,
        /// The limit of the bytes a second.
        limit: Option<PullLimit>,
        /// Time at which the warmer cancels the pull; a runtime may use it as well.
        deadline: Timestamp,
    },
    /// Change the limit of a running pull.
    LimitPull {
        /// Which pull.
        id: PullId,
        /// The new limit.
        limit: Option<PullLimit>,
    },
    /// Abandon a pull. No event is expected.
    CancelPull {
        /// Which pull.
        id: PullId,
    },
    /// Remove an image and send [`NodeEvent::RemovalEnded`].
    Remove {
        /// Which image.
        image: ImageRef,
    },
    /// The state of an image changed.
    Report(ImageReport),
}
