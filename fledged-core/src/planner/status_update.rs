//! What is told of a cache, and when.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::cache::{CacheState, has};
use super::event::{CacheEvent, ClusterCommand};
use super::planner::Planner;
use super::requests::{ECHO, in_words};
use super::status::{
    ActionReason, ActionStatus, CacheStatus, Condition, ConditionKind, NodeFailure, PairCounts,
};
use crate::model::{CacheId, DesiredState};
use crate::warmer::time::after;

/// Longest text of an invalid spec in a status, in characters: thousands of fields may be invalid.
const MESSAGE_MAX: usize = 1_000;

impl Planner {
    /// Tells of every cache about which something changed.
    pub(super) fn tell(&mut self, now: Timestamp) {
        for id in std::mem::take(&mut self.dirty_caches) {
            self.finish(&id, now);
            let Some(cache) = self.caches.get(&id) else {
                continue;
            };
            let status = self.status(&id, cache, now);
            let told = cache.told.as_ref();
            if told != Some(&status) {
                let turned = told.is_none_or(|told| {
                    told.status != status.status
                        || told.reason != status.reason
                        || told.start_time != status.start_time
                });
                let due = |at| after(at, self.config.status_interval) <= now;
                if turned || cache.told_at.is_none_or(due) {
                    self.write_status(&id, status, now);
                } else {
                    self.dirty_caches.insert(Arc::clone(&id));
                }
            }
            self.settle_object(&id);
        }
    }

    /// What is seen of a status a while after it was written has to be what was written: a write of
    /// another planner's may have come later, or somebody has edited it.
    pub(super) fn check_echoes(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.echoes.first()
            && *at <= now
        {
            let Some((_, id)) = self.echoes.pop_first() else {
                return;
            };
            self.check_echo(&id, now);
        }
    }

    /// Has the status written anew if it is not what was told, unless that was told just now.
    pub(super) fn check_echo(&mut self, id: &Arc<CacheId>, now: Timestamp) {
        let Some(cache) = self.caches.get_mut(id) else {
            return;
        };
        let told_lately = cache.told_at.is_some_and(|at| now < after(at, ECHO));
        let same = match (&cache.told, &cache.recorded) {
            (Some(told), Some(recorded)) => told.says_the_same(recorded),
            (told, recorded) => told.is_none() && recorded.is_none(),
        };
        if !told_lately && !same {
            cache.told.clone_from(&cache.recorded);
            self.dirty_caches.insert(Arc::clone(id));
        }
    }

    fn write_status(&mut self, id: &Arc<CacheId>, status: CacheStatus, now: Timestamp) {
        if let Some(cache) = self.caches.get_mut(id) {
            cache.told = Some(status.clone());
            cache.told_at = Some(now);
        }
        self.echoes.insert((after(now, ECHO), Arc::clone(id)));
        self.queue.push(ClusterCommand::WriteStatus {
            cache: (**id).clone(),
            status: Box::new(status),
        });
    }

    /// Ends the action when nothing is left to wait for, and judges anew what ended before.
    fn finish(&mut self, id: &CacheId, now: Timestamp) {
        let Some(cache) = self.caches.get_mut(id) else {
            return;
        };
        let sum = cache.totals.sum;
        let invalid = cache.action.reason == ActionReason::CacheSpecValidationFailed;
        if sum.pulling + sum.verifying + sum.removing > 0 || invalid {
            return;
        }
        let status = judge(cache);
        let ended = cache.action.completed.is_none();
        if !ended && status == cache.action.status {
            return;
        }
        cache.action.status = status;
        cache.action.completed.get_or_insert(now);
        if ended && cache.removes().is_some() {
            let nodes = self.nodes.iter().filter(|(_, node)| has(&node.tallies, id));
            self.dirty_nodes.extend(nodes.map(|(name, _)| name.clone()));
        }
        let reason = cache.action.reason;
        let message = format!("{}: {}", in_words(reason), message(cache));
        self.queue.push(ClusterCommand::RecordEvent {
            cache: id.clone(),
            event: CacheEvent {
                warning: matches!(status, ActionStatus::Failed | ActionStatus::Unknown),
                reason,
                message,
            },
        });
    }

    fn status(&self, id: &CacheId, cache: &CacheState, now: Timestamp) -> CacheStatus {
        let sum = cache.totals.sum;
        let message = message(cache);
        CacheStatus {
            observed_generation: cache.generation,
            status: cache.action.status,
            reason: cache.action.reason,
            failures: self.failures(id, cache),
            failures_total: sum.failed + sum.stuck + sum.failing,
            counts: PairCounts {
                desired: sum.desired,
                cached: sum.cached,
                pulling: sum.pulling,
                failed: sum.failed,
                unreachable: sum.unreachable,
            },
            conditions: conditions(cache, &message, now),
            message,
            start_time: cache.action.started,
            completion_time: cache.action.completed,
            refresh_revision: cache.revision,
            verify_revision: cache.verify,
            purged: cache.purged,
        }
    }

