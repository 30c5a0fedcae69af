//! What is wrong with the images of a cache, and the events that say so.
//!
//! An event is sent when a trouble begins. It names one node and one image, and counts the others. A trouble ends
//! when no node has it and the cache has nothing left to do, so that retries of a failed image send no more events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::cache::CacheState;
use super::cluster_event::{CacheEvent, EventReason};
use super::node_state::NodeState;
use super::status::CacheStatus;
use super::status_update::{RECORD_FULL, WITHOUT_CREDENTIALS, concealed, unused_credentials};
use crate::error::Reason;
use crate::model::{CacheId, ImageRef, NodeName};

/// Longest message of an event, in bytes. The API server refuses longer ones.
const MESSAGE_MAX: usize = 1_024;

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

    fn event_reason(self) -> EventReason {
        match self {
            Self::PullFailed(_) => EventReason::ImagePullFailed,
            Self::Evicted => EventReason::ImageEvicted,
            Self::RecordFull => EventReason::NodeRecordFull,
            Self::AgentUnresponsive => EventReason::AgentUnresponsive,
            Self::CredentialsUnavailable => EventReason::CredentialsUnavailable,
        }
    }

    /// Whether it concerns a node with all its images of the cache.
    fn is_of_node(self) -> bool {
        matches!(self, Self::RecordFull | Self::AgentUnresponsive)
    }
}

/// A trouble that is announced once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Trouble {
    kind: TroubleKind,
    /// Whether it concerns images that the last edit added.
    added: bool,
}

/// The images of a cache in one trouble on one node.
#[derive(Debug, Clone)]
struct Troubled {
    /// The first of them. `None` if the trouble is that of the node.
    image: Option<ImageRef>,
    images: u64,
}

/// The troubles of one node, by cache.
pub(super) type NodeTroubles = BTreeMap<Arc<CacheId>, Vec<(TroubleKind, Option<ImageRef>)>>;

/// The troubles of one cache.
#[derive(Debug, Default)]
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

    /// Forgets announced troubles that have ended. `settled`: the cache has nothing left to do.
    pub(super) fn forget_ended(&mut self, settled: bool) {
        if settled {
            let nodes = &self.nodes;
            self.announced.retain(|trouble| nodes.contains_key(trouble));
        }
    }
}

/// The events of troubles that have begun. Call [`set_announced`] for those that are recorded.
pub(super) fn begun(
    id: &CacheId,
    cache: &CacheState,
    nodes: &BTreeMap<NodeName, NodeState>,
) -> Vec<(Announced, CacheEvent)> {
    let troubles = &cache.troubles;
    let of_kind = troubles.nodes.iter();
    let begun = of_kind.filter(|(trouble, _)| !troubles.announced.contains(trouble));
    let begun = begun.filter_map(|(trouble, troubled)| {
        let (name, first) = troubled.first_key_value()?;
        let text = text(id, cache, nodes.get(name), trouble.kind, first);
        let head = match &first.image {
            Some(image) => format!("{name}: {}: ", cache.as_written(image)),
            None => format!("{name}: "),
        };
        let others = others(trouble.kind, troubled, first);
        let room = MESSAGE_MAX.saturating_sub(others.len());
        let message = shortened(&format!("{head}{text}"), room) + &others;
        let reason = trouble.kind.event_reason();
        Some((Announced(*trouble), CacheEvent::warning(reason, message)))
    });
    begun.collect()
}

/// The trouble that an event announces.
#[derive(Debug)]
pub(super) struct Announced(Trouble);

/// The event of that trouble is recorded.
pub(super) fn set_announced(cache: &mut CacheState, announced: &Announced) {
    cache.troubles.announced.insert(announced.0);
}

/// What happened on the node, with the texts of the status.
fn text(
    id: &CacheId,
    cache: &CacheState,
    node: Option<&NodeState>,
    kind: TroubleKind,
    first: &Troubled,
) -> String {
    let failure = || {
        let (node, image) = (node?, first.image.as_ref()?);
        let pair = node.pair(image)?;
        let mut failed = node.failed.iter();
        let failed = failed.find(|failed| failed.image == *image)?;
        Some(concealed(&failed.message, id, &pair.entry))
    };
    match kind {
        TroubleKind::PullFailed(reason) => match failure().filter(|text| !text.is_empty()) {
            Some(text) => format!("{reason}: {text}"),
            None => reason.to_string(),
        },
        TroubleKind::Evicted => failure().unwrap_or_else(|| {
            "the image was cached and was removed by something else; it is pulled again".to_owned()
        }),
        TroubleKind::RecordFull => RECORD_FULL.to_owned(),
        TroubleKind::AgentUnresponsive => "the agent does not respond".to_owned(),
        TroubleKind::CredentialsUnavailable => {
            let image = first.image.as_ref();
            let unused = image.and_then(|image| unused_credentials(id, cache, node?, image));
            format!("{WITHOUT_CREDENTIALS}: {}", unused.unwrap_or_default())
        }
    }
}

/// How many others have the same trouble.
fn others(kind: TroubleKind, troubled: &BTreeMap<NodeName, Troubled>, first: &Troubled) -> String {
    let plural = |count: usize| if count == 1 { "node" } else { "nodes" };
    if kind.is_of_node() {
        return match troubled.len().saturating_sub(1) {
            0 => String::new(),
            more => format!("; and {more} more {}", plural(more)),
        };
    }
    let images: u64 = troubled.values().map(|node| node.images).sum();
    let nodes = troubled.len() - usize::from(first.images == 1);
    match images.saturating_sub(1) {
        0 => String::new(),
        more => format!("; and {more} more on {nodes} {}", plural(nodes)),
    }
}

/// The text with at most that many bytes.
fn shortened(text: &str, most: usize) -> String {
    const MORE: &str = "...";
    if text.len() <= most {
        return text.to_owned();
    }
    let mut end = most.saturating_sub(MORE.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let start = text.get(..end).unwrap_or_default();
    format!("{start}{MORE}")
}
