//! `NodeImageCache`: what one node should hold, and what its agent reports.

use std::collections::{BTreeMap, BTreeSet};
use std::slice;
use std::time::Duration;

use fledged_core::error::{Reason, plain_text};
use fledged_core::model::{
    AssignedImage, Assignment, ByteSize, CacheId, DesiredState, Digest, ImagePhase,
    ImagePullPolicy, ImageRef, ImageReport, NodeReport, ObjectName, PullLimit, PullRate, PulledVia,
    RemovalCause, RemovalOrder,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::{CustomResource, Resource};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::crd::image_cache::{parse, whole_seconds};

/// Default of [`NodeImage::pull_deadline_seconds`], the same as kube-fledged's `--image-pull-deadline-duration`.
pub(super) const DEADLINE_SECONDS: u32 = 300;

// Lists are atomic and defaults are left out, so that an object of 20 images that were all pulled has
// some 7 KB, its metadata included.
/// The images that the node should hold. Only the controller writes it.
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
    doc = "The images that one node should hold, computed from all ImageCaches, and the report of its agent. Named after its Node.",
    printcolumn = r#"{"name":"Desired","type":"integer","jsonPath":".status.desired","description":"Images that should be on the node"}"#,
    printcolumn = r#"{"name":"Cached","type":"integer","jsonPath":".status.cached","description":"Images that are on the node"}"#,
    printcolumn = r#"{"name":"Failed","type":"integer","jsonPath":".status.failed","description":"Images that failed"}"#,
    printcolumn = r#"{"name":"Pending","type":"integer","jsonPath":".status.pendingRemovals","description":"Images that are to be removed and are still there"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct NodeImageCacheSpec {
    /// The ImageCaches that desire any of the images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<CacheReference>,
    /// The images, each once.
    #[serde(default)]
    pub images: Vec<NodeImage>,
}

/// One ImageCache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheReference {
    /// Namespace of the ImageCache.
    pub namespace: String,
    /// Name of the ImageCache.
    pub name: String,
    /// UID of the ImageCache, which distinguishes it from a later one of the same name.
    pub uid: String,
    /// Names of Secrets with registry credentials for its images, in its namespace, in the order in which they
    /// are tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pull_secrets: Vec<String>,
    /// Names of ServiceAccounts in its namespace whose `imagePullSecrets` are also used for its images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<String>,
}

/// One image that should be present on the node or absent from it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeImage {
    /// The normalised reference.
    pub image: String,
    /// `Present` or `Absent`. Default `Present`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub state: DesiredState,
    /// Whether to pull an image that is present. Default `IfNotPresent`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pull_policy: ImagePullPolicy,
    /// A greater revision than the last satisfied one requests a new pull if `pullPolicy` is `Always`, and otherwise
    /// a check that the image is present, and a pull if it is not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub revision: u64,
    /// Deadline of a round of pull attempts in seconds, from the start of its first attempt. Default 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_deadline_seconds: Option<u32>,
    /// Images with a higher priority are pulled first. Default 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: i32,
    /// Secrets with registry credentials as `namespace/name`, in the order in which they are tried. Default those
    /// of the ImageCaches that desire the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pull_secrets: Vec<String>,
    /// ServiceAccounts whose `imagePullSecrets` are also used, as `namespace/name`. Default those of the
    /// ImageCaches that desire the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<String>,
    /// UIDs of the ImageCaches that desire the image. Default all of `caches`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted_by: Option<Vec<String>>,
    /// Bytes of layers that the node receives in a second, at most, for this image and all others with the same
    /// ImageCache in `maxPullRateOf`. Default no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pull_rate: Option<u64>,
    /// UID of the ImageCache whose `maxPullRatePerNode` counts. Default the only one that desires the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pull_rate_of: Option<String>,
    /// Which ImageCache asks for the removal of an absent image. A removal is forgotten when its cause is gone, and
    /// after a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removal: Option<RemovalRequest>,
}

