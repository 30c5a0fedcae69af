//! What a driver is told of a node, and what it tells of it.

use fledged_core::model::{Assignment, NodeName, NodeReport};

/// A node that is to hold something.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct NodeTarget {
    /// Name of the Node object.
    pub name: NodeName,
    /// UID of the Node object, for owner references. Another UID is another machine, of which nothing
    /// is known, although it has the same name.
    pub uid: String,
}

impl NodeTarget {
    /// The node of that name and UID.
    #[must_use]
    pub fn new(name: NodeName, uid: impl Into<String>) -> Self {
        Self {
            name,
            uid: uid.into(),
        }
    }
}

/// Something that a [`NodeDriver`](super::NodeDriver) tells.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DriverEvent {
    /// Everything that is recorded and reported has been told once, be it nothing. Nothing is written
    /// before it. Telling it again, after another look at everything, changes nothing.
    Listed,
    /// This is what a node was last asked to hold: from before a restart, or an echo of
    /// [`assign`](super::NodeDriver::assign), which may be told or not.
    Recorded {
        /// Which node.
        node: NodeName,
        /// What it is to hold, and the generation of that.
        assignment: Assignment,
    },
    /// What a node was asked to hold is not known any more, and what it said is void: somebody removed
    /// it. If something is wanted of the node, it is assigned anew.
    RecordGone(NodeName),
    /// A node says where its images stand: all of them, not only those that changed.
    Reported {
        /// Which node.
        node: NodeName,
        /// What it says, and of which generation.
        report: NodeReport,
    },
    /// Whoever speaks for the node is known to be gone. Its images count as unreachable and its slot of
    /// the rollout is given to another, until it reports again or its Node turns Ready anew. Without a
    /// word the same happens when it leaves an assignment unanswered; see
    /// [`NodeDriver`](super::NodeDriver).
    Silent(NodeName),
}
