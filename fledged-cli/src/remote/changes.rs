//! `fledged plan`: what applying manifests would change on which nodes.

use std::collections::{BTreeMap, BTreeSet};

use fledged_core::error::Reason;
use fledged_core::model::{
    AssignedImage, AssignmentDefaults, CacheId, CountOrPercent, DesiredState, GoDuration,
    ImageCache, ImagePullPolicy, ImageRef, NodeFacts, NodeName,
};
use fledged_core::planner::{
    ActionStatus, CacheFacts, CacheStatus, ClusterCommand, ClusterEvent, Planner, PlannerConfig,
};
use fledged_kube::crd::{ReadCache, ReadNodeCache};
use fledged_operator::controller::ReadNode;
use jiff::Timestamp;
use kube::ResourceExt as _;
use serde::Serialize;

use super::kubeconfig::connect;
use super::render;
use crate::args::PlanArgs;
use crate::command_result::{CommandError, Exit, print};
use crate::manifest;
use crate::output::{Align, Table, Terminal, pluralised};

/// Node names in a row.
const NAMES: usize = 3;

pub(super) async fn plan(args: PlanArgs, terminal: &Terminal) -> Result<Exit, CommandError> {
    let connection = connect(&args.connection).await?;
    let (sources, namespace) = (args.manifests.files, connection.namespace.clone());
    let read = move || manifest::read_in(&sources, &namespace);
    let manifests = tokio::task::spawn_blocking(read).await??;
    manifest::report_unused(&manifests, terminal);
    // ImageCaches of all namespaces: images that another ImageCache wants are kept.
    let objects = ClusterObjects {
        caches: connection.list_caches(true).await?,
        nodes: connection.list_nodes().await?,
        records: connection.list_records().await?,
    };
    let changes = changes(&objects, &manifests.caches, Timestamp::now());
    for warning in &changes.warnings {
        terminal.warn(warning);
    }
    print(&render(args.output.output, &changes, text)?)?;
    Ok(if args.exit_code && changes.is_any() {
        Exit::Failed
    } else {
        Exit::Done
    })
}

fn text(changes: &Changes) -> String {
    let summary = changes.summary;
    if changes.changes.is_empty() {
        return "no changes\n".to_owned();
    }
    let mut table = Table::new(&[
        ("ACTION", Align::Left),
        ("IMAGE", Align::Left),
        ("NODES", Align::Right),
        ("WHICH", Align::Left),
        ("FOR", Align::Left),
    ]);
    for change in &changes.changes {
        let action = match change.action {
            ImageAction::Pull => "pull",
            ImageAction::Remove => "remove",
            ImageAction::Release => "release",
            ImageAction::Keep => "keep",
        };
        let shown: Vec<&str> = change
            .nodes
            .iter()
            .take(NAMES)
            .map(String::as_str)
            .collect();
        let mut which = shown.join(", ");
        if change.nodes.len() > NAMES {
            which.push_str(", …");
        }
        if !change.not_ready.is_empty() {
            which.push_str(&format!(" ({} not ready)", change.not_ready.len()));
        }
        table.row([
            action.to_owned(),
            change.image.clone(),
            change.nodes.len().to_string(),
            which,
            change.image_caches.join(", "),
        ]);
    }
    let mut parts = Vec::new();
    for (count, what) in [
        (summary.pull, "to pull"),
        (summary.remove, "to remove"),
        (summary.release, "to release"),
        (summary.keep, "kept for other caches"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {what}"));
        }
    }
    format!(
        "{}{} on {}; nothing was written\n",
        table.render(),
        parts.join(", "),
        pluralised(summary.nodes, "node")
    )
}

/// A planner without rollout limits.
fn unpaced_planner() -> Planner {
    let mut config = PlannerConfig::default();
    config.max_concurrent_nodes = CountOrPercent::Count(u32::MAX);
    // The seed only spreads refreshes, and none is due.
    Planner::new(config, 0)
}