/// Which ImageCache asks for the removal of an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemovalRequest {
    /// `Edit`: the ImageCache does not list the image any more. `Purge`, `Deletion`: it is purged or deleted.
    pub cause: RemovalCause,
    /// Namespace of the ImageCache.
    pub namespace: String,
    /// Name of the ImageCache.
    pub name: String,
    /// UID of the ImageCache.
    pub uid: String,
    /// Time of the request.
    pub since: Time,
    /// Whether the node removes the image only if it held or pulled it for this record. Default no.
    #[serde(default, skip_serializing_if = "is_default")]
    pub if_held: bool,
}

impl From<&RemovalOrder> for RemovalRequest {
    fn from(order: &RemovalOrder) -> Self {
        Self {
            cause: order.cause,
            namespace: order.cache.namespace.clone(),
            name: order.cache.name.clone(),
            uid: order.cache.uid.clone(),
            since: whole_seconds(order.since),
            if_held: order.if_held,
        }
    }
}

impl From<&RemovalRequest> for RemovalOrder {
    fn from(request: &RemovalRequest) -> Self {
        let cache = CacheId::new(&request.namespace, &request.name, &request.uid);
        Self::new(cache, request.cause, request.since.0).with_if_held(request.if_held)
    }
}

/// The report of the agent of the node. Only the agent writes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeImageCacheStatus {
    /// Generation of the spec that this report is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Number of images that should be on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<u32>,
    /// Number of those that are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached: Option<u32>,
    /// Number of images that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<u32>,
    /// Number of images that are to be removed and are still there. `spec.images[].removal` has who asks, and since
    /// when; `images[].reason` and `message` why an image is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_removals: Option<u32>,
    /// State of each image, in the order of the spec.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<NodeImageStatus>,
}

/// State of one image on the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeImageStatus {
    /// The normalised reference.
    pub image: String,
    /// `Pending`, `Pulling`, `BackingOff`, `Cached`, `Failed`, `Removing`, `Removed`, `InUse`.
    pub phase: ImagePhase,
    /// Digest of the image that is present, if the runtime reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Size in bytes of the image that is present, as reported by the runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// What fetched the layers in the last pull: `fetcher`, the agent over several connections, or `runtime`. Set only by
    /// agents with `--pull-via=auto`, or if a pull rate was not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Why the runtime fetched the layers, and which pull rate was therefore not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via_reason: Option<String>,
    /// Attempts of the current or last round of pull attempts, if there was more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// Start of the first attempt of this round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Time>,
    /// End of the round, successful or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Time>,
    /// Time of the next attempt, if the image is backing off, failed or held back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Time>,
    /// The last satisfied revision. Default 0 for a cached image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Reason of the failure, one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Message of the runtime or registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Digests that the tag named before, oldest first, and that are removed from the node once nothing uses them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub superseded: Vec<String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// An invalid entry of a NodeImageCache. It is skipped; the other entries are used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value}: {problem}")]
#[non_exhaustive]
pub struct InvalidAssignment {
    /// Path of the field, `spec.images[2].image`.
    pub field: String,
    /// The value, as JSON.
    pub value: String,
    /// The problem.
    pub problem: String,
}

