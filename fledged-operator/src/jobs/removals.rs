//! Which images Jobs remove from a node, and what came of it. Removals are asked for one by one; a Job
//! takes along everything that is to go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{AssignedImage, DesiredState, ImageRef};
use fledged_core::port::Removal;
use jiff::Timestamp;

use super::outcome::RemovalOutcomes;
use crate::report::after;

/// How long the outcome of an image that nobody asked for yet is kept: it is asked for next.
const KEPT: Duration = Duration::from_secs(60);

type Outcome = Result<Removal, Failure>;

/// The removals of one node.
#[derive(Debug, Default)]
pub(super) struct Removals {
    /// What each Job removes, in its own order.
    jobs: BTreeMap<String, Vec<ImageRef>>,
    /// What came of images that nobody has asked for yet.
    outcomes: BTreeMap<ImageRef, (Outcome, Timestamp)>,
    /// Which image each caller waits for.
    callers: BTreeMap<u64, ImageRef>,
}

/// What is to be done for a caller.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is known already.
    Known(Outcome),
    /// A Job has to be waited for.
    Wait,
}

impl Removals {
    /// Somebody asks for the removal of an image.
    pub(super) fn ask(&mut self, id: u64, image: &ImageRef, now: Timestamp) -> Next {
        self.outcomes.retain(|_, (_, until)| *until > now);
        match self.outcomes.remove(image) {
            Some((outcome, _)) => Next::Known(outcome),
            None => {
                self.callers.insert(id, image.clone());
                Next::Wait
            }
        }
    }

    pub(super) fn drop_call(&mut self, id: u64) {
        self.callers.remove(&id);
    }

    /// What is to be absent from now on; what came of the others counts no more.
    pub(super) fn assign(&mut self, assigned: &[AssignedImage]) {
        let absent = assigned.iter().filter(|e| e.state == DesiredState::Absent);
        let absent: BTreeSet<&ImageRef> = absent.map(|entry| &entry.image).collect();
        self.outcomes.retain(|image, _| absent.contains(image));
    }

