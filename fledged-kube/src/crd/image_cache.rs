//! `ImageCache`: which images belong on which nodes, how far that has got, and how one is read from a watch.

use std::collections::BTreeMap;

use fledged_core::error::Reason;
use fledged_core::model::{
    self, CacheId, CacheSpecImages, DeletionPolicy, InvalidField, InvalidSpec,
    LocalObjectReference, NodeName, Rollout,
};
use fledged_core::planner::{
    ActionReason, ActionStatus, CacheFacts, CacheStatus, Condition as CacheCondition, LastActions,
    NodeFailure, PairCounts, RemovedCounts,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use kube::{CustomResource, Resource, ResourceExt};
use schemars::JsonSchema;
use serde::de::{DeserializeOwned, IntoDeserializer, value};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::crd::{FINALIZER, PURGE_ANNOTATION, REFRESH_ANNOTATION};

/// Images, the nodes they belong on, and how they are rolled out.
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
    doc = "Pre-pulls container images onto nodes before pods need them.",
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.status","description":"Status of the last action"}"#,
    printcolumn = r#"{"name":"Cached","type":"string","jsonPath":".status.cached","description":"Cached pairs of image and node, of all desired ones"}"#,
    printcolumn = r#"{"name":"Failed","type":"integer","jsonPath":".status.failuresTotal","description":"Pairs of image and node that failed"}"#,
    printcolumn = r#"{"name":"Pulling","type":"integer","jsonPath":".status.counts.pulling","description":"Pairs of image and node that are being pulled or wait for it"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status","description":"Whether every desired image is on its node now"}"#,
    printcolumn = r#"{"name":"Action","type":"string","jsonPath":".status.reason","description":"The last action"}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ImageCacheSpec {
    /// Groups of images and the nodes they belong on.
    pub cache_spec: Vec<CacheSpecImages>,
    /// Secrets with registry credentials, in the namespace of the ImageCache.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// ServiceAccount in the same namespace whose `imagePullSecrets` are also used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// What happens to the images when the ImageCache is deleted: `Retain` (the default) leaves them on the nodes,
    /// `Purge` removes them first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// Limits of the rollout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Longest duration of the pull of one image, for example `30m`, for all entries that set none. Default: the
    /// controller's --image-pull-deadline-duration, which is 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
}

impl From<ImageCacheSpec> for model::ImageCacheSpec {
    fn from(wire: ImageCacheSpec) -> Self {
        let mut spec = Self::new(wire.cache_spec);
        spec.image_pull_secrets = wire.image_pull_secrets;
        spec.service_account_name = wire.service_account_name;
        spec.deletion_policy = wire.deletion_policy;
        spec.rollout = wire.rollout;
        spec.deadline = wire.deadline;
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
            deadline: spec.deadline,
        }
    }
}

/// The observed state of an ImageCache. The first six fields and their values are the same as kube-fledged's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageCacheStatus {
    /// Status of the last action: `Processing`, `Succeeded`, `Failed`, `Unknown`,
    /// `NoImagesPulledOrDeleted`; `Aborted` only if kube-fledged wrote it.
    pub status: String,
    /// The last action: `ImageCacheCreate`, `ImageCacheUpdate`, `ImageCacheRefresh`,
    /// `ImageCachePurge`, `ImageCacheDelete`, `CacheSpecValidationFailed`.
    pub reason: String,
    /// Summary of the last action, with counts.
    pub message: String,
    /// A sample of the current failures by image, with node and reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failures: BTreeMap<String, Vec<NodeReasonMessage>>,
    /// Start of the last action.
    pub start_time: Time,
    /// End of the last action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`, `Progressing`, `Degraded`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Cached pairs of image and node, of all desired ones, for example `95/100`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached: Option<String>,
    /// Counts of pairs of image and node by state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<PairCounts>,
    /// Total number of failures, of which `failures` is a sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures_total: Option<u64>,
    /// Unix time in milliseconds of the last refresh. Nodes pull mutable tags again if their last revision is older.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_revision: Option<u64>,
    /// Unix time in milliseconds of the last refresh on demand. Nodes verify that immutable images are present if
    /// their last revision is older.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify_revision: Option<u64>,
    /// What the last purge or deletion has removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<RemovedCounts>,
    /// Values of action annotations in applied manifests that are done. The same value is not done again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_actions: Option<LastActions>,
    /// Whether the cache is purged. A purged cache desires no images until a refresh or an edit of its spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purged: Option<bool>,
}

/// Why an image failed on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeReasonMessage {
    /// Name of the node.
    pub node: String,
    /// Reason of the failure, one word.
    pub reason: String,
    /// Message of the runtime or registry.
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
            removed: Some(status.removed).filter(|removed| !removed.is_empty()),
            last_actions: Some(status.last_actions.clone())
                .filter(|last| *last != LastActions::default()),
            purged: Some(status.purged),
        }
    }
}

