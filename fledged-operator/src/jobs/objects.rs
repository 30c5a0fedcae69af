//! The watched objects, by node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fledged_core::error::Failure;
use fledged_core::model::NodeName;
use fledged_kube::watch::{Change, ListedKeys};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::job_object::{JobKey, JobPlan};
use super::observe::{JobWork, ObservedJob, ObservedNode, PullSlot, node_of};
use super::options::JobOptions;
use super::pod::ObservedPod;

/// A Job that is being created.
pub(super) struct Creating {
    plan: JobPlan,
    since: Timestamp,
    trouble: Option<Failure>,
    refused: bool,
    pub(super) cancel: CancellationToken,
}

/// The objects of one node.
#[derive(Default)]
pub(super) struct NodeObjects {
    node: Option<Arc<ObservedNode>>,
    jobs: BTreeMap<JobKey, ObservedJob>,
    pods: BTreeMap<JobKey, ObservedPod>,
    creating: BTreeMap<JobKey, Creating>,
    /// UIDs of the Jobs that this process created.
    created: BTreeMap<JobKey, String>,
    /// Jobs whose deletion is requested.
    deleting: BTreeSet<JobKey>,
    /// Pull secrets that a Job lacks.
    missing: BTreeMap<JobKey, Vec<String>>,
    /// The failures because of which Jobs have no pod.
    troubles: BTreeMap<JobKey, Failure>,
    /// The failures because of which the pods of Jobs do not start.
    pod_troubles: BTreeMap<JobKey, Failure>,
}

impl NodeObjects {
    /// The node, or an empty one if it does not exist.
    pub(super) fn node(&self) -> Arc<ObservedNode> {
        self.node.clone().unwrap_or_default()
    }

    /// The Jobs, including those that are being created.
    pub(super) fn jobs(&self) -> Vec<ObservedJob> {
        let jobs = self.jobs.values().map(|job| {
            let mut job = job.clone();
            job.deleting |= self.deleting.contains(&job.key);
            job.trouble = self.troubles.get(&job.key).cloned();
            job.pod_trouble = self.pod_troubles.get(&job.key).cloned();
            job.missing = self.missing.get(&job.key).cloned().unwrap_or_default();
            job
        });
        let creating = self.creating.iter();
        let creating = creating.filter(|(key, _)| !self.jobs.contains_key(key));
        jobs.chain(creating.map(|(_, creating)| creating.observed()))
            .collect()
    }

    pub(super) fn pods(&self) -> Vec<&ObservedPod> {
        self.pods.values().collect()
    }

    /// Whether there are no objects of the node.
    pub(super) fn is_empty(&self) -> bool {
        self.node.is_none()
            && self.jobs.is_empty()
            && self.pods.is_empty()
            && self.creating.is_empty()
    }

    /// Records that a Job's creation is requested.
    pub(super) fn begin(&mut self, plan: JobPlan, now: Timestamp) -> CancellationToken {
        let cancel = CancellationToken::new();
        let creating = Creating {
            since: now,
            trouble: None,
            refused: false,
            cancel: cancel.clone(),
            plan,
        };
        self.creating.insert(creating.plan.key().clone(), creating);
        cancel
    }

    /// Records the failure that prevents a Job's creation or its pod.
    pub(super) fn set_trouble(&mut self, key: &JobKey, trouble: Failure) {
        if let Some(creating) = self.creating.get_mut(key) {
            creating.trouble = Some(trouble);
        } else if self.jobs.contains_key(key) {
            self.troubles.insert(key.clone(), trouble);
        }
    }

    /// Records the failure that keeps the pod of a Job from starting; `None`: there is none now.
    pub(super) fn set_pod_trouble(&mut self, key: &JobKey, trouble: Option<Failure>) {
        match trouble.filter(|_| self.jobs.contains_key(key)) {
            Some(trouble) => self.pod_troubles.insert(key.clone(), trouble),
            None => self.pod_troubles.remove(key),
        };
    }

    /// Records that a Job's creation is refused permanently.
    pub(super) fn set_refused(&mut self, key: &JobKey, failure: Failure) {
        if let Some(creating) = self.creating.get_mut(key) {
            creating.trouble = Some(failure);
            creating.refused = true;
        }
    }

    /// Drops Jobs that were refused, once that is reconciled.
    pub(super) fn drop_refused(&mut self) {
        self.creating.retain(|_, creating| !creating.refused);
    }

    /// Cancels a Job's creation.
    pub(super) fn cancel(&mut self, key: &JobKey) {
        if let Some(creating) = self.creating.get(key) {
            creating.cancel.cancel();
        }
    }

    /// Records that a Job's deletion is requested. Returns whether that is new.
    pub(super) fn delete(&mut self, key: &JobKey) -> bool {
        self.deleting.insert(key.clone())
    }

    /// Drops a Job that was never created.
    pub(super) fn forget_creation(&mut self, key: &JobKey) {
        self.creating.remove(key);
        if !self.jobs.contains_key(key) {
            self.forget(key);
        }
    }

