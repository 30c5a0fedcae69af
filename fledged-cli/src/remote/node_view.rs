//! `fledged node status`: one node of a cluster, with every ImageCache that selects it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use console::Style;
use fledged_core::model::{ByteSize, CacheId, DesiredState, ImagePhase, ImageRef, NodeName};
use fledged_core::planner::{Cause, Planner, PlannerConfig};
use fledged_kube::crd::{ReadCache, ReadNodeCache};
use fledged_operator::controller::ReadNode;
use jiff::Timestamp;
use serde::Serialize;

use super::kubeconfig::{ClusterError, connect};
use super::matrix::images_for;
use super::matrix_text::{style, words};
use super::node_state::{NodeDetails, State, Unreachable, last_write, planner};
use super::overview::is_left_out;
use super::render;
use crate::args::NodeStatusArgs;
use crate::command_result::{CommandError, Exit, print};
use crate::output::{Align, Table, Terminal, age, on_one_line, pluralised, span};

/// Messages shown below a table.
const MESSAGES_MAX: usize = 20;

pub(crate) async fn node_status(
    args: NodeStatusArgs,
    terminal: &Terminal,
) -> Result<Exit, CommandError> {
    let connection = connect(&args.connection).await?;
    let name = args.name;
    let node = connection.find_node(name.as_str()).await?;
    let record = connection.find_record(name.as_str()).await?;
    if node.is_none() && record.is_none() {
        return Err(ClusterError::NoNode { name }.into());
    }
    let caches = match connection.list_caches(true).await {
        Err(error @ ClusterError::Forbidden { .. }) => {
            terminal.warn(format_args!(
                "{error}; only images that are assigned to the node are shown"
            ));
            None
        }
        listed => Some(listed?),
    };
    let now = Timestamp::now();
    let view = NodeView::new(
        &name,
        node.as_ref(),
        record.as_ref(),
        caches.as_deref(),
        now,
    );
    print(&render(args.output.output, &view, |view| {
        node_text(view, now)
    })?)?;
    Ok(Exit::Done)
}

/// The result, as `-o json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeView {
    /// The name.
    name: String,
    /// Status of the condition `Ready`; null if the Node does not exist or has no such condition.
    ready: Option<String>,
    /// Why nothing can be pulled onto the node, in one word.
    unreachable: Option<&'static str>,
    /// Since when.
    unreachable_since: Option<Timestamp>,
    agent: AgentView,
    /// The NodeImageCache; null if nothing is assigned to the node.
    record: Option<RecordView>,
    /// Number of images that should be on the node, by state.
    images: BTreeMap<State, usize>,
    /// The ImageCaches that select the node, or that the NodeImageCache lists.
    image_caches: Vec<NodeCacheView>,
    /// Images that no ImageCache wants any more.
    removals: Vec<NodeImageView>,
}

/// What the agent of the node has reported.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct AgentView {
    /// The last report. Agents report changes, so that of an idle agent can be old.
    last_report: Option<Timestamp>,
    /// Generation of the NodeImageCache that the last report is for.
    observed_generation: Option<u64>,
    /// Since when the agent is unresponsive.
    unresponsive_since: Option<Timestamp>,
}

/// Size of the NodeImageCache.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct RecordView {
    /// Generation of the assignment.
    generation: u64,
    /// Size of the whole object as JSON, in bytes.
    bytes: ByteSize,
    /// Size of the assignment as JSON, in bytes.
    assignment_bytes: ByteSize,
    /// Room for an assignment, in bytes.
    assignment_bytes_max: ByteSize,
    /// ImageCaches that it has no room for.
    no_room_for: Vec<String>,
}

/// One ImageCache on the node.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeCacheView {
    namespace: String,
    name: String,
    images: Vec<NodeImageView>,
}

/// One image on the node.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeImageView {
    /// The image as written in the spec.
    image: String,
    state: State,
    /// The phase in the last report of the agent.
    last_phase: Option<ImagePhase>,
    /// Since when the image has this phase.
    since: Option<Timestamp>,
    /// Size as the runtime reports it.
    bytes: Option<ByteSize>,
    digest: Option<String>,
    /// What fetched the layers in the last pull, and why the runtime did.
    via: Option<String>,
    attempts: Option<u32>,
    next_attempt: Option<Timestamp>,
    /// The reason, in one word.
    reason: Option<String>,
    /// The message of the registry or runtime, or why the image is kept.
    message: Option<String>,
}

