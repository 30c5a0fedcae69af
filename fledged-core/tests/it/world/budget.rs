//! The nodes that pull, counted from the agents' state and not from the planner's own totals.

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
        let at = self.active_at.get(name).copied().flatten();
        // These agents finish everything before their first report.
        let limit = self.config.answer_grace;
        let unresponsive = at.is_none_or(|at| at + limit <= self.now);
        ready && !unresponsive && record.filter(pulls).is_some_and(|record| !done(record))
    }

    /// An assignment is a reason to report, unless the node owes a report already.
    pub(crate) fn note_reason_to_report(&mut self, name: &NodeName) {
        let limit = self.config.answer_grace;
        let agent = self.agents.get(name);
        let owes = self
            .records
            .get(name)
            .is_some_and(|record| !agent.is_some_and(|a| a.has_answered(record)));
        if let Some(Some(at)) = self.active_at.get_mut(name)
            && (!owes || *at + limit > self.now)
        {
            *at = self.now;
        }
    }

    pub(crate) fn owes_report(&self, name: &NodeName) -> bool {
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
