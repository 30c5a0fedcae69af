//! The invariants of writes.

use std::collections::BTreeSet;
use std::time::Duration;

use fledged_apiserver::Control;
use fledged_core::model::{Assignment, DesiredState, ImageRef};
use fledged_kube::crd::ReadNodeCache;
use serde_json::Value;

use super::statuses::Facts;
use super::{HANDLING, Record, Role, Sender, State, orders};
use crate::simulation::call::Call;

/// How long a leader may write after it lost its Lease: its renewal deadline.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How long after a clock was set forward a Lease may have expired too early: its duration, measured twice.
const CLOCKS_DIFFER: Duration = Duration::from_secs(30);
/// How long after the last change of its report a node with Jobs surely counts against the limit: less than the
/// controller waits for the next.
const SURELY_PROGRESSING: Duration = Duration::from_secs(60);
/// How long a node is seen to pull before it surely counts against the limit.
const SURELY_ACTIVE: Duration = Duration::from_secs(5);
/// Longest message in a status, in characters.
const MESSAGE_MAX: usize = 1_024;
/// The size of the parts of a record that the planner does not count, and the room for removals.
const RECORD_SLACK: usize = 4_096;

impl State {
    pub(super) fn check_leader(&mut self, sender: &Sender, call: &Call) {
        // The Job driver follows the records of nodes, whatever caches there are.
        let of_driver = call.resource == "jobs" || call.is("nodeimagecaches", "status");
        let needed: &[&str] = match of_driver {
            true => &["nodes", "nodeimagecaches", "jobs", "pods"],
            false => &["nodes", "nodeimagecaches", "imagecaches"],
        };
        let missing = needed.iter().filter(|of| !sender.listed.contains(**of));
        let missing: Vec<&&str> = missing.collect();
        if !missing.is_empty() {
            let found = format!(
                "{} sends {} {} without a list of {missing:?}",
                sender.identity(),
                call.method,
                call.target()
            );
            self.violate("nothing is written before all lists are complete", found);
        }
        let (holder, since) = &self.holder;
        let jumped = self.clock_jumped;
        let grace = match jumped.is_some_and(|at| self.now < at + CLOCKS_DIFFER) {
            true => RENEW_DEADLINE,
            false => Duration::ZERO,
        };
        if *holder != sender.identity() && self.now > *since + grace {
            let found = format!(
                "{} writes, but {holder:?} holds the Lease since {:.1} s",
                sender.identity(),
                since.as_secs_f64()
            );
            self.violate("only the holder of the Lease writes", found);
        }
    }

    /// Checks an assignment that a controller writes.
    pub(super) fn check_assignment(&mut self, sender: &Sender, call: &Call) {
        let read: ReadNodeCache = match serde_json::from_value(call.body.clone()) {
            Ok(read) => read,
            Err(error) => return self.violate("records are valid", error.to_string()),
        };
        let (assignment, _) = read.assignment();
        let node = call.name.as_str();
        for image in orders(&assignment) {
            let key = (node.to_owned(), image.clone());
            // A cache that wants it for longer: what the controller knows of another one may be older.
            let since = self
                .wanted
                .get(&key)
                .and_then(|caches| caches.values().min().copied());
            if let Some(since) = since.filter(|since| *since + HANDLING < sender.informed) {
                let found = format!(
                    "{node} is to remove {image}, which a cache wants there since {:.1} s",
                    since.as_secs_f64()
                );
                self.violate("the removal of a wanted image is never ordered", found);
            }
        }
        let size = call.bytes;
        let most = 2 * self.limits.record_bytes + RECORD_SLACK;
        if size > most {
            let found = format!("the record of {node} has {size} bytes, the limit is {most}");
            self.violate("records are bounded", found);
        }
        self.check_slots(sender, node, &assignment);
        // Whether it still pulls, its next report shows.
        self.unfinished.remove(node);
    }

    /// The most nodes that pull at once, by `--max-concurrent-nodes`: exact while one namespace has caches, and else
    /// at most twice as many and one for each namespace.
    fn most_nodes(&self) -> usize {
        let limit = self.limits.nodes.of(self.nodes.len()).unwrap_or(usize::MAX);
        let namespaces = self.caches.keys().map(|(namespace, _)| namespace);
        match namespaces.collect::<BTreeSet<_>>().len() {
            0 | 1 => limit,
            namespaces => limit.saturating_mul(2).saturating_add(namespaces),
        }
    }

