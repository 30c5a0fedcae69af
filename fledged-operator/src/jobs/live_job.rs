//! One Job, as far as it is known.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::ImageRef;
use jiff::Timestamp;

use super::job::{JobEnd, Kind, ReadJob};
use super::pod::{ReadPod, Verdict};
use super::slot::Slot;
use super::wanted::Reached;
use crate::report::after;

/// How long after the end of a Job its pod is believed to have more to tell: they are watched apart.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long after its creation a Job that is gone may have had a pod that nobody has told of yet.
const POD_BY: Duration = Duration::from_secs(5);
/// When the absence of a pod is asked about first.
const NO_POD_YET: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct LiveJob {
    pub(super) namespace: String,
    /// Once an API server has told it.
    uid: Option<String>,
    pub(super) kind: Kind,
    pub(super) slots: BTreeMap<String, Slot>,
    pub(super) since: Timestamp,
    pub(super) created: bool,
    /// Nobody may use it any more: it is, or is to be, deleted.
    pub(super) leaving: bool,
    /// It is deleted, and its pod is not, or may turn up yet.
    pub(super) gone: bool,
    pub(super) pod: Option<Arc<ReadPod>>,
    /// Whether a kubelet has taken its pod.
    pub(super) taken: bool,
    /// What keeps it from being created, or its pod.
    pub(super) trouble: Option<Failure>,
    pub(super) ask_at: Option<Timestamp>,
    /// It has ended, and until when its pod may have more to tell.
    pub(super) ended: Option<(JobEnd, Timestamp)>,
}

impl LiveJob {
    pub(super) fn new(namespace: String, kind: Kind, now: Timestamp) -> Self {
        Self {
            namespace,
            uid: None,
            kind,
            slots: BTreeMap::new(),
            since: now,
            created: false,
            leaving: false,
            gone: false,
            pod: None,
            taken: false,
            trouble: None,
            ask_at: None,
            ended: None,
        }
    }

    /// One that somebody else has created.
    pub(super) fn adopted(
        job: &ReadJob,
        kind: Kind,
        pod: Option<Arc<ReadPod>>,
        until: Timestamp,
        now: Timestamp,
    ) -> Self {
        let namespace = job.metadata.namespace.clone().unwrap_or_default();
        let slots = job.containers();
        let slots = slots.map(|name| (name.to_owned(), Slot::adopted(until)));
        Self {
            slots: slots.collect(),
            uid: job.metadata.uid.clone(),
            created: true,
            leaving: job.metadata.deletion_timestamp.is_some(),
            taken: pod.as_ref().is_some_and(|pod| pod.is_taken()),
            // Why it has no pod is to be asked again: nobody here remembers.
            ask_at: pod.is_none().then(|| after(now, NO_POD_YET)),
            pod,
            ended: job.end().map(|end| (end, after(now, LAST_WORDS))),
            ..Self::new(namespace, kind, now)
        }
    }

    pub(super) fn created(&mut self, now: Timestamp) {
        self.created = true;
        self.trouble = None;
        self.ask_at = Some(after(now, NO_POD_YET));
    }

    /// It is like this now.
    pub(super) fn update(&mut self, job: &ReadJob, now: Timestamp) {
        self.created = true;
        self.uid.clone_from(&job.metadata.uid);
        if self.pod.as_ref().is_some_and(|pod| !self.owns(pod)) {
            self.pod = None;
        }
        self.leaving |= job.metadata.deletion_timestamp.is_some();
        if self.ended.is_none() {
            self.ended = job.end().map(|end| (end, after(now, LAST_WORDS)));
        }
    }

    /// Whether that pod was made for it: anybody may give a pod of his own its labels.
    pub(super) fn owns(&self, pod: &ReadPod) -> bool {
        pod.is_of(&self.namespace, self.uid.as_deref())
    }