    fn forget(&mut self, key: &JobKey) {
        self.jobs.remove(key);
        self.created.remove(key);
        self.deleting.remove(key);
        self.missing.remove(key);
        self.troubles.remove(key);
        self.pod_troubles.remove(key);
    }
}

impl Creating {
    fn observed(&self) -> ObservedJob {
        let (node, deadline, work, socket) = match &self.plan {
            JobPlan::Pull(plan) => {
                let images = plan.images.iter();
                let slots = images.map(|pull| PullSlot::new(pull.image.clone(), pull.revision));
                let work = JobWork::Pull(slots.collect());
                (&plan.node, plan.deadline, work, None)
            }
            JobPlan::Remove(plan) => {
                let images = plan.images.as_slice();
                let work = JobWork::Remove(images.into());
                let socket = Some(plan.socket.path.clone());
                (&plan.node, plan.deadline, work, socket)
            }
        };
        ObservedJob {
            key: self.plan.key().clone(),
            uid: None,
            node: node.clone(),
            since: self.since,
            deadline,
            work,
            end: None,
            ended_at: None,
            deleting: self.cancel.is_cancelled(),
            socket,
            secrets: Vec::new(),
            missing: Vec::new(),
            trouble: self.trouble.clone(),
            pod_trouble: None,
            refused: self.refused,
        }
    }
}

/// Jobs and pods of one pair of watches.
#[derive(Default)]
struct Scope {
    jobs: ListedKeys<JobKey>,
    pods: ListedKeys<JobKey>,
}

/// The objects of all nodes.
pub(super) struct ObjectStore {
    options: JobOptions,
    nodes: BTreeMap<NodeName, NodeObjects>,
    names: ListedKeys<NodeName>,
    scopes: Vec<Scope>,
    /// The node of each Job, and of each pod.
    job_homes: BTreeMap<JobKey, NodeName>,
    pod_homes: BTreeMap<JobKey, NodeName>,
}

impl ObjectStore {
    pub(super) fn new(options: JobOptions) -> Self {
        let namespaces = options.watched_namespaces();
        let scopes = namespaces.into_iter().map(|_| Scope::default());
        Self {
            scopes: scopes.collect(),
            options,
            nodes: BTreeMap::new(),
            names: ListedKeys::default(),
            job_homes: BTreeMap::new(),
            pod_homes: BTreeMap::new(),
        }
    }

