//! The images a node should hold: the union of all caches that match it, computed once for all nodes
//! that match the same groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::cache::CacheState;
use super::caches::Caches;
use super::node_state::{CacheList, DesiredImages, NodeImages, NodeState};
use crate::model::{
    AssignedImage, Assignment, AssignmentDefaults, CacheId, DesiredState, ImageCache,
    ImagePullPolicy, ImageRef, NodeFacts, ObjectName, PullLimit,
};

/// The groups that a node matches, by cache and index.
type MatchedGroups = Vec<(Arc<CacheId>, usize)>;

/// Estimated size of an image in a record, in bytes, without its reference: field names, pull policy,
/// revision, the UID of one cache.
const IMAGE_BYTES: usize = 160;
/// Estimated size of the limit of an image in a record, in bytes: field names, the rate, the UID of the cache.
const PULL_LIMIT_BYTES: usize = 100;
/// Estimated size of a cache in a record, in bytes, without its name and its Secrets: field names and UID.
const CACHE_BYTES: usize = 120;

/// Most results that are kept between changes of a cache. A cluster has few kinds of nodes.
const RESULTS_MAX: usize = 1_024;

/// Keeps one copy of equal entries and references, which many nodes share.
#[derive(Debug, Clone, Default)]
pub(super) struct Interner(BTreeMap<ImageRef, Variants>);

/// The entries of one image. Thousands of caches may list it, each for other nodes.
#[derive(Debug, Clone, Default)]
struct Variants {
    entries: BTreeSet<Arc<AssignedImage>>,
    /// Entries that were in use after the last sweep.
    used: usize,
}

/// Entries of an image that are kept before the first sweep.
const VARIANTS_MIN: usize = 8;

impl Variants {
    fn sweep(&mut self) {
        self.entries.retain(|known| Arc::strong_count(known) > 1);
        self.used = self.entries.len();
    }
}

impl Interner {
    /// The shared copy of an entry.
    pub(super) fn entry(&mut self, entry: AssignedImage) -> Arc<AssignedImage> {
        let variants = self.0.entry(entry.image.clone()).or_default();
        if let Some(known) = variants.entries.get(&entry) {
            return Arc::clone(known);
        }
        // A sweep looks at every entry, so it waits until there are twice as many.
        if variants.entries.len() >= VARIANTS_MIN.max(2 * variants.used) {
            variants.sweep();
        }
        let entry = Arc::new(entry);
        variants.entries.insert(Arc::clone(&entry));
        entry
    }

    /// The shared copy of a reference, or a new one.
    pub(super) fn image(&self, image: &ImageRef) -> ImageRef {
        let known = self.0.get_key_value(image);
        known.map_or(image, |(known, _)| known).clone()
    }

    /// Drops what is no longer used.
    pub(super) fn sweep(&mut self) {
        self.0.retain(|_, variants| {
            variants.sweep();
            !variants.entries.is_empty()
        });
    }
}

/// Computes desired images, and keeps the results until a cache changes.
#[derive(Debug, Clone, Default)]
pub(super) struct Desired(BTreeMap<(MatchedGroups, CacheList, usize), NodeImages>);

impl Desired {
    /// Drops all results. Called for every change of a cache.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What the caches that match the node ask for, whether or not it can act now. Its record has room for `room`
    /// bytes.
    pub(super) fn images(
        &mut self,
        node: &NodeState,
        caches: &Caches,
        defaults: AssignmentDefaults,
        room: usize,
        interner: &mut Interner,
    ) -> NodeImages {
        let Some(facts) = &node.facts else {
            return NodeImages::default();
        };
        let matching = node.matching().iter();
        let matching = matching.filter_map(|id| Some((id, caches.get(id)?)));
        let matching: Vec<Matching<'_>> = matching.collect();
        let removing = matching.iter().filter(|(_, cache)| cache.is_removing());
        let removing: CacheList = removing.map(|(id, _)| Arc::clone(id)).collect();
        let mut compute = |removing| -> NodeImages {
            let left_out = left_out(facts, &matching, room);
            let images = merge(facts, &matching, caches, &left_out, defaults).into_iter();
            NodeImages {
                images: images.map(|entry| interner.entry(entry)).collect(),
                left_out,
                removing,
            }
        };
        if !node.is_suitable() {
            // It can hold no images, but counts as unreachable for the caches that select it.
            return compute(removing);
        }
        let matched = (
            matched_groups(facts, &matching),
            Arc::clone(&removing),
            room,
        );
        if let Some(known) = self.0.get(&matched) {
            return known.clone();
        }
        let computed = compute(removing);
        if self.0.len() >= RESULTS_MAX {
            self.0.clear();
        }
        self.0.insert(matched, computed.clone());
        computed
    }
}

