//! The Jobs that the driver has created, and the safety invariants about them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use fledged_apiserver::Control;
use fledged_core::model::{DesiredState, ImageRef};
use http::Method;
use serde_json::Value;

use super::{HANDLING, Sender};
use crate::simulation::call::Call;
use crate::simulation::clock::START;
use crate::simulation::moves::HOSTILE;

/// Annotation with the node of a Job.
const NODE: &str = "/metadata/annotations/kubefledged.io~1node";
/// Label with the kind of a Job.
const KIND: &str = "/metadata/labels/kubefledged.io~1job";
/// The containers of a Job's pod.
const CONTAINERS: &str = "/spec/template/spec/containers";
/// How much newer than a pull a node's list must be to prove that the image is gone: the driver's margin, and the
/// resolution of times.
const LIST_MARGIN: Duration = Duration::from_secs(62);
/// Maximum number of images that a kubelet lists.
pub(in crate::simulation) const LIST_MAX: usize = 50;

/// The limits that the invariants check.
#[derive(Debug, Clone)]
pub(in crate::simulation) struct JobLimits {
    pub(in crate::simulation) images: usize,
    pub(in crate::simulation) creations_per_second: usize,
    /// The namespace of removal Jobs.
    pub(in crate::simulation) operator: &'static str,
}

/// What a Job is for.
#[derive(Debug, Clone, Default)]
struct Work {
    node: String,
    pulls: BTreeSet<ImageRef>,
    removes: BTreeSet<ImageRef>,
}

/// A Job that the driver created and that exists.
#[derive(Debug, Clone)]
struct OurJob {
    uid: String,
    work: Work,
    since: Duration,
    /// Whether it, or its pod, has ended.
    over: bool,
}

/// Namespace and name.
type Key = (String, String);

