//! What the objects of the API server say: caches, nodes, records, the Lease.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fledged_core::model::{DesiredState, ImageRef};
use fledged_kube::crd::{GROUP, PURGE_ANNOTATION, ReadCache, ReadNodeCache};
use fledged_operator::controller::ReadNode;

use super::{Cache, Ledger, Record, State};

/// How long a spec must be in force before an invalid edit, to be known as the last valid one.
const SETTLED_SPEC: Duration = Duration::from_secs(60);

impl Ledger {
    pub(super) fn read_cache(&self, namespace: &str, name: &str) {
        let found = self.server.object(GROUP, "imagecaches", namespace, name);
        let mut state = self.state();
        let key = (namespace.to_owned(), name.to_owned());
        let now = state.now;
        state.statuses.cache_read(&key, found.as_ref(), now);
        let Some(object) = found.and_then(|object| serde_json::from_value(object).ok()) else {
            state.caches.remove(&key);
            state.fold();
            return;
        };
        let object: ReadCache = object;
        let annotations = object.metadata.annotations.as_ref();
        let purge = annotations.is_some_and(|all| all.contains_key(PURGE_ANNOTATION));
        let facts = object.into_facts();
        let purged = facts.status.as_ref().is_some_and(|status| status.purged);
        let idle = facts.deleting || purge || purged;
        let undecided = purge && facts.refresh_requested && !facts.deleting;
        let (now, spec) = (state.now, facts.spec.ok());
        let before = state.caches.remove(&key);
        let before = before.filter(|_| !facts.deleting);
        let same = before.as_ref().is_some_and(|before| before.spec == spec);
        let since = before.as_ref().filter(|_| same).map(|before| before.since);
        // An invalid edit keeps what the last valid spec has on nodes. A purged cache has nothing.
        let frozen = before.filter(|before| !before.idle && spec.is_none());
        let frozen = frozen.map_or_else(BTreeSet::new, |before| match before.spec {
            Some(_) if now >= before.since + SETTLED_SPEC => state.held_for(&key),
            Some(_) => BTreeSet::new(),
            None => before.frozen,
        });
        let since = since.unwrap_or(now);
        let cache = Cache {
            spec,
            frozen,
            since,
            idle,
            undecided,
        };
        state.caches.insert(key, cache);
        state.fold();
    }

    pub(super) fn read_node(&self, name: &str) {
        let found = self.server.object("", "nodes", "", name);
        let mut state = self.state();
        let now = state.now;
        let read = found.and_then(|object| serde_json::from_value::<ReadNode>(object).ok());
        let facts = read.and_then(|node| Some(node.clone().into_facts(node.name()?)));
        match facts {
            Some(mut facts) => {
                facts.taints.retain(|taint| !taint.is_node_condition());
                match facts.ready {
                    true => state.ready_since.entry(name.to_owned()).or_insert(now),
                    false => &mut state.ready_since.remove(name).unwrap_or_default(),
                };
                let before = state.nodes.insert(name.to_owned(), facts.clone());
                if before != Some(facts) {
                    state.statuses.node_changed(name, now);
                }
            }
            None => {
                state.ready_since.remove(name);
                state.nodes.remove(name);
                state.statuses.node_changed(name, now);
                state.forget_frozen(name);
            }
        }
        state.fold();
    }

