//! Pulls: who goes next, how they end, what holds them back.

use jiff::Timestamp;

use super::event::{NodeCommand, PullId};
use super::warmer::Warmer;
use crate::error::{Failure, Reason};
use crate::model::ImagePhase;
use crate::port::{CredentialsRequest, RuntimeImage};
use crate::time::after;

impl Warmer {
    pub(super) fn free_slots(&self) -> usize {
        let limit = if self.holds.probing() {
            1
        } else {
            self.config.max_parallel_pulls.get()
        };
        limit.saturating_sub(self.pulls.len())
    }

    pub(super) fn start_pulls(&mut self, now: Timestamp, acts: &mut Vec<NodeCommand>) {
        self.block_held(now);
        if self.removes_more_than_names() && self.removal_due(now) {
            return;
        }
        for _ in 0..self.free_slots() {
            let Some(mut entry) = self.entries.next_pull(self.removal.as_ref()) else {
                return;
            };
            self.last_pull += 1;
            let id = PullId(self.last_pull);
            entry.begin(ImagePhase::Pulling, now);
            entry.pull = Some(id);
            entry.pull_revision = entry.spec.revision;
            let image = entry.spec.image.clone();
            self.pulls.insert(id, image.clone());
            self.touched.insert(image.clone());
            acts.push(NodeCommand::Pull {
                id,
                credentials: CredentialsRequest {
                    image,
                    pull_secrets: entry.spec.pull_secrets.clone(),
                    service_accounts: entry.spec.service_accounts.clone(),
                },
                deadline: entry.round_ends().unwrap_or(now),
            });
        }
    }

    /// What is due but held: wait where the hold is over within the deadline, else fail with the
    /// hold's reason.
    pub(super) fn block_held(&mut self, now: Timestamp) {
        if self.holds.is_empty() {
            return;
        }
        for image in self.entries.ready_pulls() {
            let Some(hold) = self.holds.on(&image, now) else {
                continue;
            };
            let Some(mut entry) = self.entries.get_mut(&image) else {
                continue;
            };
            // The time that it waited for a free place before does not count.
            let since = *entry.held_since.get_or_insert(now);
            let patience = entry
                .round_ends()
                .unwrap_or_else(|| after(since, entry.spec.deadline));
            if hold.reason == Reason::DiskFull || hold.until >= patience {
                entry.blocked(hold, now);
            } else {
                entry.due = Some(hold.until);
                // What the registry itself said to this image tells more.
                if entry.report.reason != Some(hold.reason) {
                    entry.explain(hold.reason, hold.message.clone());
                }
            }
            self.touched.insert(image);
        }
    }

    pub(super) fn pull_ended(
        &mut self,
        id: PullId,
        result: Result<RuntimeImage, Failure>,
        now: Timestamp,
    ) {
        let Some(image) = self.pulls.remove(&id) else {
            return;
        };
        let Some(mut entry) = self.entries.get_mut(&image) else {
            return;
        };
        entry.pull = None;
        entry.stale = self.last_inventory;
        self.touched.insert(image.clone());
        match result {
            Ok(pulled) => {
                self.holds.succeeded();
                entry.present = true;
                entry.describe(&pulled);
                entry.pulled(now);
                self.inventory_outdated = true;
                self.reading_overlaps = true;
            }
            Err(failure) => {
                entry.failed(&failure, now, &self.config.backoff, &mut self.rng);
                if entry.recredentialed && entry.report.phase == ImagePhase::Failed {
                    entry.due = Some(now);
                }
                drop(entry);
                self.holds
                    .failed(&image, &failure, now, &self.config.backoff, &mut self.rng);
                // Whatever happened to the runtime, what it holds is looked at once it is back.
                if failure.reason == Reason::RuntimeUnavailable && self.read_failure.is_none() {
                    self.read_soon(now);
                }
            }
        }
    }

    /// Ends rounds whose deadline has passed: pulls under way are cancelled, and what was still
    /// waiting for its next attempt, or for a free place to make it in, keeps its last failure.
    pub(super) fn expire_rounds(&mut self, now: Timestamp) {
        let mut cancelled = Vec::new();
        for image in self.entries.rounds_over(now) {
            let Some(mut entry) = self.entries.get_mut(&image) else {
                continue;
            };
            let failure = match entry.pull.take() {
                Some(pull) => {
                    cancelled.push(pull);
                    entry.stale = self.last_inventory;
                    let failure = Failure::new(
                        Reason::DeadlineExceeded,
                        format!(
                            "not complete within its deadline of {:?}, at attempt {}",
                            entry.spec.deadline, entry.report.attempts
                        ),
                    );
                    let told = entry.told_as(&failure);
                    entry.explain(failure.reason, told);
                    failure
                }
                None => Failure::new(entry.report.reason.unwrap_or(Reason::Unknown), ""),
            };
            entry.end_round(&failure, now, &self.config.backoff, &mut self.rng);
            self.touched.insert(image);
        }
        for pull in cancelled {
            self.cancel(pull);
        }
    }
}