impl NodeView {
    /// The node at `now`. Without ImageCaches, those that the record lists are shown.
    fn new(
        name: &NodeName,
        node: Option<&ReadNode>,
        record: Option<&ReadNodeCache>,
        caches: Option<&[ReadCache]>,
        now: Timestamp,
    ) -> Self {
        let details = NodeDetails::new(record);
        let objects = |part: Option<&ReadNode>| part.cloned().into_iter().collect::<Vec<_>>();
        let records: Vec<ReadNodeCache> = record.cloned().into_iter().collect();
        let planner = planner(caches.unwrap_or_default(), &objects(node), &records, now);
        let unreachable = node.and_then(|node| Unreachable::of(node, name, &planner));
        let scene = Scene {
            name,
            planner: &planner,
            details: &details,
            unreachable: unreachable.is_some(),
        };
        let image_caches = match caches {
            Some(caches) => scene.caches(node, caches),
            None => scene.assigned_caches(),
        };
        let wanted: BTreeSet<(&str, State)> = image_caches
            .iter()
            .flat_map(|cache| &cache.images)
            .filter(|image| !matches!(image.state, State::Removed | State::Removing | State::InUse))
            .map(|image| (image.image.as_str(), image.state))
            .collect();
        let mut images = BTreeMap::new();
        for (_, state) in &wanted {
            *images.entry(*state).or_default() += 1;
        }
        let no_room_for = |caches: &[ReadCache]| {
            let left_out = caches.iter().filter(|cache| {
                let id = cache.id();
                let shown = image_caches
                    .iter()
                    .find(|shown| shown.namespace == id.namespace && shown.name == id.name);
                let image = shown.and_then(|shown| shown.images.first()?.image.parse().ok());
                let cause = image.map(|image: ImageRef| planner.explain(&id, name, &image).cause);
                cause == Some(Cause::NodeRecordFull)
            });
            left_out.map(|cache| cache.id().to_string()).collect()
        };
        let record = record.map(|record| RecordView {
            generation: record.generation(),
            bytes: json_size(record),
            assignment_bytes: json_size(&record.spec),
            assignment_bytes_max: size(PlannerConfig::default().record_bytes_max),
            no_room_for: caches.map(no_room_for).unwrap_or_default(),
        });
        Self {
            name: name.to_string(),
            ready: node
                .and_then(ReadNode::ready)
                .map(|ready| ready.status.clone()),
            unreachable: unreachable.as_ref().map(Unreachable::word),
            unreachable_since: unreachable.as_ref().and_then(Unreachable::since),
            agent: AgentView {
                last_report: records.first().and_then(|record| last_write(record, true)),
                observed_generation: details.observed_generation(),
                unresponsive_since: planner.unresponsive_since(name),
            },
            record,
            images,
            removals: scene.removals(),
            image_caches,
        }
    }
}

/// A node and what is known about its images.
struct Scene<'a> {
    name: &'a NodeName,
    planner: &'a Planner,
    details: &'a NodeDetails,
    unreachable: bool,
}