/// The cache without its rollout limit.
fn without_rollout(mut facts: CacheFacts) -> CacheFacts {
    if let Ok(spec) = &mut facts.spec {
        spec.rollout.max_concurrent_nodes = None;
    }
    facts
}

/// What happens to an image on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
enum ImageAction {
    /// It is pulled, unless it is present already.
    Pull,
    /// It is removed, unless a container uses it.
    Remove,
    /// It stays and is no longer managed.
    Release,
    /// It stays because other caches want it.
    Keep,
}

/// One image, and the nodes on which the same happens to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    action: ImageAction,
    /// The image, normalised.
    image: String,
    /// The caches that want it afterwards, `namespace/name`.
    image_caches: Vec<String>,
    /// The nodes, by name.
    nodes: Vec<String>,
    /// The nodes that are NotReady; the change happens once they are Ready.
    not_ready: Vec<String>,
}

/// The result, as `-o json` prints it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Changes {
    /// The changes, pulls first.
    changes: Vec<Change>,
    summary: ChangeSummary,
    /// What keeps ImageCaches of the manifests from having any effect.
    warnings: Vec<String>,
}

/// Counts of pairs of image and node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct ChangeSummary {
    pull: usize,
    remove: usize,
    release: usize,
    keep: usize,
    /// Nodes with at least one change.
    nodes: usize,
}

impl Changes {
    /// Whether anything would be pulled, removed or released.
    fn is_any(&self) -> bool {
        let summary = self.summary;
        summary.pull + summary.remove + summary.release > 0
    }
}

/// The objects of a cluster that assignments depend on.
#[derive(Debug, Clone, Default)]
struct ClusterObjects {
    caches: Vec<ReadCache>,
    nodes: Vec<ReadNode>,
    records: Vec<ReadNodeCache>,
}

/// By node and image.
type Assignments = BTreeMap<NodeName, BTreeMap<ImageRef, AssignedImage>>;

/// The changes if these caches were applied, without rollout limits.
fn changes(objects: &ClusterObjects, applied: &[ImageCache], now: Timestamp) -> Changes {
    let mut facts: Vec<CacheFacts> = objects
        .caches
        .iter()
        .cloned()
        .map(ReadCache::into_facts)
        .collect();
    let (before, _) = assignments(objects, &facts, now);
    for cache in applied {
        apply(&mut facts, cache);
    }
    let (after, statuses) = assignments(objects, &facts, now);
    let unready: BTreeSet<NodeName> = node_facts(objects)
        .filter(|node| !node.ready)
        .map(|node| node.name)
        .collect();
    let mut changes = compare(&before, &after, &recorded(objects), &unready);
    let warnings = statuses.iter().filter(|(id, _)| {
        let mut applied = applied.iter();
        applied.any(|cache| cache.id.namespace == id.namespace && cache.id.name == id.name)
    });
    let warnings = warnings.filter_map(|(id, status)| warning(id, status));
    // The controller's own limit is not recorded anywhere.
    let longest = AssignmentDefaults::default().longest_deadline();
    let cut = applied.iter().filter_map(|cache| {
        let deadline = GoDuration(cache.deadline_above(longest)?);
        Some(format!(
            "ImageCache {}: a deadline of {deadline} is cut to the controller's --max-image-pull-deadline, {} by default",
            cache.id,
            GoDuration(longest)
        ))
    });
    changes.warnings = warnings.chain(cut).collect();
    changes
}

/// What keeps a cache from having an effect on all or some nodes.
fn warning(id: &CacheId, status: &CacheStatus) -> Option<String> {
    let failures = status.failures.values().flatten();
    let full = failures.filter(|failure| failure.reason == Reason::NodeRecordFull);
    let full: BTreeSet<&str> = full.map(|failure| failure.node.as_str()).collect();
    if !full.is_empty() {
        let nodes: Vec<&str> = full.into_iter().take(NAMES).collect();
        return Some(format!(
            "ImageCache {id}: the records of nodes have no room for its images ({}: {})",
            Reason::NodeRecordFull,
            nodes.join(", ")
        ));
    }
    (status.status == ActionStatus::NoImagesPulledOrDeleted)
        .then(|| format!("ImageCache {id}: no entry selects any node of the cluster"))
}