impl NodeImageCacheSpec {
    /// Converts an assignment to a spec.
    #[must_use]
    pub fn from_images(images: &[AssignedImage]) -> Self {
        let mut caches: BTreeMap<&str, &CacheId> = BTreeMap::new();
        for id in images.iter().flat_map(|entry| &entry.wanted_by) {
            caches.insert(&id.uid, id);
        }
        let caches: Vec<&CacheId> = caches.into_values().collect();
        let pull_secrets = shared_names(images, |entry| &entry.pull_secrets);
        let service_accounts = shared_names(images, |entry| &entry.service_accounts);
        let by_all = |entry: &AssignedImage| {
            entry.wanted_by.len() == caches.len()
                && caches.iter().all(|id| entry.wanted_by.contains(id))
        };
        let to_wire = |entry: &AssignedImage| {
            let mut image = NodeImage::from(entry);
            let present = entry.state == DesiredState::Present;
            if present && !by_all(entry) {
                let uids = entry.wanted_by.iter().map(|id| id.uid.clone());
                image.wanted_by = Some(uids.collect());
            }
            // Written once a cache, unless that would change the order.
            let wanted_by = if present { &*entry.wanted_by } else { &[] };
            let own = |own: &[ObjectName], of_caches: &CacheNames| match own {
                own if names_of(wanted_by, of_caches) == own => Vec::new(),
                own => own.iter().map(ToString::to_string).collect(),
            };
            let limit = entry.pull_limit.as_ref().filter(|_| present);
            image.max_pull_rate = limit.map(|limit| limit.rate.bytes());
            let shared = limit.filter(|limit| *entry.wanted_by != *slice::from_ref(&limit.cache));
            image.max_pull_rate_of = shared.map(|limit| limit.cache.uid.clone());
            image.pull_secrets = own(&entry.pull_secrets, &pull_secrets);
            image.service_accounts = own(&entry.service_accounts, &service_accounts);
            image
        };
        let names = |names: &CacheNames, id: &CacheId| {
            let names = names.get(id).into_iter().flatten();
            names.map(|name| name.name.clone()).collect()
        };
        Self {
            images: images.iter().map(to_wire).collect(),
            caches: caches
                .into_iter()
                .map(|id| CacheReference {
                    namespace: id.namespace.clone(),
                    name: id.name.clone(),
                    uid: id.uid.clone(),
                    pull_secrets: names(&pull_secrets, id),
                    service_accounts: names(&service_accounts, id),
                })
                .collect(),
        }
    }
}

/// Secrets, or ServiceAccounts, of each cache.
type CacheNames = BTreeMap<CacheId, Vec<ObjectName>>;

/// For each cache, the names in its namespace that all images have that it desires. An image has the names of
/// all its caches, so the names of these caches together are those of the image.
fn shared_names(
    images: &[AssignedImage],
    of: impl Fn(&AssignedImage) -> &Vec<ObjectName>,
) -> CacheNames {
    let mut shared = CacheNames::new();
    for entry in images {
        let names: BTreeSet<&ObjectName> = of(entry).iter().collect();
        for id in &entry.wanted_by {
            match shared.get_mut(id) {
                Some(known) => known.retain(|name| names.contains(name)),
                None => {
                    let own = of(entry)
                        .iter()
                        .filter(|name| name.namespace == id.namespace);
                    shared.insert(id.clone(), own.cloned().collect());
                }
            }
        }
    }
    shared
}

/// The names of these caches together, each once.
fn names_of(caches: &[CacheId], names: &CacheNames) -> Vec<ObjectName> {
    let mut known = BTreeSet::new();
    let caches: BTreeSet<&CacheId> = caches.iter().collect();
    let names = caches.into_iter().filter_map(|id| names.get(id)).flatten();
    names.filter(|name| known.insert(*name)).cloned().collect()
}

impl From<&CacheReference> for CacheId {
    fn from(cache: &CacheReference) -> Self {
        Self::new(&cache.namespace, &cache.name, &cache.uid)
    }
}

impl From<&AssignedImage> for NodeImage {
    fn from(entry: &AssignedImage) -> Self {
        // Round up to whole seconds.
        let deadline = entry.deadline.as_secs() + u64::from(entry.deadline.subsec_nanos() > 0);
        let deadline = u32::try_from(deadline).unwrap_or(u32::MAX);
        let present = entry.state == DesiredState::Present;
        Self {
            image: entry.image.as_str().to_owned(),
            state: entry.state,
            pull_policy: entry.pull_policy,
            revision: entry.revision,
            pull_deadline_seconds: Some(deadline).filter(|s| present && *s != DEADLINE_SECONDS),
            priority: entry.priority,
            removal: entry.removal.as_ref().map(RemovalRequest::from),
            ..Self::default()
        }
    }
}

/// The ImageCaches of a record, with the names of their Secrets and ServiceAccounts.
#[derive(Debug, Default)]
pub(super) struct RecordedCaches {
    by_uid: BTreeMap<String, CacheId>,
    pull_secrets: CacheNames,
    service_accounts: CacheNames,
}

