//! What the status of an ImageCache may say, and which writes change nothing.
//!
//! A status is judged at the time at which a controller sends it, by what its watches had delivered some seconds
//! before. What changed after that counts as both states.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fledged_core::model::{
    DeletionPolicy, ImageCache, ImageGroup, ImagePhase, ImageRef, NodeFacts, NodeReport,
};
use fledged_kube::crd::{FINALIZER, ReadCache};
use serde_json::Value;

use super::Sender;
use crate::simulation::call::Call;
use crate::simulation::moves::HOSTILE;

/// How much older than the last complete news a status may be: a change of counts waits for the interval of statuses.
const LAG: Duration = Duration::from_secs(5);
/// How long the agent of a node must run without faults to be surely responsive: longer than the controller waits for
/// its answer, and than the agent waits before it tries again.
const SURELY_RESPONSIVE: Duration = Duration::from_secs(180);
/// How long a connection must be without faults before its writes must all change something: an attempt whose answer
/// was lost is repeated within this time.
const SURELY_ANSWERED: Duration = Duration::from_secs(120);

/// A cache by namespace and name.
type CacheKey = (String, String);
/// A broken invariant, and what was found.
pub(super) type Found = (&'static str, String);

/// What a status is judged by, beside the history of the caches.
pub(super) struct Facts<'a> {
    pub(super) nodes: &'a BTreeMap<String, NodeFacts>,
    /// Since when nodes are Ready.
    pub(super) ready_since: &'a BTreeMap<String, Duration>,
    /// Since when the agents of nodes run without faults of their connection.
    pub(super) well: &'a BTreeMap<String, Duration>,
    /// Whether the clock of a process was ever set forward.
    pub(super) clocks_jumped: bool,
}

/// A part of an object as it is stored, and since when.
#[derive(Default)]
struct Stored {
    value: Value,
    since: Duration,
}

impl Stored {
    fn set(&mut self, value: Value, now: Duration) {
        if self.value != value {
            *self = Self { value, since: now };
        }
    }
}

/// A cache as it is stored.
#[derive(Default)]
struct Cache {
    uid: String,
    created: Duration,
    generation: u64,
    /// Since when it has its generation.
    since: Duration,
    deleting: bool,
    spec: Option<ImageCache>,
    /// Since when it has that spec.
    spec_since: Duration,
    status: Stored,
}

/// The history that statuses and repeated writes are judged by.
#[derive(Default)]
pub(super) struct Statuses {
    caches: BTreeMap<CacheKey, Cache>,
    /// Whether the report of a node has an image as `Cached`, and since when that is so.
    reported: BTreeMap<(String, ImageRef), (bool, Duration)>,
    /// When what a node is selected by last changed.
    nodes_changed: BTreeMap<String, Duration>,
    /// The spec and the status of each NodeImageCache.
    records: BTreeMap<String, [Stored; 2]>,
}

impl Statuses {
    /// Reads a cache that was written, or is gone.
    pub(super) fn cache_read(&mut self, key: &CacheKey, object: Option<&Value>, now: Duration) {
        let read =
            object.and_then(|object| serde_json::from_value::<ReadCache>(object.clone()).ok());
        let (Some(object), Some(read)) = (object, read) else {
            self.caches.remove(key);
            return;
        };
        let uid = read.metadata.uid.clone().unwrap_or_default();
        let facts = read.into_facts();
        let cache = self.caches.entry(key.clone()).or_default();
        if cache.uid != uid {
            *cache = Cache {
                uid,
                created: now,
                ..Cache::default()
            };
        }
        if cache.generation != facts.generation {
            (cache.generation, cache.since) = (facts.generation, now);
        }
        cache.deleting = facts.deleting;
        let spec = facts.spec.ok();
        if cache.spec != spec {
            (cache.spec, cache.spec_since) = (spec, now);
        }
        cache.status.set(object["status"].clone(), now);
    }

    /// Reads the record of a node that was written, or is gone.
    pub(super) fn record_read(&mut self, node: &str, object: Option<&Value>, now: Duration) {
        let stored = self.records.entry(node.to_owned()).or_default();
        for (part, stored) in ["spec", "status"].into_iter().zip(stored) {
            let value = object.map_or(Value::Null, |object| object[part].clone());
            stored.set(value, now);
        }
    }

    /// Since when the status of the record of a node is as it is.
    pub(super) fn reported_since(&self, node: &str) -> Option<Duration> {
        self.records.get(node).map(|[_, status]| status.since)
    }