    /// Checks the limit of nodes that pull: a node without unfinished pulls is given new ones only while fewer other
    /// nodes pull. Evictions and nodes that come back may exceed it.
    fn check_slots(&mut self, sender: &Sender, node: &str, next: &Assignment) {
        let present = |assignment: &Assignment| -> BTreeSet<ImageRef> {
            let entries = assignment.images.iter();
            let present = entries.filter(|entry| entry.state == DesiredState::Present);
            present.map(|entry| entry.image.clone()).collect()
        };
        let before = self
            .records
            .get(node)
            .map(|record| present(&record.assignment));
        let new = present(next);
        let adds = new
            .iter()
            .any(|image| !before.as_ref().is_some_and(|b| b.contains(image)));
        // A node that still has to report may hold its slot.
        let idle = self.records.get(node).is_none_or(|record| {
            let report = record.report.as_ref();
            let observed = report.map_or(0, |report| report.observed_generation);
            observed == record.assignment.generation && !record.is_unfinished()
        });
        if !adds || !idle {
            return;
        }
        let earlier =
            |at: Option<&Duration>| at.is_some_and(|at| *at + SURELY_ACTIVE < sender.informed);
        // A clock that is set forward ends the wait for reports at once.
        let jumped = self.clock_jumped.unwrap_or_default();
        // With Jobs, a node without progress counts as unresponsive, whatever the reason.
        let progresses = |other: &str| {
            let since = self.statuses.reported_since(other);
            self.has_agents || since.is_some_and(|since| self.now < since + SURELY_PROGRESSING)
        };
        // The pulls that no cache wants any more are cancelled by writes that are sent at the same time.
        let pulls = |other: &str| {
            let record = self.records.get(other);
            let mut unfinished = record.into_iter().flat_map(Record::unfinished);
            unfinished.any(|image| {
                let key = (other.to_owned(), image.clone());
                self.wanted.contains_key(&key)
            })
        };
        let others = self.unfinished.keys().filter(|other| {
            let since = self.unfinished.get(*other);
            other.as_str() != node
                && pulls(other)
                && progresses(other)
                && earlier(since)
                && since.is_some_and(|since| *since >= jumped)
                && earlier(self.ready_since.get(*other))
                && earlier(self.well.get(*other))
        });
        let active: Vec<&String> = others.collect();
        let limit = self.most_nodes();
        if active.len() >= limit {
            let found = format!("{node} is to pull while {active:?} pull, the limit is {limit}");
            self.violate("no more nodes pull than the limit", found);
        }
    }

    /// Checks what a status of an ImageCache says, that a finalizer is not removed too early, and that a write changes
    /// something.
    pub(super) fn check_statuses(&mut self, sender: &Sender, call: &Call) {
        if !self.has_agents {
            return;
        }
        let facts = Facts {
            nodes: &self.nodes,
            ready_since: &self.ready_since,
            well: &self.well,
            clocks_jumped: self.clock_jumped.is_some(),
        };
        let mut found = Vec::new();
        if call.is("imagecaches", "status") {
            found.extend(self.statuses.check_status(sender, call, &facts));
        }
        if call.is("imagecaches", "") {
            let is_left = |node: &str, image: &ImageRef, uid: &str| {
                // Another cache may want it there whose turn has not come on that node.
                let key = (node.to_owned(), image.clone());
                let record = self.records.get(node);
                let holds = record.is_some_and(|record| record.holds_for(image, uid));
                holds && !self.wanted.contains_key(&key)
            };
            let early = self.statuses.check_finalizer(sender, call, &facts, is_left);
            found.extend(early);
        }
        found.extend(self.statuses.check_repeated(sender, call, self.now));
        for (invariant, text) in found {
            self.violate(invariant, text);
        }
    }