impl RecordedCaches {
    fn insert(&mut self, cache: CacheReference) {
        let id = CacheId::from(&cache);
        let names = |names: Vec<String>| {
            let names = names.into_iter();
            names
                .map(|name| ObjectName::new(&*cache.namespace, name))
                .collect()
        };
        self.pull_secrets
            .insert(id.clone(), names(cache.pull_secrets));
        self.service_accounts
            .insert(id.clone(), names(cache.service_accounts));
        self.by_uid.insert(cache.uid, id);
    }
}

/// Converts an entry; returns the problem if its reference is invalid.
fn assigned(entry: &NodeImage, caches: &RecordedCaches) -> Result<AssignedImage, String> {
    let image = ImageRef::parse(&entry.image).map_err(|error| error.problem().to_owned())?;
    let seconds = entry.pull_deadline_seconds.unwrap_or(DEADLINE_SECONDS);
    let mut wanted_by: Vec<CacheId> = match (entry.state, &entry.wanted_by) {
        (DesiredState::Absent, _) => Vec::new(),
        (_, None) => caches.by_uid.values().cloned().collect(),
        (_, Some(uids)) => {
            let known = |uid: &String| caches.by_uid.get(uid).cloned();
            uids.iter().filter_map(known).collect()
        }
    };
    wanted_by.sort();
    let names = |own: &[String], of_caches: &CacheNames| {
        if own.is_empty() {
            return names_of(&wanted_by, of_caches);
        }
        own.iter().filter_map(|name| object_name(name)).collect()
    };
    let mut assigned = AssignedImage::present(image);
    assigned.state = entry.state;
    assigned.pull_policy = entry.pull_policy;
    assigned.revision = entry.revision;
    assigned.deadline = Duration::from_secs(seconds.into());
    assigned.priority = entry.priority;
    assigned.pull_secrets = names(&entry.pull_secrets, &caches.pull_secrets);
    assigned.service_accounts = names(&entry.service_accounts, &caches.service_accounts);
    assigned.pull_limit = pull_limit(entry, caches, &wanted_by);
    assigned.wanted_by = wanted_by;
    let removal = entry
        .removal
        .as_ref()
        .filter(|_| entry.state == DesiredState::Absent);
    assigned.removal = removal.map(RemovalOrder::from);
    Ok(assigned)
}

/// The limit of the pulls of an entry that these caches desire. A rate below the least one counts as that.
fn pull_limit(
    entry: &NodeImage,
    caches: &RecordedCaches,
    wanted_by: &[CacheId],
) -> Option<PullLimit> {
    let rate = ByteSize::new(entry.max_pull_rate?);
    let rate = PullRate::new(rate).unwrap_or(PullRate::LEAST);
    let named = entry.max_pull_rate_of.as_ref();
    let named = named.and_then(|uid| caches.by_uid.get(uid));
    let cache = named.or_else(|| wanted_by.first())?;
    Some(PullLimit::new(cache.clone(), rate))
}

fn object_name(text: &str) -> Option<ObjectName> {
    let (namespace, name) = text.split_once('/')?;
    Some(ObjectName::new(namespace, name))
}

/// Longest message of one failure, in characters. Runtimes repeat the reference up to four times in a message. With
/// this limit, an object with 2,000 failed images stays below the 1.5 MiB limit of etcd.
const MESSAGE_MAX: usize = 400;
/// Longest reason for a pull by the runtime, in characters.
const VIA_REASON_MAX: usize = 200;
const VIA_FETCHER: &str = "fetcher";
const VIA_RUNTIME: &str = "runtime";

impl NodeImageCacheStatus {
    /// Converts a report to a status.
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
            pending_removals: count(|phase| {
                matches!(phase, ImagePhase::Removing | ImagePhase::InUse)
            })
            .filter(|count| *count > 0),
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
            // No image is empty: a size of 0 means that the runtime did not report it.
            bytes: report.size.map(|size| size.bytes()).filter(|b| *b > 0),
            via: report.via.as_ref().map(|via| match via {
                PulledVia::Runtime(_) => VIA_RUNTIME.to_owned(),
                _ => VIA_FETCHER.to_owned(),
            }),
            via_reason: match &report.via {
                Some(PulledVia::Runtime(why)) => Some(shortened_via(why)),
                _ => None,
            },
            attempts: Some(report.attempts).filter(|attempts| *attempts != first(report)),
            started: report.started_at.map(whole_seconds),
            finished: report.finished_at.map(whole_seconds),
            next_attempt: report.next_attempt_at.map(whole_seconds),
            revision: report
                .revision
                .filter(|revision| *revision > 0 || !cached(report)),
            reason: report.reason.map(|reason| reason.to_string()),
            message: report.message.as_deref().map(shortened),
            superseded: report.superseded.iter().map(ToString::to_string).collect(),
        }
    }
}