    /// Reads the report of a node.
    pub(super) fn report_read(&mut self, node: &str, report: Option<&NodeReport>, now: Duration) {
        let images = report.iter().flat_map(|report| &report.images);
        let cached = images.filter(|image| image.phase == ImagePhase::Cached);
        let cached: BTreeSet<&ImageRef> = cached.map(|image| &image.image).collect();
        for ((of, image), state) in &mut self.reported {
            if of == node && state.0 != cached.contains(image) {
                *state = (!state.0, now);
            }
        }
        for image in cached {
            let key = (node.to_owned(), image.clone());
            self.reported.entry(key).or_insert((true, now));
        }
    }

    /// What the node is selected by has changed, or whether it exists.
    pub(super) fn node_changed(&mut self, node: &str, now: Duration) {
        self.nodes_changed.insert(node.to_owned(), now);
    }

    /// Checks a status that a controller sends.
    pub(super) fn check_status(
        &self,
        sender: &Sender,
        call: &Call,
        facts: &Facts<'_>,
    ) -> Vec<Found> {
        let mut found = Vec::new();
        let Some(known) = sender.informed.checked_sub(LAG) else {
            return found;
        };
        let status = &call.body["status"];
        let Some(observed) = status["observedGeneration"].as_u64() else {
            return found;
        };
        let target = call.target();
        let count = |name: &str| status["counts"][name].as_u64().unwrap_or_default();
        let parts = ["cached", "pulling", "failed", "unreachable"].map(count);
        let desired = count("desired");
        if parts.iter().sum::<u64>() != desired {
            let text = format!("{target}: {}", status["counts"]);
            found.push(("the counts of a status add up", text));
        }
        let [cached, _, _, unreachable] = parts;
        if is_ready(status) && cached + unreachable != desired {
            let text = format!("{target} is Ready: {}", status["counts"]);
            found.push(("nothing is Ready that lacks an image", text));
        }
        let key = (call.namespace.clone(), call.name.clone());
        let Some(cache) = self.caches.get(&key).filter(|cache| cache.created <= known) else {
            return found;
        };
        let outdated = cache.since <= known && observed < cache.generation;
        if outdated || observed > cache.generation {
            let text = format!("{target}: {observed}, the spec has {}", cache.generation);
            found.push((
                "a status is of the newest spec that the controller saw",
                text,
            ));
        }
        if !facts.clocks_jumped && cache.status.since <= known {
            found.extend(check_transitions(&target, &cache.status.value, status));
        }
        let current = observed == cache.generation && cache.since <= known && !cache.deleting;
        let purged = status["purged"].as_bool().unwrap_or_default();
        if let Some(spec) = cache.spec.as_ref().filter(|_| current && !purged) {
            let pairs = self.pairs(spec, known, facts);
            let all = u64::try_from(pairs.all).unwrap();
            let most = u64::try_from(pairs.cached).unwrap();
            let away = u64::try_from(pairs.unreachable).unwrap();
            let text = || format!("{target}: {}, found {pairs:?}", status["counts"]);
            if !pairs.changing && desired != all {
                found.push(("a status counts what its spec selects", text()));
            }
            if cached > most {
                found.push(("no status counts an image that no node reported", text()));
            }
            // Late answers are answers that a controller waits for in vain.
            let punctual = sender.last_fault + SURELY_RESPONSIVE < sender.informed;
            let steady = punctual && !pairs.changing && !facts.clocks_jumped;
            if steady && unreachable > away {
                found.push(("no node with a working agent counts as unreachable", text()));
            }
        }
        found
    }

    /// Counts the pairs of image and node of a spec by what a controller may have seen since `known`.
    fn pairs(&self, spec: &ImageCache, known: Duration, facts: &Facts<'_>) -> Pairs {
        let changed = |node: &str| self.nodes_changed.get(node).is_some_and(|at| *at > known);
        let names = facts.nodes.keys().chain(self.nodes_changed.keys());
        let names: BTreeSet<&String> = names.collect();
        let mut pairs = Pairs {
            changing: names.iter().any(|node| changed(node)),
            ..Pairs::default()
        };
        for node in names {
            let of_node = facts.nodes.get(node);
            let selected =
                |group: &&ImageGroup| changed(node) || of_node.is_some_and(|of| group.matches(of));
            let groups = spec.groups.iter().filter(selected);
            let images: BTreeSet<&ImageRef> = groups.flat_map(|group| &group.images).collect();
            let since = |of: &BTreeMap<String, Duration>| of.get(node).copied();
            let ready = since(facts.ready_since).is_some_and(|at| at <= known);
            let well = since(facts.well).is_some_and(|at| at + SURELY_RESPONSIVE <= known);
            for image in images {
                pairs.all += 1;
                let state = self.reported.get(&((*node).clone(), image.clone()));
                let unseen = state.is_some_and(|(_, since)| *since > known);
                pairs.unreachable += usize::from(!ready || !well || unseen);
                let never = state.is_none_or(|(cached, since)| !cached && *since <= known);
                pairs.cached += usize::from(!never);
            }
        }
        pairs
    }