    /// The kinds that are not listed yet.
    pub(super) fn unlisted(&self) -> Vec<&'static str> {
        let kinds = [
            ("Nodes", self.names.is_listed()),
            (
                "Jobs",
                self.scopes.iter().all(|scope| scope.jobs.is_listed()),
            ),
            (
                "Pods",
                self.scopes.iter().all(|scope| scope.pods.is_listed()),
            ),
        ];
        let unlisted = kinds.into_iter().filter(|(_, listed)| !listed);
        unlisted.map(|(kind, _)| kind).collect()
    }

    /// Nodes with any objects.
    pub(super) fn names(&self) -> impl Iterator<Item = &NodeName> {
        self.nodes.keys()
    }

    pub(super) fn get_mut(&mut self, node: &NodeName) -> &mut NodeObjects {
        self.nodes.entry(node.clone()).or_default()
    }

    /// Drops a node without objects. Returns whether it was dropped.
    pub(super) fn drop_if_empty(&mut self, node: &NodeName) -> bool {
        let empty = self.nodes.get(node).is_none_or(NodeObjects::is_empty);
        if empty {
            self.nodes.remove(node);
        }
        empty
    }

    /// Applies an event of a Node. Returns the affected nodes.
    pub(super) fn apply_node(&mut self, event: Event<Node>) -> Vec<NodeName> {
        let name = |node: &Node| NodeName::new(node.name_any()).ok();
        match self.names.apply(event, name) {
            Change::Applied(name, node) => {
                self.get_mut(&name).node = Some(Arc::new(ObservedNode::read(node)));
                vec![name]
            }
            Change::Gone(gone) => {
                for name in &gone {
                    if let Some(objects) = self.nodes.get_mut(name) {
                        objects.node = None;
                    }
                }
                gone
            }
        }
    }

    /// Applies an event of a Job. Returns the affected nodes.
    pub(super) fn apply_job(&mut self, scope: usize, event: Event<Job>) -> Vec<NodeName> {
        let Some(of_scope) = self.scopes.get_mut(scope) else {
            return Vec::new();
        };
        let gone = match of_scope.jobs.apply(event, |job| Some(key_of(job))) {
            Change::Applied(key, job) => {
                let recorded = node_of(&job.metadata).and_then(|node| {
                    let objects = self.nodes.get(&node)?;
                    objects.created.get(&key).map(String::as_str)
                });
                if let Some(read) = ObservedJob::read(&job, &self.options, recorded) {
                    return self.put_job(read);
                }
                // Not a Job of this driver, or not any more.
                of_scope.jobs.remove(&key);
                vec![key]
            }
            Change::Gone(gone) => gone,
        };
        let mut nodes = Vec::new();
        for key in gone {
            if let Some(node) = self.job_homes.remove(&key) {
                let objects = self.get_mut(&node);
                objects.cancel(&key);
                objects.creating.remove(&key);
                objects.forget(&key);
                nodes.push(node);
            }
        }
        nodes
    }

    fn put_job(&mut self, job: ObservedJob) -> Vec<NodeName> {
        let (key, node) = (job.key.clone(), job.node.clone());
        self.job_homes.insert(key.clone(), node.clone());
        let objects = self.get_mut(&node);
        // A creation whose answer was lost has taken effect. Repeated later, it could create a Job that is not
        // assigned any more.
        objects.cancel(&key);
        if let Some(uid) = &job.uid {
            objects.created.insert(key.clone(), uid.clone());
        }
        objects.jobs.insert(key, job);
        vec![node]
    }

    /// Applies the response to a Job's creation. The watch may have been faster and may already have its end.
    ///
    /// # Errors
    ///
    /// The UID, if the Job differs from the requested one.
    pub(super) fn created(
        &mut self,
        node: &NodeName,
        key: &JobKey,
        job: &Job,
        missing: Vec<String>,
    ) -> Result<(), String> {
        let uid = job.metadata.uid.clone().unwrap_or_default();
        let read = ObservedJob::read(job, &self.options, Some(&uid));
        let namespaces = self.options.watched_namespaces();
        let objects = self.get_mut(node);
        let Some(creating) = objects.creating.get(key) else {
            return Ok(());
        };
        let expected = creating.observed();
        let watched = objects.jobs.contains_key(key);
        let Some(read) = read.filter(|read| read.work == expected.work) else {
            objects.jobs.remove(key);
            return Err(uid);
        };
        objects.creating.remove(key);
        if !missing.is_empty() {
            objects.missing.insert(key.clone(), missing);
        }
        if watched {
            return Ok(());
        }
        let scope = namespaces.iter().position(|namespace| {
            let namespace = namespace.as_ref();
            namespace.is_none_or(|namespace| *namespace == key.namespace)
        });
        if let Some(scope) = scope.and_then(|scope| self.scopes.get_mut(scope)) {
            scope.jobs.insert(key.clone());
        }
        self.put_job(read);
        Ok(())
    }

    /// Applies an event of a pod. Returns the affected nodes.
    pub(super) fn apply_pod(&mut self, scope: usize, event: Event<ObservedPod>) -> Vec<NodeName> {
        let Some(of_scope) = self.scopes.get_mut(scope) else {
            return Vec::new();
        };
        let gone = match of_scope.pods.apply(event, |pod| Some(key_of(pod))) {
            Change::Applied(key, pod) => {
                let Some(node) = node_of(&pod.metadata) else {
                    return Vec::new();
                };
                self.pod_homes.insert(key.clone(), node.clone());
                self.get_mut(&node).pods.insert(key, pod.pruned());
                return vec![node];
            }
            Change::Gone(gone) => gone,
        };
        let mut nodes = Vec::new();
        for key in gone {
            if let Some(node) = self.pod_homes.remove(&key) {
                self.get_mut(&node).pods.remove(&key);
                nodes.push(node);
            }
        }
        nodes
    }
}

fn key_of<K: Resource<DynamicType = ()>>(object: &K) -> JobKey {
    JobKey {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::super::FIELD_MANAGER;
    use super::super::job_object::{JobKind, RemovalPlan, job_name};
    use super::*;

    #[test]
    fn a_creation_is_not_repeated_once_the_job_is_observed() {
        let options = JobOptions::new("a.test/ours:1".parse().unwrap(), "operator");
        let node = NodeName::new("a").unwrap();
        let plan = JobPlan::Remove(RemovalPlan {
            key: JobKey {
                namespace: "operator".to_owned(),
                name: job_name(JobKind::Remove, &node, 1),
            },
            node: node.clone(),
            images: vec!["a.test/app:1".parse().unwrap()],
            keep: Vec::new(),
            socket: ObservedNode::default().socket(None),
            deadline: Duration::from_secs(60),
        });
        let mut job = plan.manifest(&options);
        job["metadata"]["uid"] = "1".into();
        job["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        job["metadata"]["managedFields"] = json!([{ "manager": FIELD_MANAGER }]);
        let job: Job = serde_json::from_value(job).unwrap();
        let mut store = ObjectStore::new(options);
        let creation = store.get_mut(&node).begin(plan, Timestamp::UNIX_EPOCH);
        assert!(!creation.is_cancelled());
        store.apply_job(0, Event::Apply(job));
        assert!(creation.is_cancelled());
        assert_eq!(store.get_mut(&node).jobs().len(), 1);
    }
}
