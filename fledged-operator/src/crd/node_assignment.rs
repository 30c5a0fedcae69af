//! From core's assignment to the spec of a NodeImageCache, and back.

use std::collections::BTreeMap;
use std::time::Duration;

use fledged_core::model::{AssignedImage, CacheId, DesiredState, ImageRef, ObjectName};

use super::node_image_cache::{CacheReference, DEADLINE_SECONDS, NodeImage, NodeImageCacheSpec};

/// A part of a NodeImageCache that nobody can act on; the others count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value}: {problem}")]
#[non_exhaustive]
pub struct InvalidAssignment {
    /// Path of the field, `spec.images[2].image`.
    pub field: String,
    /// The value, as JSON.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
}

impl NodeImageCacheSpec {
    /// The spec that says this.
    #[must_use]
    pub fn from_images(images: &[AssignedImage]) -> Self {
        let mut caches: BTreeMap<&str, &CacheId> = BTreeMap::new();
        for id in images.iter().flat_map(|entry| &entry.wanted_by) {
            caches.insert(&id.uid, id);
        }
        let caches: Vec<&CacheId> = caches.into_values().collect();
        let by_all = |entry: &AssignedImage| {
            entry.wanted_by.len() == caches.len()
                && caches.iter().all(|id| entry.wanted_by.contains(id))
        };
        Self {
            images: images.iter().map(|e| to_wire(e, by_all(e))).collect(),
            caches: caches.into_iter().map(CacheReference::from).collect(),
        }
    }
}

impl From<&CacheId> for CacheReference {
    fn from(id: &CacheId) -> Self {
        Self {
            namespace: id.namespace.clone(),
            name: id.name.clone(),
            uid: id.uid.clone(),
        }
    }
}

impl From<&CacheReference> for CacheId {
    fn from(cache: &CacheReference) -> Self {
        Self::new(&cache.namespace, &cache.name, &cache.uid)
    }
}

fn to_wire(entry: &AssignedImage, by_all: bool) -> NodeImage {
    // A part of a second is given, not taken.
    let deadline = entry.deadline.as_secs() + u64::from(entry.deadline.subsec_nanos() > 0);
    let deadline = u32::try_from(deadline).unwrap_or(u32::MAX);
    let names = |names: &[ObjectName]| names.iter().map(ToString::to_string).collect();
    let present = entry.state == DesiredState::Present;
    NodeImage {
        image: entry.image.as_str().to_owned(),
        state: entry.state,
        pull_policy: entry.pull_policy,
        revision: entry.revision,
        pull_deadline_seconds: Some(deadline).filter(|s| present && *s != DEADLINE_SECONDS),
        priority: entry.priority,
        pull_secrets: names(&entry.pull_secrets),
        service_accounts: names(&entry.service_accounts),
        wanted_by: (present && !by_all)
            .then(|| entry.wanted_by.iter().map(|id| id.uid.clone()).collect()),
    }
}

/// The image that an entry names, or what is wrong with it. `caches` by UID.
pub(super) fn assigned(
    entry: &NodeImage,
    caches: &BTreeMap<String, CacheId>,
) -> Result<AssignedImage, String> {
    let image = ImageRef::parse(&entry.image).map_err(|error| error.problem().to_owned())?;
    let seconds = entry.pull_deadline_seconds.unwrap_or(DEADLINE_SECONDS);
    let names = |names: &[String]| names.iter().filter_map(|name| object_name(name)).collect();
    let mut wanted_by: Vec<CacheId> = match (entry.state, &entry.wanted_by) {
        (DesiredState::Absent, _) => Vec::new(),
        (_, None) => caches.values().cloned().collect(),
        (_, Some(uids)) => {
            let known = |uid: &String| caches.get(uid.as_str()).cloned();
            uids.iter().filter_map(known).collect()
        }
    };
    wanted_by.sort();
    let mut assigned = AssignedImage::present(image);
    assigned.state = entry.state;
    assigned.pull_policy = entry.pull_policy;
    assigned.revision = entry.revision;
    assigned.deadline = Duration::from_secs(seconds.into());
    assigned.priority = entry.priority;
    assigned.pull_secrets = names(&entry.pull_secrets);
    assigned.service_accounts = names(&entry.service_accounts);
    assigned.wanted_by = wanted_by;
    Ok(assigned)
}

fn object_name(text: &str) -> Option<ObjectName> {
    let (namespace, name) = text.split_once('/')?;
    Some(ObjectName::new(namespace, name))
}
