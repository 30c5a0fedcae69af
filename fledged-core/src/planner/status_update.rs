//! The status of a cache: when its action ends, what is published, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::cache::{CacheState, in_words};
use super::cluster_event::{CacheEvent, EventReason};
use super::node_state::NodeState;
use super::status::{
    ActionReason, ActionStatus, CacheStatus, Condition, ConditionKind, NodeFailure, PairCounts,
};
use super::trouble::{RECORD_FULL, TroubleKind, WITHOUT_CREDENTIALS};
use crate::error::Reason;
use crate::model::{
    AssignedImage, CacheId, DesiredState, GoDuration, ImageRef, InvalidSpec, NodeName,
};
use crate::time::after;

/// Longest text of an invalid spec in a status, in characters: thousands of fields may be invalid.
const MESSAGE_MAX: usize = 1_000;

/// The replacement for the name of an object in another namespace.
const CONCEALED: &str = "of another namespace";

/// The result of an action that ended, or changed after it had ended.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) event: Option<CacheEvent>,
    /// Whether it ended just now and its nodes have removals to drop.
    pub(super) drops_removals: bool,
}

/// Ends the action if nothing is left to do, and updates the result of one that ended before.
pub(super) fn finish_action(cache: &mut CacheState, now: Timestamp) -> Option<Finished> {
    let sum = cache.totals.sum;
    let invalid = cache.action.reason == ActionReason::CacheSpecValidationFailed;
    // Those in progress may not be desired any more.
    if sum.pulling + sum.verifying + sum.removing + sum.in_progress > 0 || invalid {
        return None;
    }
    let status = result(cache);
    let ends = cache.action.completed.is_none();
    if !ends && status == cache.action.status {
        return None;
    }
    cache.action.status = status;
    cache.action.completed.get_or_insert(now);
    let event = if ends || cache.removed_spec().is_some() {
        Some(end_event(cache))
    } else {
        later_event(cache)
    };
    Some(Finished {
        event,
        drops_removals: ends && cache.removed_spec().is_some(),
    })
}

/// The event of the end of an action.
fn end_event(cache: &CacheState) -> CacheEvent {
    let reason = cache.action.reason;
    CacheEvent {
        warning: matches!(
            cache.action.status,
            ActionStatus::Failed | ActionStatus::Unknown
        ),
        reason: reason.into(),
        message: format!("{}: {}", in_words(reason), message(cache)),
    }
}

/// The event of a result that changed after the action had ended. Failures have their own events.
fn later_event(cache: &CacheState) -> Option<CacheEvent> {
    let message = message(cache);
    match cache.action.status {
        ActionStatus::Failed => None,
        ActionStatus::Unknown => Some(CacheEvent::warning(EventReason::NodesUnreachable, message)),
        _ => Some(CacheEvent::normal(EventReason::ImagesCached, message)),
    }
}

/// When a status that differs from the published one may be published: at once if its words change,
/// else once in every interval.
pub(super) fn publish_at(cache: &CacheState, interval: Duration) -> Option<Timestamp> {
    let published = cache.published.as_ref()?;
    let same_action = published.status == cache.action.status
        && published.reason == cache.action.reason
        && published.start_time == cache.action.started;
    let published_at = cache.published_at.filter(|_| same_action)?;
    Some(after(published_at, interval))
}

/// The status to publish.
pub(super) fn status(
    id: &CacheId,
    cache: &CacheState,
    nodes: &BTreeMap<NodeName, NodeState>,
    failures_max: usize,
    now: Timestamp,
) -> CacheStatus {
    let sum = cache.totals.sum;
    let mut message = message(cache);
    message.extend(credentials_warning(id, cache, nodes));
    CacheStatus {
        observed_generation: cache.generation,
        status: cache.action.status,
        reason: cache.action.reason,
        failures: failures(id, cache, nodes, failures_max),
        failures_total: sum.failed + sum.removal_failed + sum.failing,
        counts: PairCounts {
            desired: sum.desired,
            cached: sum.cached,
            pulling: sum.pulling,
            failed: sum.failed,
            unreachable: sum.unreachable,
            superseded: sum.superseded,
        },
        conditions: conditions(cache, &message, now),
        message,
        start_time: cache.action.started,
        completion_time: cache.action.completed,
        refresh_revision: cache.revision,
        verify_revision: cache.verify,
        removed: cache.action.removed.with_kept(sum.in_use + sum.shared),
        last_actions: cache.last_actions.clone(),
        purged: cache.purged,
    }
}

