//! Who pulls, by what the nodes do: the planner's own sums are not asked.

use fledged_core::model::{Assignment, DesiredState, NodeName};

use super::World;

impl World {
    pub(crate) fn is_active(&self, name: &NodeName) -> bool {
        let ready = self.nodes.get(name).is_some_and(|facts| facts.ready);
        let record = self.records.get(name);
        let done = |record| self.agents.get(name).is_some_and(|a| a.is_done(record));
        let pulls = |record: &&Assignment| {
            let mut images = record.images.iter();
            images.any(|i| i.state == DesiredState::Present)
        };
        let heard = self.heard.get(name).copied().flatten();
        // These agents do all that they are asked for before they say a word.
        let limit = self.config.answer_grace;
        let silent = heard.is_none_or(|at| at + limit <= self.now);
        ready && !silent && record.filter(pulls).is_some_and(|record| !done(record))
    }

    /// A node that is written to has a new reason to speak, unless it owes an answer already.
    pub(crate) fn has_reason_to_speak(&mut self, name: &NodeName) {
        let limit = self.config.answer_grace;
        let agent = self.agents.get(name);
        let owes = self
            .records
            .get(name)
            .is_some_and(|record| !agent.is_some_and(|a| a.has_answered(record)));
        if let Some(Some(heard)) = self.heard.get_mut(name)
            && (!owes || *heard + limit > self.now)
        {
            *heard = self.now;
        }
    }

    pub(crate) fn owes_answer(&self, name: &NodeName) -> bool {
        let reported = self.agents.get(name).and_then(|a| a.reported.as_ref());
        let observed = reported.map_or(0, |r| r.observed_generation);
        self.records
            .get(name)
            .is_some_and(|r| r.generation > observed)
    }

    pub(crate) fn active(&self) -> usize {
        self.nodes
            .keys()
            .filter(|name| self.is_active(name))
            .count()
    }

    pub(crate) fn check_budget(&mut self) {
        let active = self.active();
        self.most_active = self.most_active.max(active);
        let limit = self
            .config
            .max_concurrent_nodes
            .of(self.nodes.len())
            .unwrap();
        assert!(active <= limit, "{active} nodes pull, the limit is {limit}");
    }
}