/// Applies a manifest as the API server does: a changed spec increments the generation.
fn apply(facts: &mut Vec<CacheFacts>, cache: &ImageCache) {
    let is_same = |known: &&mut CacheFacts| {
        known.id.namespace == cache.id.namespace && known.id.name == cache.id.name
    };
    match facts.iter_mut().find(is_same) {
        Some(known) => {
            let mut spec = cache.clone();
            spec.id = known.id.clone();
            if known.spec.as_ref() != Ok(&spec) {
                known.spec = Ok(spec);
                known.generation += 1;
            }
        }
        None => facts.push(CacheFacts::new(cache.id.clone(), 1, Ok(cache.clone()))),
    }
}

fn node_facts(objects: &ClusterObjects) -> impl Iterator<Item = NodeFacts> {
    objects
        .nodes
        .iter()
        .filter_map(|node| Some(node.clone().into_facts(node.name()?)))
}

/// The assignments in the NodeImageCaches.
fn recorded(objects: &ClusterObjects) -> Assignments {
    objects
        .records
        .iter()
        .filter_map(|record| {
            let (assignment, _) = record.assignment();
            let node = NodeName::new(record.name_any()).ok()?;
            Some((node, by_image(assignment.images)))
        })
        .collect()
}

/// The assignments that a planner ends with if every node is Ready and rollouts are not limited, and the statuses
/// of the caches that change.
fn assignments(
    objects: &ClusterObjects,
    facts: &[CacheFacts],
    now: Timestamp,
) -> (Assignments, BTreeMap<CacheId, CacheStatus>) {
    let mut statuses = BTreeMap::new();
    let mut planner = unpaced_planner();
    let mut assignments = recorded(objects);
    for facts in facts {
        let facts = Box::new(without_rollout(facts.clone()));
        planner.apply(ClusterEvent::CacheApplied(facts), now);
    }
    for node in node_facts(objects) {
        planner.apply(ClusterEvent::NodeApplied(node.with_ready(true)), now);
    }
    for record in &objects.records {
        let Ok(node) = NodeName::new(record.name_any()) else {
            continue;
        };
        let (assignment, _) = record.assignment();
        planner.apply(
            ClusterEvent::AssignmentRecorded {
                node: node.clone(),
                assignment,
            },
            now,
        );
        if let Some(report) = record.report() {
            planner.apply(ClusterEvent::Reported { node, report }, now);
        }
    }
    planner.apply(ClusterEvent::Synced, now);
    for command in planner.poll(now) {
        match command {
            ClusterCommand::WriteAssignment { node, images, .. } => {
                assignments.insert(node, by_image(images));
            }
            ClusterCommand::DeleteAssignment { node, .. } => {
                assignments.remove(&node);
            }
            ClusterCommand::WriteStatus { cache, status } => {
                statuses.insert(cache, *status);
            }
            _ => {}
        }
    }
    (assignments, statuses)
}

fn by_image(images: Vec<AssignedImage>) -> BTreeMap<ImageRef, AssignedImage> {
    images
        .into_iter()
        .map(|entry| (entry.image.clone(), entry))
        .collect()
}

