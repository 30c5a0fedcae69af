//! What time does to the Jobs of a node.

use std::time::Duration;

use jiff::Timestamp;

use super::batch::NodeJobs;
use super::live_job::LiveJob;
use super::options::Retention;
use super::slot::Slot;
use super::wanted::{Command, Want, too_late};
use crate::report::after;

/// How often the absence of a pod is asked about.
const ASK_AGAIN: Duration = Duration::from_secs(60);

impl NodeJobs {
    /// Gives up on what was waited for long enough.
    pub(super) fn expire(&mut self, now: Timestamp) {
        let mut over = Vec::new();
        let waiting = std::mem::take(&mut self.waiting);
        let (waiting, late): (Vec<Want>, Vec<Want>) =
            waiting.into_iter().partition(|want| want.ends > now);
        self.waiting = waiting;
        for want in late {
            let why = match (self.ready, self.is_blocked(&want)) {
                (false, _) => "its node is not Ready, and no Job is created for it",
                (true, true) => "another Job that has to end first has not",
                (true, false) => "no Job was created for it",
            };
            over.push((want.id, too_late(&want, why)));
        }
        for (name, job) in &mut self.jobs {
            let why = job.describe(name);
            for slot in job.slots.values_mut() {
                let late = |want: &Want| too_late(want, &why);
                over.extend(slot.expire(now, late));
            }
        }
        for (id, failure) in over {
            self.answer(id, None, Err(failure));
        }
    }

    /// Forgets Jobs that are gone and of which no pod has turned up.
    pub(super) fn forget_gone(&mut self, now: Timestamp) {
        let over = |job: &LiveJob| job.gone && job.pod_by().is_some_and(|by| by <= now);
        let over = self.jobs.iter().filter(|(_, job)| over(job));
        let over: Vec<String> = over.map(|(name, _)| name.clone()).collect();
        for name in over {
            self.remove(&name);
        }
    }

    /// Deletes what nobody waits for, asks about pods that are missing.
    pub(super) fn sweep(&mut self, now: Timestamp) {
        let mut over = Vec::new();
        for (name, job) in &mut self.jobs {
            let wanted = job.slots.values().any(|slot| slot.is_of_interest(now));
            if job.leaving {
                continue;
            }
            if wanted {
                if job.ask_at.is_some_and(|at| at <= now) {
                    job.ask_at = Some(after(now, ASK_AGAIN));
                    self.commands.push(Command::Inquire {
                        name: name.clone(),
                        namespace: job.namespace.clone(),
                    });
                }
                continue;
            }
            job.ask_at = None;
            match self.retention {
                Retention::Retain if job.ended.is_some() => over.push(name.clone()),
                // Unless it would go on with what nobody wants.
                Retention::Retain if job.created && !job.slots.values().any(Slot::is_dropped) => {
                    job.slots.values_mut().for_each(Slot::forget);
                }
                _ => {
                    job.leaving = true;
                    self.commands.push(Command::Delete {
                        name: name.clone(),
                        namespace: job.namespace.clone(),
                    });
                }
            }
        }
        for name in over {
            self.remove(&name);
        }
    }
}