impl ImageCacheStatus {
    /// The status from which a new planner continues. It is `None` if another operator wrote it, unless kube-fledged
    /// purged the cache, which then stays purged. `generation` is that of the object, for this case.
    #[must_use]
    pub fn to_recorded(&self, generation: u64) -> Option<CacheStatus> {
        let reason: ActionReason = parse(&self.reason)?;
        let status: ActionStatus = parse(&self.status)?;
        let foreign = self.observed_generation.is_none();
        if foreign && reason != ActionReason::ImageCachePurge {
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
        recorded.removed = self.removed.unwrap_or_default();
        recorded.last_actions = self.last_actions.clone().unwrap_or_default();
        recorded.purged = self.purged.unwrap_or(foreign);
        Some(recorded)
    }
}

/// A tolerant [`ImageCache`]: only the metadata has to be well-formed.
///
/// An edited or older CustomResourceDefinition accepts objects that do not match the types. One such object must not
/// break the watch of all others.
#[derive(Resource, Debug, Clone, Default, Serialize, Deserialize)]
#[resource(inherit = ImageCache)]
pub struct ReadCache {
    /// Name, UID, generation, annotations.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The raw spec.
    #[serde(default)]
    pub spec: Value,
    /// The raw status.
    #[serde(default)]
    pub status: Value,
}

impl ReadCache {
    /// The identity of the cache.
    #[must_use]
    pub fn id(&self) -> CacheId {
        CacheId::new(
            self.namespace().unwrap_or_default(),
            self.name_any(),
            self.uid().unwrap_or_default(),
        )
    }

    /// Whether another operator, for example kube-fledged, wrote the status.
    #[must_use]
    pub fn has_foreign_status(&self) -> bool {
        let written = self.status.as_object().filter(|status| !status.is_empty());
        written.is_some_and(|status| !status.contains_key("observedGeneration"))
    }

    /// The facts for the planner.
    #[must_use]
    pub fn into_facts(self) -> CacheFacts {
        let id = self.id();
        let generation = self.metadata.generation.unwrap_or_default();
        let generation = u64::try_from(generation).unwrap_or_default();
        let status: Option<ImageCacheStatus> = serde_json::from_value(self.status).ok();
        let asks = |annotation: &str| value_of(&self.metadata, annotation).is_some();
        let declared = |annotation: &str| {
            let value = value_of(&self.metadata, annotation)?;
            let cut = || value.chars().take(ACTION_VALUE_MAX).collect();
            is_declared(&self.metadata, annotation).then(cut)
        };
        let finalizers = self.metadata.finalizers.as_deref().unwrap_or_default();
        let spec = read_spec(self.spec).and_then(|spec| spec.validate(id.clone()));
        let mut facts = CacheFacts::new(id, generation, spec);
        facts.created_at = self.metadata.creation_timestamp.as_ref().map(|time| time.0);
        facts.refresh_requested = asks(REFRESH_ANNOTATION);
        facts.purge_requested = asks(PURGE_ANNOTATION);
        facts.declared_refresh = declared(REFRESH_ANNOTATION);
        facts.declared_purge = declared(PURGE_ANNOTATION);
        facts.deleting = self.metadata.deletion_timestamp.is_some();
        facts.finalizer = finalizers.iter().any(|name| name == FINALIZER);
        facts.status = status.and_then(|status| status.to_recorded(generation));
        facts
    }
}

/// Longest value of an action annotation that is compared, in characters.
pub(super) const ACTION_VALUE_MAX: usize = 256;

/// The annotation in which `kubectl apply` and client-side GitOps tools keep the applied manifest.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn value_of<'a>(metadata: &'a ObjectMeta, annotation: &str) -> Option<&'a String> {
    metadata.annotations.as_ref()?.get(annotation)
}

/// Whether the annotation is part of an applied manifest, by either kind of apply. Tools that keep objects as in
/// their manifests put such an annotation back whenever it is removed. One that `kubectl annotate` sets is not.
fn is_declared(metadata: &ObjectMeta, annotation: &str) -> bool {
    let applied = value_of(metadata, LAST_APPLIED);
    let applied = applied.and_then(|text| serde_json::from_str::<Value>(text).ok());
    let by_client = applied.is_some_and(|manifest| {
        let annotations = manifest.pointer("/metadata/annotations");
        annotations.is_some_and(|all| all.get(annotation).is_some())
    });
    let field = format!("f:{annotation}");
    let by_server = metadata.managed_fields.iter().flatten().any(|entry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        let annotations = fields.and_then(|fields| fields.pointer("/f:metadata/f:annotations"));
        entry.operation.as_deref() == Some("Apply")
            && annotations.is_some_and(|all| all.get(&field).is_some())
    });
    by_client || by_server
}

