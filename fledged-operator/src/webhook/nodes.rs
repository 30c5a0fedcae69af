//! The nodes that there are, by their labels.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use fledged_core::model::{NodeFacts, NodeName};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tracing::debug;

/// Objects of one page of a list, as the controller reads them.
const PAGE: u32 = 100;

#[derive(Debug, Default)]
struct Known {
    nodes: BTreeMap<String, BTreeMap<String, String>>,
    listing: BTreeMap<String, BTreeMap<String, String>>,
    listed: bool,
}

/// Labels of nodes, kept up to date by a watch of their metadata. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Nodes(Arc<RwLock<Known>>);

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").finish_non_exhaustive()
    }
}

impl Nodes {
    /// All of them; `None` until they were listed once.
    pub(super) fn all(&self) -> Option<Vec<NodeFacts>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let nodes = known.nodes.iter().filter_map(|(name, labels)| {
            let name = NodeName::new(name).ok()?;
            Some(NodeFacts::new(name).with_labels(labels.clone()))
        });
        known.listed.then(|| nodes.collect())
    }

    fn read(&self, event: Event<PartialObjectMeta<Node>>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let labels = |node: PartialObjectMeta<Node>| node.metadata.labels.unwrap_or_default();
        match event {
            Event::Init => known.listing.clear(),
            Event::InitApply(node) => {
                known.listing.insert(node.name_any(), labels(node));
            }
            Event::InitDone => {
                known.nodes = std::mem::take(&mut known.listing);
                known.listed = true;
            }
            Event::Apply(node) => {
                known.nodes.insert(node.name_any(), labels(node));
            }
            Event::Delete(node) => {
                known.nodes.remove(&node.name_any());
            }
        }
    }

    /// Watches for ever. While that fails, what was known last is what is known.
    pub(super) async fn watch(self, client: Client) {
        let api: Api<PartialObjectMeta<Node>> = Api::all(client);
        let config = watcher::Config::default().page_size(PAGE);
        let events = watcher(api, config).default_backoff();
        futures_util::pin_mut!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => self.read(event),
                Err(error) => debug!(%error, "nodes are not watched for now"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_node(name: &str, tier: &str) -> PartialObjectMeta<Node> {
        let metadata = json!({ "name": name, "labels": { "tier": tier } });
        serde_json::from_value(json!({ "metadata": metadata })).unwrap()
    }

    fn tiers(nodes: &Nodes) -> Option<Vec<String>> {
        let all = nodes.all()?.into_iter();
        Some(
            all.map(|node| format!("{} {}", node.name, node.labels["tier"]))
                .collect(),
        )
    }

    #[test]
    fn nodes_are_known_once_all_were_listed_and_followed_from_then_on() {
        let nodes = Nodes::default();
        nodes.read(Event::Init);
        nodes.read(Event::InitApply(mk_node("a", "web")));
        assert_eq!(tiers(&nodes), None);
        nodes.read(Event::InitDone);
        nodes.read(Event::Apply(mk_node("b", "db")));
        nodes.read(Event::Apply(mk_node("a", "cache")));
        assert_eq!(tiers(&nodes).unwrap(), ["a cache", "b db"]);
        nodes.read(Event::Delete(mk_node("a", "cache")));
        assert_eq!(tiers(&nodes).unwrap(), ["b db"]);
        // A new list tells what is gone; until it is whole, the old one counts.
        nodes.read(Event::Init);
        assert_eq!(tiers(&nodes).unwrap(), ["b db"]);
        nodes.read(Event::InitDone);
        assert_eq!(tiers(&nodes).unwrap(), Vec::<String>::new());
    }
}