/// A cache that matches a node.
type Matching<'a> = (&'a Arc<CacheId>, &'a CacheState);

/// The caches that are left out so that the record of the node fits into `room` bytes: always the largest
/// of the namespace that takes most, so that no namespace loses its share to another.
fn left_out(facts: &NodeFacts, matching: &[Matching<'_>], room: usize) -> CacheList {
    /// The caches of a namespace by size, and the sum.
    #[derive(Default)]
    struct Share<'a> {
        bytes: usize,
        caches: BTreeSet<(usize, &'a Arc<CacheId>)>,
    }
    let mut shares: BTreeMap<&str, Share<'_>> = BTreeMap::new();
    let mut total: usize = 0;
    for (id, cache) in matching {
        let bytes = cache.desired_spec().map_or(0, |spec| size(facts, spec));
        if bytes > 0 {
            let share = shares.entry(&id.namespace).or_default();
            share.bytes += bytes;
            share.caches.insert((bytes, *id));
            total += bytes;
        }
    }
    let mut left_out = BTreeSet::new();
    while total > room {
        let largest = shares.values_mut().max_by_key(|share| share.bytes);
        let Some(share) = largest else { break };
        let Some((bytes, id)) = share.caches.pop_last() else {
            break;
        };
        share.bytes -= bytes;
        total -= bytes;
        left_out.insert(Arc::clone(id));
    }
    left_out.into_iter().collect()
}

/// Estimated size of a cache in the record of that node, in bytes; 0 if it has no images there.
fn size(facts: &NodeFacts, spec: &ImageCache) -> usize {
    let groups = spec.groups.iter().filter(|group| group.matches(facts));
    let images = groups.flat_map(|group| &group.images);
    let limit = spec.max_pull_rate.map_or(0, |_| PULL_LIMIT_BYTES);
    let images: usize = images
        .map(|image| image.as_str().len() + IMAGE_BYTES + limit)
        .sum();
    if images == 0 {
        return 0;
    }
    let names = spec.pull_secrets.iter().chain(&spec.service_account);
    let names: usize = names.map(|name| name.name.len() + 3).sum();
    images + names + CACHE_BYTES + spec.id.namespace.len() + spec.id.name.len()
}

fn matched_groups(facts: &NodeFacts, matching: &[Matching<'_>]) -> MatchedGroups {
    let mut matched = MatchedGroups::new();
    for (id, cache) in matching {
        let groups = cache.desired_spec().map_or(&[][..], |spec| &spec.groups);
        for (at, group) in groups.iter().enumerate() {
            if group.matches(facts) {
                matched.push((Arc::clone(id), at));
            }
        }
    }
    matched
}

fn merge(
    facts: &NodeFacts,
    matching: &[Matching<'_>],
    caches: &Caches,
    left_out: &CacheList,
    defaults: AssignmentDefaults,
) -> Vec<AssignedImage> {
    let caches_with_room = matching
        .iter()
        .filter(|(id, _)| left_out.binary_search(id).is_err());
    let specs = caches_with_room.filter_map(|(_, cache)| cache.desired_spec());
    let specs = specs.map(Arc::as_ref);
    let mut images = Assignment::for_node(facts, specs.clone(), defaults).images;
    for entry in &mut images {
        if crate::planted::is("secrets-of-other-caches") {
            let secrets = specs.clone().flat_map(|spec| &spec.pull_secrets);
            entry.pull_secrets = secrets.cloned().collect();
        }
        entry.revision = revision(entry, caches);
    }
    images
}

/// The last refresh of any cache that lists the image. For an image that is not pulled again, only
/// refreshes on demand count: nodes notice lost images themselves. A revision is a time, so it grows from
/// one refresh to the next, whichever cache it belongs to.
fn revision(entry: &AssignedImage, caches: &Caches) -> u64 {
    let of = |id: &CacheId| {
        let cache = caches.get(id)?;
        Some(match entry.pull_policy {
            ImagePullPolicy::Always => cache.revision,
            ImagePullPolicy::IfNotPresent => cache.verify,
        })
    };
    entry.wanted_by.iter().filter_map(of).max().unwrap_or(0)
}

/// Adds the entries that are recorded for caches whose spec became invalid: these keep their images.
pub(super) fn with_frozen(
    node: &NodeState,
    images: DesiredImages,
    caches: &Caches,
    interner: &mut Interner,
) -> DesiredImages {
    if !caches.has_frozen() {
        return images;
    }
    let mut extended: Option<Vec<Arc<AssignedImage>>> = None;
    for recorded in node.pairs.iter().map(|pair| &pair.entry) {
        let frozen = |id: &&CacheId| caches.is_frozen(id);
        let wanted_by: Vec<CacheId> = recorded.wanted_by.iter().filter(frozen).cloned().collect();
        if recorded.state != DesiredState::Present || wanted_by.is_empty() {
            continue;
        }
        let extended = extended.get_or_insert_with(|| images.to_vec());
        let known = extended.iter_mut().find(|e| e.image == recorded.image);
        let pull_limit = limit_with_frozen(recorded, &wanted_by, known.as_deref().map(Arc::as_ref));
        let mut entry = match &known {
            Some(known) => AssignedImage {
                pull_limit,
                ..(***known).clone()
            },
            None => AssignedImage {
                wanted_by: Vec::new(),
                pull_limit,
                ..with_secrets_of(recorded, &wanted_by)
            },
        };
        entry.wanted_by.extend(wanted_by);
        entry.wanted_by.sort();
        entry.wanted_by.dedup();
        let entry = interner.entry(entry);
        match known {
            Some(known) => *known = entry,
            None => extended.push(entry),
        }
    }
    extended.map_or(images, Arc::from)
}

/// The image without the Secrets and ServiceAccounts of namespaces in which none of these caches is: they came from
/// caches that do not list it any more.
fn with_secrets_of(recorded: &AssignedImage, caches: &[CacheId]) -> AssignedImage {
    let mut entry = recorded.clone();
    let is_theirs = |name: &ObjectName| caches.iter().any(|id| id.namespace == name.namespace);
    entry.pull_secrets.retain(is_theirs);
    entry.service_accounts.retain(is_theirs);
    entry
}

/// The limit of an image that these caches keep, whose spec became invalid, and that other caches list as `known`.
fn limit_with_frozen(
    recorded: &AssignedImage,
    frozen: &[CacheId],
    known: Option<&AssignedImage>,
) -> Option<PullLimit> {
    let limit = recorded.pull_limit.clone()?;
    match known {
        None if frozen.contains(&limit.cache) => Some(limit),
        // It was that of a cache that does not list the image any more. Theirs were not higher.
        None => Some(PullLimit::new(frozen.first()?.clone(), limit.rate)),
        Some(known) if frozen.contains(&limit.cache) => {
            PullLimit::higher(known.pull_limit.clone(), Some(limit))
        }
        Some(known) => known.pull_limit.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_entry(revision: u64) -> AssignedImage {
        AssignedImage::present("app:1".parse().unwrap()).with_revision(revision)
    }

    #[test]
    fn what_an_invalid_spec_keeps_is_pulled_with_its_own_secrets() {
        let names =
            |kind: &str| ["alpha", "beta"].map(|namespace| ObjectName::new(namespace, kind));
        let mut recorded = mk_entry(1).with_pull_secrets(names("login"));
        recorded.service_accounts = names("account").to_vec();
        let frozen = [CacheId::new("beta", "cache", "uid")];
        let kept = with_secrets_of(&recorded, &frozen);
        assert_eq!(kept.pull_secrets, [ObjectName::new("beta", "login")]);
        assert_eq!(kept.service_accounts, [ObjectName::new("beta", "account")]);
    }

    #[test]
    fn equal_entries_share_one_copy() {
        let mut interner = Interner::default();
        let first = interner.entry(mk_entry(1));
        let other = interner.entry(mk_entry(2));
        let again = interner.entry(mk_entry(1));
        assert!(Arc::ptr_eq(&first, &again) && !Arc::ptr_eq(&first, &other));
    }

    #[test]
    fn unused_entries_are_dropped_before_there_are_many() {
        let mut interner = Interner::default();
        let used: Vec<_> = (0..100).map(|n| interner.entry(mk_entry(n))).collect();
        for revision in 100..10_000 {
            interner.entry(mk_entry(revision));
        }
        let kept =
            |interner: &Interner| interner.0.values().map(|v| v.entries.len()).sum::<usize>();
        assert!(kept(&interner) <= 2 * used.len(), "{}", kept(&interner));
        assert!(Arc::ptr_eq(&used[7], &interner.entry(mk_entry(7))));
        interner.sweep();
        assert_eq!(kept(&interner), used.len());
        drop(used);
        interner.sweep();
        assert_eq!(kept(&interner), 0);
    }
}
