//! `ImageCache`: which images belong on which nodes, how far that has got, and how one is read from a watch.

use std::collections::BTreeMap;

use fledged_core::error::Reason;
use fledged_core::model::{
    self, CacheId, CacheSpecImages, DeletionPolicy, InvalidField, InvalidSpec,
    LocalObjectReference, NodeName, Rollout,
};
use fledged_core::planner::{
    ActionReason, ActionStatus, CacheFacts, CacheStatus, Condition as CacheCondition, NodeFailure,
    PairCounts,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use kube::{CustomResource, Resource, ResourceExt};
use schemars::JsonSchema;
use serde::de::{DeserializeOwned, IntoDeserializer, value};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::crd::{FINALIZER, PURGE_ANNOTATION, REFRESH_ANNOTATION};

/// What a user wants: images, the nodes they belong on, and how they get there.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubefledged.io",
    version = "v1alpha2",
    kind = "ImageCache",
    plural = "imagecaches",
    singular = "imagecache",
    shortname = "ic",
    namespaced,
    status = "ImageCacheStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Container images that are to be on nodes before the pods that need them.",
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.status","description":"How the last action stands"}"#,
    printcolumn = r#"{"name":"Cached","type":"string","jsonPath":".status.cached","description":"Images that are on their nodes, of all that are to be"}"#,
    printcolumn = r#"{"name":"Failed","type":"integer","jsonPath":".status.failuresTotal","description":"Images that failed on a node"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ImageCacheSpec {
    /// Which images on which nodes.
    pub cache_spec: Vec<CacheSpecImages>,
    /// Secrets with registry credentials, in the ImageCache's own namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// ServiceAccount in the same namespace whose `imagePullSecrets` are used as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// What happens to the images when the ImageCache is deleted: `Retain` (the default) leaves them
    /// on the nodes, `Purge` removes them first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// How fast the images go out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}

impl From<ImageCacheSpec> for model::ImageCacheSpec {
    fn from(wire: ImageCacheSpec) -> Self {
        let mut spec = Self::new(wire.cache_spec);
        spec.image_pull_secrets = wire.image_pull_secrets;
        spec.service_account_name = wire.service_account_name;
        spec.deletion_policy = wire.deletion_policy;
        spec.rollout = wire.rollout;
        spec
    }
}

impl From<model::ImageCacheSpec> for ImageCacheSpec {
    fn from(spec: model::ImageCacheSpec) -> Self {
        Self {
            cache_spec: spec.cache_spec,
            image_pull_secrets: spec.image_pull_secrets,
            service_account_name: spec.service_account_name,
            deletion_policy: spec.deletion_policy,
            rollout: spec.rollout,
        }
    }
}

/// How far an ImageCache has got. The first six fields are kube-fledged's, with its words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageCacheStatus {
    /// How the last action stands: `Processing`, `Succeeded`, `Failed`, `Unknown`,
    /// `NoImagesPulledOrDeleted`; `Aborted` only where kube-fledged wrote it.
    pub status: String,
    /// The last action: `ImageCacheCreate`, `ImageCacheUpdate`, `ImageCacheRefresh`,
    /// `ImageCachePurge`, `ImageCacheDelete`, `CacheSpecValidationFailed`.
    pub reason: String,
    /// A sentence with the counts.
    pub message: String,
    /// A sample of what failed, or fails so far: by image, on which node and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<String, Vec<NodeReasonMessage>>,
    /// When the last action began.
    pub start_time: Time,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Generation of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Progressing`, `Degraded`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Images on their nodes, of all that are to be, `95/100`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached: Option<String>,
    /// The numbers behind it, in (image, node) pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<PairCounts>,
    /// How many failures there are, of which `failures` is a sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures_total: Option<u64>,
    /// Milliseconds since the epoch of the last refresh: the revision asked of the nodes for images
    /// that move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_revision: Option<u64>,
    /// Milliseconds since the epoch of the last refresh on demand: the revision asked of the nodes for
    /// images that do not move, of which they make sure for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_revision: Option<u64>,
    /// Whether it is purged: it wants nothing until a refresh or an edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged: Option<bool>,
}

/// Why an image failed on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeReasonMessage {
    /// The node's name.
    pub node: String,
    /// Why, in one word.
    pub reason: String,
    /// The runtime's or registry's own text.
    pub message: String,
}

impl From<&CacheStatus> for ImageCacheStatus {
    fn from(status: &CacheStatus) -> Self {
        let failures = status.failures.iter().map(|(image, failures)| {
            let failures = failures.iter().map(|failure| NodeReasonMessage {
                node: failure.node.to_string(),
                reason: failure.reason.to_string(),
                message: failure.message.clone(),
            });
            (image.clone(), failures.collect())
        });
        let observed_generation = i64::try_from(status.observed_generation).ok();
        let conditions = status.conditions.iter().map(|condition| Condition {
            type_: condition.kind.to_string(),
            status: if condition.status { "True" } else { "False" }.to_owned(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
            last_transition_time: whole_seconds(condition.since),
            observed_generation,
        });
        let counts = status.counts;
        Self {
            status: status.status.to_string(),
            reason: status.reason.to_string(),
            message: status.message.clone(),
            failures: failures.collect(),
            start_time: whole_seconds(status.start_time),
            completion_time: status.completion_time.map(whole_seconds),
            observed_generation,
            conditions: conditions.collect(),
            cached: Some(format!("{}/{}", counts.cached, counts.desired)),
            counts: Some(counts),
            failures_total: Some(status.failures_total),
            refresh_revision: Some(status.refresh_revision),
            verify_revision: Some(status.verify_revision),
            purged: Some(status.purged),
        }
    }
}

impl ImageCacheStatus {
    /// What the next planner goes on from; `None` where it was not written by this operator, unless
    /// kube-fledged left the cache purged: then it stays so. The generation is the object's own, for
    /// that case.
    #[must_use]
    pub fn to_recorded(&self, generation: u64) -> Option<CacheStatus> {
        let reason: ActionReason = parse(&self.reason)?;
        let status: ActionStatus = parse(&self.status)?;
        let theirs = self.observed_generation.is_none();
        if theirs && reason != ActionReason::ImageCachePurge {
            return None;
        }
        let observed = self.observed_generation.map(u64::try_from);
        let failures = self.failures.iter().map(|(image, failures)| {
            let failures = failures.iter().filter_map(|failure| {
                Some(NodeFailure::new(
                    NodeName::new(&failure.node).ok()?,
                    parse(&failure.reason).unwrap_or(Reason::Unknown),
                    failure.message.clone(),
                ))
            });
            (image.clone(), failures.collect())
        });
        let conditions = self.conditions.iter().filter_map(|condition| {
            Some(CacheCondition::new(
                parse(&condition.type_)?,
                condition.status == "True",
                condition.reason.clone(),
                condition.message.clone(),
                condition.last_transition_time.0,
            ))
        });
        let generation = observed.map_or(Ok(generation), |o| o).ok()?;
        let mut recorded = CacheStatus::new(generation, reason, status, self.start_time.0);
        recorded.message.clone_from(&self.message);
        recorded.failures = failures.collect();
        recorded.failures_total = self.failures_total.unwrap_or_default();
        recorded.counts = self.counts.unwrap_or_default();
        recorded.conditions = conditions.collect();
        recorded.completion_time = self.completion_time.as_ref().map(|Time(at)| *at);
        recorded.refresh_revision = self.refresh_revision.unwrap_or_default();
        recorded.verify_revision = self.verify_revision.unwrap_or_default();
        recorded.purged = self.purged.unwrap_or(theirs);
        Some(recorded)
    }
}

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

/// One of core's words, if it is one.
pub(super) fn parse<T: DeserializeOwned>(word: &str) -> Option<T> {
    let word: value::StrDeserializer<'_, value::Error> = word.into_deserializer();
    T::deserialize(word).ok()
}

/// A moment as the API writes it: whole seconds.
pub(super) fn whole_seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}
