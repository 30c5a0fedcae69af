//! The events that say what is wrong with the images of a cache.
//!
//! An event is sent when a trouble begins. It names one node and one image, and counts the others.

use std::collections::BTreeMap;

use super::cache::CacheState;
use super::cluster_event::CacheEvent;
use super::node_state::NodeState;
use super::status_update::{concealed, unused_credentials};
use super::trouble::{RECORD_FULL, Trouble, TroubleKind, Troubled, WITHOUT_CREDENTIALS};
use crate::model::{CacheId, NodeName};

/// Longest message of an event, in bytes. The API server refuses longer ones.
const MESSAGE_MAX: usize = 1_024;

/// The events of troubles that have begun. Call [`Troubles::set_announced`](super::trouble::Troubles::set_announced) for those that are recorded.
pub(super) fn begun(
    id: &CacheId,
    cache: &CacheState,
    nodes: &BTreeMap<NodeName, NodeState>,
) -> Vec<(Trouble, CacheEvent)> {
    let begun = cache
        .troubles
        .unannounced()
        .filter_map(|(trouble, troubled)| {
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
            Some((trouble, CacheEvent::warning(reason, message)))
        });
    begun.collect()
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