impl NodeImageStatus {
    /// Converts the entry to a report; `None` if its reference is invalid.
    pub(super) fn to_report(&self) -> Option<ImageReport> {
        let time = |time: &Option<Time>| time.as_ref().map(|time| time.0);
        let mut report = ImageReport::new(ImageRef::parse(&self.image).ok()?, self.phase);
        report.digest = self.digest.as_deref().and_then(|d| Digest::parse(d).ok());
        report.size = self.bytes.map(ByteSize::new);
        report.via = match self.via.as_deref() {
            Some(VIA_FETCHER) => Some(PulledVia::Fetcher),
            Some(VIA_RUNTIME) => {
                let why = self.via_reason.as_deref().unwrap_or_default();
                Some(PulledVia::Runtime(shortened_via(why)))
            }
            _ => None,
        };
        report.started_at = time(&self.started);
        report.attempts = self.attempts.unwrap_or(first(&report));
        report.finished_at = time(&self.finished);
        report.next_attempt_at = time(&self.next_attempt);
        report.revision = self.revision.or(cached(&report).then_some(0));
        // A reason of a later version is still a failure.
        let reason = |word: &String| parse(word).unwrap_or(Reason::Unknown);
        report.reason = self.reason.as_ref().map(reason);
        // An agent can be an impostor: what is read is bounded as well as what is written.
        report.message = self.message.as_deref().map(shortened);
        let superseded = self.superseded.iter();
        Some(report.with_superseded(superseded.filter_map(|text| Digest::parse(text).ok())))
    }
}

/// The report as it is read back from the status that is written for it: times in whole seconds, long
/// messages shortened. Reports are compared in this form, so that what is read back differs from what
/// was written only where the record was changed by others.
pub fn as_recorded(mut report: NodeReport) -> NodeReport {
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
        if let Some(PulledVia::Runtime(why)) = &mut image.via {
            *why = shortened_via(why);
        }
        if let Some(message) = &mut image.message {
            *message = shortened(message);
        }
    }
    report
}

/// The implied number of attempts: one if a round has started, else zero.
fn first(report: &ImageReport) -> u32 {
    report.started_at.is_some().into()
}

fn cached(report: &ImageReport) -> bool {
    report.phase == ImagePhase::Cached
}

fn shortened(text: &str) -> String {
    plain_text(text, MESSAGE_MAX)
}

fn shortened_via(why: &str) -> String {
    plain_text(why, VIA_REASON_MAX)
}

/// A tolerant [`NodeImageCache`]: only the metadata has to be well-formed, and invalid entries of its lists are
/// skipped.
#[derive(Resource, Debug, Clone, Default, Serialize, Deserialize)]
#[resource(inherit = NodeImageCache)]
pub struct ReadNodeCache {
    /// Name, UID, generation.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The raw spec.
    #[serde(default)]
    pub spec: Value,
    /// The raw status.
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

    /// The assignment, and the invalid entries that it leaves out.
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
        let mut caches = RecordedCaches::default();
        for (at, value) in entries(&self.spec, "caches") {
            match CacheReference::deserialize(value) {
                Ok(cache) => caches.insert(cache),
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

    /// The report of the agent; `None` before the first one.
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
    fn as_recorded_equals_the_status_that_is_read_back() {
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
            let why = "é".repeat(VIA_REASON_MAX + 9);
            for via in [PulledVia::Fetcher, PulledVia::Runtime(why)] {
                images.push(report.clone().with_via(via));
            }
            let message = "é".repeat(MESSAGE_MAX + 9);
            let digests = (0..9).map(|n| Digest::parse(&format!("sha256:{n:064}")).unwrap());
            images.push(report.clone().with_superseded(digests));
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
