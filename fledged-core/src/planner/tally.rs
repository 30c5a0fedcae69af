//! Counts of images by state, for one node and for a cache. Totals are maintained by adding and
//! subtracting one node's share.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::model::CacheId;

/// One node's share in a cache, or the sum over all nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) desired: u64,
    pub(super) cached: u64,
    /// Cached images that the node was asked to verify.
    pub(super) verifying: u64,
    /// Cached images for which credentials of the cache could not be used.
    pub(super) without_credentials: u64,
    /// Cached images whose refresh waits for room on the image file system.
    pub(super) refresh_held: u64,
    /// Images to pull: in progress or waiting for a slot.
    pub(super) pulling: u64,
    /// Images to pull whose attempts fail so far.
    pub(super) failing: u64,
    pub(super) failed: u64,
    /// Failed because the record of the node has no room for the cache.
    pub(super) left_out: u64,
    pub(super) unreachable: u64,
    /// Unreachable nodes of a cache that is purged or deleted: 1 for a node.
    pub(super) unreachable_nodes: u64,
    /// Removals in progress, of a cache that is purged or deleted.
    pub(super) removing: u64,
    /// Images that a purge or deletion in progress has removed.
    pub(super) removed: u64,
    /// Images that can't be removed because they are in use.
    pub(super) in_use: u64,
    /// Images that other caches still want, of a cache that is purged or deleted.
    pub(super) shared: u64,
    /// Failed removals.
    pub(super) removal_failed: u64,
    /// Assigned pulls that are not finished and take a slot of the cache.
    pub(super) in_progress: u64,
    /// Digests that tags named before and that are still on the node.
    pub(super) superseded: u64,
}

impl Tally {
    fn fields(&mut self) -> [&mut u64; 18] {
        [
            &mut self.desired,
            &mut self.cached,
            &mut self.verifying,
            &mut self.without_credentials,
            &mut self.refresh_held,
            &mut self.pulling,
            &mut self.failing,
            &mut self.failed,
            &mut self.left_out,
            &mut self.unreachable,
            &mut self.unreachable_nodes,
            &mut self.removing,
            &mut self.removed,
            &mut self.in_use,
            &mut self.shared,
            &mut self.removal_failed,
            &mut self.in_progress,
            &mut self.superseded,
        ]
    }
}

/// Totals of a cache over its nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) sum: Tally,
    /// Nodes with a share.
    pub(super) nodes: usize,
    /// Nodes with pulls in progress.
    pub(super) active: usize,
}

impl Totals {
    pub(super) fn add(&mut self, mut share: Tally) {
        self.nodes += 1;
        self.active += usize::from(share.in_progress > 0);
        for (sum, part) in self.sum.fields().into_iter().zip(share.fields()) {
            *sum += *part;
        }
    }

    pub(super) fn subtract(&mut self, mut share: Tally) {
        self.nodes = self.nodes.saturating_sub(1);
        let active = usize::from(share.in_progress > 0);
        self.active = self.active.saturating_sub(active);
        for (sum, part) in self.sum.fields().into_iter().zip(share.fields()) {
            *sum = sum.saturating_sub(*part);
        }
    }
}

/// Two lists of shares, each sorted by cache: every cache with its share in both.
pub(super) fn joined<'a>(
    before: &'a [(Arc<CacheId>, Tally)],
    after: &'a [(Arc<CacheId>, Tally)],
) -> impl Iterator<Item = (&'a Arc<CacheId>, Option<Tally>, Option<Tally>)> {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (before.peek(), after.peek()) {
            (Some((old, _)), Some((new, _))) if Arc::ptr_eq(old, new) => Ordering::Equal,
            (Some((old, _)), Some((new, _))) => old.cmp(new),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        let old = before.next_if(|_| order != Ordering::Greater);
        let new = after.next_if(|_| order != Ordering::Less);
        let (id, _) = old.or(new)?;
        Some((
            id,
            old.map(|(_, share)| *share),
            new.map(|(_, share)| *share),
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtract_reverts_add() {
        let share = Tally {
            desired: 3,
            in_progress: 2,
            ..Tally::default()
        };
        let mut totals = Totals::default();
        totals.add(share);
        totals.add(Tally::default());
        assert_eq!((totals.nodes, totals.active, totals.sum), (2, 1, share));
        totals.subtract(share);
        totals.subtract(Tally::default());
        assert_eq!(totals, Totals::default());
    }

    #[test]
    fn shares_are_joined_by_cache() {
        let mk_shares = |shares: &[(&str, u64)]| -> Vec<_> {
            let share = |(name, desired): &(&str, u64)| {
                let id = Arc::new(CacheId::new("shop", *name, "1"));
                let desired = *desired;
                (
                    id,
                    Tally {
                        desired,
                        ..Tally::default()
                    },
                )
            };
            shares.iter().map(share).collect()
        };
        let before = mk_shares(&[("api", 1), ("jobs", 2), ("web", 3)]);
        let after = mk_shares(&[("cron", 4), ("jobs", 2), ("web", 5), ("zoo", 6)]);
        let count = |share: Option<Tally>| share.map(|share| share.desired);
        let joined = joined(&before, &after);
        let joined = joined.map(|(id, before, after)| (&*id.name, count(before), count(after)));
        assert_eq!(
            joined.collect::<Vec<_>>(),
            [
                ("api", Some(1), None),
                ("cron", None, Some(4)),
                ("jobs", Some(2), Some(2)),
                ("web", Some(3), Some(5)),
                ("zoo", None, Some(6)),
            ]
        );
    }
}