    /// Checks a report that an agent writes.
    pub(super) fn check_report(&mut self, sender: &Sender, call: &Call) {
        let node = call.name.as_str();
        self.check_texts(call);
        let reading = self.readings.get(node).copied();
        let reading = reading.filter(|reading| {
            sender.role == Role::Agent
                && reading.incarnation == sender.incarnation
                && reading.ended + HANDLING < self.now
        });
        let start = reading.map_or(Duration::ZERO, |reading| reading.began);
        let images = call
            .body
            .pointer("/status/images")
            .and_then(Value::as_array);
        for image in images.into_iter().flatten() {
            let (name, phase) = (image["image"].as_str(), image["phase"].as_str());
            let Some(name) = name.and_then(|name| name.parse::<ImageRef>().ok()) else {
                self.violate("reports are valid", format!("{node}: {image}"));
                continue;
            };
            if phase == Some("Cached") && sender.role == Role::Controller {
                self.check_claim(sender, node, &name);
            }
            let held = self.held.get(&(node.to_owned(), name.clone())).copied();
            let (is_held, since) = held.unwrap_or_default();
            if phase == Some("Cached") && !is_held && since < start {
                let found = format!(
                    "{node} reports {name} as Cached, which is gone since {:.1} s; it read its images at {:.1} s",
                    since.as_secs_f64(),
                    start.as_secs_f64()
                );
                self.violate("no report claims what the runtime does not hold", found);
            }
        }
    }

    /// Checks a request of a controller for a Job.
    pub(super) fn check_job(&mut self, sender: &Sender, call: &Call) {
        let since = sender.informed.saturating_sub(HANDLING);
        let (records, ordered, assigned) = (&self.records, &self.ordered, &self.assigned);
        let has = |node: &str, image: &ImageRef, wanted: DesiredState| {
            let entries = records.get(node).into_iter();
            let mut entries = entries.flat_map(|record| &record.assignment.images);
            let now = entries.any(|entry| entry.image == *image && entry.state == wanted);
            let before = match wanted {
                DesiredState::Absent => ordered,
                DesiredState::Present => assigned,
            };
            let before = before.get(&(node.to_owned(), image.clone()));
            now || before.is_some_and(|at| *at >= since)
        };
        let found = self.jobs.sent(sender, call, self.now, has);
        for (invariant, text) in found {
            self.violate(invariant, text);
        }
    }

    /// Reads a Job, a pod or the list of a node that was written.
    pub(super) fn read_job(&mut self, call: &Call, by: Role, server: &Control) {
        let (now, ours) = (self.now, by == Role::Controller);
        let held = self.held.iter().filter(|((of, _), _)| *of == call.name);
        let lost = held.filter(|(_, (is_held, _))| !is_held);
        let lost = lost.map(|((_, image), (_, since))| (image.clone(), *since));
        self.jobs.written(call, ours, server, now, lost);
    }

    /// Checks that a report of the Job driver claims no image that the node's list lacks.
    fn check_claim(&mut self, sender: &Sender, node: &str, image: &ImageRef) {
        let since = self.jobs.lacks_since(node, image);
        if let Some(since) = since.filter(|since| *since + HANDLING < sender.informed) {
            let found = format!(
                "{node} reports {image} as Cached, which its list lacks since {:.1} s",
                since.as_secs_f64()
            );
            self.violate("no report claims what the node's list lacks", found);
        }
    }

    /// Checks the texts of a status or an event: bounded, without control characters, without Secrets of other
    /// namespaces.
    pub(super) fn check_texts(&mut self, call: &Call) {
        let mut texts = Vec::new();
        collect_texts(&call.body, &mut texts);
        for text in &texts {
            if text.chars().count() > MESSAGE_MAX || text.chars().any(char::is_control) {
                let found = format!("{}: {text:?}", call.target());
                self.violate("texts are bounded and plain", found);
            }
        }
        let failures = call
            .body
            .pointer("/status/failures")
            .and_then(Value::as_object);
        let failures = failures.into_iter().flat_map(|all| all.values());
        let failures: usize = failures.filter_map(Value::as_array).map(Vec::len).sum();
        if failures > self.limits.failures {
            let found = format!("{} has {failures} failures", call.target());
            self.violate("statuses are bounded", found);
        }
        if call.namespace.is_empty() {
            return;
        }
        for text in texts {
            for (at, _) in text.match_indices("/login-of-") {
                if !text[..at].ends_with(call.namespace.as_str()) {
                    let found = format!("{}: {text:?}", call.target());
                    self.violate("no Secret of another namespace is named", found);
                }
            }
        }
    }
}

fn collect_texts<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(all) => all.iter().for_each(|one| collect_texts(one, texts)),
        Value::Object(all) => all.values().for_each(|one| collect_texts(one, texts)),
        _ => {}
    }
}