    /// What a new Job is to remove: what is asked for, then what else is there and is to go. And what
    /// it must not take along.
    pub(super) fn plan<'a>(
        &mut self,
        job: &str,
        assigned: impl Iterator<Item = &'a AssignedImage> + Clone,
        is_there: impl Fn(&ImageRef) -> bool,
        most: usize,
    ) -> (Vec<ImageRef>, Vec<ImageRef>) {
        let mut images: Vec<ImageRef> = Vec::new();
        let absent = assigned.clone();
        let absent = absent.filter(|entry| entry.state == DesiredState::Absent);
        let others = absent.map(|entry| &entry.image);
        let others = others.filter(|i| !self.outcomes.contains_key(*i) && is_there(i));
        for image in self.callers.values().chain(others) {
            if images.len() < most && !images.contains(image) {
                images.push(image.clone());
            }
        }
        let names: BTreeSet<&str> = images.iter().map(ImageRef::name).collect();
        let keep = assigned.filter(|entry| entry.state == DesiredState::Present);
        let keep = keep.filter(|entry| names.contains(entry.image.name()));
        let keep = keep.map(|entry| entry.image.clone()).collect();
        self.jobs.insert(job.to_owned(), images.clone());
        (images, keep)
    }

    /// A Job of an earlier process removes these.
    pub(super) fn adopt(&mut self, job: &str, images: Vec<ImageRef>) {
        self.jobs.insert(job.to_owned(), images);
    }

    /// Only these Jobs are left, some of which may still act; everything that any of those may be
    /// removing.
    pub(super) fn under_way<'a>(
        &mut self,
        jobs: impl Iterator<Item = (&'a str, bool)>,
    ) -> BTreeSet<ImageRef> {
        let left: BTreeMap<&str, bool> = jobs.collect();
        self.jobs.retain(|job, _| left.contains_key(job.as_str()));
        let acting = self.jobs.iter();
        let acting = acting.filter(|(job, _)| left.get(job.as_str()) == Some(&true));
        acting.flat_map(|(_, images)| images).cloned().collect()
    }

    /// A Job ended with that message: the outcome of each of its images. The caller's own is given
    /// back; `None` where the Job said nothing of it, and it has to be asked for again.
    pub(super) fn ended(
        &mut self,
        id: u64,
        job: &str,
        message: &str,
        now: Timestamp,
    ) -> (Vec<(ImageRef, Outcome)>, Option<Outcome>) {
        let Some(caller) = self.callers.remove(&id) else {
            return (self.unclaimed(job, message, now), None);
        };
        let all = match self.outcomes_of(job, message) {
            Ok(all) => all,
            Err(problem) => {
                let text = format!("Job {job} ended with a message that can't be read: {problem}");
                return (Vec::new(), Some(Err(Failure::new(Reason::Unknown, text))));
            }
        };
        self.store(&all, now);
        let own = self.outcomes.remove(&caller).map(|(outcome, _)| outcome);
        if own.is_none() {
            self.callers.insert(id, caller);
        }
        (all, own)
    }

    /// The same, where nobody waits for it just now.
    pub(super) fn unclaimed(
        &mut self,
        job: &str,
        message: &str,
        now: Timestamp,
    ) -> Vec<(ImageRef, Outcome)> {
        let all = self.outcomes_of(job, message).unwrap_or_default();
        self.store(&all, now);
        all
    }

    fn outcomes_of(&self, job: &str, message: &str) -> Result<Vec<(ImageRef, Outcome)>, String> {
        let read = RemovalOutcomes::parse(message)?;
        let images = self.jobs.get(job).into_iter().flatten().enumerate();
        let all = images.filter_map(|(place, image)| Some((image.clone(), read.get(place)?)));
        Ok(all.collect())
    }

    fn store(&mut self, all: &[(ImageRef, Outcome)], now: Timestamp) {
        for (image, outcome) in all {
            let kept = (outcome.clone(), after(now, KEPT));
            self.outcomes.insert(image.clone(), kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> ImageRef {
        text.parse().unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn mk_assigned() -> Vec<AssignedImage> {
        let digest = format!("app@sha256:{}", "0".repeat(64));
        vec![
            AssignedImage::absent(image("app:1")),
            AssignedImage::absent(image("db:1")),
            AssignedImage::absent(image("gone:1")),
            AssignedImage::present(image(&digest)),
            AssignedImage::present(image("other:1")),
        ]
    }

    #[test]
    fn a_job_takes_along_what_is_to_go_and_spares_what_shares_a_name() {
        let assigned = mk_assigned();
        let mut removals = Removals::default();
        assert_eq!(removals.ask(1, &image("db:1"), at(0)), Next::Wait);
        let there = |image: &ImageRef| image.name() != "docker.io/library/gone";
        let (images, keep) = removals.plan("job", assigned.iter(), there, 50);
        assert_eq!(images, [image("db:1"), image("app:1")]);
        assert_eq!(keep, [assigned[3].image.clone()]);
        let over = removals.under_way([("job", false)].into_iter());
        assert!(over.is_empty(), "its outcomes are still to be told");
        let under_way = removals.under_way([("job", true)].into_iter());
        assert_eq!(under_way.len(), 2);

        let mut outcomes = RemovalOutcomes::default();
        outcomes.set(0, Ok(Removal::Removed));
        outcomes.set(1, Ok(Removal::InUse("a container".to_owned())));
        let (all, own) = removals.ended(1, "job", &outcomes.to_message(), at(1));
        assert_eq!((all.len(), own), (2, Some(Ok(Removal::Removed))));
        // The next to be asked for is known, once.
        let known = Next::Known(Ok(Removal::InUse("a container".to_owned())));
        assert_eq!(removals.ask(2, &image("app:1"), at(2)), known);
        assert_eq!(removals.ask(3, &image("app:1"), at(2)), Next::Wait);
        assert!(removals.under_way([].into_iter()).is_empty());
    }

    #[test]
    fn whoever_the_job_did_not_come_to_waits_for_the_next() {
        let assigned = mk_assigned();
        let mut removals = Removals::default();
        let _ = removals.ask(1, &image("db:1"), at(0));
        let _ = removals.plan("job", assigned.iter(), |_| true, 1);
        let _ = removals.ask(2, &image("app:1"), at(0));
        let (all, own) = removals.ended(2, "job", r#"{"removed":[0]}"#, at(1));
        assert_eq!((all.len(), own), (1, None));
        let (images, _) = removals.plan("next", assigned.iter(), |_| true, 1);
        assert_eq!(images, [image("db:1")]);
        removals.drop_call(1);
        let (images, _) = removals.plan("next", assigned.iter(), |_| true, 1);
        assert_eq!(images, [image("app:1")]);
    }

    #[test]
    fn what_is_wanted_again_or_old_is_asked_for_anew() {
        let mut removals = Removals::default();
        let _ = removals.ask(1, &image("db:1"), at(0));
        let _ = removals.plan("job", mk_assigned().iter(), |_| true, 50);
        let message = r#"{"removed":[0,1,2]}"#;
        let _ = removals.ended(1, "job", message, at(1));
        removals.assign(&[AssignedImage::absent(image("app:1"))]);
        assert_eq!(removals.ask(2, &image("gone:1"), at(2)), Next::Wait);
        assert_eq!(removals.ask(3, &image("app:1"), at(61)), Next::Wait);
        let (_, own) = removals.ended(3, "job", "killed", at(62));
        let failure = own.unwrap().unwrap_err();
        assert!(failure.message.contains("job"), "{failure}");
    }
}
