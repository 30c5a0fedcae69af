//! Writes that are not done yet: one a target, always the newest, repeated until it succeeds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use jiff::Timestamp;

use crate::model::{CacheId, NodeName};
use crate::planner::{Annotation, ClusterCommand, WriteTarget};
use crate::port::WriteFailure;
use crate::warmer::time::after;
use crate::warmer::{Backoff, Schedule};

/// Between attempts of one write. An API server that is back is not waited for long: one controller
/// with a limit on its writes is no burden for it.
const SCHEDULE: Schedule = Schedule::seconds(1, 10);
/// Longest that is waited because the other side asked for it.
const ASKED_MAX: Duration = Duration::from_secs(60);
/// How often a write that is only told, not needed, is tried.
const EVENT_ATTEMPTS: u32 = 5;

/// What a write goes to; a newer one for the same replaces an older.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Assignment(NodeName),
    Status(CacheId),
    Annotation(CacheId, Annotation),
    Finalizer(CacheId),
    /// Events do not replace each other.
    Event(CacheId, u64),
}

#[derive(Debug, Default)]
struct Slot {
    /// The newest that is not begun.
    next: Option<ClusterCommand>,
    under_way: bool,
    failures: u32,
    retry_at: Option<Timestamp>,
}

/// Writes by target, in the order they became due.
#[derive(Debug)]
pub(super) struct Writes {
    slots: BTreeMap<Target, Slot>,
    ready: VecDeque<Target>,
    retries: BTreeSet<(Timestamp, Target)>,
    /// Nothing is begun before: the other side asked to be left alone.
    held_until: Option<Timestamp>,
    events: u64,
    backoff: Backoff,
    rng: fastrand::Rng,
}

impl Writes {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            slots: BTreeMap::new(),
            ready: VecDeque::new(),
            retries: BTreeSet::new(),
            held_until: None,
            events: 0,
            backoff: Backoff::default(),
            rng: fastrand::Rng::with_seed(seed),
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

    /// Takes the place of whatever was to be written there. One that is under way is not disturbed,
    /// and one that waits after a failure goes on waiting.
    pub(super) fn push(&mut self, command: ClusterCommand) {
        let target = self.target(&command);
        let slot = self.slots.entry(target.clone()).or_default();
        let idle = !slot.under_way && slot.retry_at.is_none();
        if idle && slot.next.is_none() {
            self.ready.push_back(target);
        }
        slot.next = Some(command);
    }

    /// How many are not done, under way or not.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The next write to begin.
    pub(super) fn begin(&mut self, now: Timestamp) -> Option<(Target, ClusterCommand)> {
        if self.held_until.is_some_and(|until| now < until) {
            return None;
        }
        self.held_until = None;
        while let Some(target) = self.ready.pop_front() {
            if let Some(slot) = self.slots.get_mut(&target)
                && let Some(command) = slot.next.take()
            {
                slot.under_way = true;
                return Some((target, command));
            }
        }
        None
    }

    /// It was written, or need not be.
    pub(super) fn done(&mut self, target: &Target) {
        let Some(slot) = self.slots.get_mut(target) else {
            return;
        };
        slot.under_way = false;
        slot.failures = 0;
        match slot.next {
            Some(_) => self.ready.push_back(target.clone()),
            None => {
                self.slots.remove(target);
            }
        }
    }

    /// It was not written: it is tried again after a while, unless a newer one has come by then.
    pub(super) fn failed(
        &mut self,
        target: Target,
        command: ClusterCommand,
        failure: &WriteFailure,
        now: Timestamp,
    ) {
        let asked = match failure {
            WriteFailure::Gone(_) => return self.done(&target),
            WriteFailure::Conflict(_) => None,
            WriteFailure::Unavailable { retry_after, .. } => {
                retry_after.map(|delay| delay.min(ASKED_MAX))
            }
        };
        if let Some(asked) = asked {
            let until = after(now, asked);
            self.held_until = self.held_until.max(Some(until));
        }
        let Some(slot) = self.slots.get_mut(&target) else {
            return;
        };
        slot.failures = slot.failures.saturating_add(1);
        if matches!(target, Target::Event(..)) && slot.failures >= EVENT_ATTEMPTS {
            return self.done(&target);
        }
        let delay = self
            .backoff
            .spread(SCHEDULE.delay(slot.failures), &mut self.rng);
        let at = after(now, delay.max(asked.unwrap_or_default()));
        slot.under_way = false;
        slot.retry_at = Some(at);
        // What conflicted has to be thought over, not repeated.
        if slot.next.is_none() && !matches!(failure, WriteFailure::Conflict(_)) {
            slot.next = Some(command);
        }
        self.retries.insert((at, target));
    }

