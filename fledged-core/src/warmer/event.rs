//! The events and commands of a warmer.

use jiff::Timestamp;

use super::Inventory;
use crate::error::Failure;
use crate::model::{Assignment, ImageRef, ImageReport};
use crate::port::{CredentialsRequest, Removal, RuntimeImage};

/// One pull attempt. Never used twice by a warmer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PullId(pub u64);

/// One reading of the inventory. Later readings have greater numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct InventoryId(pub u64);

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeEvent {
    /// The reports from before a restart, from which the warmer knows the revisions that are already
    /// satisfied. Optional; must precede the first assignment.
    Resumed(Vec<ImageReport>),
    /// The node is to hold this from now on; replaces what was assigned before.
    Assigned(Assignment),
    /// Verify presence, pull images with policy `Always` again, and retry failed images, all now.
    RefreshRequested,
    /// What the runtime holds may have changed: its inventory is read now.
    ResyncRequested,
    /// The operations under way were abandoned and will not be answered. Every image is checked
    /// against a new inventory.
    Interrupted,
    /// The reading of an inventory ended.
    InventoryRead {
        /// Which reading.
        id: InventoryId,
        /// What the runtime holds.
        result: Result<Inventory, Failure>,
    },
    /// A pull ended. Ignored for a pull that was cancelled.
    PullEnded {
        /// Which pull.
        id: PullId,
        /// The image that is present now.
        result: Result<RuntimeImage, Failure>,
    },
    /// A removal ended.
    RemovalEnded {
        /// Which image.
        image: ImageRef,
        /// How.
        result: Result<Removal, Failure>,
    },
}

/// Something to do.
///
/// Exhaustive on purpose: a loop has to carry out every command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeCommand {
    /// Read what the runtime holds and answer with [`NodeEvent::InventoryRead`].
    ReadInventory {
        /// Repeated in the answer.
        id: InventoryId,
        /// Whether the images in use are needed; otherwise their list may be empty.
        with_usage: bool,
    },
    /// Pull and answer with [`NodeEvent::PullEnded`].
    Pull {
        /// Repeated in the answer.
        id: PullId,
        /// Which image, and where to look for its credentials.
        credentials: CredentialsRequest,
        /// The warmer cancels the pull at this time; a runtime may use it, too.
        deadline: Timestamp,
    },
    /// Abandon a pull. No answer is expected.
    CancelPull {
        /// Which pull.
        id: PullId,
    },
    /// Remove and answer with [`NodeEvent::RemovalEnded`].
    Remove {
        /// Which image.
        image: ImageRef,
    },
    /// The state of an image changed.
    Report(ImageReport),
}