    pub(super) fn read_record(&self, name: &str) {
        let found = self.server.object(GROUP, "nodeimagecaches", "", name);
        let mut state = self.state();
        let now = state.now;
        if let Some(before) = state.records.remove(name) {
            // Until now, these were ordered or assigned.
            for entry in &before.assignment.images {
                for cache in &entry.wanted_by {
                    let namespace = cache.namespace.clone();
                    let key = (name.to_owned(), entry.image.clone(), namespace);
                    state.assigned_for.insert(key, now);
                }
                let key = (name.to_owned(), entry.image.clone());
                match entry.state {
                    DesiredState::Absent => state.ordered.insert(key, now),
                    DesiredState::Present => state.assigned.insert(key, now),
                };
            }
        }
        state.statuses.record_read(name, found.as_ref(), now);
        let object = found.and_then(|object| serde_json::from_value::<ReadNodeCache>(object).ok());
        let Some(object) = object else {
            state.unfinished.remove(name);
            state.statuses.report_read(name, None, now);
            state.forget_frozen(name);
            return;
        };
        let (assignment, invalid) = object.assignment();
        if let Some(invalid) = invalid.first() {
            state.violate("records are valid", format!("{name}: {invalid}"));
        }
        for entry in &assignment.images {
            let key = (name.to_owned(), entry.image.clone());
            match entry.state {
                DesiredState::Present => drop(state.ours.insert(key)),
                DesiredState::Absent => drop(state.ordered.insert(key, now)),
            }
        }
        let report = object.report();
        state.statuses.report_read(name, report.as_ref(), now);
        let record = Record { assignment, report };
        match record.is_unfinished() {
            true => drop(state.unfinished.entry(name.to_owned()).or_insert(now)),
            false => drop(state.unfinished.remove(name)),
        }
        state.records.insert(name.to_owned(), record);
    }

    /// Another program removes all images from the record of a node.
    pub(in crate::simulation) fn emptied(&self, node: &str) {
        self.state().forget_frozen(node);
    }

    pub(super) fn read_lease(&self, namespace: &str, name: &str) {
        let group = "coordination.k8s.io";
        let found = self.server.object(group, "leases", namespace, name);
        let holder = found.as_ref().and_then(|lease| {
            let holder = lease.pointer("/spec/holderIdentity")?;
            Some(holder.as_str()?.to_owned())
        });
        let mut state = self.state();
        let holder = holder.unwrap_or_default();
        if state.holder.0 != holder {
            state.holder = (holder, state.now);
        }
    }
}

impl State {
    /// The images that these caches want, by node.
    pub(super) fn wanted_images<'a>(
        &self,
        caches: impl Iterator<Item = &'a Cache>,
    ) -> BTreeSet<(String, ImageRef)> {
        let mut wanted = BTreeSet::new();
        for cache in caches.filter(|cache| !cache.idle) {
            for group in cache.spec.iter().flat_map(|spec| &spec.groups) {
                for (node, facts) in &self.nodes {
                    if group.matches(facts) {
                        let images = group.images.iter().cloned();
                        wanted.extend(images.map(|image| (node.clone(), image)));
                    }
                }
            }
        }
        wanted
    }

    /// The images that the records of nodes have for this cache.
    pub(super) fn held_for(
        &self,
        (namespace, name): &(String, String),
    ) -> BTreeSet<(String, ImageRef)> {
        let mut held = BTreeSet::new();
        for (node, record) in &self.records {
            for entry in &record.assignment.images {
                let mut caches = entry.wanted_by.iter();
                if caches.any(|of| of.namespace == *namespace && of.name == *name) {
                    held.insert((node.clone(), entry.image.clone()));
                }
            }
        }
        held
    }

    /// Updates which images are wanted on which nodes.
    fn fold(&mut self) {
        let before = std::mem::take(&mut self.wanted);
        let mut wanted: BTreeMap<_, BTreeMap<_, Duration>> = BTreeMap::new();
        for (name, cache) in self.caches.iter().filter(|(_, cache)| !cache.idle) {
            let mut images = self.wanted_images(std::iter::once(cache));
            images.extend(cache.frozen.iter().cloned());
            for image in images {
                let known = before.get(&image).and_then(|caches| caches.get(name));
                let since = known.copied().unwrap_or(self.now);
                wanted.entry(image).or_default().insert(name.clone(), since);
            }
        }
        self.wanted = wanted;
    }

    /// What an invalid edit keeps on a node, only the record of that node has.
    pub(super) fn forget_frozen(&mut self, name: &str) {
        for cache in self.caches.values_mut() {
            cache.frozen.retain(|(node, _)| node != name);
        }
        self.fold();
    }
}
