//! The review of an ImageCache that is created or edited: refusals, warnings, and the nodes that warnings need.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use fledged_core::model::{
    GoDuration, ImageCache, ImageGroup, ImageRef, InvalidSpec, NodeFacts, NodeName,
};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::core::admission::{AdmissionRequest, AdmissionResponse};
use kube::core::{PartialObjectMeta, Status};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use tracing::debug;

use crate::crd::ReadCache;

/// HTTP status of a refusal, which the API server hands on: the object can't be processed.
const UNPROCESSABLE: u16 = 422;

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It may be stored; whoever applies it is shown these sentences.
    Allowed {
        /// At most ten.
        warnings: Vec<String>,
    },
    /// It is refused: the controller would not act on it.
    Denied(InvalidSpec),
}

/// Judges a new state of an ImageCache against the one before, on a cluster with these nodes (`None` while
/// they are not known) whose controller pulls what moves again every `refresh_interval` (zero: never).
///
/// Only an edit of the spec is judged: what was stored before the webhook came can still be annotated,
/// finalised and deleted.
#[must_use]
pub fn judge(
    object: ReadCache,
    before: Option<&ReadCache>,
    nodes: Option<&[NodeFacts]>,
    refresh_interval: Duration,
) -> Verdict {
    let deleting = object.metadata.deletion_timestamp.is_some();
    let same = before.is_some_and(|before| before.spec == object.spec);
    if deleting || same {
        return Verdict::Allowed {
            warnings: Vec::new(),
        };
    }
    match object.into_facts().spec {
        Ok(spec) => Verdict::Allowed {
            warnings: warnings(&spec, nodes, refresh_interval),
        },
        Err(invalid) => Verdict::Denied(invalid),
    }
}

/// The answer to a request, and the verdict that it carries.
pub(super) fn answer(
    mut request: AdmissionRequest<ReadCache>,
    nodes: Option<&[NodeFacts]>,
    refresh_interval: Duration,
) -> (AdmissionResponse, Verdict) {
    let mut response = AdmissionResponse::from(&request);
    let verdict = match request.object.take() {
        Some(object) => judge(object, request.old_object.as_ref(), nodes, refresh_interval),
        // A deletion, which nobody asks us about.
        None => Verdict::Allowed {
            warnings: Vec::new(),
        },
    };
    match &verdict {
        Verdict::Allowed { warnings } if warnings.is_empty() => {}
        Verdict::Allowed { warnings } => response.warnings = Some(warnings.clone()),
        Verdict::Denied(invalid) => {
            response.allowed = false;
            let status = Status::failure(&invalid.to_string(), "Invalid");
            response.result = status.with_code(UNPROCESSABLE);
        }
    }
    (response, verdict)
}

/// Sentences that somebody reads: more would be skipped, and the API server cuts long lists off.
const WARNINGS_MAX: usize = 10;
/// A tag that moves is pulled again at least that often, or it is worth a word: four times the
/// controller's default.
const LONG: Duration = Duration::from_secs(3_600);

/// In the order of the spec.
pub(super) fn warnings(
    cache: &ImageCache,
    nodes: Option<&[NodeFacts]>,
    refresh_interval: Duration,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for (number, group) in cache.groups.iter().enumerate() {
        let field = format!("spec.cacheSpec[{number}]");
        if let Some(nodes) = nodes.filter(|nodes| is_for_nobody(group, nodes)) {
            warnings.push(for_nobody(&field, group, nodes));
        }
        for image in group.images.iter().filter(|image| image.is_mutable()) {
            warnings.extend(stale(&field, image, refresh_interval));
        }
    }
    if let Some(more) = warnings.len().checked_sub(WARNINGS_MAX)
        && more > 0
    {
        warnings.truncate(WARNINGS_MAX - 1);
        warnings.push(format!("and {} more warnings", more + 1));
    }
    warnings
}

fn is_for_nobody(group: &ImageGroup, nodes: &[NodeFacts]) -> bool {
    !nodes.iter().any(|node| group.selects(node))
}

fn for_nobody(field: &str, group: &ImageGroup, nodes: &[NodeFacts]) -> String {
    let labels: Vec<String> = group
        .node_selector
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let selector = match labels.is_empty() {
        true => "its nodeAffinity".to_owned(),
        false => format!("nodeSelector {}", labels.join(",")),
    };
    match nodes.len() {
        0 => format!("{field}: the cluster has no node now"),
        1 => format!("{field}: the cluster's only node does not match {selector} now"),
        count => format!("{field}: none of the {count} nodes matches {selector} now"),
    }
}

/// An image that moves and is seldom looked for.
fn stale(field: &str, image: &ImageRef, refresh_interval: Duration) -> Option<String> {
    let name = image.original();
    if refresh_interval.is_zero() {
        return Some(format!(
            "{field}: {name} moves, and nodes that have it never pull it again by themselves: \
             --image-cache-refresh-frequency is 0s; name a version or a digest"
        ));
    }
    (refresh_interval > LONG).then(|| {
        format!(
            "{field}: {name} moves, and nodes pull it again every {} only; name a version or a digest",
            GoDuration(refresh_interval)
        )
    })
}

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
mod review_tests {
    use kube::core::admission::AdmissionReview;
    use serde_json::{Value, json};

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn mk_cache(spec: Value) -> ReadCache {
        let metadata = json!({ "namespace": "shop", "name": "web", "uid": "1" });
        serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
    }

    fn mk_spec(images: &[&str]) -> Value {
        json!({ "cacheSpec": [{ "images": images }] })
    }