    /// Its pod is like this now; whether a kubelet has taken it only just now.
    pub(super) fn set_pod(&mut self, pod: Arc<ReadPod>) -> bool {
        self.trouble = None;
        self.ask_at = None;
        let taken = pod.is_taken();
        self.pod = Some(pod);
        taken && !std::mem::replace(&mut self.taken, true)
    }

    /// When something is due.
    pub(super) fn wakeups(&self) -> impl Iterator<Item = Timestamp> {
        let slots = self.slots.values().filter_map(Slot::next_wakeup);
        let ended = self.ended.as_ref().map(|(_, until)| *until);
        let ended = ended.filter(|_| self.waits());
        slots.chain(ended).chain(self.ask_at)
    }

    /// Holds what is waited for against what is known; who is to be told what.
    pub(super) fn judge(&mut self, name: &str, ours: &ImageRef, now: Timestamp) -> Vec<Told> {
        let ended = self.ended.as_ref().filter(|(_, until)| *until <= now);
        let over = ended.map(|(end, _)| match end {
            JobEnd::Complete => "it is complete",
            JobEnd::Failed(why) => why.as_str(),
        });
        let mut told = Vec::new();
        for (container, slot) in &mut self.slots {
            let Some(goal) = slot.goal() else { continue };
            let mut verdict = match (&self.pod, &self.trouble) {
                (Some(pod), _) => pod.verdict(container, goal, ours),
                (None, Some(trouble)) => failing(trouble.clone()),
                (None, None) => Verdict::Open,
            };
            if let (Some(why), Verdict::Open) = (over, &verdict) {
                let text = format!("its Job {name} has ended without it: {why}");
                verdict = failing(Failure::new(Reason::Unknown, text));
            }
            let image = goal.image().cloned();
            told.extend(match slot.judge(verdict, over.is_some(), now) {
                None => None,
                Some((Some(id), result)) => Some(Told::Answer(id, result)),
                Some((None, Ok(reached))) => Some(Told::Unclaimed(image, reached)),
                Some((None, Err(_))) => None,
            });
        }
        told
    }

    pub(super) fn is_open(&self) -> bool {
        !self.leaving && self.ended.is_none()
    }

    /// Whether its pod may still do something, now or later. A Job that has failed may have it running yet.
    pub(super) fn may_act(&self) -> bool {
        let complete = matches!(self.ended, Some((JobEnd::Complete, _)));
        let ended = self.pod.as_ref().is_some_and(|pod| pod.has_ended());
        !complete && !ended
    }

    /// Whether it may bring what nobody wants.
    pub(super) fn may_bring_unwanted(&self) -> bool {
        let unwanted = || self.slots.values().any(Slot::may_be_unwanted);
        self.kind == Kind::Pull && self.may_act() && (self.leaving || unwanted())
    }

    /// Until when a pod of it may turn up, where it is gone and had none.
    pub(super) fn pod_by(&self) -> Option<Timestamp> {
        let none = self.pod.is_none() && self.created;
        none.then(|| after(self.since, POD_BY))
    }

    /// Whether everything in it has come to what it was for.
    pub(super) fn is_done(&self) -> bool {
        self.slots.values().all(Slot::has_reached)
    }

    pub(super) fn waits(&self) -> bool {
        !self.leaving && self.slots.values().any(Slot::waits)
    }

    /// Where it stands, in words.
    pub(super) fn describe(&self, name: &str) -> String {
        match (&self.pod, &self.trouble) {
            (Some(pod), _) => pod.describe(),
            (None, Some(trouble)) => trouble.message.clone(),
            (None, None) if self.created => format!("Job {name} has no pod"),
            (None, None) => format!("Job {name} is not created yet, since {}", self.since),
        }
    }
}

/// What there is to say of a container.
#[derive(Debug)]
pub(super) enum Told {
    /// To that caller.
    Answer(u64, Result<Reached, Failure>),
    /// It has come to what it was for, the image if it pulls one, and nobody waits for it just then.
    Unclaimed(Option<ImageRef>, Reached),
}

fn failing(failure: Failure) -> Verdict {
    Verdict::Failing {
        failure,
        attempt: true,
    }
}
