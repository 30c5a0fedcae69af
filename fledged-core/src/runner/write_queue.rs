//! Writes that are not done yet: the newest for each target, repeated until it succeeds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;

use super::write_policy::{AfterFailure, WritePolicy};
use crate::model::{CacheId, NodeName};
use crate::planner::{Annotation, ClusterCommand, WriteTarget};
use crate::port::WriteFailure;

/// The target of a write. A newer write for the same target replaces an older one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Assignment(NodeName),
    Status(CacheId),
    Annotation(CacheId, Annotation),
    Finalizer(CacheId),
    /// Events are numbered, because they do not replace each other.
    Event(CacheId, u64),
}

impl Target {
    fn is_record(&self) -> bool {
        matches!(self, Self::Assignment(_))
    }

    /// The object to plan again after a conflict.
    fn object(self) -> Option<WriteTarget> {
        match self {
            Self::Assignment(node) => Some(WriteTarget::Assignment(node)),
            Self::Status(id) | Self::Annotation(id, _) | Self::Finalizer(id) => {
                Some(WriteTarget::Cache(id))
            }
            Self::Event(..) => None,
        }
    }
}

#[derive(Debug, Default)]
struct Slot {
    /// The newest write that has not started.
    next: Option<ClusterCommand>,
    in_progress: bool,
    failures: u32,
    retry_at: Option<Timestamp>,
}

/// Writes by target, in the order in which they became due.
#[derive(Debug)]
pub(super) struct WriteQueue {
    slots: BTreeMap<Target, Slot>,
    ready: VecDeque<Target>,
    /// How many of these are records.
    ready_records: usize,
    retries: BTreeSet<(Timestamp, Target)>,
    /// No write starts before this time.
    hold_until: Option<Timestamp>,
    events: u64,
    policy: WritePolicy,
}