/// `recorded` are the current assignments: an image that was never assigned is not released.
fn compare(
    before: &Assignments,
    after: &Assignments,
    recorded: &Assignments,
    unready: &BTreeSet<NodeName>,
) -> Changes {
    type Key = (ImageAction, String, Vec<String>);
    let mut found: BTreeMap<Key, Vec<&NodeName>> = BTreeMap::new();
    let (mut summary, none) = (ChangeSummary::default(), BTreeMap::new());
    let mut changed: BTreeSet<&NodeName> = BTreeSet::new();
    let names: BTreeSet<&NodeName> = before.keys().chain(after.keys()).collect();
    for node in names {
        let old = before.get(node).unwrap_or(&none);
        let new = after.get(node).unwrap_or(&none);
        let images: BTreeSet<&ImageRef> = old.keys().chain(new.keys()).collect();
        for image in images {
            let Some(action) = action(old.get(image), new.get(image)) else {
                continue;
            };
            let is_recorded = recorded
                .get(node)
                .is_some_and(|images| images.contains_key(image));
            if action == ImageAction::Release && !is_recorded {
                continue;
            }
            let count = match action {
                ImageAction::Pull => &mut summary.pull,
                ImageAction::Remove => &mut summary.remove,
                ImageAction::Release => &mut summary.release,
                ImageAction::Keep => &mut summary.keep,
            };
            *count += 1;
            changed.insert(node);
            let wanted_by = new.get(image).map_or(&[][..], |entry| &entry.wanted_by);
            let caches = wanted_by.iter().map(CacheId::to_string).collect();
            let key = (action, image.as_str().to_owned(), caches);
            found.entry(key).or_default().push(node);
        }
    }
    summary.nodes = changed.len();
    let changes = found
        .into_iter()
        .map(|((action, image, image_caches), nodes)| Change {
            action,
            image,
            image_caches,
            not_ready: nodes
                .iter()
                .filter(|node| unready.contains(**node))
                .map(ToString::to_string)
                .collect(),
            nodes: nodes.iter().map(ToString::to_string).collect(),
        });
    Changes {
        changes: changes.collect(),
        summary,
        warnings: Vec::new(),
    }
}