    /// The first failures in the order of the nodes' names.
    fn failures(&self, id: &CacheId, cache: &CacheState) -> BTreeMap<String, Vec<NodeFailure>> {
        let mut failures: BTreeMap<String, Vec<NodeFailure>> = BTreeMap::new();
        let concerns = |entry: &crate::model::AssignedImage| match entry.state {
            DesiredState::Present => entry.wanted_by.contains(id),
            DesiredState::Absent => cache.removes().is_some_and(|spec| {
                let mut images = spec.groups.iter().flat_map(|group| &group.images);
                images.any(|image| *image == entry.image)
            }),
        };
        let nodes = cache.failing.iter();
        let nodes = nodes.filter_map(|name| Some((name, self.nodes.get(name)?)));
        let all = nodes.flat_map(|(name, node)| {
            let failed = node.failed.iter();
            failed.filter_map(move |failed| {
                let pair = node.pair(&failed.image)?;
                concerns(&pair.entry).then_some((name, pair, failed))
            })
        });
        for (name, pair, failed) in all.take(self.config.failures_max) {
            let image = cache.as_written(&pair.entry.image);
            let of_image = failures.entry(image.to_string()).or_default();
            of_image.push(NodeFailure {
                node: name.clone(),
                reason: failed.reason,
                message: failed.message.clone(),
            });
        }
        failures
    }
}

fn judge(cache: &CacheState) -> ActionStatus {
    let sum = cache.totals.sum;
    if sum.failed + sum.stuck > 0 {
        ActionStatus::Failed
    } else if cache.totals.nodes == 0 {
        ActionStatus::NoImagesPulledOrDeleted
    } else if (sum.desired > 0 && sum.desired == sum.unreachable)
        || usize::try_from(sum.away) == Ok(cache.totals.nodes)
    {
        ActionStatus::Unknown
    } else {
        ActionStatus::Succeeded
    }
}

/// The counts as a sentence.
fn message(cache: &CacheState) -> String {
    let sum = cache.totals.sum;
    if let Err(invalid) = &cache.spec
        && cache.action.reason == ActionReason::CacheSpecValidationFailed
    {
        let text = invalid.to_string();
        let text: String = text.chars().take(MESSAGE_MAX).collect();
        return format!("the spec is invalid: {text}");
    }
    let nodes = cache.totals.nodes;
    let nodes = format!("{nodes} node{}", if nodes == 1 { "" } else { "s" });
    if cache.totals.nodes == 0 {
        return "no node matches".to_owned();
    }
    let mut text = match cache.removes() {
        Some(_) => {
            let how = match sum.removing {
                0 => "removed",
                _ => "being removed",
            };
            let of_all = match usize::try_from(sum.away).unwrap_or(usize::MAX) {
                0 => nodes,
                away => format!("{} of {nodes}", cache.totals.nodes.saturating_sub(away)),
            };
            format!("{how} from {of_all}")
        }
        None => format!("{} of {} cached on {nodes}", sum.cached, sum.desired),
    };
    let parts = [
        (sum.verifying, "of them to be verified"),
        (sum.pulling, "to be pulled"),
        (sum.failing, "of them failing so far"),
        (sum.removing, "to be removed"),
        (sum.kept, "kept because they are in use or shared"),
        (sum.shared, "kept for other image caches"),
        (sum.failed + sum.stuck, "failed"),
        (sum.away, "can't be reached"),
        (sum.unreachable, "on nodes that can't be reached"),
    ];
    for (count, what) in parts {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}

fn conditions(cache: &CacheState, message: &str, now: Timestamp) -> Vec<Condition> {
    let sum = cache.totals.sum;
    let invalid = cache.action.reason == ActionReason::CacheSpecValidationFailed;
    let lacking = sum.pulling + sum.removing > 0;
    let busy = lacking || sum.verifying > 0;
    let failed = sum.failed + sum.stuck > 0;
    let good = matches!(
        cache.action.status,
        ActionStatus::Succeeded | ActionStatus::NoImagesPulledOrDeleted
    );
    let failing = sum.failing > 0;
    let degraded = invalid || failed || failing || sum.unreachable + sum.away > 0;
    let trouble = match (invalid, failed, failing) {
        (true, ..) => "InvalidSpec",
        (_, true, _) => "ImagesFailed",
        (_, _, true) => "ImagesFailing",
        _ => "NodesUnreachable",
    };
    let ready = good && !lacking && !cache.purged && !cache.deleting;
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
    let told = cache.told.as_ref().map_or(&[][..], |told| &told.conditions);
    let conditions = states.map(|(kind, status, reason)| {
        let known = told.iter().find(|c| c.kind == kind && c.status == status);
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
