//! Sums of where images stand, a node and a cache; kept by adding and taking away one node's share.

/// One node's share in one cache, and a cache's sum of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) desired: u64,
    pub(super) cached: u64,
    /// Of these, those that the node has been asked to look for again.
    pub(super) verifying: u64,
    /// On their way, or waiting for a slot.
    pub(super) pulling: u64,
    /// Of these, those whose attempts fail so far.
    pub(super) failing: u64,
    pub(super) failed: u64,
    pub(super) unreachable: u64,
    /// One for a node that can't be reached, of a cache that is purged or deleted.
    pub(super) away: u64,
    /// Removals on their way, of a cache that is purged or deleted.
    pub(super) removing: u64,
    /// Removals that a container stands against.
    pub(super) kept: u64,
    /// Images that other caches want there, of a cache that is purged or deleted.
    pub(super) shared: u64,
    /// Removals that failed.
    pub(super) stuck: u64,
    /// Pulls that were asked for and are not over.
    pub(super) under_way: u64,
}

impl Tally {
    fn fields(&mut self) -> [&mut u64; 13] {
        [
            &mut self.desired,
            &mut self.cached,
            &mut self.verifying,
            &mut self.pulling,
            &mut self.failing,
            &mut self.failed,
            &mut self.unreachable,
            &mut self.away,
            &mut self.removing,
            &mut self.kept,
            &mut self.shared,
            &mut self.stuck,
            &mut self.under_way,
        ]
    }
}

/// A cache's sum over its nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) sum: Tally,
    /// Nodes that match.
    pub(super) nodes: usize,
    /// Nodes that pull for it.
    pub(super) active: usize,
}

impl Totals {
    pub(super) fn add(&mut self, mut share: Tally) {
        self.nodes += 1;
        self.active += usize::from(share.under_way > 0);
        for (sum, part) in self.sum.fields().into_iter().zip(share.fields()) {
            *sum += *part;
        }
    }

    pub(super) fn take(&mut self, mut share: Tally) {
        self.nodes = self.nodes.saturating_sub(1);
        let active = usize::from(share.under_way > 0);
        self.active = self.active.saturating_sub(active);
        for (sum, part) in self.sum.fields().into_iter().zip(share.fields()) {
            *sum = sum.saturating_sub(*part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_can_be_taken_away() {
        let share = Tally {
            desired: 3,
            under_way: 2,
            ..Tally::default()
        };
        let mut totals = Totals::default();
        totals.add(share);
        totals.add(Tally::default());
        assert_eq!((totals.nodes, totals.active, totals.sum), (2, 1, share));
        totals.take(share);
        totals.take(Tally::default());
        assert_eq!(totals, Totals::default());
    }
}
