//! A NodeImageCache as it is read from a watch: whatever stands in it, it breaks nothing.

use std::collections::BTreeMap;

use fledged_core::model::{AssignedImage, Assignment, CacheId, NodeReport};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::node_assignment::{InvalidAssignment, assigned};
use super::node_image_cache::{CacheReference, NodeImage, NodeImageCache, NodeImageStatus};

/// A [`NodeImageCache`] of which only the metadata has to be well formed; of its lists, every entry
/// that can be read counts.
#[derive(Resource, Debug, Clone, Default, Serialize, Deserialize)]
#[resource(inherit = NodeImageCache)]
pub struct ReadNodeCache {
    /// Name, UID, generation.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The spec, unread.
    #[serde(default)]
    pub spec: Value,
    /// The status, unread.
    #[serde(default)]
    pub status: Value,
}

impl ReadNodeCache {
    /// The generation of the spec.
    #[must_use]
    pub fn generation(&self) -> u64 {
        let generation = self.metadata.generation.unwrap_or_default();
        u64::try_from(generation).unwrap_or_default()
    }

    /// What the node is to hold, and what of it can't be read.
    #[must_use]
    pub fn assignment(&self) -> (Assignment, Vec<InvalidAssignment>) {
        let mut invalid = Vec::new();
        let mut refuse = |field: String, value: &Value, problem: String| {
            invalid.push(InvalidAssignment {
                field,
                value: value.to_string(),
                problem,
            });
        };
        let mut caches = BTreeMap::new();
        for (at, value) in entries(&self.spec, "caches") {
            match CacheReference::deserialize(value) {
                Ok(cache) => {
                    caches.insert(cache.uid.clone(), CacheId::from(&cache));
                }
                Err(error) => refuse(format!("spec.caches[{at}]"), value, error.to_string()),
            }
        }
        let mut images: Vec<AssignedImage> = Vec::new();
        for (at, value) in entries(&self.spec, "images") {
            let field = format!("spec.images[{at}]");
            match NodeImage::deserialize(value) {
                Ok(entry) => match assigned(&entry, &caches) {
                    Ok(image) => images.push(image),
                    Err(problem) => refuse(format!("{field}.image"), &entry.image.into(), problem),
                },
                Err(error) => refuse(field, value, error.to_string()),
            }
        }
        let assignment = Assignment::new(self.generation(), images);
        (assignment, invalid)
    }

    /// What the agent says; `None` before it said anything.
    #[must_use]
    pub fn report(&self) -> Option<NodeReport> {
        let generation = self.status.get("observedGeneration")?.as_u64()?;
        let images = entries(&self.status, "images")
            .filter_map(|(_, value)| NodeImageStatus::deserialize(value).ok());
        Some(NodeReport::new(
            generation,
            images.filter_map(|image| image.to_report()),
        ))
    }
}

fn entries<'a>(part: &'a Value, list: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    let list = part.get(list).and_then(Value::as_array);
    list.into_iter().flatten().enumerate()
}
