//! What time does to the Jobs of a node.

use std::time::Duration;

use jiff::Timestamp;

use super::batch::NodeJobs;
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
        let ready = self.ready;
        self.waiting.retain(|want| {
            let waits = want.ends > now;
            if !waits {
                let why = match ready {
                    true => "no Job was created for it",
                    false => "its node is not Ready, and no Job is created for it",
                };
                over.push((want.id, too_late(want, why)));
            }
            waits
        });
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
                Retention::Retain if job.created => job.slots.values_mut().for_each(Slot::forget),
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
