//! What a warmer is told, and what it asks for.

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
    /// What was reported before a restart. To come before the first assignment; it tells which
    /// revisions are satisfied already. Optional.
    Resumed(Vec<ImageReport>),
    /// The node is to hold this from now on; replaces what was assigned before.
    Assigned(Assignment),
    /// Verify presence now, pull again what moves or is to be pulled always, and try again now what
    /// has failed.
    RefreshRequested,
    /// What the runtime holds may have changed: its inventory is read now.
    ResyncRequested,
    /// Whatever was under way was given up, and none of it will be answered. Everything is held
    /// against a new reading before it is believed again.
    Interrupted,
    /// An inventory that was asked for was read, or could not be.
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
        /// What is there now.
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
/// Exhaustive on purpose: a loop that passed over a command it does not know would never come to rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeCommand {
    /// Read what the runtime holds and answer with [`NodeEvent::InventoryRead`].
    ReadInventory {
        /// Number to answer with.
        id: InventoryId,
        /// Whether images in use are wanted too; without, the list of users may stay empty.
        with_usage: bool,
    },
    /// Pull and answer with [`NodeEvent::PullEnded`].
    Pull {
        /// Number to answer with.
        id: PullId,
        /// Which image, and where its credentials may be.
        credentials: CredentialsRequest,
        /// The warmer cancels the pull then; given so that a runtime can be told too.
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
    /// An image's state changed; tell whoever wants to know.
    Report(ImageReport),
}
