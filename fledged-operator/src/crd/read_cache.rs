//! An ImageCache as it is read from a watch: whatever stands in it, it breaks nothing.

use fledged_core::model::{self, CacheId, InvalidField, InvalidSpec};
use fledged_core::planner::CacheFacts;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::image_cache::{ImageCache, ImageCacheStatus};
use super::{FINALIZER, PURGE_ANNOTATION, REFRESH_ANNOTATION};

/// An [`ImageCache`] of which only the metadata has to be well formed.
///
/// A CRD that was edited, or an older one, lets objects through that no type of ours can hold; one of
/// them must not end the watch of all others.
#[derive(Resource, Debug, Clone, Default, Serialize, Deserialize)]
#[resource(inherit = ImageCache)]
pub struct ReadCache {
    /// Name, UID, generation, annotations.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The spec, unread.
    #[serde(default)]
    pub spec: Value,
    /// The status, unread.
    #[serde(default)]
    pub status: Value,
}

impl ReadCache {
    /// Its identity.
    #[must_use]
    pub fn id(&self) -> CacheId {
        CacheId::new(
            self.namespace().unwrap_or_default(),
            self.name_any(),
            self.uid().unwrap_or_default(),
        )
    }

    /// Whether its status was written by another operator, kube-fledged for instance.
    #[must_use]
    pub fn has_foreign_status(&self) -> bool {
        let written = self.status.as_object().filter(|status| !status.is_empty());
        written.is_some_and(|status| !status.contains_key("observedGeneration"))
    }

    /// What a planner is told of it.
    #[must_use]
    pub fn into_facts(self) -> CacheFacts {
        let id = self.id();
        let generation = self.metadata.generation.unwrap_or_default();
        let generation = u64::try_from(generation).unwrap_or_default();
        let status: Option<ImageCacheStatus> = serde_json::from_value(self.status).ok();
        let asks = |annotation: &str| {
            let annotations = self.metadata.annotations.as_ref();
            annotations.is_some_and(|all| all.contains_key(annotation))
        };
        let finalizers = self.metadata.finalizers.as_deref().unwrap_or_default();
        let spec = read_spec(self.spec).and_then(|spec| spec.validate(id.clone()));
        let mut facts = CacheFacts::new(id, generation, spec);
        facts.refresh_requested = asks(REFRESH_ANNOTATION);
        facts.purge_requested = asks(PURGE_ANNOTATION);
        facts.deleting = self.metadata.deletion_timestamp.is_some();
        facts.finalizer = finalizers.iter().any(|name| name == FINALIZER);
        facts.status = status.and_then(|status| status.to_recorded(generation));
        facts
    }
}

fn read_spec(spec: Value) -> Result<model::ImageCacheSpec, InvalidSpec> {
    let whole = spec.clone();
    serde_path_to_error::deserialize(spec).map_err(|error| {
        let path = error.path().to_string();
        let pointer = format!("/{}", path.replace(['.', '['], "/").replace(']', ""));
        let value = whole.pointer(&pointer).map(Value::to_string);
        let field = match path.as_str() {
            "." => "spec".to_owned(),
            path => format!("spec.{path}"),
        };
        let problem = error.into_inner().to_string();
        InvalidSpec::new([InvalidField::new(field, value.unwrap_or_default(), problem)])
    })
}
