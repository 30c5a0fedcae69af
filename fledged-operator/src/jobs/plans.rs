//! From images that wait to what Jobs are made from.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fledged_core::model::{AssignedImage, ImagePullPolicy, ImageRef, ObjectName};

use super::requests::Plan;
use super::spec::{PullPlan, RemovalPlan};
use super::worker::Worker;

impl Worker {
    /// What a Job is made from that pulls these.
    pub(super) fn pull_plan(
        &mut self,
        name: String,
        namespace: String,
        images: Vec<ImageRef>,
        limit: Duration,
    ) -> Plan {
        let assigned = self.shared.assigned();
        let entries: Vec<&AssignedImage> = images.iter().filter_map(|i| assigned.get(i)).collect();
        let here = |name: &&ObjectName| name.namespace == namespace;
        let secrets = entries.iter().flat_map(|entry| &entry.pull_secrets);
        let mut secrets: Vec<String> = secrets.filter(here).map(|s| s.name.clone()).collect();
        let accounts = entries.iter().flat_map(|entry| &entry.service_accounts);
        let mut accounts: Vec<ObjectName> = accounts.filter(here).cloned().collect();
        let mut known = BTreeSet::new();
        secrets.retain(|name| known.insert(name.clone()));
        accounts.sort();
        accounts.dedup();
        let mut caches = BTreeMap::new();
        for id in entries.iter().flat_map(|entry| &entry.wanted_by) {
            if id.namespace == namespace {
                caches
                    .entry(id.clone())
                    .and_modify(|n| *n += 1)
                    .or_insert(1);
            }
        }
        // The cache that wants most of it; the first by name of several.
        let most = caches.iter().rev().max_by_key(|(_, count)| **count);
        let cache = most.map(|(id, _)| id.name.clone());
        let presence = self.shared.presence();
        let images = images.into_iter().map(|image| {
            let entry = assigned.get(&image);
            let always = entry.is_some_and(|entry| entry.pull_policy == ImagePullPolicy::Always);
            let there = presence.find(&image).is_some();
            (image, always || there)
        });
        let images = images.collect();
        drop(presence);
        let named = secrets
            .iter()
            .map(|secret| format!("pull secret {namespace}/{secret}"));
        let note: Vec<String> = named.collect();
        self.state.notes.insert(name.clone(), note.join(", "));
        let refused = self.requests.refuses_image_volumes();
        let plan = PullPlan {
            name,
            namespace,
            node: self.node.clone(),
            method: self.view.method(self.requests.options.pull_method, refused),
            images,
            secrets,
            caches: caches.into_keys().collect(),
            cache,
            limit,
        };
        Plan::Pull(plan, accounts)
    }

    /// What a Job is made from that removes whatever is to go.
    pub(super) fn removal_plan(
        &mut self,
        name: String,
        namespace: String,
        limit: Duration,
    ) -> Plan {
        let assigned = self.shared.assigned();
        let listed = self.shared.presence().list();
        let is_there = |image: &ImageRef| {
            let mut names = listed.iter().flat_map(|found| &found.references);
            names.any(|name| name == image)
        };
        let options = &self.requests.options;
        let most = options.images_per_job.get();
        let (images, keep) = self.removals.plan(&name, assigned.values(), is_there, most);
        Plan::Remove(RemovalPlan {
            name,
            namespace,
            node: self.node.clone(),
            images,
            keep,
            socket: self.view.socket(options.socket.as_deref()),
            limit,
        })
    }
}