/// The first failures by node name, grouped by image.
fn failures(
    id: &CacheId,
    cache: &CacheState,
    nodes: &BTreeMap<NodeName, NodeState>,
    max: usize,
) -> BTreeMap<String, Vec<NodeFailure>> {
    let concerns = |entry: &AssignedImage| match entry.state {
        DesiredState::Present => entry.wanted_by.contains(id),
        DesiredState::Absent => cache.removed_spec().is_some_and(|spec| {
            let mut images = spec.groups.iter().flat_map(|group| &group.images);
            images.any(|image| *image == entry.image)
        }),
    };
    let full = cache.failing.iter();
    let full = full.filter(|name| nodes.get(*name).is_some_and(|node| node.is_left_out(id)));
    let failing = cache.failing.iter();
    let nodes = failing.filter_map(|name| Some((name, nodes.get(name)?)));
    let all = nodes.flat_map(|(name, node)| {
        node.failed.iter().filter_map(move |failed| {
            let pair = node.pair(&failed.image)?;
            concerns(&pair.entry).then_some((name, pair, failed))
        })
    });
    let mut failures: BTreeMap<String, Vec<NodeFailure>> = BTreeMap::new();
    let mut left = max;
    if let Some(first) = cache.first_image() {
        for name in full.take(max) {
            let failure = NodeFailure::new(name.clone(), Reason::NodeRecordFull, RECORD_FULL);
            failures.entry(first.clone()).or_default().push(failure);
            left -= 1;
        }
    }
    for (name, pair, failed) in all.take(left) {
        let image = cache.as_written(&pair.entry.image).to_string();
        failures.entry(image).or_default().push(NodeFailure {
            node: name.clone(),
            reason: failed.reason,
            message: concealed(&failed.message, id, &pair.entry),
        });
    }
    failures
}

/// The part of the message about Secrets and ServiceAccounts of the cache that could not be used, as the first node
/// reports them.
fn credentials_warning(
    id: &CacheId,
    cache: &CacheState,
    nodes: &BTreeMap<NodeName, NodeState>,
) -> Option<String> {
    let kind = TroubleKind::CredentialsUnavailable;
    let (name, image, count) = cache.troubles.first(kind)?;
    let unused = unused_credentials(id, cache, nodes.get(name)?, image)?;
    let plural = if count == 1 { "" } else { "s" };
    let images = cache.totals.sum.without_credentials;
    Some(format!(
        ", {images} {WITHOUT_CREDENTIALS}: {unused} (on {count} node{plural}; a refresh ends this warning)"
    ))
}

/// The credentials of the cache that could not be used for an image that is cached on the node.
pub(super) fn unused_credentials(
    id: &CacheId,
    cache: &CacheState,
    node: &NodeState,
    image: &ImageRef,
) -> Option<String> {
    let own = cache.own_credentials(node.unused_credentials(image))?;
    Some(concealed(&own, id, &node.pair(image)?.entry))
}

/// The words before the name of an object in a message about credentials.
const CREDENTIALS: [&str; 2] = ["pull secret ", "service account "];

/// The namespaces of Secrets and ServiceAccounts in a message.
fn named_namespaces(message: &str) -> impl Iterator<Item = String> {
    let names = CREDENTIALS
        .iter()
        .flat_map(|word| message.split(word).skip(1));
    names.filter_map(|name| {
        let (namespace, _) = name.split_once('/')?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let is_name = !namespace.is_empty() && namespace.chars().all(plain);
        is_name.then(|| namespace.to_owned())
    })
}

