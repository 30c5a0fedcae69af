//! The review of an ImageCache that is created or edited: refusals, warnings, and the nodes that warnings need.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use fledged_core::model::{
    GoDuration, ImageCache, ImageGroup, ImageRef, InvalidSpec, NodeFacts, NodeName,
};
use fledged_kube::crd::ReadCache;
use fledged_kube::watch::{Change, ListedKeys, watch};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::core::admission::{AdmissionRequest, AdmissionResponse};
use kube::core::{PartialObjectMeta, Status};
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client, ResourceExt};

/// HTTP status of a rejection (Unprocessable Content), which the API server passes on.
const UNPROCESSABLE: u16 = 422;

/// The result of a review.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The object may be stored; the client shows these warnings.
    Allowed {
        /// At most ten.
        warnings: Vec<String>,
    },
    /// The object is rejected: the controller would not act on it.
    Denied(InvalidSpec),
}

/// Reviews a new version of an ImageCache against the previous one, on a cluster with these nodes (`None` while
/// they are unknown) whose controller refreshes mutable tags every `refresh_interval` (zero means never) and allows no
/// deadline above `longest_deadline`.
///
/// Only changes of the spec are reviewed, so that objects stored before the webhook was installed can still be
/// annotated, finalised and deleted.
#[must_use]
pub fn judge(
    object: ReadCache,
    before: Option<&ReadCache>,
    nodes: Option<&[NodeFacts]>,
    refresh_interval: Duration,
    longest_deadline: Duration,
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
            warnings: warnings(&spec, nodes, refresh_interval, longest_deadline),
        },
        Err(invalid) => Verdict::Denied(invalid),
    }
}

/// The response to a request, and its verdict.
pub(crate) fn answer(
    mut request: AdmissionRequest<ReadCache>,
    nodes: Option<&[NodeFacts]>,
    refresh_interval: Duration,
    longest_deadline: Duration,
) -> (AdmissionResponse, Verdict) {
    let mut response = AdmissionResponse::from(&request);
    let verdict = match request.object.take() {
        Some(object) => judge(
            object,
            request.old_object.as_ref(),
            nodes,
            refresh_interval,
            longest_deadline,
        ),
        // A deletion, for which the webhook is not registered.
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

/// Largest number of warnings. The API server truncates long lists, and people skip them.
const WARNINGS_MAX: usize = 10;
/// A refresh interval of mutable tags above which a warning is shown: four times the controller's default.
const STALE_AFTER: Duration = Duration::from_secs(3_600);

/// The warnings about a valid spec, in the order of its fields.
pub(crate) fn warnings(
    cache: &ImageCache,
    nodes: Option<&[NodeFacts]>,
    refresh_interval: Duration,
    longest_deadline: Duration,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for (number, group) in cache.groups.iter().enumerate() {
        let field = format!("spec.cacheSpec[{number}]");
        if let Some(nodes) = nodes.filter(|nodes| matches_no_node(group, nodes)) {
            warnings.push(no_node_warning(&field, group, nodes));
        }
        for image in group.images.iter().filter(|image| image.is_mutable()) {
            warnings.extend(staleness_warning(&field, image, refresh_interval));
        }
    }
    if let Some(deadline) = cache.deadline_above(longest_deadline) {
        let (deadline, longest) = (GoDuration(deadline), GoDuration(longest_deadline));
        warnings.push(format!(
            "a deadline of {deadline} is cut to {longest}, the controller's --max-image-pull-deadline"
        ));
    }
    if let Some(more) = warnings.len().checked_sub(WARNINGS_MAX)
        && more > 0
    {
        warnings.truncate(WARNINGS_MAX - 1);
        warnings.push(format!("and {} more warnings", more + 1));
    }
    warnings
}

fn matches_no_node(group: &ImageGroup, nodes: &[NodeFacts]) -> bool {
    !nodes.iter().any(|node| group.selects(node))
}

fn no_node_warning(field: &str, group: &ImageGroup, nodes: &[NodeFacts]) -> String {
    let labels: Vec<String> = group
        .node_selector
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let selector = if labels.is_empty() {
        "its nodeAffinity".to_owned()
    } else {
        format!("nodeSelector {}", labels.join(","))
    };
    match nodes.len() {
        0 => format!("{field}: the cluster has no nodes now"),
        1 => format!("{field}: the cluster's only node does not match {selector} now"),
        count => format!("{field}: none of the {count} nodes matches {selector} now"),
    }
}

/// A warning about a mutable tag that is refreshed seldom or never.
fn staleness_warning(field: &str, image: &ImageRef, refresh_interval: Duration) -> Option<String> {
    let name = image.original();
    if refresh_interval.is_zero() {
        return Some(format!(
            "{field}: {name} is a mutable tag and is never refreshed, because \
             --image-cache-refresh-frequency is 0s; use a version tag or a digest"
        ));
    }
    (refresh_interval > STALE_AFTER).then(|| {
        format!(
            "{field}: {name} is a mutable tag and is refreshed only every {}; use a version tag or a digest",
            GoDuration(refresh_interval)
        )
    })
}

#[derive(Debug, Default)]
struct KnownLabels {
    names: ListedKeys<String>,
    labels: BTreeMap<String, BTreeMap<String, String>>,
}

/// Labels of all nodes, updated by a watch of their metadata. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct NodeLabels(Arc<RwLock<KnownLabels>>);

impl fmt::Debug for NodeLabels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeLabels").finish_non_exhaustive()
    }
}