impl Scene<'_> {
    /// The ImageCaches that select the node, or whose images it still has.
    fn caches(&self, node: Option<&ReadNode>, caches: &[ReadCache]) -> Vec<NodeCacheView> {
        let views = caches.iter().map(|cache| {
            let id = cache.id();
            let spec = cache.clone().into_facts().spec;
            let images: Vec<ImageRef> = match (spec, node) {
                (Ok(spec), Some(node)) => images_for(&spec, node, self.name),
                _ => self.details.assigned_for(&id).cloned().collect(),
            };
            let mut known = BTreeSet::new();
            let images = images
                .into_iter()
                .filter(|image| known.insert(image.clone()));
            let images = images.map(|image| {
                let explanation = self.planner.explain(&id, self.name, &image);
                let is_assigned = self.details.assigned(&image).is_some();
                let mut state = State::new(&explanation, is_assigned);
                let is_full = explanation.cause == Cause::NodeRecordFull
                    || (state == State::Waiting && is_left_out(cache, self.name));
                if self.unreachable {
                    state = State::Unreachable;
                } else if is_full {
                    return self.left_out(&image);
                }
                self.image(&image, state)
            });
            NodeCacheView {
                images: images.collect(),
                namespace: id.namespace,
                name: id.name,
            }
        });
        let mut views: Vec<NodeCacheView> = views.filter(|view| !view.images.is_empty()).collect();
        views.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        views
    }

    /// The ImageCaches in the record, without their specs.
    fn assigned_caches(&self) -> Vec<NodeCacheView> {
        let ids: BTreeSet<&CacheId> = self.details.wanted_by().collect();
        let views = ids.into_iter().map(|id| {
            let images = self.details.assigned_for(id).map(|image| {
                let phase = self.details.report(image).map(|report| report.phase);
                let state = match phase {
                    _ if self.unreachable => State::Unreachable,
                    Some(ImagePhase::Cached) => State::Cached,
                    phase => State::of_pull(phase),
                };
                self.image(image, state)
            });
            NodeCacheView {
                images: images.collect(),
                namespace: id.namespace.clone(),
                name: id.name.clone(),
            }
        });
        views.collect()
    }

    /// Images that are to be absent.
    fn removals(&self) -> Vec<NodeImageView> {
        let absent = self
            .details
            .entries()
            .filter(|entry| entry.state == DesiredState::Absent);
        let removals = absent.map(|entry| {
            let phase = self.details.report(&entry.image).map(|report| report.phase);
            let state = if self.unreachable {
                State::Unreachable
            } else {
                State::of_removal(phase)
            };
            self.image(&entry.image, state)
        });
        removals.collect()
    }

    fn left_out(&self, image: &ImageRef) -> NodeImageView {
        NodeImageView {
            reason: Some(fledged_core::error::Reason::NodeRecordFull.to_string()),
            message: Some(Cause::NodeRecordFull.to_string()),
            ..self.image(image, State::Failed)
        }
    }

    fn image(&self, image: &ImageRef, state: State) -> NodeImageView {
        let report = self.details.report(image);
        NodeImageView {
            image: image.to_string(),
            state,
            last_phase: report.map(|report| report.phase),
            since: report.and_then(|report| report.finished_at.or(report.started_at)),
            bytes: report.and_then(|report| report.size),
            digest: report.and_then(|report| report.digest.as_ref().map(ToString::to_string)),
            via: report.and_then(|report| report.via.as_ref().map(ToString::to_string)),
            attempts: report.map(|report| report.attempts),
            next_attempt: report.and_then(|report| report.next_attempt_at),
            reason: report.and_then(|report| report.reason.map(|reason| reason.to_string())),
            message: report.and_then(|report| report.message.clone()),
        }
    }
}

fn size(bytes: usize) -> ByteSize {
    ByteSize::new(u64::try_from(bytes).unwrap_or(u64::MAX))
}

fn json_size(part: &impl Serialize) -> ByteSize {
    size(serde_json::to_vec(part).map_or(0, |json| json.len()))
}

fn node_text(view: &NodeView, now: Timestamp) -> String {
    let mut text = format!("Node {}: {}\n", view.name, readiness(view, now));
    let _ = writeln!(text, "Agent: {}", agent(view, now));
    let _ = writeln!(text, "NodeImageCache: {}", record(view));
    let total: usize = view.images.values().sum();
    if total > 0 {
        let states = view.images.iter().rev();
        let states: Vec<String> = states
            .map(|(state, count)| format!("{count} {}", words(*state)))
            .collect();
        let total = pluralised(total, "image");
        let _ = writeln!(text, "Desired: {total}: {}", states.join("; "));
    }
    for cache in &view.image_caches {
        let images = pluralised(cache.images.len(), "image");
        let _ = writeln!(
            text,
            "\nImageCache {}/{}: {images}",
            cache.namespace, cache.name
        );
        text.push_str(&table(&cache.images, now));
    }
    if view.image_caches.is_empty() {
        text.push_str("\nno ImageCache selects the node\n");
    }
    if !view.removals.is_empty() {
        text.push_str("\nTo be removed, because no ImageCache wants them:\n");
        text.push_str(&table(&view.removals, now));
    }
    text
}

fn readiness(view: &NodeView, now: Timestamp) -> String {
    let since =
        |at: Option<Timestamp>| at.map_or_else(String::new, |at| format!(" for {}", age(at, now)));
    match (view.unreachable, view.ready.as_deref()) {
        (None | Some("AgentSilent"), Some("True")) => "Ready".to_owned(),
        (Some(word), _) => format!(
            "{word}{}; nothing is pulled or removed until it is Ready",
            since(view.unreachable_since)
        ),
        (None, _) => "not found; the NodeImageCache is left over".to_owned(),
    }
}