/// The message without names of objects in the namespaces of other caches. One report serves all caches that
/// want the image, and may name the Secrets of each, also of those that wanted it when the report was made.
pub(super) fn concealed(message: &str, id: &CacheId, entry: &AssignedImage) -> String {
    let caches = entry.wanted_by.iter().map(|id| &id.namespace);
    let secrets = entry.pull_secrets.iter().map(|name| &name.namespace);
    let accounts = entry.service_accounts.iter().map(|name| &name.namespace);
    let namespaces = caches.chain(secrets).chain(accounts).cloned();
    let namespaces = namespaces.chain(named_namespaces(message));
    let own = |of: &String| *of == id.namespace || crate::planted::is("foreign-secret-named");
    let others: BTreeSet<String> = namespaces.filter(|of| !own(of)).collect();
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-./_:".contains(c);
    let mut text = message.to_owned();
    for namespace in others {
        let start = format!("{namespace}/");
        let mut from = 0;
        while let Some(at) = text.get(from..).and_then(|rest| rest.find(&start)) {
            let at = from + at;
            let (before, rest) = text.split_at(at);
            if before.ends_with(is_name) {
                from = at + start.len();
                continue;
            }
            let rest = rest.get(start.len()..).unwrap_or_default();
            let rest = rest.trim_start_matches(|c: char| is_name(c) && c != ':');
            let shown = format!("{before}{CONCEALED}");
            from = shown.len();
            text = shown + rest;
        }
    }
    text
}

/// The result of an action with nothing left to do.
fn result(cache: &CacheState) -> ActionStatus {
    let sum = cache.totals.sum;
    if sum.failed + sum.removal_failed > 0 || cache.spec.is_err() {
        ActionStatus::Failed
    } else if cache.totals.nodes == 0 {
        ActionStatus::NoImagesPulledOrDeleted
    } else if (sum.desired > 0 && sum.desired == sum.unreachable)
        || usize::try_from(sum.unreachable_nodes) == Ok(cache.totals.nodes)
    {
        ActionStatus::Unknown
    } else {
        ActionStatus::Succeeded
    }
}

/// The invalid fields, as many as a message has room for.
fn in_short(invalid: &InvalidSpec) -> String {
    let mut text = String::new();
    for (at, field) in invalid.fields.iter().enumerate() {
        let field = field.to_string();
        let length = text.chars().count() + field.chars().count();
        if at > 0 && length > MESSAGE_MAX {
            let more = invalid.fields.len() - at;
            return format!("{text}; and {more} more");
        }
        if at > 0 {
            text.push_str("; ");
        }
        text.extend(field.chars().take(MESSAGE_MAX));
    }
    text
}