/// A broken invariant and what was found.
pub(super) type Finding = (&'static str, String);

/// The Jobs of a simulation.
#[derive(Default)]
pub(super) struct JobLedger {
    limits: Option<JobLimits>,
    jobs: BTreeMap<Key, OurJob>,
    /// UIDs of all Jobs that the driver has created.
    created: BTreeSet<String>,
    /// When each controller asked for its last Jobs.
    asked: BTreeMap<String, VecDeque<Duration>>,
    /// When the list of a node that proves that it lacks an image was written.
    lacking: BTreeMap<(String, ImageRef), Duration>,
    /// The controller that wrote last, and since when: it knows of no older pull when that ended.
    writer: (String, Duration),
    /// How far clocks have been set forward.
    ahead: Duration,
}

impl JobLedger {
    pub(super) fn set_limits(&mut self, limits: JobLimits) {
        self.limits = Some(limits);
    }

    /// Whether the driver created the Job with this UID.
    pub(super) fn is_ours(&self, uid: &str) -> bool {
        self.created.contains(uid)
    }

    /// The Jobs of the driver that exist.
    pub(super) fn existing(&self) -> Vec<String> {
        let names = self.jobs.keys();
        names.map(|(of, name)| format!("{of}/{name}")).collect()
    }

    /// A clock was set forward.
    pub(super) fn set_forward(&mut self, by: Duration) {
        self.ahead += by;
    }

    /// Checks a request of a controller for a Job or a pod. `has` says whether the record of a node has an image in this
    /// state, or had it as far as the controller can know.
    pub(super) fn sent(
        &mut self,
        sender: &Sender,
        call: &Call,
        now: Duration,
        has: impl Fn(&str, &ImageRef, DesiredState) -> bool,
    ) -> Vec<Finding> {
        let mut found = Vec::new();
        let target = call.target();
        if self.writer.0 != sender.identity() {
            self.writer = (sender.identity(), now);
            self.lacking.clear();
        }
        match (call.resource.as_str(), &call.method) {
            ("jobs", &Method::POST) => self.check_creation(sender, call, now, has, &mut found),
            ("jobs", &Method::DELETE) => {
                let uid = call.body.pointer("/preconditions/uid");
                let uid = uid.and_then(Value::as_str).unwrap_or_default();
                if !self.created.contains(uid) {
                    let text = format!("{} deletes {target} with UID {uid:?}", sender.name);
                    found.push(("only Jobs of the driver are deleted", text));
                }
            }
            ("jobs" | "pods", method) => {
                let text = format!("{} sends {method} {target}", sender.name);
                found.push(("Jobs are only created and deleted", text));
            }
            _ => {}
        }
        found
    }

    fn check_creation(
        &mut self,
        sender: &Sender,
        call: &Call,
        now: Duration,
        has: impl Fn(&str, &ImageRef, DesiredState) -> bool,
        found: &mut Vec<Finding>,
    ) {
        let Some(limits) = self.limits.clone() else {
            return;
        };
        let key = key_of(call);
        let work = Work::read(&call.body);
        let (name, node) = (&key.1, &work.node);
        let images = work.pulls.len() + work.removes.len();
        let misplaced = !work.removes.is_empty() && key.0 != limits.operator;
        if images == 0 || node.is_empty() || misplaced {
            found.push(("Jobs are valid", call.body.to_string()));
        }
        if work.pulls.len() > limits.images {
            let text = format!(
                "{name} pulls {images} images, the limit is {}",
                limits.images
            );
            found.push(("no more images in a Job than its limit", text));
        }
        // A second that begins or ends between two requests has one more, and a clock that jumps another one.
        let asked = self.asked.entry(sender.identity()).or_default();
        asked.retain(|at| *at + Duration::from_secs(1) > now);
        asked.push_back(now);
        if asked.len() > limits.creations_per_second + 2 {
            let text = format!("{} asks for {} Jobs in a second", sender.name, asked.len());
            found.push(("no more Jobs in a second than the limit", text));
        }
        for text in foreign_secrets(&call.body, &key.0) {
            let text = format!("{name} in {} uses {text:?}", key.0);
            found.push(("no Secret of another namespace is used", text));
        }
        let lacks = |image: &&ImageRef| !has(node, image, DesiredState::Absent);
        for image in work.removes.iter().filter(lacks) {
            let text = format!("{name} is to remove {image} from {node}");
            found.push(("a Job removes only what the node's record orders", text));
        }
        let lacks = |image: &&ImageRef| !has(node, image, DesiredState::Present);
        for image in work.pulls.iter().filter(lacks) {
            let text = format!("{name} is to pull {image} to {node}");
            found.push(("a Job pulls only what the node's record has", text));
        }
        // The answer to an earlier request was lost: this one changes nothing.
        if self.jobs.contains_key(&key) {
            return;
        }
        let known = sender.informed_of_jobs.saturating_sub(HANDLING);
        for (other, job) in &self.jobs {
            if *other == key || job.over || job.since >= known || job.work.node != *node {
                continue;
            }
            if !work.removes.is_empty() && !job.work.removes.is_empty() {
                let text = format!("{name} begins on {node} while {} runs", other.1);
                found.push(("one removal Job on a node at a time", text));
            }
            let mut both = work.pulls.intersection(&job.work.removes);
            let mut and = work.removes.intersection(&job.work.pulls);
            if let Some(image) = both.next().or(and.next()) {
                let text = format!("{name} and {} do it with {image} on {node}", other.1);
                found.push(("no image is pulled and removed at once", text));
            }
        }
    }

    /// Reads a Job or a pod that was written, and the list of a node. `lost` are the images that the node lacks, and
    /// since when.
    pub(super) fn written(
        &mut self,
        call: &Call,
        ours: bool,
        server: &Control,
        now: Duration,
        lost: impl Iterator<Item = (ImageRef, Duration)>,
    ) {
        match call.resource.as_str() {
            "jobs" => {
                let key = key_of(call);
                let created = ours && call.method == Method::POST;
                self.read_job(server, &key, created.then_some(now));
            }
            "pods" => {
                let (of, name) = key_of(call);
                let phase = call.body.pointer("/status/phase").and_then(Value::as_str);
                let Some(pod) = server.object("", "pods", &of, &name) else {
                    return;
                };
                let owner = pod.pointer("/metadata/ownerReferences/0/uid");
                let mut jobs = self.jobs.values_mut();
                if let Some(job) = jobs.find(|job| owner == Some(&job.uid.as_str().into()))
                    && matches!(phase, Some("Succeeded" | "Failed"))
                {
                    job.over = true;
                }
            }
            "nodes" => self.read_list(call, now, lost),
            _ => {}
        }
    }

    /// Reads every known Job again, for those that the garbage collector deletes.
    pub(super) fn read_all(&mut self, server: &Control) {
        let keys: Vec<Key> = self.jobs.keys().cloned().collect();
        for key in keys {
            self.read_job(server, &key, None);
        }
    }

    fn read_job(&mut self, server: &Control, key: &Key, created: Option<Duration>) {
        let read = |object: &Value| self.read_stored_job(object, key, created);
        let found = server.read_object("batch", "jobs", &key.0, &key.1, read);
        if found.is_none() {
            self.jobs.remove(key);
        }
    }

    fn read_stored_job(&mut self, object: &Value, key: &Key, created: Option<Duration>) {
        let uid = object.pointer("/metadata/uid").and_then(Value::as_str);
        let uid = uid.unwrap_or_default().to_owned();
        if let Some(since) = created {
            self.created.insert(uid.clone());
            let job = OurJob {
                uid: uid.clone(),
                work: Work::read(object),
                since,
                over: false,
            };
            self.jobs.insert(key.clone(), job);
        }
        let Some(job) = self.jobs.get_mut(key) else {
            return;
        };
        if job.uid != uid {
            self.jobs.remove(key);
            return;
        }
        let conditions = object
            .pointer("/status/conditions")
            .and_then(Value::as_array);
        job.over |= conditions.is_some_and(|all| !all.is_empty());
        job.over |= object.pointer("/metadata/deletionTimestamp").is_some();
    }

    /// Reads the images that a kubelet reports.
    fn read_list(
        &mut self,
        call: &Call,
        now: Duration,
        lost: impl Iterator<Item = (ImageRef, Duration)>,
    ) {
        let list = call
            .body
            .pointer("/status/images")
            .and_then(Value::as_array);
        let beat = call.body.pointer("/status/conditions/0/lastHeartbeatTime");
        let beat = beat
            .and_then(Value::as_str)
            .and_then(|text| text.parse().ok());
        let (Some(list), Some(beat)) = (list, beat) else {
            return;
        };
        let beat: jiff::Timestamp = beat;
        let start: jiff::Timestamp = START.parse().unwrap();
        let beat = Duration::try_from(beat.duration_since(start)).unwrap_or_default();
        let names = list.iter().flat_map(|image| image["names"].as_array());
        let names: BTreeSet<&str> = names.flatten().filter_map(Value::as_str).collect();
        for (image, since) in lost {
            let proves = beat >= since.max(self.writer.1) + LIST_MARGIN + self.ahead;
            if proves && list.len() < LIST_MAX && !names.contains(image.as_str()) {
                let key = (call.name.clone(), image);
                self.lacking.entry(key).or_insert(now);
            }
        }
    }

    /// A node holds an image again.
    pub(super) fn gained(&mut self, node: &str, image: &ImageRef) {
        self.lacking.remove(&(node.to_owned(), image.clone()));
    }

    /// Since when a node's list proves that it lacks an image.
    pub(super) fn lacks_since(&self, node: &str, image: &ImageRef) -> Option<Duration> {
        let key = (node.to_owned(), image.clone());
        self.lacking.get(&key).copied()
    }
}

impl Work {
    fn read(job: &Value) -> Self {
        let text = |at: &str| {
            let text = job.pointer(at).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let containers = job.pointer(CONTAINERS).and_then(Value::as_array);
        let containers = containers.into_iter().flatten();
        let mut work = Self {
            node: text(NODE),
            ..Self::default()
        };
        let volumes = job.pointer("/spec/template/spec/volumes");
        let volumes = volumes.and_then(Value::as_array);
        for container in containers {
            let args = container["args"].as_array().into_iter().flatten();
            let args = args.filter_map(Value::as_str);
            if text(KIND) == "remove" {
                let images = args.skip_while(|arg| *arg != "--").skip(1);
                work.removes
                    .extend(images.filter_map(|image| image.parse().ok()));
                continue;
            }
            let mount = &container["volumeMounts"][0]["name"];
            let mut volumes = volumes.into_iter().flatten();
            let volume = volumes.find(|volume| volume["name"] == *mount);
            let image = volume.and_then(|volume| volume.pointer("/image/reference"));
            let image = image.unwrap_or(&container["image"]).as_str();
            work.pulls
                .extend(image.and_then(|image| image.parse().ok()));
        }
        work
    }
}

fn key_of(call: &Call) -> Key {
    let name = match call.name.is_empty() {
        true => call.body.pointer("/metadata/name").and_then(Value::as_str),
        false => Some(call.name.as_str()),
    };
    let name = name.unwrap_or_default().to_owned();
    (call.namespace.clone(), name)
}

/// The Secrets of other namespaces that a Job names.
fn foreign_secrets<'a>(job: &'a Value, namespace: &str) -> Vec<&'a str> {
    let secrets = job.pointer("/spec/template/spec/imagePullSecrets");
    let secrets = secrets.and_then(Value::as_array).into_iter().flatten();
    let names = secrets.filter_map(|secret| secret["name"].as_str());
    let foreign = names.filter(|name| {
        // The hostile tenant names them itself, in vain: its pods have only the Secrets of its own namespace.
        if namespace == HOSTILE {
            return false;
        }
        let of = name.strip_prefix("login-of-");
        of.is_some_and(|of| of != namespace)
    });
    foreign.collect()
}