    /// Checks that the finalizer of a cache is not removed before nodes have removed its images.
    pub(super) fn check_finalizer(
        &self,
        sender: &Sender,
        call: &Call,
        facts: &Facts<'_>,
        is_left: impl Fn(&str, &ImageRef, &str) -> bool,
    ) -> Option<Found> {
        // The hostile tenant has more images than a record has room for removals.
        if facts.clocks_jumped || call.namespace == HOSTILE {
            return None;
        }
        let left = call.body["metadata"]["finalizers"].as_array()?;
        let known = sender.informed.checked_sub(LAG)?;
        let key = (call.namespace.clone(), call.name.clone());
        let cache = self.caches.get(&key)?;
        let spec = cache.spec.as_ref()?;
        let keeps = left.iter().any(|name| name == FINALIZER);
        let new = cache.spec_since > known;
        if keeps || new || !cache.deleting || spec.deletion_policy != DeletionPolicy::Purge {
            return None;
        }
        let nodes = facts.nodes.iter().filter(|(name, _)| {
            let since = |of: &BTreeMap<String, Duration>| of.get(*name).copied();
            since(facts.ready_since).is_some_and(|at| at <= known)
                && since(facts.well).is_some_and(|at| at + SURELY_RESPONSIVE <= known)
                && self.nodes_changed.get(*name).is_none_or(|at| *at <= known)
        });
        for (node, of) in nodes {
            let groups = spec.groups.iter().filter(|group| group.matches(of));
            let mut images = groups.flat_map(|group| &group.images);
            if let Some(image) = images.find(|image| is_left(node, image, &cache.uid)) {
                let text = format!("{}: {node} has {image} for it", call.target());
                return Some(("a finalizer stays until the images are removed", text));
            }
        }
        None
    }

    /// Checks that a write changes what is stored.
    pub(super) fn check_repeated(
        &self,
        sender: &Sender,
        call: &Call,
        now: Duration,
    ) -> Option<Found> {
        if sender.last_fault + SURELY_ANSWERED > now {
            return None;
        }
        let part = match call.subresource.as_str() {
            "" => "spec",
            other => other,
        };
        let stored = match (call.resource.as_str(), part) {
            ("imagecaches", "status") => {
                let key = (call.namespace.clone(), call.name.clone());
                &self.caches.get(&key)?.status
            }
            ("nodeimagecaches", "spec") => &self.records.get(&call.name)?[0],
            ("nodeimagecaches", "status") => &self.records.get(&call.name)?[1],
            _ => return None,
        };
        let known = sender.informed.checked_sub(LAG)?;
        let sent = call.body.get(part)?;
        let same = stored.since <= known && stored.value == *sent;
        same.then(|| ("no write repeats what is stored", call.target()))
    }
}

/// Numbers of pairs of image and node.
#[derive(Debug, Default)]
struct Pairs {
    /// Whether nodes have changed lately, so that the numbers are only upper bounds.
    changing: bool,
    all: usize,
    /// Those that a report may have as `Cached`.
    cached: usize,
    /// Those on nodes that may count as unreachable.
    unreachable: usize,
}

fn conditions(status: &Value) -> impl Iterator<Item = &Value> {
    status["conditions"].as_array().into_iter().flatten()
}

fn is_ready(status: &Value) -> bool {
    conditions(status).any(|of| of["type"] == "Ready" && of["status"] == "True")
}

/// Checks that no transition of a condition is earlier than the recorded one.
fn check_transitions(target: &str, before: &Value, after: &Value) -> Option<Found> {
    let time =
        |of: &Value| -> Option<jiff::Timestamp> { of["lastTransitionTime"].as_str()?.parse().ok() };
    conditions(after).find_map(|new| {
        let old = conditions(before).find(|old| old["type"] == new["type"])?;
        let (from, to) = (time(old)?, time(new)?);
        let text = format!("{target}: {} from {from} to {to}", new["type"]);
        (to < from).then_some(("no condition changes before it did", text))
    })
}