impl NodeLabels {
    /// All nodes; `None` before the first complete list.
    pub(crate) fn all(&self) -> Option<Vec<NodeFacts>> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let nodes = known.labels.iter().filter_map(|(name, labels)| {
            let name = NodeName::new(name).ok()?;
            Some(NodeFacts::new(name).with_labels(labels.clone()))
        });
        known.names.is_listed().then(|| nodes.collect())
    }

    fn read(&self, event: Event<PartialObjectMeta<Node>>) {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match known.names.apply(event, |node| Some(node.name_any())) {
            Change::Applied(name, node) => {
                let labels = node.metadata.labels.unwrap_or_default();
                known.labels.insert(name, labels);
            }
            Change::Gone(names) => known.labels.retain(|name, _| !names.contains(name)),
        }
    }

    /// Watches the nodes. While the watch fails, the last known labels are used. Never returns.
    pub(crate) async fn watch(self, client: Client) {
        let nodes: Api<PartialObjectMeta<Node>> = Api::all(client);
        let mut events = pin!(watch(nodes, Config::default()));
        while let Some(event) = events.next().await {
            self.read(event);
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
    fn denial_names_every_invalid_field() {
        let cache = mk_cache(json!({ "cacheSpec": [
            { "images": ["app:1", "Not an image", "app:1"] },
            { "images": [], "nodeSelector": { "a b": "c" } },
        ]}));
        let Verdict::Denied(invalid) = judge(cache, None, None, DAY, DAY) else {
            panic!("it was allowed");
        };
        let message = invalid.to_string();
        for part in [
            "spec.cacheSpec[0].images[1]: \"Not an image\"",
            "spec.cacheSpec[0].images[2]",
            "spec.cacheSpec[1].images",
        ] {
            assert!(message.contains(part), "{part} is not in {message}");
        }
    }

    #[test]
    fn an_invalid_stored_cache_can_be_annotated_and_deleted() {
        let bad = mk_spec(&["Not an image"]);
        let allowed = Verdict::Allowed {
            warnings: Vec::new(),
        };
        let before = mk_cache(bad.clone());
        let mut annotated = before.clone();
        annotated.metadata.annotations = Some([("a".to_owned(), String::new())].into());
        assert_eq!(judge(annotated, Some(&before), None, DAY, DAY), allowed);

        let mut going = mk_cache(mk_spec(&["Another bad one"]));
        going.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        assert_eq!(judge(going, Some(&before), None, DAY, DAY), allowed);

        let edited = mk_cache(mk_spec(&["Another bad one"]));
        assert!(matches!(
            judge(edited, Some(&before), None, DAY, DAY),
            Verdict::Denied(_)
        ));
    }

    #[test]
    fn response_is_a_valid_admission_review() {
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
            let (response, _) = answer(request, None, DAY, DAY);
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
    use fledged_kube::crd::ReadCache;
    use serde_json::{Value, json};

    use super::*;

    const QUARTER: Duration = Duration::from_secs(900);
    const LONGEST: Duration = Duration::from_secs(7_200);

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
    fn warns_about_a_selector_that_matches_no_node() {
        let cache = mk_spec(json!([
            { "images": ["app:1"], "nodeSelector": { "tier": "web" } },
            { "images": ["db:1"], "nodeSelector": { "tier": "db" } },
        ]));
        let nodes = [mk_node("a", &[("tier", "web")]), mk_node("b", &[])];
        assert_eq!(
            warnings(&cache, Some(&nodes), QUARTER, LONGEST),
            ["spec.cacheSpec[1]: none of the 2 nodes matches nodeSelector tier=db now"]
        );
        assert_eq!(
            warnings(&cache, Some(&nodes[..1]), QUARTER, LONGEST),
            ["spec.cacheSpec[1]: the cluster's only node does not match nodeSelector tier=db now"]
        );
        // What is not known is not warned of.
        assert!(warnings(&cache, None, QUARTER, LONGEST).is_empty());
    }

    #[test]
    fn warns_about_mutable_tags_that_are_seldom_refreshed() {
        let cache = mk_spec(json!([{ "images": ["nginx", "app:latest", "app:1"] }]));
        assert!(warnings(&cache, None, QUARTER, LONGEST).is_empty());
        let day = warnings(&cache, None, Duration::from_secs(86_400), LONGEST);
        assert_eq!(day.len(), 2);
        assert!(
            day[0].contains("spec.cacheSpec[0]: nginx is a mutable tag") && day[0].contains("24h")
        );
        let never = warnings(&cache, None, Duration::ZERO, LONGEST);
        assert!(never[1].contains("app:latest is a mutable tag and is never refreshed"));
    }

    #[test]
    fn warns_about_a_deadline_above_the_limit_of_the_controller() {
        let cache = mk_spec(json!([
            { "images": ["app:1"], "deadline": "3h" },
            { "images": ["db:1"], "deadline": "5h" },
            { "images": ["cron:1"] },
        ]));
        assert_eq!(
            warnings(&cache, None, QUARTER, LONGEST),
            ["a deadline of 5h is cut to 2h, the controller's --max-image-pull-deadline"]
        );
        assert!(warnings(&cache, None, QUARTER, 3 * LONGEST).is_empty());
    }

    #[test]
    fn long_list_of_warnings_is_truncated() {
        let images: Vec<String> = (0..25).map(|n| format!("app{n}")).collect();
        let cache = mk_spec(json!([{ "images": images }]));
        let warnings = warnings(&cache, None, Duration::ZERO, LONGEST);
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

    fn tiers(nodes: &NodeLabels) -> Option<Vec<String>> {
        let all = nodes.all()?.into_iter();
        Some(
            all.map(|node| format!("{} {}", node.name, node.labels["tier"]))
                .collect(),
        )
    }

    #[test]
    fn nodes_are_known_after_the_first_complete_list() {
        let nodes = NodeLabels::default();
        nodes.read(Event::Init);
        nodes.read(Event::InitApply(mk_node("a", "web")));
        assert_eq!(tiers(&nodes), None);
        nodes.read(Event::InitDone);
        nodes.read(Event::Apply(mk_node("b", "db")));
        nodes.read(Event::Apply(mk_node("a", "cache")));
        assert_eq!(tiers(&nodes).unwrap(), ["a cache", "b db"]);
        nodes.read(Event::Delete(mk_node("a", "cache")));
        assert_eq!(tiers(&nodes).unwrap(), ["b db"]);
        // A new list replaces the old one when it is complete.
        nodes.read(Event::Init);
        assert_eq!(tiers(&nodes).unwrap(), ["b db"]);
        nodes.read(Event::InitDone);
        assert_eq!(tiers(&nodes).unwrap(), Vec::<String>::new());
    }
}
