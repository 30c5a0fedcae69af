//! What a refresh on demand promises: once it is over, everybody has looked since it was asked for.

use fledged_core::model::{CacheId, ImagePullPolicy};
use fledged_core::planner::CacheStatus;

use super::{World, mk_id};

/// A refresh that was asked for and is not over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    step: u64,
    /// What its cache had asked of nodes until then.
    revision: u64,
}

impl World {
    /// Takes note of a refresh that is about to be asked for.
    pub(crate) fn note_request(&mut self, name: &str) {
        let Some(facts) = self.caches.get(&mk_id(name)) else {
            return;
        };
        if !facts.refresh_requested {
            self.step += 1;
            let asked = Asked {
                step: self.step,
                revision: facts.status.as_ref().map_or(0, |s| s.verify_revision),
            };
            self.requests.insert(facts.id.clone(), asked);
        }
    }

    /// Called with a status before it is recorded.
    pub(crate) fn check_request(&mut self, id: &CacheId, status: &CacheStatus) {
        let known = self.caches.get(id).and_then(|facts| facts.status.as_ref());
        let ends = status.completion_time.is_some()
            && known.is_none_or(|known| {
                known.completion_time.is_none() || known.start_time != status.start_time
            });
        let asked = self.requests.get(id).copied();
        let Some(asked) = asked.filter(|a| ends && status.verify_revision > a.revision) else {
            return;
        };
        self.requests.remove(id);
        for (name, facts) in &self.nodes {
            let known_silent = self.heard.get(name).copied().flatten().is_none();
            // By then it may count as silent, and nothing but a word of its own ends that.
            let limit = self.config.answer_grace;
            let may_be = self
                .spoke
                .get(name)
                .is_none_or(|at| *at + limit <= self.now);
            let silent = known_silent || may_be;
            if !facts.ready || facts.os != "linux" || silent {
                continue;
            }
            let mut wanted = self.expected(facts);
            wanted.retain(|entry| entry.wanted_by.contains(id));
            for entry in wanted {
                let looked = self.agents[name].looked.get(&entry.image);
                assert!(
                    looked.is_some_and(|step| *step > asked.step),
                    "the refresh of {id} is over before {name} has looked for {}",
                    entry.image
                );
            }
        }
    }

    /// Every node that can be reached was asked for all that somebody wanted to be sure of.
    pub(crate) fn check_revisions(&self) {
        for (name, facts) in &self.nodes {
            let Some(record) = self.records.get(name).filter(|_| facts.ready) else {
                continue;
            };
            for entry in &record.images {
                let of = |id| Some(self.caches.get(id)?.status.as_ref()?.verify_revision);
                let asked = entry.wanted_by.iter().filter_map(of).max().unwrap_or(0);
                let moves = entry.pull_policy == ImagePullPolicy::Always;
                assert!(moves || entry.revision >= asked, "{name}: {entry:?}");
            }
        }
    }
}
