//! `NodeImageCache`: what one node should hold, and what its agent reports.

use std::collections::BTreeMap;
use std::time::Duration;

use fledged_core::error::Reason;
use fledged_core::model::{
    AssignedImage, Assignment, ByteSize, CacheId, DesiredState, Digest, ImagePhase,
    ImagePullPolicy, ImageRef, ImageReport, NodeReport, ObjectName,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::{CustomResource, Resource};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::crd::image_cache::{parse, whole_seconds};

/// Seconds of [`NodeImage::pull_deadline_seconds`] where none is written: kube-fledged's
/// `--image-pull-deadline-duration`.
pub(super) const DEADLINE_SECONDS: u32 = 300;

// Lists are atomic and defaults are left out, so that an object of 20 images that were all pulled has
// some 7 KB, its metadata included.
/// What the node is to hold. Written by the controller alone.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kubefledged.io",
    version = "v1alpha2",
    kind = "NodeImageCache",
    plural = "nodeimagecaches",
    singular = "nodeimagecache",
    shortname = "nic",
    status = "NodeImageCacheStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "What one node is to hold, folded from all ImageCaches, and what its agent says of it. Named after its Node.",
    printcolumn = r#"{"name":"Desired","type":"integer","jsonPath":".status.desired","description":"Images that are to be on the node"}"#,
    printcolumn = r#"{"name":"Cached","type":"integer","jsonPath":".status.cached","description":"Images that are"}"#,
    printcolumn = r#"{"name":"Failed","type":"integer","jsonPath":".status.failed","description":"Images that failed"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct NodeImageCacheSpec {
    /// The ImageCaches that want any of the images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<CacheReference>,
    /// The images, each once.
    #[serde(default)]
    pub images: Vec<NodeImage>,
}

/// One ImageCache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CacheReference {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, which tells it from a later one of the same name.
    pub uid: String,
}

/// One image that is to be on the node, or is to leave it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeImage {
    /// The normalised reference.
    pub image: String,
    /// `Present` where nothing is written.
    #[serde(default, skip_serializing_if = "is_default")]
    pub state: DesiredState,
    /// When to pull although it is present; `IfNotPresent` where nothing is written.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pull_policy: ImagePullPolicy,
    /// A greater revision than the one last satisfied asks for a new pull where `pullPolicy` is
    /// `Always`, and else for a new look at what the runtime holds, and a pull if it is not there.
    #[serde(default, skip_serializing_if = "is_default")]
    pub revision: u64,
    /// Longest a round of pulling may take, in seconds from the start of its first attempt; 300
    /// where nothing is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_deadline_seconds: Option<u32>,
    /// Higher comes first; 0 where nothing is written.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: i32,
    /// Secrets with registry credentials, `namespace/name`, in the order to try them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pull_secrets: Vec<String>,
    /// ServiceAccounts whose `imagePullSecrets` are used as well, `namespace/name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<String>,
    /// UIDs of the caches that want it; all of `caches` where nothing is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted_by: Option<Vec<String>>,
}

/// What the node's agent says. Written by the agent alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeImageCacheStatus {
    /// Generation of the spec that this answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Images that are to be on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<u32>,
    /// Images that are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached: Option<u32>,
    /// Images that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<u32>,
    /// Where each image stands, in the order of the spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<NodeImageStatus>,
}

/// Where one image stands on the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeImageStatus {
    /// The normalised reference.
    pub image: String,
    /// `Pending`, `Pulling`, `BackingOff`, `Cached`, `Failed`, `Removing`, `Removed`, `InUse`.
    pub phase: ImagePhase,
    /// Digest of what is present, where the runtime tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Size of what is present, in bytes, as the runtime counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Attempts of the current or last round of pulling, where there was more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Start of that round's first attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Time>,
    /// When the round ended, well or badly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Time>,
    /// When the next attempt is due, while backing off, failed or held back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Time>,
    /// The revision that was last satisfied; 0 where nothing is written of a cached image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Why, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The runtime's or registry's own text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

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

/// Longest text of one failure, in characters. A runtime repeats the reference up to four times in
/// one; 2,000 images that all fail still make an object of less than 1.5 MiB, etcd's limit.
const MESSAGE_MAX: usize = 400;