/// The counts as a sentence.
fn message(cache: &CacheState) -> String {
    let sum = cache.totals.sum;
    if let Err(invalid) = &cache.spec {
        let removed = if cache.purged {
            "; images of its last valid version are removed"
        } else {
            ""
        };
        return format!("the spec is invalid: {}{removed}", in_short(invalid));
    }
    let nodes = cache.totals.nodes;
    let nodes = format!("{nodes} node{}", if nodes == 1 { "" } else { "s" });
    if cache.totals.nodes == 0 {
        return "no node matches".to_owned();
    }
    let mut text = if cache.removed_spec().is_some() {
        removal_message(cache, &nodes)
    } else {
        format!("{} of {} cached on {nodes}", sum.cached, sum.desired)
    };
    let parts = [
        (sum.verifying, "of them to be verified"),
        (
            sum.refresh_held,
            "of them not refreshed while the image file system of the node is above its threshold",
        ),
        (sum.pulling, "to be pulled"),
        (sum.failing, "of them failing so far"),
        (sum.removing, "to be removed"),
        (sum.in_use, "kept because they are in use or shared"),
        (sum.shared, "kept for other image caches"),
        (sum.failed + sum.removal_failed, "failed"),
        (sum.left_out, "of them on nodes whose record is full"),
        (sum.unreachable_nodes, "can't be reached"),
        (sum.unreachable, "on nodes that can't be reached"),
        (sum.superseded, "superseded versions still on nodes"),
    ];
    for (count, what) in parts {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    if let Some(at) = cache.refresh_waits_until {
        let at = Timestamp::from_second(at.as_second()).unwrap_or(at);
        text.push_str(&format!(", the requested refresh starts at {at}"));
    }
    let longest = cache.longest_deadline;
    let deadline = cache
        .desired_spec()
        .and_then(|spec| spec.deadline_above(longest));
    if let Some(deadline) = deadline {
        let (deadline, longest) = (GoDuration(deadline), GoDuration(longest));
        text.push_str(&format!(
            ", a deadline of {deadline} is cut to {longest}, the limit of this cluster"
        ));
    }
    text
}

/// What a purge or deletion has removed, or removes. `nodes` are all its nodes, as a phrase.
fn removal_message(cache: &CacheState, nodes: &str) -> String {
    let sum = cache.totals.sum;
    let all = u64::try_from(cache.totals.nodes).unwrap_or(u64::MAX);
    let reachable = all.saturating_sub(sum.unreachable_nodes);
    if sum.removing > 0 {
        return match reachable == all {
            true => format!("being removed from {nodes}"),
            false => format!("being removed from {reachable} of {nodes}"),
        };
    }
    let removed = cache.action.removed;
    let kept = sum.in_use + sum.shared + sum.removal_failed;
    if removed.images == 0 {
        return match (kept, reachable == all) {
            (0, true) => format!("nothing left to remove from {nodes}"),
            (0, false) => format!("removed from {reachable} of {nodes}"),
            _ => format!("nothing removed from {nodes}"),
        };
    }
    if removed.nodes >= all {
        format!("removed from {nodes}")
    } else {
        format!("removed from {} of {nodes}", removed.nodes)
    }
}

fn conditions(cache: &CacheState, message: &str, now: Timestamp) -> Vec<Condition> {
    let sum = cache.totals.sum;
    let invalid = cache.spec.is_err();
    let lacking = sum.pulling + sum.removing > 0;
    let busy = lacking || sum.verifying > 0;
    let failed = sum.failed + sum.removal_failed > 0;
    let good = matches!(
        cache.action.status,
        ActionStatus::Succeeded | ActionStatus::NoImagesPulledOrDeleted
    );
    let failing = sum.failing > 0;
    let degraded = invalid || failed || failing || sum.unreachable + sum.unreachable_nodes > 0;
    let trouble = match (invalid, failed, failing) {
        (true, ..) => "InvalidSpec",
        _ if sum.left_out > 0 => "NodeRecordFull",
        (_, true, _) => "ImagesFailed",
        (_, _, true) => "ImagesFailing",
        _ => "NodesUnreachable",
    };
    // A repair may have failed after the action had succeeded.
    let ready = good
        && sum.failed == 0
        && (!lacking || crate::planted::is("ready-while-lacking"))
        && !cache.purged
        && !cache.deleting;
    let unready = match (cache.purged || cache.deleting, busy) {
        (true, _) => "Purged",
        (_, true) => "InProgress",
        _ => trouble,
    };
    let states = [
        (
            ConditionKind::Ready,
            ready,
            if ready { "ImagesCached" } else { unready },
        ),
        (
            ConditionKind::Progressing,
            busy,
            if busy { "InProgress" } else { "Settled" },
        ),
        (
            ConditionKind::Degraded,
            degraded,
            if degraded { trouble } else { "AsExpected" },
        ),
    ];
    let published = cache.published.as_ref();
    let known = published.map_or(&[][..], |published| &published.conditions);
    let conditions = states.map(|(kind, status, reason)| {
        let known = known.iter().find(|c| {
            (c.kind == kind || crate::planted::is("time-of-another-condition"))
                && c.status == status
        });
        Condition {
            kind,
            status,
            reason: reason.to_owned(),
            message: message.to_owned(),
            since: known.map_or(now, |known| known.since),
        }
    });
    conditions.into()
}