impl WriteQueue {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            slots: BTreeMap::new(),
            ready: VecDeque::new(),
            ready_records: 0,
            retries: BTreeSet::new(),
            hold_until: None,
            events: 0,
            policy: WritePolicy::new(seed),
        }
    }

    fn target(&mut self, command: &ClusterCommand) -> Target {
        match command {
            ClusterCommand::WriteAssignment { node, .. }
            | ClusterCommand::DeleteAssignment { node, .. } => Target::Assignment(node.clone()),
            ClusterCommand::WriteStatus { cache, .. } => Target::Status(cache.clone()),
            ClusterCommand::RemoveAnnotation { cache, annotation } => {
                Target::Annotation(cache.clone(), *annotation)
            }
            ClusterCommand::SetFinalizer { cache, .. } => Target::Finalizer(cache.clone()),
            ClusterCommand::RecordEvent { cache, .. } => {
                self.events += 1;
                Target::Event(cache.clone(), self.events)
            }
        }
    }

    /// Replaces the write that waits for the same target, if any. A write in progress continues, and a
    /// target that waits after a failure keeps waiting.
    pub(super) fn push(&mut self, command: ClusterCommand) {
        let target = self.target(&command);
        let slot = self.slots.entry(target.clone()).or_default();
        let idle = !slot.in_progress && slot.retry_at.is_none();
        if slot.next.replace(command).is_none() && idle {
            self.make_ready(target);
        }
    }

    /// Number of targets with a write that is not done, in progress or not.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Number of records whose write can start.
    pub(super) fn ready_records(&self) -> usize {
        self.ready_records
    }

    fn make_ready(&mut self, target: Target) {
        self.ready_records += usize::from(target.is_record());
        self.ready.push_back(target);
    }

    /// The next write to start.
    pub(super) fn start_next(&mut self, now: Timestamp) -> Option<(Target, ClusterCommand)> {
        if self.hold_until.is_some_and(|until| now < until) {
            return None;
        }
        self.hold_until = None;
        while let Some(target) = self.ready.pop_front() {
            self.ready_records -= usize::from(target.is_record());
            if let Some(slot) = self.slots.get_mut(&target)
                && let Some(command) = slot.next.take()
            {
                slot.in_progress = true;
                return Some((target, command));
            }
        }
        None
    }

    /// The write succeeded, or is not needed any more.
    pub(super) fn done(&mut self, target: &Target) {
        let Some(slot) = self.slots.get_mut(target) else {
            return;
        };
        slot.in_progress = false;
        slot.failures = 0;
        if slot.next.is_some() && !crate::planted::is("newer-write-dropped") {
            self.make_ready(target.clone());
        } else {
            self.slots.remove(target);
        }
    }

    /// The write failed. The policy decides what happens to it.
    pub(super) fn failed(
        &mut self,
        target: Target,
        command: ClusterCommand,
        failure: &WriteFailure,
        now: Timestamp,
    ) {
        let Some(slot) = self.slots.get_mut(&target) else {
            return;
        };
        slot.failures = slot.failures.saturating_add(1);
        let optional = matches!(target, Target::Event(..));
        let decision = self.policy.decide(failure, slot.failures, optional, now);
        self.hold_until = self.hold_until.max(decision.hold_until);
        let at = match decision.next {
            AfterFailure::Drop => return self.done(&target),
            AfterFailure::Retry(at) => {
                let newer = slot
                    .next
                    .take()
                    .filter(|_| !crate::planted::is("older-write-repeated"));
                slot.next = Some(newer.unwrap_or(command));
                at
            }
            AfterFailure::Replan(at) => at,
        };
        slot.in_progress = false;
        slot.retry_at = Some(at);
        self.retries.insert((at, target));
    }

    /// Makes writes ready whose delay has passed. Returns the objects to plan again.
    pub(super) fn wake(&mut self, now: Timestamp) -> Vec<WriteTarget> {
        let mut conflicts = Vec::new();
        while let Some((at, _)) = self.retries.first()
            && *at <= now
        {
            let Some((_, target)) = self.retries.pop_first() else {
                break;
            };
            let Some(slot) = self.slots.get_mut(&target) else {
                continue;
            };
            slot.retry_at = None;
            if slot.next.is_some() {
                self.make_ready(target);
            } else {
                self.slots.remove(&target);
                conflicts.extend(
                    target
                        .object()
                        .filter(|_| !crate::planted::is("conflict-not-planned-again")),
                );
            }
        }
        conflicts
    }

    /// When a delay ends next.
    pub(super) fn next_retry(&self) -> Option<Timestamp> {
        let retry = self.retries.first().map(|(at, _)| *at);
        let hold = self.hold_until.filter(|_| !self.ready.is_empty());
        retry.into_iter().chain(hold).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::{ActionReason, CacheEvent};
    use crate::time::after;

    fn mk_finalizer(present: bool) -> ClusterCommand {
        ClusterCommand::SetFinalizer {
            cache: CacheId::new("default", "web", "1"),
            present,
        }
    }

    fn mk_event() -> ClusterCommand {
        ClusterCommand::RecordEvent {
            cache: CacheId::new("default", "web", "1"),
            event: CacheEvent {
                warning: false,
                reason: ActionReason::ImageCacheCreate.into(),
                message: String::new(),
            },
        }
    }

    fn mk_unavailable(seconds: u64) -> WriteFailure {
        WriteFailure::Unavailable {
            message: "busy".to_owned(),
            retry_after: Some(std::time::Duration::from_secs(seconds)),
        }
    }

    #[test]
    fn the_newest_write_wins_and_one_runs_at_a_time() {
        let now = Timestamp::UNIX_EPOCH;
        let mut writes = WriteQueue::new(1);
        writes.push(mk_finalizer(true));
        writes.push(mk_finalizer(false));
        let (target, command) = writes.start_next(now).unwrap();
        assert_eq!(command, mk_finalizer(false));
        writes.push(mk_finalizer(true));
        assert_eq!(writes.start_next(now), None, "one is in progress");
        writes.done(&target);
        assert_eq!(writes.start_next(now).unwrap().1, mk_finalizer(true));
    }

    #[test]
    fn a_failed_write_is_retried_unless_replaced() {
        let now = Timestamp::UNIX_EPOCH;
        let mut writes = WriteQueue::new(1);
        writes.push(mk_finalizer(true));
        let (target, command) = writes.start_next(now).unwrap();
        writes.failed(target, command, &mk_unavailable(40), now);
        let retry = writes.next_retry().unwrap();
        assert_eq!(retry, after(now, std::time::Duration::from_secs(40)));
        assert_eq!(
            (writes.wake(now), writes.start_next(now)),
            (Vec::new(), None)
        );
        writes.push(mk_finalizer(false));
        writes.push(mk_event());
        assert_eq!(
            writes.start_next(now),
            None,
            "a retry-after holds all writes"
        );
        assert_eq!(writes.wake(retry), []);
        assert_eq!(writes.start_next(retry).unwrap().1, mk_event());
        assert_eq!(writes.start_next(retry).unwrap().1, mk_finalizer(false));
    }

    #[test]
    fn a_conflict_is_planned_again_after_a_delay() {
        let now = Timestamp::UNIX_EPOCH;
        let mut writes = WriteQueue::new(1);
        writes.push(mk_finalizer(true));
        let (target, command) = writes.start_next(now).unwrap();
        let conflict = WriteFailure::Conflict("changed".to_owned());
        writes.failed(target, command, &conflict, now);
        let retry = writes.next_retry().unwrap();
        let cache = CacheId::new("default", "web", "1");
        assert_eq!(writes.wake(retry), [WriteTarget::Cache(cache)]);
        assert_eq!((writes.start_next(now), writes.len()), (None, 0));
        writes.push(mk_finalizer(true));
        assert!(writes.start_next(now).is_some());
    }

    #[test]
    fn writes_to_missing_objects_and_old_events_are_dropped() {
        let mut now = Timestamp::UNIX_EPOCH;
        let mut writes = WriteQueue::new(1);
        writes.push(mk_finalizer(true));
        let (target, command) = writes.start_next(now).unwrap();
        writes.failed(target, command, &WriteFailure::Gone(String::new()), now);
        assert_eq!((writes.next_retry(), writes.slots.len()), (None, 0));
        writes.push(mk_event());
        let mut attempts = 0;
        while let Some((target, command)) = writes.start_next(now) {
            attempts += 1;
            writes.failed(target, command, &mk_unavailable(1), now);
            now = writes.next_retry().unwrap_or(now);
            writes.wake(now);
        }
        assert_eq!((attempts, writes.slots.len()), (5, 0));
    }
}
