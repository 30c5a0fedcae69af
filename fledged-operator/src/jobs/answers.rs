//! What callers of a node's runtime are told, and what is learnt with it.

use std::collections::BTreeSet;

use fledged_core::error::{ErrorClass, Failure};
use fledged_core::model::{Digest, ImageRef};
use fledged_core::port::Removal;
use jiff::Timestamp;

use super::batch::LINGER;
use super::job::ReadJob;
use super::names::container_name;
use super::told::Reply;
use super::wanted::{Reached, passes};
use super::worker::Worker;
use crate::report::after;

/// Who waits for what.
pub(super) enum Answer {
    Pull(ImageRef, Reply<Option<Digest>>),
    Remove(ImageRef, Reply<Removal>),
}

impl Worker {
    /// Tells whoever waits what came of it, and takes note of it.
    pub(super) fn answer(&mut self, id: u64, job: Option<&str>, result: Result<Reached, Failure>) {
        let now = self.now();
        match self.state.answers.remove(&id) {
            Some(Answer::Pull(image, reply)) => {
                let result = result.map(|reached| match reached {
                    Reached::Pulled(digest) => digest,
                    Reached::Removed(_) => None,
                });
                match &result {
                    Ok(digest) => {
                        self.shared.presence().pulled(&image, digest.clone(), now);
                        self.state.stretched.remove(&image);
                        self.state.rounds.remove(&image);
                    }
                    Err(failure) if !passes(failure) => drop(self.state.rounds.remove(&image)),
                    Err(_) => {}
                }
                let _ = reply.send(result.map_err(|failure| self.explained(job, failure)));
            }
            Some(Answer::Remove(image, reply)) => match (job, result) {
                (Some(job), Ok(Reached::Removed(message))) => {
                    let (all, own) = self.removals.ended(id, job, &message, now);
                    self.learn(&all, now);
                    match own {
                        Some(outcome) => drop(reply.send(outcome)),
                        None => {
                            self.state.answers.insert(id, Answer::Remove(image, reply));
                            self.jobs.want(self.removal(id, now), now);
                        }
                    }
                }
                (_, Err(failure)) => {
                    self.removals.drop_call(id);
                    let _ = reply.send(Err(failure));
                }
                _ => self.removals.drop_call(id),
            },
            None => {}
        }
    }

    /// A Job that was not known of: its creation was given up, and took effect all the same. It is
    /// deleted, and may have acted before.
    pub(super) fn stray(&mut self, job: &ReadJob, now: Timestamp) {
        if job.end().is_some() || job.metadata.deletion_timestamp.is_some() {
            return;
        }
        if let Some(name) = &job.metadata.name {
            self.removals.adopt(name, job.removes());
        }
        self.doubt(&job.containers().map(str::to_owned).collect(), now);
        self.jobs.adopt(job, None, now, now);
    }

    /// Images that these containers of unknown Jobs stand for may be pulled for a while.
    pub(super) fn doubt(&self, containers: &BTreeSet<String>, now: Timestamp) {
        let assigned = self.shared.assigned();
        let theirs = assigned.keys();
        let theirs = theirs.filter(|image| containers.contains(&container_name(image)));
        // Whatever nobody waits for of them is deleted by then.
        let until = Some(after(now, LINGER));
        let mut presence = self.shared.presence();
        theirs.for_each(|image| presence.perhaps(image, until));
    }

    /// Takes note of what nobody waits for just now, for whoever comes back for it.
    pub(super) fn keep(&mut self, job: &str, image: Option<ImageRef>, reached: Reached) {
        let now = self.now();
        match (image, reached) {
            (Some(image), Reached::Pulled(digest)) => {
                self.shared.presence().pulled(&image, digest.clone(), now);
                self.state.stretched.remove(&image);
                let revision = self.state.asked.get(&image).copied().unwrap_or_default();
                self.state.unclaimed.insert(image, (revision, digest));
            }
            (_, Reached::Removed(message)) => {
                let all = self.removals.unclaimed(job, &message, now);
                self.learn(&all, now);
            }
            (None, Reached::Pulled(_)) => {}
        }
    }

    /// Takes note of what a Job found.
    fn learn(&self, all: &[(ImageRef, Result<Removal, Failure>)], now: Timestamp) {
        let mut presence = self.shared.presence();
        for (image, outcome) in all {
            match outcome {
                Ok(Removal::Removed | Removal::Absent) => presence.gone(image, now),
                Ok(Removal::InUse(_)) => presence.refused(image, now),
                _ => {}
            }
        }
    }

    /// A refusal, with the credentials that there were: the kubelet goes on without a word where they
    /// are missing.
    fn explained(&self, job: Option<&str>, mut failure: Failure) -> Failure {
        let note = job.and_then(|job| self.state.notes.get(job));
        let refused = failure.class() == ErrorClass::Unauthorized;
        if let Some(note) = note.filter(|note| refused && !note.is_empty()) {
            failure.message = format!("{} (with {note}, as far as it exists)", failure.message);
        }
        failure
    }
}
