//! Nodes whose records may have to be written, in the order in which they became due.

use std::collections::{BTreeSet, VecDeque};

use crate::model::NodeName;

/// A queue in which each node is once: one that becomes due again keeps its place.
#[derive(Debug, Clone, Default)]
pub(super) struct DueNodes {
    queue: VecDeque<NodeName>,
    queued: BTreeSet<NodeName>,
    /// Nodes that were taken so far.
    taken: u64,
}

impl DueNodes {
    pub(super) fn add(&mut self, name: &NodeName) {
        if self.queued.insert(name.clone()) {
            self.queue.push_back(name.clone());
        }
    }

    pub(super) fn take_next(&mut self) -> Option<NodeName> {
        let name = self.queue.pop_front()?;
        self.queued.remove(&name);
        self.taken += 1;
        Some(name)
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Nodes that were taken so far.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// The value of [`taken`](Self::taken) once all nodes that are due now have been taken.
    pub(super) fn end(&self) -> u64 {
        let due = u64::try_from(self.len()).unwrap_or(u64::MAX);
        self.taken.saturating_add(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_becomes_due_again_keeps_its_place() {
        let mut due = DueNodes::default();
        let names = ["c", "a", "b"].map(|name| NodeName::new(name).unwrap());
        for name in &names {
            due.add(name);
        }
        due.add(&names[0]);
        assert_eq!((due.len(), due.end()), (3, 3));
        assert_eq!(due.take_next().as_ref(), Some(&names[0]));
        due.add(&names[0]);
        assert_eq!((due.taken(), due.end()), (1, 4));
        let rest: Vec<_> = std::iter::from_fn(|| due.take_next()).collect();
        assert_eq!(rest, [names[1].clone(), names[2].clone(), names[0].clone()]);
    }
}