    /// Makes due what has waited long enough; returns what has to be thought over.
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
                self.ready.push_back(target);
                continue;
            }
            // Whatever is thought over comes as a new write, if it is one.
            self.slots.remove(&target);
            conflicts.extend(match target {
                Target::Assignment(node) => Some(WriteTarget::Assignment(node)),
                Target::Status(id) | Target::Annotation(id, _) | Target::Finalizer(id) => {
                    Some(WriteTarget::Cache(id))
                }
                Target::Event(..) => None,
            });
        }
        conflicts
    }

    /// When something is next to be tried again.
    pub(super) fn next_retry(&self) -> Option<Timestamp> {
        let retry = self.retries.first().map(|(at, _)| *at);
        let held = self.held_until.filter(|_| !self.ready.is_empty());
        retry.into_iter().chain(held).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planner::{ActionReason, CacheEvent};

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
                reason: ActionReason::ImageCacheCreate,
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
    fn the_newest_is_written_and_one_at_a_time() {
        let now = Timestamp::UNIX_EPOCH;
        let mut writes = Writes::new(1);
        writes.push(mk_finalizer(true));
        writes.push(mk_finalizer(false));
        let (target, command) = writes.begin(now).unwrap();
        assert_eq!(command, mk_finalizer(false));
        writes.push(mk_finalizer(true));
        assert_eq!(writes.begin(now), None, "one is under way");
        writes.done(&target);
        assert_eq!(writes.begin(now).unwrap().1, mk_finalizer(true));
    }

    #[test]
    fn what_failed_is_repeated_no_sooner_than_asked_unless_it_is_outdated() {
        let now = Timestamp::UNIX_EPOCH;
        let mut writes = Writes::new(1);
        writes.push(mk_finalizer(true));
        let (target, command) = writes.begin(now).unwrap();
        writes.failed(target, command, &mk_unavailable(40), now);
        let retry = writes.next_retry().unwrap();
        assert_eq!(retry, after(now, std::time::Duration::from_secs(40)));
        assert_eq!((writes.wake(now), writes.begin(now)), (Vec::new(), None));
        writes.push(mk_finalizer(false));
        writes.push(mk_event());
        assert_eq!(
            writes.begin(now),
            None,
            "it goes on waiting, and everything with it"
        );
        assert_eq!(writes.wake(retry), []);
        assert_eq!(writes.begin(retry).unwrap().1, mk_event());
        assert_eq!(writes.begin(retry).unwrap().1, mk_finalizer(false));
    }

    #[test]
    fn a_conflict_is_thought_over_after_a_while() {
        let now = Timestamp::UNIX_EPOCH;
        let mut writes = Writes::new(1);
        writes.push(mk_finalizer(true));
        let (target, command) = writes.begin(now).unwrap();
        let conflict = WriteFailure::Conflict("changed".to_owned());
        writes.failed(target, command, &conflict, now);
        let retry = writes.next_retry().unwrap();
        let cache = CacheId::new("default", "web", "1");
        assert_eq!(writes.wake(retry), [WriteTarget::Cache(cache)]);
        assert_eq!((writes.begin(now), writes.len()), (None, 0));
        writes.push(mk_finalizer(true));
        assert!(writes.begin(now).is_some());
    }

    #[test]
    fn what_is_gone_and_what_nobody_needs_is_given_up() {
        let mut now = Timestamp::UNIX_EPOCH;
        let mut writes = Writes::new(1);
        writes.push(mk_finalizer(true));
        let (target, command) = writes.begin(now).unwrap();
        writes.failed(target, command, &WriteFailure::Gone(String::new()), now);
        assert_eq!((writes.next_retry(), writes.slots.len()), (None, 0));
        writes.push(mk_event());
        let mut attempts = 0;
        while let Some((target, command)) = writes.begin(now) {
            attempts += 1;
            writes.failed(target, command, &mk_unavailable(1), now);
            now = writes.next_retry().unwrap_or(now);
            writes.wake(now);
        }
        assert_eq!((attempts, writes.slots.len()), (EVENT_ATTEMPTS, 0));
    }
}