/// What happens to an image with these assignments before and after.
fn action(before: Option<&AssignedImage>, after: Option<&AssignedImage>) -> Option<ImageAction> {
    let present = |entry: &&AssignedImage| entry.state == DesiredState::Present;
    match (before.filter(present), after.filter(present)) {
        (None, Some(_)) => Some(ImageAction::Pull),
        // Of an immutable reference, a new revision only requests a check.
        (Some(old), Some(new))
            if new.revision > old.revision && new.pull_policy == ImagePullPolicy::Always =>
        {
            Some(ImageAction::Pull)
        }
        (Some(old), Some(new)) => {
            let left = |id: &CacheId| !new.wanted_by.contains(id);
            old.wanted_by.iter().any(left).then_some(ImageAction::Keep)
        }
        (Some(_), None) if after.is_some() => Some(ImageAction::Remove),
        (Some(_), None) => Some(ImageAction::Release),
        (None, None) if before.is_none() && after.is_some() => Some(ImageAction::Remove),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-01-01T00:00:00Z";
    const APP: &str = "registry.test/app:1";
    const DB: &str = "registry.test/db:1";

    fn mk_node(name: &str, tier: &str, ready: &str) -> Value {
        json!({
            "metadata": { "name": name, "uid": name, "labels": { "tier": tier } },
            "status": { "conditions": [{ "type": "Ready", "status": ready }] },
        })
    }

    fn mk_cache(name: &str, images: &[&str]) -> Value {
        json!({
            "metadata": { "namespace": "shop", "name": name, "uid": name, "generation": 1 },
            "spec": { "cacheSpec": [{ "images": images }], "rollout": { "maxConcurrentNodes": 1 } },
            "status": { "status": "Succeeded", "reason": "ImageCacheCreate", "message": "",
                "observedGeneration": 1, "startTime": NOW, "completionTime": NOW },
        })
    }

    fn mk_record(node: &str, images: &[&str], caches: &[&str]) -> Value {
        let entry = |image: &&str| json!({ "image": image });
        let report = |image: &&str| json!({ "image": image, "phase": "Cached" });
        let cache = |name: &&str| json!({ "namespace": "shop", "name": name, "uid": name });
        json!({
            "metadata": { "name": node, "uid": node, "generation": 1 },
            "spec": {
                "images": images.iter().map(entry).collect::<Vec<_>>(),
                "caches": caches.iter().map(cache).collect::<Vec<_>>(),
            },
            "status": {
                "observedGeneration": 1, "images": images.iter().map(report).collect::<Vec<_>>(),
            },
        })
    }

    fn mk_objects(caches: &[Value], nodes: &[Value], records: &[Value]) -> ClusterObjects {
        fn read<T: serde::de::DeserializeOwned>(values: &[Value]) -> Vec<T> {
            let values = values.iter().cloned();
            values
                .map(|value| serde_json::from_value(value).unwrap())
                .collect()
        }
        ClusterObjects {
            caches: read(caches),
            nodes: read(nodes),
            records: read(records),
        }
    }

    #[test]
    fn a_check_of_an_immutable_reference_is_not_a_pull() {
        let entry = |policy, revision| {
            let entry = AssignedImage::present(APP.parse().unwrap());
            entry.with_pull_policy(policy).with_revision(revision)
        };
        for (policy, wanted) in [
            (ImagePullPolicy::IfNotPresent, None),
            (ImagePullPolicy::Always, Some(ImageAction::Pull)),
        ] {
            let (before, after) = (entry(policy, 0), entry(policy, 7));
            assert_eq!(action(Some(&before), Some(&after)), wanted, "{policy:?}");
        }
    }

    fn planned(objects: &ClusterObjects, manifest: &str) -> Changes {
        let texts = [("images.yaml".to_owned(), manifest.to_owned())];
        let manifests = crate::manifest::parse_in(&texts, "shop").unwrap();
        changes(objects, &manifests.caches, NOW.parse().unwrap())
    }

    fn manifest(name: &str, images: &[&str]) -> String {
        format!(
            "apiVersion: kubefledged.io/v1alpha2\nkind: ImageCache\nmetadata: {{name: {name}}}\nspec: {{cacheSpec: [{{images: {images:?}}}]}}\n"
        )
    }

    fn lines(changes: &Changes) -> Vec<String> {
        let line = |change: &Change| {
            format!(
                "{:?} {} on {}",
                change.action,
                change.image,
                change.nodes.join(" ")
            )
        };
        changes.changes.iter().map(line).collect()
    }

    fn two_nodes() -> [Value; 2] {
        [mk_node("a", "web", "True"), mk_node("b", "web", "True")]
    }

    #[test]
    fn caches_without_effect_are_warned_of() {
        let objects = mk_objects(&[], &two_nodes(), &[]);
        let selective =
            manifest("web", &[APP]).replace("[{images", "[{nodeSelector: {no: where}, images");
        let changes = planned(&objects, &selective);
        assert_eq!(
            changes.warnings,
            ["ImageCache shop/web: no entry selects any node of the cluster"]
        );
        let long = "x".repeat(200);
        let images: Vec<String> = (0..2_000)
            .map(|n| format!("r.example/{long}:{n}"))
            .collect();
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        let changes = planned(&objects, &manifest("huge", &images));
        assert_eq!(changes.warnings.len(), 1);
        assert!(
            changes.warnings[0].contains("NodeRecordFull: a, b"),
            "{:?}",
            changes.warnings
        );
        assert!(
            planned(&objects, &manifest("web", &[APP]))
                .warnings
                .is_empty()
        );
        let slow = manifest("web", &[APP]).replace("spec: {", "spec: {deadline: 3h, ");
        assert_eq!(
            planned(&objects, &slow).warnings,
            [
                "ImageCache shop/web: a deadline of 3h is cut to the controller's --max-image-pull-deadline, 2h by default"
            ]
        );
    }

    #[test]
    fn a_new_cache_is_pulled_on_all_nodes() {
        let changes = planned(
            &mk_objects(&[], &two_nodes(), &[]),
            &manifest("web", &[APP]),
        );
        assert_eq!(lines(&changes), ["Pull registry.test/app:1 on a b"]);
        assert_eq!(changes.changes[0].image_caches, ["shop/web"]);
        assert_eq!(changes.summary.nodes, 2);
        assert!(changes.is_any());
    }

    #[test]
    fn an_edit_pulls_and_removes_images() {
        let records = [
            mk_record("a", &[APP], &["web"]),
            mk_record("b", &[APP], &["web"]),
        ];
        let objects = mk_objects(&[mk_cache("web", &[APP])], &two_nodes(), &records);
        let changes = planned(&objects, &manifest("web", &[DB]));
        let wanted = [
            "Pull registry.test/db:1 on a b",
            "Remove registry.test/app:1 on a b",
        ];
        assert_eq!(lines(&changes), wanted);
        // Nothing is removed from a node that was never assigned the image.
        let one = mk_objects(&[mk_cache("web", &[APP])], &two_nodes(), &records[..1]);
        let changes = planned(&one, &manifest("web", &[DB]));
        let wanted = [
            "Pull registry.test/db:1 on a b",
            "Remove registry.test/app:1 on a",
        ];
        assert_eq!(lines(&changes), wanted);
        let same = planned(&objects, &manifest("web", &[APP]));
        assert_eq!(same, Changes::default());
    }

    #[test]
    fn an_image_of_another_cache_is_kept() {
        let caches = [mk_cache("web", &[APP, DB]), mk_cache("other", &[APP])];
        let records = [mk_record("a", &[APP, DB], &["web", "other"])];
        let nodes = [mk_node("a", "web", "True")];
        let objects = mk_objects(&caches, &nodes, &records);
        let changes = planned(&objects, &manifest("web", &[DB]));
        assert_eq!(lines(&changes), ["Keep registry.test/app:1 on a"]);
        assert_eq!(changes.changes[0].image_caches, ["shop/other"]);
        assert!(!changes.is_any());
    }

    #[test]
    fn a_not_ready_node_is_planned_and_marked() {
        let nodes = [mk_node("a", "web", "True"), mk_node("b", "web", "False")];
        let changes = planned(&mk_objects(&[], &nodes, &[]), &manifest("web", &[APP]));
        assert_eq!(changes.changes[0].nodes, ["a", "b"]);
        assert_eq!(changes.changes[0].not_ready, ["b"]);
    }

    #[test]
    fn an_edit_ends_a_purge() {
        let mut cache = mk_cache("web", &[APP]);
        // The spec is compared as in the file, so any difference is an edit.
        cache["spec"].as_object_mut().unwrap().remove("rollout");
        cache["status"]["purged"] = true.into();
        cache["status"]["reason"] = "ImageCachePurge".into();
        let objects = mk_objects(&[cache], &two_nodes(), &[]);
        assert_eq!(
            planned(&objects, &manifest("web", &[APP])),
            Changes::default()
        );
        let changes = planned(&objects, &manifest("web", &[APP, DB]));
        let wanted = [
            "Pull registry.test/app:1 on a b",
            "Pull registry.test/db:1 on a b",
        ];
        assert_eq!(lines(&changes), wanted);
    }

    #[test]
    fn a_plan_has_a_row_for_each_image_and_action() {
        let nodes = |count: usize| (0..count).map(|n| format!("node-{n}")).collect::<Vec<_>>();
        let change = |action, image: &str, count, not_ready| Change {
            action,
            image: image.to_owned(),
            image_caches: match action {
                ImageAction::Remove => Vec::new(),
                _ => vec!["shop/web".to_owned()],
            },
            nodes: nodes(count),
            not_ready: nodes(not_ready),
        };
        let changes = Changes {
            changes: vec![
                change(ImageAction::Pull, "registry.test/app:2", 40, 2),
                change(ImageAction::Remove, "registry.test/app:1", 2, 0),
                change(ImageAction::Keep, "registry.test/db:1", 1, 0),
            ],
            summary: ChangeSummary {
                pull: 40,
                remove: 2,
                release: 0,
                keep: 1,
                nodes: 40,
            },
            warnings: Vec::new(),
        };
        assert_eq!(
            text(&changes),
            "\
ACTION   IMAGE                 NODES   WHICH                                     FOR
pull     registry.test/app:2      40   node-0, node-1, node-2, … (2 not ready)   shop/web
remove   registry.test/app:1       2   node-0, node-1
keep     registry.test/db:1        1   node-0                                    shop/web
40 to pull, 2 to remove, 1 kept for other caches on 40 nodes; nothing was written
"
        );
        assert_eq!(text(&Changes::default()), "no changes\n");
    }
}
