//! Why a cache does not mean a node.

use fledged_core::model::{ImageCache, ImageGroup, ImageRef, NodeFacts, Taint};

/// A group of the spec that names the image, and its place.
pub(super) fn groups_of<'a>(
    spec: &'a ImageCache,
    image: &'a ImageRef,
) -> impl Iterator<Item = (usize, &'a ImageGroup)> + Clone {
    let groups = spec.groups.iter().enumerate();
    groups.filter(move |(_, group)| group.images.contains(image))
}

/// What a group wants of a node's labels and the node does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mismatch {
    /// A label of `nodeSelector`, and what the node has in its place.
    Label {
        key: String,
        wanted: String,
        found: Option<String>,
    },
    /// Its `nodeAffinity`.
    Affinity,
}

impl Mismatch {
    /// The first there is.
    pub(super) fn of(group: &ImageGroup, node: &NodeFacts) -> Option<Self> {
        if group.selects(node) {
            return None;
        }
        let mut selector = group.node_selector.iter();
        let label = selector.find(|(key, value)| node.labels.get(*key) != Some(value));
        Some(match label {
            Some((key, wanted)) => Self::Label {
                key: key.clone(),
                wanted: wanted.clone(),
                found: node.labels.get(key).cloned(),
            },
            None => Self::Affinity,
        })
    }
}

/// The taint that keeps a group from a node which its labels select.
pub(super) fn repelling<'a>(group: &ImageGroup, node: &'a NodeFacts) -> Option<&'a Taint> {
    let tolerated = |taint: &Taint| match &group.tolerations {
        None => true,
        Some(list) => list.iter().any(|toleration| toleration.tolerates(taint)),
    };
    let mut taints = node.taints.iter();
    taints.find(|taint| taint.repels() && !taint.is_passing() && !tolerated(taint))
}
