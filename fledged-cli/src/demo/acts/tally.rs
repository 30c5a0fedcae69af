//! What the acts came to.

/// For the last line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::demo) struct Tally {
    /// Images that were rolled out, each counted once.
    pub(in crate::demo) images: usize,
    /// Whether the node that joined was warmed: an image may be meant for others alone.
    pub(in crate::demo) joined: bool,
    /// Images that got lost and came back.
    pub(in crate::demo) repaired: usize,
    /// Nodes whose layouts were found without the images.
    pub(in crate::demo) emptied: usize,
}