fn agent(view: &NodeView, now: Timestamp) -> String {
    let Some(record) = &view.record else {
        return "nothing is assigned to the node".to_owned();
    };
    let mut text = match (view.agent.unresponsive_since, view.agent.last_report) {
        (Some(since), None) => format!("unresponsive for {}, has never reported", age(since, now)),
        (Some(since), _) => format!("unresponsive for {}", age(since, now)),
        (None, Some(at)) => format!("last report {} ago", age(at, now)),
        (None, None) if view.agent.observed_generation.is_some() => "has reported".to_owned(),
        (None, None) => "has not reported yet".to_owned(),
    };
    match view.agent.observed_generation {
        Some(observed) if observed < record.generation => {
            let behind = record.generation - observed;
            let behind = usize::try_from(behind).unwrap_or(usize::MAX);
            let _ = write!(text, "; {} behind", pluralised(behind, "assignment"));
        }
        _ => {}
    }
    text
}

fn record(view: &NodeView) -> String {
    let Some(record) = &view.record else {
        return "none".to_owned();
    };
    let mut text = format!(
        "{}; assignment {}, room for {}",
        record.bytes, record.assignment_bytes, record.assignment_bytes_max
    );
    if !record.no_room_for.is_empty() {
        let _ = write!(text, "; no room for {}", record.no_room_for.join(", "));
    }
    text
}