    #[test]
    fn every_invalid_field_is_named() {
        let cache = mk_cache(json!({ "cacheSpec": [
            { "images": ["app:1", "Not an image", "app:1"] },
            { "images": [], "nodeSelector": { "a b": "c" } },
        ]}));
        let Verdict::Denied(invalid) = judge(cache, None, None, DAY) else {
            panic!("it was allowed");
        };
        let said = invalid.to_string();
        for part in [
            "spec.cacheSpec[0].images[1]: \"Not an image\"",
            "spec.cacheSpec[0].images[2]",
            "spec.cacheSpec[1].images",
        ] {
            assert!(said.contains(part), "{part} is not in {said}");
        }
    }

    #[test]
    fn what_is_stored_can_be_annotated_finalised_and_deleted_whatever_it_says() {
        let bad = mk_spec(&["Not an image"]);
        let allowed = Verdict::Allowed {
            warnings: Vec::new(),
        };
        let before = mk_cache(bad.clone());
        let mut annotated = before.clone();
        annotated.metadata.annotations = Some([("a".to_owned(), String::new())].into());
        assert_eq!(judge(annotated, Some(&before), None, DAY), allowed);

        let mut going = mk_cache(mk_spec(&["Another bad one"]));
        going.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        assert_eq!(judge(going, Some(&before), None, DAY), allowed);

        let edited = mk_cache(mk_spec(&["Another bad one"]));
        assert!(matches!(
            judge(edited, Some(&before), None, DAY),
            Verdict::Denied(_)
        ));
    }

    #[test]
    fn an_answer_is_as_the_api_server_wants_it() {
        let mk_review = |spec: Value| {
            let object = json!({ "apiVersion": "kubefledged.io/v1alpha2", "kind": "ImageCache",
                "metadata": { "namespace": "shop", "name": "web" }, "spec": spec });
            let kind =
                json!({ "group": "kubefledged.io", "version": "v1alpha2", "kind": "ImageCache" });
            let resource = json!({ "group": "kubefledged.io", "version": "v1alpha2", "resource": "imagecaches" });
            let review: AdmissionReview<ReadCache> = serde_json::from_value(json!({
                "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                "request": { "uid": "u-1", "kind": kind, "resource": resource, "name": "web",
                    "namespace": "shop", "operation": "CREATE", "userInfo": {}, "object": object,
                    "oldObject": null, "dryRun": false },
            }))
            .unwrap();
            let request: AdmissionRequest<ReadCache> = review.try_into().unwrap();
            let (response, _) = answer(request, None, DAY);
            serde_json::to_value(response.into_review()).unwrap()
        };
        let good = mk_review(mk_spec(&["app:1"]));
        assert_eq!(good["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(good["response"]["uid"], "u-1");
        assert_eq!(good["response"]["allowed"], true);
        let bad = mk_review(mk_spec(&["a b"]));
        assert_eq!(bad["response"]["allowed"], false);
        assert_eq!(bad["response"]["status"]["code"], 422);
        assert_eq!(bad["response"]["status"]["reason"], "Invalid");
        let message = bad["response"]["status"]["message"].as_str().unwrap();
        assert!(
            message.contains("spec.cacheSpec[0].images[0]") && message.contains("a b"),
            "{message}"
        );
    }
}

#[cfg(test)]
mod warning_tests {
    use fledged_core::model::NodeName;
    use serde_json::{Value, json};

    use super::*;
    use crate::crd::ReadCache;

    const QUARTER: Duration = Duration::from_secs(900);

    fn mk_spec(groups: Value) -> ImageCache {
        let metadata = json!({ "namespace": "shop", "name": "web", "uid": "1" });
        let cache = json!({ "metadata": metadata, "spec": { "cacheSpec": groups } });
        let cache: ReadCache = serde_json::from_value(cache).unwrap();
        cache.into_facts().spec.unwrap()
    }

    fn mk_node(name: &str, labels: &[(&str, &str)]) -> NodeFacts {
        NodeFacts::new(NodeName::new(name).unwrap()).with_labels(labels.iter().copied())
    }

    #[test]
    fn a_selector_that_matches_no_node_is_told() {
        let cache = mk_spec(json!([
            { "images": ["app:1"], "nodeSelector": { "tier": "web" } },
            { "images": ["db:1"], "nodeSelector": { "tier": "db" } },
        ]));
        let nodes = [mk_node("a", &[("tier", "web")]), mk_node("b", &[])];
        assert_eq!(
            warnings(&cache, Some(&nodes), QUARTER),
            ["spec.cacheSpec[1]: none of the 2 nodes matches nodeSelector tier=db now"]
        );
        assert_eq!(
            warnings(&cache, Some(&nodes[..1]), QUARTER),
            ["spec.cacheSpec[1]: the cluster's only node does not match nodeSelector tier=db now"]
        );
        // What is not known is not warned of.
        assert!(warnings(&cache, None, QUARTER).is_empty());
    }

    #[test]
    fn a_tag_that_moves_is_told_of_where_it_is_seldom_pulled() {
        let cache = mk_spec(json!([{ "images": ["nginx", "app:latest", "app:1"] }]));
        assert!(warnings(&cache, None, QUARTER).is_empty());
        let day = warnings(&cache, None, Duration::from_secs(86_400));
        assert_eq!(day.len(), 2);
        assert!(day[0].contains("spec.cacheSpec[0]: nginx moves") && day[0].contains("24h"));
        let never = warnings(&cache, None, Duration::ZERO);
        assert!(never[1].contains("app:latest moves, and nodes that have it never"));
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let images: Vec<String> = (0..25).map(|n| format!("app{n}")).collect();
        let cache = mk_spec(json!([{ "images": images }]));
        let warnings = warnings(&cache, None, Duration::ZERO);
        assert_eq!(warnings.len(), WARNINGS_MAX);
        assert_eq!(warnings[9], "and 16 more warnings");
    }
}

#[cfg(test)]
mod nodes_tests {
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