impl NodeImageCacheStatus {
    /// The status that says this.
    #[must_use]
    pub fn from_report(report: &NodeReport) -> Self {
        let count = |wanted: fn(ImagePhase) -> bool| {
            let images = report.images.iter().filter(|image| wanted(image.phase));
            Some(u32::try_from(images.count()).unwrap_or(u32::MAX))
        };
        Self {
            observed_generation: i64::try_from(report.observed_generation).ok(),
            desired: count(|phase| {
                let leaving = [ImagePhase::Removing, ImagePhase::Removed, ImagePhase::InUse];
                !leaving.contains(&phase)
            }),
            cached: count(|phase| phase == ImagePhase::Cached),
            failed: count(|phase| phase == ImagePhase::Failed),
            images: report.images.iter().map(NodeImageStatus::from).collect(),
        }
    }
}

impl From<&ImageReport> for NodeImageStatus {
    fn from(report: &ImageReport) -> Self {
        Self {
            image: report.image.as_str().to_owned(),
            phase: report.phase,
            digest: report.digest.as_ref().map(ToString::to_string),
            // None has a size of nothing: whoever pulled it could not tell.
            bytes: report.size.map(|size| size.bytes()).filter(|b| *b > 0),
            attempts: Some(report.attempts).filter(|attempts| *attempts != first(report)),
            started: report.started_at.map(whole_seconds),
            finished: report.finished_at.map(whole_seconds),
            next_attempt: report.next_attempt_at.map(whole_seconds),
            revision: report
                .revision
                .filter(|revision| *revision > 0 || !cached(report)),
            reason: report.reason.map(|reason| reason.to_string()),
            message: report.message.as_deref().map(shortened),
        }
    }
}

impl NodeImageStatus {
    /// The report it holds, unless its reference can't be read.
    pub(super) fn to_report(&self) -> Option<ImageReport> {
        let time = |time: &Option<Time>| time.as_ref().map(|time| time.0);
        let mut report = ImageReport::new(ImageRef::parse(&self.image).ok()?, self.phase);
        report.digest = self.digest.as_deref().and_then(|d| Digest::parse(d).ok());
        report.size = self.bytes.map(ByteSize::new);
        report.started_at = time(&self.started);
        report.attempts = self.attempts.unwrap_or(first(&report));
        report.finished_at = time(&self.finished);
        report.next_attempt_at = time(&self.next_attempt);
        report.revision = self.revision.or(cached(&report).then_some(0));
        // A word of a later version is a failure all the same.
        let reason = |word: &String| parse(word).unwrap_or(Reason::Unknown);
        report.reason = self.reason.as_ref().map(reason);
        report.message.clone_from(&self.message);
        Some(report)
    }
}

/// The report as it is read back from the status that is written for it: times in whole seconds, long
/// messages shortened. Reports are compared in this form, so that what is read back differs from what
/// was written only where the record was changed by others.
pub(crate) fn as_recorded(mut report: NodeReport) -> NodeReport {
    for image in &mut report.images {
        let times = [
            &mut image.started_at,
            &mut image.finished_at,
            &mut image.next_attempt_at,
        ];
        for time in times.into_iter().flatten() {
            *time = whole_seconds(*time).0;
        }
        image.size = image.size.filter(|size| size.bytes() > 0);
        if cached(image) {
            image.revision = image.revision.or(Some(0));
        }
        if let Some(message) = &mut image.message {
            *message = shortened(message);
        }
    }
    report
}

/// Attempts that need not be written: one where a round began, else none.
fn first(report: &ImageReport) -> u32 {
    report.started_at.is_some().into()
}

fn cached(report: &ImageReport) -> bool {
    report.phase == ImagePhase::Cached
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MESSAGE_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_recorded_equals_what_is_read_back() {
        use ImagePhase::{BackingOff, Cached, Failed, Pulling};
        let image: ImageRef = "app:1".parse().unwrap();
        let at = jiff::Timestamp::from_millisecond(1_234_567).unwrap();
        let mut images = Vec::new();
        for phase in [Cached, Pulling, BackingOff, Failed] {
            let report = ImageReport::new(image.clone(), phase);
            for revision in [None, Some(0), Some(3)] {
                images.push(report.clone().with_revision(revision));
            }
            for attempts in [0, 1, 2] {
                let report = report.clone().with_attempts(attempts);
                images.push(report.clone());
                images.push(report.with_started_at(at).with_finished_at(at));
            }
            for size in [0, 7] {
                images.push(report.clone().with_size(ByteSize::new(size)));
            }
            let message = "é".repeat(MESSAGE_MAX + 9);
            let failed = report.with_reason(Reason::RegistryError);
            images.push(failed.with_message(message).with_next_attempt_at(at));
        }
        let recorded = as_recorded(NodeReport::new(1, images));
        for report in &recorded.images {
            let status = NodeImageStatus::from(report);
            assert_eq!(status.to_report().as_ref(), Some(report));
        }
        assert_eq!(as_recorded(recorded.clone()), recorded);
    }
}