fn table(images: &[NodeImageView], now: Timestamp) -> String {
    let mut images: Vec<&NodeImageView> = images.iter().collect();
    images.sort_by_key(|image| image.state);
    let mut table = Table::new(&[
        ("IMAGE", Align::Left),
        ("STATE", Align::Left),
        ("FOR", Align::Right),
        ("SIZE", Align::Right),
        ("REASON", Align::Left),
    ]);
    for image in &images {
        let state = match (image.state, image.last_phase) {
            (State::Unreachable, Some(phase)) => format!("unreachable, last {phase}"),
            (state, _) => words(state).to_owned(),
        };
        let bytes = image
            .bytes
            .filter(|_| image.last_phase == Some(ImagePhase::Cached));
        table.styled_row([
            (image.image.clone(), Style::new()),
            (state, style(image.state)),
            (
                image.since.map_or_else(String::new, |at| age(at, now)),
                Style::new(),
            ),
            (
                bytes.map_or_else(String::new, |bytes| bytes.to_string()),
                Style::new(),
            ),
            (image.reason.clone().unwrap_or_default(), Style::new()),
        ]);
    }
    let mut text = table.render();
    let messages = images.iter().filter(|image| image.message.is_some());
    let hidden = messages.clone().count().saturating_sub(MESSAGES_MAX);
    for image in messages.take(MESSAGES_MAX) {
        let message = image.message.as_deref().unwrap_or_default();
        let _ = write!(
            text,
            "{}: {}",
            on_one_line(&image.image),
            on_one_line(message)
        );
        if let Some(next) = image.next_attempt {
            let attempts = pluralised(image.attempts.unwrap_or(1) as usize, "attempt");
            let left = span(next.as_second().saturating_sub(now.as_second()));
            let _ = write!(text, " ({attempts}, next in {left})");
        }
        text.push('\n');
    }
    if hidden > 0 {
        let _ = writeln!(text, "and {}", pluralised(hidden, "other message"));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-01-01T00:10:00Z";

    fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn mk_node(ready: &str) -> ReadNode {
        of(
            json!({ "metadata": { "name": "node-1" }, "status": { "conditions": [
            { "type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:07:00Z" }] } }),
        )
    }

    fn mk_record() -> ReadNodeCache {
        of(json!({
            "metadata": { "name": "node-1", "generation": 4, "managedFields": [
                { "time": "2026-01-01T00:09:30Z" },
                { "time": "2026-01-01T00:09:48Z", "subresource": "status" },
            ] },
            "spec": {
                "caches": [{ "namespace": "shop", "name": "web", "uid": "1" }],
                "images": [
                    { "image": "registry.test/app:1" },
                    { "image": "registry.test/db:1" },
                    { "image": "registry.test/old:1", "state": "Absent" },
                ],
            },
            "status": { "observedGeneration": 4, "images": [
                { "image": "registry.test/app:1", "phase": "Cached", "bytes": 2_097_152,
                    "finished": "2026-01-01T00:05:00Z" },
                { "image": "registry.test/db:1", "phase": "Failed", "reason": "ImageNotFound",
                    "message": "manifest unknown", "attempts": 2,
                    "finished": "2026-01-01T00:09:00Z", "nextAttempt": "2026-01-01T00:10:45Z" },
                { "image": "registry.test/old:1", "phase": "InUse", "reason": "InUse",
                    "message": "container shop/web-1/app", "finished": "2026-01-01T00:08:00Z" },
            ] },
        }))
    }

    fn mk_cache() -> ReadCache {
        of(json!({
            "metadata": { "namespace": "shop", "name": "web", "uid": "1", "generation": 1 },
            "spec": { "cacheSpec": [{ "images": ["registry.test/app:1", "registry.test/db:1"] }] },
            "status": { "status": "Processing", "reason": "ImageCacheCreate", "message": "",
                "observedGeneration": 1, "startTime": "2026-01-01T00:00:00Z" },
        }))
    }

    fn view(node: Option<&ReadNode>, caches: Option<&[ReadCache]>) -> NodeView {
        let (name, record) = (NodeName::new("node-1").unwrap(), mk_record());
        NodeView::new(&name, node, Some(&record), caches, NOW.parse().unwrap())
    }

    #[test]
    fn a_node_is_shown_with_its_caches_and_removals() {
        let view = view(Some(&mk_node("True")), Some(&[mk_cache()]));
        let text = node_text(&view, NOW.parse().unwrap());
        let (head, rest) = text.split_once("NodeImageCache: ").unwrap();
        assert_eq!(head, "Node node-1: Ready\nAgent: last report 12s ago\n");
        let (record, rest) = rest.split_once('\n').unwrap();
        assert!(record.contains("room for 512.0 KiB"), "{record}");
        assert_eq!(
            rest,
            "\
Desired: 2 images: 1 cached; 1 failed

ImageCache shop/web: 2 images
IMAGE                 STATE    FOR      SIZE   REASON
registry.test/db:1    failed   60s             ImageNotFound
registry.test/app:1   cached    5m   2.0 MiB
registry.test/db:1: manifest unknown (2 attempts, next in 45s)

To be removed, because no ImageCache wants them:
IMAGE                 STATE          FOR   REASON
registry.test/old:1   kept, in use    2m   InUse
registry.test/old:1: container shop/web-1/app
"
        );
    }

    #[test]
    fn an_unreachable_node_shows_the_last_report() {
        let view = view(Some(&mk_node("Unknown")), Some(&[mk_cache()]));
        let text = node_text(&view, NOW.parse().unwrap());
        assert!(text.starts_with("Node node-1: NotReady for 3m; "), "{text}");
        assert!(text.contains("unreachable, last Cached"), "{text}");
        let document = serde_json::to_value(&view).unwrap();
        assert_eq!(document["unreachable"], "NotReady");
        assert_eq!(document["images"], json!({ "Unreachable": 2 }));
        assert_eq!(document["removals"][0]["lastPhase"], "InUse");
    }

    #[test]
    fn without_permission_the_record_is_shown() {
        let view = view(Some(&mk_node("True")), None);
        let states = view.image_caches[0].images.iter().map(|image| image.state);
        assert!(states.eq([State::Cached, State::Failed]));
        let left_over = super::NodeView::new(
            &NodeName::new("node-1").unwrap(),
            None,
            Some(&mk_record()),
            Some(&[]),
            NOW.parse().unwrap(),
        );
        let text = node_text(&left_over, NOW.parse().unwrap());
        assert!(text.starts_with("Node node-1: not found; "), "{text}");
    }

    #[test]
    fn a_silent_agent_is_shown_as_unresponsive() {
        let name = NodeName::new("node-1").unwrap();
        let mut record = mk_record();
        record.status = json!({});
        let later = "2026-01-01T00:20:00Z".parse().unwrap();
        record.metadata.managed_fields = Some(vec![of(json!({ "time": "2026-01-01T00:18:00Z" }))]);
        let (node, caches) = (mk_node("True"), [mk_cache()]);
        let view = NodeView::new(&name, Some(&node), Some(&record), Some(&caches), later);
        let text = node_text(&view, later);
        let start = "Node node-1: Ready\nAgent: unresponsive for 2m, has never reported\n";
        assert!(text.starts_with(start), "{text}");
        assert_eq!(view.unreachable, Some("AgentSilent"));
    }
}
