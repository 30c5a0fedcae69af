//! What is wrong with the images of a cache.
//!
//! A trouble ends when no node has it and the cache has nothing left to do, so that retries of a failed image are no new
//! trouble.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::cluster_event::EventReason;
use super::status::CacheStatus;
use crate::error::Reason;
use crate::model::{CacheId, ImageRef, NodeName};

/// The words about images that were pulled although credentials of the cache could not be used.
pub(super) const WITHOUT_CREDENTIALS: &str = "pulled without some of the credentials";

/// The text of [`Reason::NodeRecordFull`].
pub(super) const RECORD_FULL: &str =
    "the record of the node has no room for the images of this image cache";

/// What is wrong with images of a cache on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TroubleKind {
    /// Pulls fail for that reason.
    PullFailed(Reason),
    /// The image was present and is gone.
    Evicted,
    /// The record of the node has no room for the cache.
    RecordFull,
    /// The agent of the node does not respond.
    AgentUnresponsive,
    /// The image is cached, and credentials of the cache could not be used for it.
    CredentialsUnavailable,
}

impl TroubleKind {
    /// The trouble of an image that failed, or whose attempts fail, for that reason.
    pub(super) fn of_failure(reason: Reason) -> Self {
        match reason {
            Reason::Evicted => Self::Evicted,
            Reason::NodeRecordFull => Self::RecordFull,
            reason => Self::PullFailed(reason),
        }
    }

    pub(super) fn event_reason(self) -> EventReason {
        match self {
            Self::PullFailed(_) => EventReason::ImagePullFailed,
            Self::Evicted => EventReason::ImageEvicted,
            Self::RecordFull => EventReason::NodeRecordFull,
            Self::AgentUnresponsive => EventReason::AgentUnresponsive,
            Self::CredentialsUnavailable => EventReason::CredentialsUnavailable,
        }
    }

    /// Whether it concerns a node with all its images of the cache.
    pub(super) fn is_of_node(self) -> bool {
        matches!(self, Self::RecordFull | Self::AgentUnresponsive)
    }
}

/// A trouble that is announced once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Trouble {
    pub(super) kind: TroubleKind,
    /// Whether it concerns images that the last edit added.
    added: bool,
}

/// The images of a cache in one trouble on one node.
#[derive(Debug, Clone)]
pub(super) struct Troubled {
    /// The first of them. `None` if the trouble is that of the node.
    pub(super) image: Option<ImageRef>,
    pub(super) images: u64,
}

/// The troubles of one node, by cache.
pub(super) type NodeTroubles = BTreeMap<Arc<CacheId>, Vec<(TroubleKind, Option<ImageRef>)>>;

/// The troubles of one cache.
#[derive(Debug, Clone, Default)]
pub(super) struct Troubles {
    nodes: BTreeMap<Trouble, BTreeMap<NodeName, Troubled>>,
    announced: BTreeSet<Trouble>,
    /// Images that the last edit added.
    added: BTreeSet<ImageRef>,
}

impl Troubles {
    /// Those that the recorded status shows. They were announced by an earlier planner.
    pub(super) fn announced_in(status: &CacheStatus) -> Self {
        let failures = status.failures.values().flatten();
        let failures = failures.map(|failure| TroubleKind::of_failure(failure.reason));
        let unreachable = status.counts.unreachable > 0;
        let pulling = status.counts.pulling > 0;
        // The status counts lost images as images to pull.
        let without_credentials = status.message.contains(WITHOUT_CREDENTIALS);
        let counted = [
            (unreachable, TroubleKind::AgentUnresponsive),
            (pulling, TroubleKind::Evicted),
            (without_credentials, TroubleKind::CredentialsUnavailable),
        ];
        let counted = counted
            .into_iter()
            .filter_map(|(has, kind)| has.then_some(kind));
        let announced = failures
            .chain(counted)
            .map(|kind| Trouble { kind, added: false });
        Self {
            announced: announced.collect(),
            ..Self::default()
        }
    }

    /// Replaces the troubles of a node.
    pub(super) fn set(
        &mut self,
        node: &NodeName,
        troubles: impl IntoIterator<Item = (TroubleKind, Option<ImageRef>)>,
    ) {
        self.remove(node);
        for (kind, image) in troubles {
            let added = image
                .as_ref()
                .is_some_and(|image| self.added.contains(image));
            let nodes = self.nodes.entry(Trouble { kind, added }).or_default();
            let troubled = nodes
                .entry(node.clone())
                .or_insert(Troubled { image, images: 0 });
            troubled.images += 1;
        }
    }

    /// Removes the troubles of a node.
    pub(super) fn remove(&mut self, node: &NodeName) {
        self.nodes.retain(|_, nodes| {
            nodes.remove(node);
            !nodes.is_empty()
        });
    }

    /// The spec was edited: failures of images that it adds are announced, those of others were.
    pub(super) fn edited(&mut self, added: BTreeSet<ImageRef>) {
        for trouble in std::mem::take(&mut self.announced) {
            let added = false;
            self.announced.insert(Trouble { added, ..trouble });
        }
        self.added = added;
    }

    /// A refresh was requested: failures that it does not mend are announced again.
    pub(super) fn forget_failures(&mut self) {
        let of_pull = |kind| matches!(kind, TroubleKind::PullFailed(_));
        self.announced.retain(|trouble| !of_pull(trouble.kind));
    }

    /// The first node and image with that trouble, and the number of nodes.
    pub(super) fn first(&self, kind: TroubleKind) -> Option<(&NodeName, &ImageRef, usize)> {
        let troubles = || {
            self.nodes
                .iter()
                .filter(|(trouble, _)| trouble.kind == kind)
        };
        let nodes: BTreeMap<_, _> = troubles().flat_map(|(_, nodes)| nodes).collect();
        let (name, troubled) = nodes.first_key_value()?;
        Some((name, troubled.image.as_ref()?, nodes.len()))
    }

    /// The troubles that are not announced, with their nodes.
    pub(super) fn unannounced(
        &self,
    ) -> impl Iterator<Item = (Trouble, &BTreeMap<NodeName, Troubled>)> {
        self.nodes
            .iter()
            .filter(|(trouble, _)| !self.announced.contains(trouble))
            .map(|(trouble, nodes)| (*trouble, nodes))
    }

    /// The event of that trouble is recorded.
    pub(super) fn set_announced(&mut self, trouble: Trouble) {
        self.announced.insert(trouble);
    }

    /// Forgets announced troubles that have ended. `settled`: the cache has nothing left to do.
    pub(super) fn forget_ended(&mut self, settled: bool) {
        if settled {
            let nodes = &self.nodes;
            self.announced.retain(|trouble| nodes.contains_key(trouble));
        }
    }
}