/// The spec; otherwise every part of it that cannot be read, and what is invalid in the others.
fn read_spec(spec: Value) -> Result<model::ImageCacheSpec, InvalidSpec> {
    let whole = match read_part::<model::ImageCacheSpec>(&spec, "spec") {
        Ok(spec) => return Ok(spec),
        Err(unreadable) => unreadable,
    };
    let mut invalid: Vec<InvalidField> = Vec::new();
    let groups = spec.get("cacheSpec").and_then(Value::as_array);
    for (at, group) in groups.into_iter().flatten().enumerate() {
        let path = format!("spec.cacheSpec[{at}]");
        match read_part(group, &path) {
            Ok(group) => invalid.extend(problems(model::ImageCacheSpec::new([group]), &path)),
            Err(unreadable) => invalid.push(unreadable),
        }
    }
    let rest = spec.as_object().filter(|_| groups.is_some()).cloned();
    if let Some(mut rest) = rest {
        rest.insert("cacheSpec".to_owned(), Value::Array(Vec::new()));
        match read_part::<model::ImageCacheSpec>(&Value::Object(rest), "spec") {
            Ok(rest) => {
                let rest = problems(rest, "");
                // The entries were taken out here.
                invalid.extend(rest.into_iter().filter(|one| one.field != "spec.cacheSpec"));
            }
            Err(unreadable) => invalid.push(unreadable),
        }
    }
    if invalid.is_empty() {
        invalid.push(whole);
    }
    Err(InvalidSpec::new(invalid))
}

/// What is invalid in a spec. The path of its only entry is `group`.
fn problems(spec: model::ImageCacheSpec, group: &str) -> Vec<InvalidField> {
    let invalid = spec.validate(CacheId::new("", "", "")).err();
    let mut fields = invalid.map_or_else(Vec::new, |invalid| invalid.fields);
    for field in &mut fields {
        if let Some(rest) = field.field.strip_prefix("spec.cacheSpec[0]") {
            field.field = format!("{group}{rest}");
        }
    }
    fields
}

/// A part of the spec at that path.
fn read_part<T: DeserializeOwned>(part: &Value, at: &str) -> Result<T, InvalidField> {
    serde_path_to_error::deserialize(part).map_err(|error| {
        let path = error.path().to_string();
        let pointer = format!("/{}", path.replace(['.', '['], "/").replace(']', ""));
        let value = match path.as_str() {
            "." => Some(part),
            _ => part.pointer(&pointer),
        };
        let field = match path.as_str() {
            "." => at.to_owned(),
            path => format!("{at}.{path}"),
        };
        let problem = error.into_inner().to_string();
        let value = value.map(Value::to_string).unwrap_or_default();
        InvalidField::new(field, value, problem)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_unreadable_or_invalid_field_is_named() {
        let cache = ReadCache {
            spec: json!({
                "cacheSpec": [
                    { "images": [7] },
                    { "images": ["UPPER", "app:1", "a b"] },
                    { "images": ["app:1"], "tolerations": [{ "operator": "X", "effect": "Y" }] },
                    { "images": ["app:1"], "nodeSelector": "all" },
                ],
                "imagePullSecrets": [{ "name": "A" }],
                "rollout": { "maxConcurrentNodes": true },
            }),
            ..ReadCache::default()
        };
        let invalid = cache.into_facts().spec.unwrap_err();
        let fields: Vec<&str> = invalid.fields.iter().map(|one| &*one.field).collect();
        assert_eq!(
            fields,
            [
                "spec.cacheSpec[0].images[0]",
                "spec.cacheSpec[1].images[0]",
                "spec.cacheSpec[1].images[2]",
                "spec.cacheSpec[2].tolerations[0].operator",
                "spec.cacheSpec[2].tolerations[0].effect",
                "spec.cacheSpec[3].nodeSelector",
                "spec.rollout.maxConcurrentNodes",
            ]
        );
        for spec in [
            json!("all of them"),
            json!({ "cacheSpec": "all" }),
            json!({}),
        ] {
            let cache = ReadCache {
                spec: spec.clone(),
                ..ReadCache::default()
            };
            let invalid = cache.into_facts().spec.unwrap_err();
            assert_eq!(invalid.fields.len(), 1, "{spec}: {invalid}");
        }
    }
    #[test]
    fn an_invalid_pull_rate_is_named_with_its_value() {
        for (rate, text) in [
            (json!(-5), "\"-5\": must be a number with or without a unit"),
            (json!("0"), "\"0\": must be at least 64Ki"),
            (json!("20MB"), "\"20MB\": must be a number"),
            (json!([1]), "\"[1]\": invalid type: sequence"),
        ] {
            let rollout = json!({ "maxPullRatePerNode": rate });
            let cache = ReadCache {
                spec: json!({ "cacheSpec": [{ "images": ["app:1"] }], "rollout": rollout }),
                ..ReadCache::default()
            };
            let invalid = cache.into_facts().spec.unwrap_err().to_string();
            let expected = format!("spec.rollout.maxPullRatePerNode: {text}");
            assert!(invalid.starts_with(&expected), "{invalid}");
        }
    }
}
