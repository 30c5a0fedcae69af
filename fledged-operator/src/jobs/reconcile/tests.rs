use std::num::NonZeroUsize;

use fledged_core::model::{
    AssignedImage, CacheId, DesiredState, ImageReport, ProtectedImages, PullLimit,
};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ContainerImage;
use serde_json::{Value, json};

use super::super::FIELD_MANAGER;
use super::super::job_object::{REMOVE, container_name};
use super::*;

const APP: &str = "a.test/app:1";
const DB: &str = "a.test/db:1";
const CRON: &str = "a.test/cron:1";
const REFUSED: &str = "dial tcp: connection refused";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}

fn mk_options() -> JobOptions {
    let mut options = JobOptions::new(image("registry.test/ours:1"), "operator");
    options.images_per_job = NonZeroUsize::new(3).unwrap();
    options.debounce = Duration::ZERO;
    options
}

fn mk_present(text: &str) -> AssignedImage {
    AssignedImage::present(image(text)).with_wanted_by([CacheId::new("shop", "web", "uid-web")])
}

fn mk_absent(text: &str) -> AssignedImage {
    AssignedImage::absent(image(text))
}

fn mk_node(listed_at: i64, names: &[&[&str]]) -> ObservedNode {
    let images = names.iter().map(|names| ContainerImage {
        names: Some(names.iter().map(|name| (*name).to_owned()).collect()),
        size_bytes: Some(7),
    });
    ObservedNode::mk(at(listed_at), images.collect())
}

/// Returns the Job that the API server creates from a plan.
fn mk_job(plan: &JobPlan, created: i64, options: &JobOptions) -> Job {
    let mut job = plan.manifest(options);
    job["metadata"]["uid"] = format!("uid-{}", plan.key().name).into();
    job["metadata"]["creationTimestamp"] = at(created).to_string().into();
    job["metadata"]["managedFields"] = json!([{ "manager": FIELD_MANAGER, "operation": "Update" }]);
    serde_json::from_value(job).unwrap()
}

/// Returns a pod of the Job whose containers have these states.
fn mk_pod(job: &Job, phase: &str, states: &[(&str, Value)]) -> ObservedPod {
    let pod = mk_pod_object(job, phase, states);
    serde_json::from_value::<ObservedPod>(pod).unwrap().pruned()
}

fn mk_pod_object(job: &Job, phase: &str, states: &[(&str, Value)]) -> Value {
    let metadata = &job.metadata;
    let mut pod = serde_json::to_value(&job.spec.as_ref().unwrap().template).unwrap();
    pod["metadata"]["name"] = format!("{}-x", metadata.name.as_ref().unwrap()).into();
    pod["metadata"]["namespace"] = metadata.namespace.clone().into();
    pod["metadata"]["ownerReferences"] = json!([{ "apiVersion": "batch/v1", "kind": "Job",
        "name": metadata.name, "uid": metadata.uid, "controller": true }]);
    pod["spec"]["nodeName"] = "node".into();
    let statuses = states.iter().map(|(name, state)| {
        let name = match *name {
            REMOVE => REMOVE.to_owned(),
            image_name => container_name(&image(image_name)),
        };
        json!({ "name": name, "state": state })
    });
    pod["status"] = json!({ "phase": phase, "startTime": at(0).to_string(),
        "containerStatuses": statuses.collect::<Vec<_>>() });
    pod
}

fn creating() -> Value {
    json!({ "waiting": { "reason": "ContainerCreating" } })
}

fn failing(message: &str) -> Value {
    json!({ "waiting": { "reason": "ErrImagePull", "message": message } })
}

fn done(second: i64) -> Value {
    json!({ "terminated": { "exitCode": 0, "reason": "Completed",
        "startedAt": at(second).to_string(), "finishedAt": at(second).to_string() } })
}

fn removed(second: i64, message: &str) -> Value {
    json!({ "terminated": { "exitCode": 0, "reason": "Completed", "message": message,
        "startedAt": at(second).to_string(), "finishedAt": at(second).to_string() } })
}

/// One node with its Jobs, as a controller sees it.
struct Node {
    options: JobOptions,
    name: NodeName,
    memory: NodeMemory,
    view: ObservedNode,
    assignment: Assignment,
    jobs: Vec<Job>,
    pods: Vec<ObservedPod>,
    /// Jobs whose deletion is requested.
    deleting: Vec<String>,
    trouble: Option<Failure>,
    pod_trouble: Option<Failure>,
    /// How many seconds the clock of the API server is behind.
    behind: i64,
    /// Whether the requests that create Jobs are still waiting.
    creating: bool,
}

impl Node {
    fn new(assigned: impl IntoIterator<Item = AssignedImage>) -> Self {
        Self::with(mk_options(), assigned)
    }

    fn with(options: JobOptions, assigned: impl IntoIterator<Item = AssignedImage>) -> Self {
        Self {
            options,
            name: NodeName::new("node").unwrap(),
            memory: NodeMemory::new(1),
            view: mk_node(0, &[]),
            assignment: Assignment::new(1, assigned),
            jobs: Vec::new(),
            pods: Vec::new(),
            deleting: Vec::new(),
            trouble: None,
            pod_trouble: None,
            behind: 0,
            creating: false,
        }
    }

    fn assign(&mut self, assigned: impl IntoIterator<Item = AssignedImage>) {
        let generation = self.assignment.generation + 1;
        self.assignment = Assignment::new(generation, assigned);
    }

    fn observe(&mut self, now: i64) -> Plan {
        let jobs = self.jobs.iter().map(|job| {
            let mut read = ObservedJob::read(job, &self.options, None).unwrap();
            read.uid.take_if(|_| self.creating);
            read.deleting |= self.deleting.contains(&read.key.name);
            read.trouble.clone_from(&self.trouble);
            read.pod_trouble.clone_from(&self.pod_trouble);
            read
        });
        let jobs: Vec<ObservedJob> = jobs.collect();
        let pods: Vec<&ObservedPod> = self.pods.iter().collect();
        let observed = Observed {
            name: &self.name,
            node: &self.view,
            jobs: &jobs,
            pods: &pods,
            no_image_volumes: false,
        };
        reconcile(
            &self.options,
            &self.assignment,
            &observed,
            &mut self.memory,
            at(now),
        )
    }

    /// Reconciles and executes the actions: Jobs are created at once, deletions complete in `jobs_gone`.
    /// Asserts that a second reconciliation does nothing.
    fn step(&mut self, now: i64) -> Plan {
        let plan = self.observe(now);
        for action in &plan.actions {
            match action {
                JobAction::Create(create) => {
                    let created = now - self.behind;
                    self.jobs.push(mk_job(create, created, &self.options));
                }
                JobAction::Delete(key, uid) => {
                    assert!(uid.is_some(), "{key}");
                    self.deleting.push(key.name.clone());
                }
                JobAction::Explain(_) | JobAction::ExplainPod(..) => {}
            }
        }
        let again = self.observe(now);
        assert_eq!(again.actions, [], "a second reconciliation acts");
        assert_eq!(again.report, plan.report, "a second reconciliation differs");
        assert!(again.wake_at.is_none_or(|at_least| at_least > at(now)));
        plan
    }

    /// Sets the states of the containers in the last Job's pod.
    fn pod(&mut self, phase: &str, states: &[(&str, Value)]) {
        let job = self.jobs.last().unwrap();
        let pod = mk_pod(job, phase, states);
        self.pods
            .retain(|known| known.metadata.name != pod.metadata.name);
        self.pods.push(pod);
    }

    /// Completes the deletion of Jobs; their pods stay.
    fn jobs_gone(&mut self) {
        let deleting = std::mem::take(&mut self.deleting);
        self.jobs
            .retain(|job| !deleting.contains(job.metadata.name.as_ref().unwrap()));
    }

    fn end_job(&mut self, kind: &str, reason: &str) {
        let job = self.jobs.last_mut().unwrap();
        let status = json!({ "conditions": [{ "type": kind, "status": "True", "reason": reason,
            "message": "m", "lastTransitionTime": at(0).to_string() }] });
        job.status = Some(serde_json::from_value(status).unwrap());
    }

    /// Replaces the memory by that of a new process, which has the objects and the last written status.
    fn restart(&mut self, report: &NodeReport) {
        self.memory = NodeMemory::new(2);
        self.memory.resume(report);
    }
}

fn report(plan: &Plan, text: &str) -> ImageReport {
    let image = image(text);
    let mut reports = plan.report.images.iter();
    reports
        .find(|report| report.image == image)
        .unwrap()
        .clone()
}

fn phases(plan: &Plan) -> Vec<ImagePhase> {
    plan.report
        .images
        .iter()
        .map(|report| report.phase)
        .collect()
}

fn created(plan: &Plan) -> Vec<&JobPlan> {
    let created = plan.actions.iter().filter_map(|action| match action {
        JobAction::Create(plan) => Some(plan),
        _ => None,
    });
    created.collect()
}

/// Returns namespace and images of the created pull Jobs.
fn pulls(plan: &Plan) -> Vec<(String, Vec<String>)> {
    let pulls = created(plan).into_iter().filter_map(|plan| match plan {
        JobPlan::Pull(pull) => Some((
            pull.key.namespace.clone(),
            pull.images
                .iter()
                .map(|pull| pull.image.as_str().to_owned())
                .collect(),
        )),
        JobPlan::Remove(_) => None,
    });
    pulls.collect()
}

fn removals(plan: &Plan) -> Vec<Vec<String>> {
    let removals = created(plan).into_iter().filter_map(|plan| match plan {
        JobPlan::Remove(removal) => {
            let images = removal.images.iter();
            Some(images.map(|image| image.as_str().to_owned()).collect())
        }
        JobPlan::Pull(_) => None,
    });
    removals.collect()
}

fn deletes(plan: &Plan) -> usize {
    let deletes = |action: &&JobAction| matches!(action, JobAction::Delete(..));
    plan.actions.iter().filter(deletes).count()
}

fn of_shop(images: &[&str]) -> (String, Vec<String>) {
    let images = images.iter().map(|image| (*image).to_owned());
    ("shop".to_owned(), images.collect())
}

/// Returns a node on which a removal Job has removed `APP` at 100 s. The kubelet's list is older and still has it.
fn mk_removed(options: JobOptions) -> Node {
    let mut node = Node::with(options, [mk_absent(APP)]);
    node.view = mk_node(0, &[&[APP]]);
    let plan = node.step(90);
    assert_eq!(removals(&plan), [[APP]]);
    node.pod("Succeeded", &[(REMOVE, removed(100, r#"{"removed":[0]}"#))]);
    node.end_job("Complete", "");
    let plan = node.step(101);
    assert_eq!(phases(&plan), [ImagePhase::Removed]);
    node
}

#[test]
fn one_job_pulls_all_missing_images() {
    let mut options = mk_options();
    options.debounce = Duration::from_millis(100);
    let first = mk_present(DB).with_priority(1);
    let mut node = Node::with(options, [mk_present(APP), first, mk_present(CRON)]);
    node.view = mk_node(0, &[&[CRON]]);
    let plan = node.step(10);
    assert_eq!(plan.actions, []);
    assert_eq!(
        plan.wake_at,
        Some(after(at(10), Duration::from_millis(100)))
    );
    let plan = node.step(11);
    assert_eq!(pulls(&plan), [of_shop(&[DB, APP])]);
    let expected = [ImagePhase::Pulling, ImagePhase::Pulling, ImagePhase::Cached];
    assert_eq!(phases(&plan), expected);
    assert_eq!(report(&plan, APP).started_at, Some(at(11)));
}

#[test]
fn a_job_has_one_namespace_and_a_limited_number_of_images() {
    let images = (0..4).map(|n| mk_present(&format!("a.test/app:{n}")));
    let bank = mk_present(DB).with_wanted_by([CacheId::new("bank", "web", "uid-bank")]);
    let mut node = Node::new(images.chain([bank]));
    let plan = node.step(0);
    let sizes: Vec<_> = pulls(&plan)
        .into_iter()
        .map(|(namespace, images)| (namespace, images.len()))
        .collect();
    let expected = [("bank", 1), ("shop", 3), ("shop", 1)];
    assert_eq!(sizes, expected.map(|(name, n)| (name.to_owned(), n)));
}

#[test]
fn a_started_container_is_evidence_of_its_image() {
    let mut node = Node::new([mk_present(APP), mk_present(DB)]);
    node.step(0);
    node.pod("Pending", &[(APP, done(5)), (DB, creating())]);
    let plan = node.step(6);
    assert_eq!(phases(&plan), [ImagePhase::Cached, ImagePhase::Pulling]);
    let app = report(&plan, APP);
    assert_eq!(
        (app.started_at, app.finished_at),
        (Some(at(0)), Some(at(5)))
    );
    assert_eq!((app.attempts, app.revision), (1, Some(0)));
    assert_eq!(deletes(&plan), 0);
    node.pod("Succeeded", &[(APP, done(5)), (DB, done(9))]);
    let plan = node.step(10);
    assert_eq!(deletes(&plan), 1);
    node.jobs_gone();
    node.pods.clear();
    assert_eq!(node.step(20).wake_at, None);
}

#[test]
fn the_kubelets_reason_is_reported_during_retries() {
    let mut node = Node::new([mk_present(APP)]);
    node.step(0);
    node.pod("Pending", &[(APP, failing(REFUSED))]);
    let app = report(&node.step(5), APP);
    assert_eq!(app.phase, ImagePhase::BackingOff);
    assert_eq!(app.reason, Some(Reason::ConnectionFailed));
    assert!(app.message.unwrap().contains(REFUSED));
    let between = json!({ "waiting": { "reason": "ImagePullBackOff", "message": REFUSED } });
    node.pod("Pending", &[(APP, between)]);
    let plan = node.step(100);
    assert_eq!(plan.actions, []);
    node.pod("Succeeded", &[(APP, done(101))]);
    let plan = node.step(102);
    assert_eq!(phases(&plan), [ImagePhase::Cached]);
    assert_eq!(report(&plan, APP).reason, None);
    assert_eq!(deletes(&plan), 1);
}

#[test]
fn a_missing_image_fails_without_stopping_the_others() {
    let mut node = Node::new([mk_present(APP), mk_present(DB)]);
    node.step(0);
    node.pod(
        "Pending",
        &[(APP, failing("manifest unknown")), (DB, creating())],
    );
    let plan = node.step(5);
    assert_eq!(phases(&plan), [ImagePhase::Failed, ImagePhase::Pulling]);
    let app = report(&plan, APP);
    assert_eq!(app.reason, Some(Reason::ImageNotFound));
    let next = app.next_attempt_at.unwrap();
    assert!((at(50)..=at(80)).contains(&next), "{next}");
    assert_eq!(deletes(&plan), 0);
    // The kubelet retries for as long as the Job exists.
    node.pod("Running", &[(APP, done(20)), (DB, creating())]);
    assert_eq!(report(&node.step(21), APP).phase, ImagePhase::Cached);
}

#[test]
fn failed_rounds_are_repeated_with_backoff() {
    let mut node = Node::new([mk_present(APP)]);
    let mut now = 0;
    let mut pauses = Vec::new();
    for _ in 0..4 {
        assert_eq!(pulls(&node.step(now)), [of_shop(&[APP])]);
        node.pod("Pending", &[(APP, failing("manifest unknown"))]);
        let plan = node.step(now + 1);
        assert_eq!(deletes(&plan), 1);
        node.jobs_gone();
        node.pods.clear();
        let due = report(&plan, APP).next_attempt_at.unwrap();
        assert_eq!(node.step(now + 2).wake_at, Some(due));
        let next = due.as_second() + 1;
        pauses.push(next - now);
        now = next;
    }
    assert!(
        pauses.is_sorted() && pauses[3] > 4 * pauses[0],
        "{pauses:?}"
    );
}

#[test]
fn one_job_retries_images_that_failed_together() {
    let mut node = Node::new([mk_present(APP), mk_present(DB)]);
    node.step(0);
    let unknown = || failing("manifest unknown");
    node.pod("Pending", &[(APP, unknown()), (DB, unknown())]);
    let plan = node.step(1);
    node.jobs_gone();
    node.pods.clear();
    let due = report(&plan, APP).next_attempt_at.unwrap();
    assert_eq!(report(&plan, DB).next_attempt_at, Some(due));
    let plan = node.step(due.as_second() + 1);
    assert_eq!(pulls(&plan), [of_shop(&[APP, DB])]);
}

#[test]
fn a_refused_pull_uses_the_next_namespaces_credentials() {
    let caches = ["a", "b"].map(|namespace| CacheId::new(namespace, "web", namespace));
    let secret = ObjectName::new("b", "login");
    let wanted = AssignedImage::present(image(APP)).with_wanted_by(caches);
    let mut node = Node::new([wanted.with_pull_secrets([secret])]);
    let namespaces = |plan: &Plan| -> Vec<String> {
        pulls(plan)
            .into_iter()
            .map(|(namespace, _)| namespace)
            .collect()
    };
    // The namespace with credentials comes first.
    assert_eq!(namespaces(&node.step(0)), ["b"]);
    node.pod("Pending", &[(APP, failing("401 Unauthorized"))]);
    let plan = node.step(1);
    assert_eq!(namespaces(&plan), ["a"]);
    assert_eq!(phases(&plan), [ImagePhase::Pulling]);
    assert_eq!(deletes(&plan), 1);
    node.jobs_gone();
    node.pods.clear();
    node.pod("Pending", &[(APP, failing("401 Unauthorized"))]);
    let app = report(&node.step(2), APP);
    assert_eq!((app.phase, app.attempts), (ImagePhase::Failed, 1));
    node.jobs_gone();
    node.pods.clear();
    // The next round begins with the first namespace. Other credentials do not help if the connection fails.
    let due = app.next_attempt_at.unwrap().as_second() + 1;
    assert_eq!(namespaces(&node.step(due)), ["b"]);
    node.pod("Pending", &[(APP, failing(REFUSED))]);
    let plan = node.step(due + 1);
    assert_eq!(plan.actions, []);
    assert_eq!(phases(&plan), [ImagePhase::BackingOff]);
}

#[test]
fn a_refused_pull_is_repeated_if_no_other_namespace_wants_it_any_more() {
    let [a, b] = ["a", "b"].map(|namespace| CacheId::new(namespace, "web", namespace));
    let secret = ObjectName::new("b", "login");
    let wanted_by = |caches: Vec<CacheId>| {
        let image = AssignedImage::present(image(APP)).with_wanted_by(caches);
        image.with_pull_secrets([secret.clone()])
    };
    let mut node = Node::new([wanted_by(vec![a, b.clone()])]);
    node.step(0);
    node.pod("Pending", &[(APP, failing("401 Unauthorized"))]);
    assert_eq!(
        pulls(&node.step(1)),
        [("a".to_owned(), vec![APP.to_owned()])]
    );
    // The cache of `a` is deleted, and with it the Job that has begun there.
    node.assign([wanted_by(vec![b])]);
    node.jobs_gone();
    node.pods.clear();
    let plan = node.step(2);
    assert_eq!(pulls(&plan), [("b".to_owned(), vec![APP.to_owned()])]);
}

#[test]
fn a_refusal_names_the_credentials_of_the_job() {
    let secret = ObjectName::new("shop", "login");
    let mut node = Node::new([mk_present(APP).with_pull_secrets([secret])]);
    node.step(0);
    node.pod("Pending", &[(APP, failing("401 Unauthorized"))]);
    let app = report(&node.step(1), APP);
    assert_eq!(app.phase, ImagePhase::Failed);
    assert!(app.message.unwrap().contains("pull secret shop/login"));
}

#[test]
fn an_unaccepted_pod_fails_after_the_deadline_of_one_image() {
    let mut node = Node::new([mk_present(APP), mk_present(DB)]);
    node.step(0);
    assert_eq!(
        node.step(0).wake_at,
        Some(at(5)),
        "the wakeup to check for the pod"
    );
    node.pod("Pending", &[]);
    let pod = node.pods.last_mut().unwrap();
    let status = json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled",
        "status": "False", "reason": "Unschedulable", "message": "0/1 nodes" }] });
    pod.set_status(status);
    assert_eq!(node.step(299).wake_at, Some(at(300)));
    let plan = node.step(300);
    assert_eq!(phases(&plan), [ImagePhase::Failed, ImagePhase::Failed]);
    let app = report(&plan, APP);
    assert_eq!(app.reason, Some(Reason::DeadlineExceeded));
    assert!(app.message.unwrap().contains("0/1 nodes"));
    assert_eq!(deletes(&plan), 1);

    let mut node = Node::new([mk_present(APP), mk_present(DB)]);
    node.step(0);
    node.pod("Pending", &[(APP, creating()), (DB, creating())]);
    assert_eq!(node.step(300).wake_at, Some(at(600)));
    assert_eq!(
        report(&node.step(600), DB).reason,
        Some(Reason::DeadlineExceeded)
    );
}

#[test]
fn a_job_that_ends_early_is_a_failed_attempt() {
    for (reason, expected) in [
        ("DeadlineExceeded", Reason::DeadlineExceeded),
        ("BackoffLimitExceeded", Reason::Unknown),
    ] {
        let mut node = Node::new([mk_present(APP)]);
        node.step(0);
        node.pod("Pending", &[(APP, creating())]);
        node.step(1);
        node.end_job("Failed", reason);
        // The pod may still report a more specific failure.
        assert_eq!(phases(&node.step(2)), [ImagePhase::Pulling]);
        node.pods.clear();
        let plan = node.step(3);
        let app = report(&plan, APP);
        assert_eq!(app.phase, ImagePhase::BackingOff, "{reason}");
        assert_eq!(app.reason, Some(expected));
        assert!(app.next_attempt_at.unwrap() <= at(5));
        assert_eq!(deletes(&plan), 1);
        node.jobs_gone();
        let plan = node.step(6);
        assert_eq!(pulls(&plan), [of_shop(&[APP])]);
        assert_eq!(report(&plan, APP).attempts, 2);
    }
}

#[test]
fn a_pod_that_is_never_observed_does_not_keep_an_ended_job() {
    let day = Duration::from_secs(24 * 3_600);
    for (kind, reason) in [("Failed", "BackoffLimitExceeded"), ("Complete", "")] {
        let mut node = Node::new([mk_present(APP).with_deadline(day)]);
        let plan = node.step(0);
        node.restart(&plan.report);
        node.step(10);
        node.end_job(kind, reason);
        // The watch of the pods may be late.
        let plan = node.step(11);
        assert_eq!((deletes(&plan), plan.wake_at), (0, Some(at(71))), "{kind}");
        let plan = node.step(71);
        assert_eq!(report(&plan, APP).phase, ImagePhase::BackingOff, "{kind}");
        assert_eq!(deletes(&plan), 1, "{kind}");
    }
}

#[test]
fn a_job_deleted_by_a_user_is_a_failed_attempt() {
    let mut node = Node::new([mk_present(APP)]);
    node.step(0);
    node.step(1);
    node.jobs.clear();
    let app = report(&node.step(10), APP);
    assert_eq!(app.phase, ImagePhase::BackingOff);
    assert!(app.message.unwrap().contains("was deleted"));
    assert_eq!(pulls(&node.step(12)), [of_shop(&[APP])]);
}

#[test]
fn no_job_is_created_for_a_not_ready_node() {
    let mut node = Node::new([mk_present(APP), mk_absent(DB)]);
    node.view = mk_node(0, &[&[DB]]);
    node.view.ready = false;
    let plan = node.step(0);
    assert_eq!(plan.actions, []);
    assert_eq!(phases(&plan), [ImagePhase::Pending, ImagePhase::Removing]);
    assert_eq!(
        phases(&node.step(10_000)),
        [ImagePhase::Pending, ImagePhase::Removing]
    );
    node.view.ready = true;
    assert_eq!(removals(&node.step(10_001)), [[DB]]);
}

#[test]
fn the_cause_of_a_missing_pod_is_looked_up_and_reported() {
    let mut node = Node::new([mk_present(APP)]);
    node.step(0);
    let plan = node.step(5);
    assert!(matches!(plan.actions[..], [JobAction::Explain(_)]));
    assert_eq!(plan.wake_at, Some(at(15)));
    node.trouble = Some(unknown("exceeded quota".to_owned()));
    let app = report(&node.step(6), APP);
    assert_eq!(app.phase, ImagePhase::BackingOff);
    assert_eq!(app.message.as_deref(), Some("exceeded quota"));
    // The quota may be raised: the Job stays until its deadline.
    assert_eq!(deletes(&node.step(200)), 0);
    node.trouble = None;
    node.pod("Succeeded", &[(APP, done(201))]);
    assert_eq!(phases(&node.step(202)), [ImagePhase::Cached]);
}

#[test]
fn a_pod_without_a_node_is_reported_at_once() {
    let mut node = Node::new([mk_present(APP), mk_present(DB)]);
    node.step(0);
    let job = node.jobs.last().unwrap();
    let mut pod = mk_pod(job, "Pending", &[]);
    pod.set_status(json!({ "phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/3 nodes are available: 1 Too many pods.",
    }] }));
    node.pods.push(pod);
    let plan = node.step(1);
    for image in [APP, DB] {
        let seen = report(&plan, image);
        assert_eq!(seen.phase, ImagePhase::BackingOff);
        let message = seen.message.as_deref().unwrap();
        assert!(message.ends_with("1 Too many pods."), "{message}");
    }
    assert_eq!(deletes(&plan), 0);
    node.pods.clear();
    node.pod("Succeeded", &[(APP, done(9)), (DB, done(9))]);
    assert_eq!(phases(&node.step(10)), [ImagePhase::Cached; 2]);
}

#[test]
fn a_volume_that_fails_is_looked_up_and_reported() {
    let mut node = Node::new([mk_absent(APP), mk_absent(DB)]);
    node.view = mk_node(0, &[&[APP], &[DB]]);
    node.step(1);
    node.pod("Pending", &[(REMOVE, creating())]);
    assert_eq!(node.step(2).actions, []);
    let plan = node.step(6);
    assert!(matches!(plan.actions[..], [JobAction::ExplainPod(..)]));
    node.pod_trouble = Some(unknown("hostPath type check failed".to_owned()));
    let plan = node.step(7);
    for image in [APP, DB] {
        let message = report(&plan, image).message.clone();
        assert_eq!(message.as_deref(), Some("hostPath type check failed"));
    }
    // A pod that starts after all is read as usual.
    node.pod("Succeeded", &[(REMOVE, removed(9, r#"{"removed":[0,1]}"#))]);
    node.end_job("Complete", "");
    assert_eq!(phases(&node.step(10)), [ImagePhase::Removed; 2]);
}

#[test]
fn a_refused_job_is_a_failed_attempt() {
    let mut node = Node::new([mk_present(APP)]);
    node.step(0);
    let job = node.jobs.pop().unwrap();
    let mut read = ObservedJob::read(&job, &node.options, None).unwrap();
    read.uid = None;
    read.refused = true;
    read.trouble = Some(unknown("forbidden".to_owned()));
    let jobs = [read];
    let observed = Observed {
        name: &node.name,
        node: &node.view,
        jobs: &jobs,
        pods: &[],
        no_image_volumes: false,
    };
    let memory = &mut node.memory;
    let plan = reconcile(&node.options, &node.assignment, &observed, memory, at(1));
    let app = report(&plan, APP);
    assert_eq!(app.phase, ImagePhase::BackingOff);
    assert_eq!(app.message.as_deref(), Some("forbidden"));
    assert_eq!(plan.actions, []);
    assert_eq!(pulls(&node.step(3)), [of_shop(&[APP])]);
}

#[test]
fn a_mutable_tag_is_pulled_for_every_revision() {
    let always = |revision| {
        let spec = mk_present(APP).with_pull_policy(ImagePullPolicy::Always);
        [spec.with_revision(revision)]
    };
    let mut node = Node::new(always(1));
    node.view = mk_node(0, &[&[APP]]);
    assert_eq!(pulls(&node.step(1)).len(), 1, "present, but never pulled");
    // A revision that comes while the Job pulls needs another pull.
    node.assign(always(2));
    assert_eq!(node.step(2).actions, []);
    node.pod("Succeeded", &[(APP, done(3))]);
    let plan = node.step(4);
    assert_eq!((deletes(&plan), pulls(&plan).len()), (1, 1));
    assert_eq!(report(&plan, APP).revision, Some(1));
    node.jobs_gone();
    node.pods.clear();
    node.pod("Succeeded", &[(APP, done(6))]);
    let plan = node.step(7);
    assert_eq!(phases(&plan), [ImagePhase::Cached]);
    assert_eq!(report(&plan, APP).revision, Some(2));
    // Another process reads the revision from the Job.
    node.restart(&NodeReport::default());
    let plan = node.step(8);
    assert_eq!(report(&plan, APP).revision, Some(2));
    assert_eq!(pulls(&plan).len(), 0);
}

#[test]
fn a_refresh_of_a_fixed_tag_verifies_its_presence() {
    let mut node = Node::new([mk_present(APP)]);
    node.view = mk_node(0, &[&[APP]]);
    node.step(1);
    node.assign([mk_present(APP).with_revision(5)]);
    let plan = node.step(2);
    assert_eq!(plan.actions, []);
    assert_eq!(report(&plan, APP).revision, Some(5));
}

#[test]
fn a_rate_that_a_job_does_not_keep_is_reported() {
    let cache = CacheId::new("shop", "web", "u");
    let limit = PullLimit::new(cache, "20Mi".parse().unwrap());
    for (limit, via) in [
        (
            Some(limit),
            Some("runtime: a Job requests the pull; not limited to 20.0 MiB/s".to_owned()),
        ),
        (None, None),
    ] {
        let mut node = Node::new([mk_present(APP).with_pull_limit(limit)]);
        node.step(0);
        node.pod("Succeeded", &[(APP, done(3))]);
        let plan = node.step(4);
        assert_eq!(phases(&plan), [ImagePhase::Cached]);
        let reported = report(&plan, APP).via;
        assert_eq!(reported.map(|via| via.to_string()), via);
    }
}

#[test]
fn a_refresh_or_new_credentials_retry_failed_images() {
    let failed = || {
        let mut node = Node::new([mk_present(APP)]);
        node.step(0);
        node.pod("Pending", &[(APP, failing("401 Unauthorized"))]);
        assert_eq!(phases(&node.step(1)), [ImagePhase::Failed]);
        node.jobs_gone();
        node.pods.clear();
        assert_eq!(node.step(2).actions, []);
        node
    };
    let secret = ObjectName::new("shop", "login");
    for spec in [
        mk_present(APP).with_revision(1),
        mk_present(APP).with_pull_secrets([secret]),
    ] {
        let mut node = failed();
        node.assign([spec]);
        assert_eq!(pulls(&node.step(3)), [of_shop(&[APP])]);
    }
}

#[test]
fn credentials_changed_during_a_pull_are_used_at_once() {
    let mut node = Node::new([mk_present(APP)]);
    node.step(0);
    let secret = ObjectName::new("shop", "login");
    node.assign([mk_present(APP).with_pull_secrets([secret])]);
    assert_eq!(node.step(1).actions, []);
    node.pod("Pending", &[(APP, failing("401 Unauthorized"))]);
    assert_eq!(pulls(&node.step(2)), [of_shop(&[APP])]);
}

#[test]
fn a_full_disk_stops_pulls_and_is_probed_by_one() {
    let mut node = Node::new([mk_present(APP), mk_present(DB)]);
    node.step(0);
    let full = || failing("no space left on device");
    node.pod("Pending", &[(APP, full()), (DB, full())]);
    node.view.disk_pressure = true;
    let plan = node.step(1);
    assert_eq!(report(&plan, APP).reason, Some(Reason::DiskFull));
    node.jobs_gone();
    node.pods.clear();
    node.assign([mk_present(APP), mk_present(DB), mk_present(CRON)]);
    let plan = node.step(2);
    assert_eq!(plan.actions, []);
    let cron = report(&plan, CRON);
    assert_eq!(
        (cron.phase, cron.reason),
        (ImagePhase::Failed, Some(Reason::DiskFull))
    );
    let plan = node.step(1_000);
    assert_eq!(pulls(&plan).len(), 1);
    assert_eq!(pulls(&plan)[0].1.len(), 1, "{plan:?}");
}

#[test]
fn a_newer_revision_ends_the_hold_on_a_full_disk() {
    let mut node = Node::new([mk_present(APP)]);
    node.step(0);
    node.pod("Pending", &[(APP, failing("no space left on device"))]);
    node.view.disk_pressure = true;
    node.step(1);
    node.jobs_gone();
    node.pods.clear();
    assert_eq!(node.step(2).actions, []);
    node.assign([mk_present(APP).with_revision(1)]);
    assert_eq!(pulls(&node.step(3)), [of_shop(&[APP])]);
}

#[test]
fn a_full_disk_without_disk_pressure_concerns_one_image() {
    let mut node = Node::new([mk_present(APP)]);
    node.step(0);
    node.pod("Pending", &[(APP, failing("no space left on device"))]);
    let plan = node.step(1);
    assert_eq!(report(&plan, APP).reason, Some(Reason::DiskFull));
    node.jobs_gone();
    node.pods.clear();
    node.assign([mk_present(APP), mk_present(CRON)]);
    assert_eq!(pulls(&node.step(2)), [of_shop(&[CRON])]);
}

#[test]
fn a_newer_complete_list_proves_absence() {
    let mut node = Node::new([mk_present(APP)]);
    node.step(0);
    node.pod("Succeeded", &[(APP, done(1_000))]);
    node.step(1_001);
    node.jobs_gone();
    node.pods.clear();
    node.view = mk_node(1_060, &[]);
    assert_eq!(phases(&node.step(1_060)), [ImagePhase::Cached]);
    node.view = mk_node(1_061, &[]);
    let plan = node.step(1_061);
    assert_eq!(pulls(&plan), [of_shop(&[APP])]);
    assert_eq!(report(&plan, APP).reason, Some(Reason::Evicted));
    // An older list does not prove presence.
    node.view = mk_node(1_000, &[]);
    assert_eq!(phases(&node.step(1_062)), [ImagePhase::Pulling]);
}

#[test]
fn an_incomplete_list_does_not_prove_absence() {
    let digest = format!("a.test/app@sha256:{}", "0".repeat(64));
    let names: &[&str] = &[
        &digest,
        "a.test/app:a",
        "a.test/app:b",
        "a.test/app:c",
        "a.test/app:d",
    ];
    let full: &[&[&str]] = &[&["a:1"], &["b:1"], &["c:1"]];
    for cut in [full, &[names]] {
        let mut options = mk_options();
        options.list_max = 3;
        let mut node = Node::with(options, [mk_present(APP), mk_absent("a.test/app:2")]);
        node.view = mk_node(0, &[]);
        node.step(0);
        node.pod("Succeeded", &[(APP, done(1_000))]);
        node.step(1_000);
        node.jobs_gone();
        node.pods.clear();
        node.view = mk_node(9_000, cut);
        let plan = node.step(9_001);
        assert_eq!(report(&plan, APP).phase, ImagePhase::Cached);
        node.assign([mk_present(APP), mk_absent("a.test/app:3")]);
        let plan = node.step(9_002);
        assert_eq!(
            removals(&plan),
            [["a.test/app:3"]],
            "the image may be present"
        );
        node.view = mk_node(9_000, &[&["a:1"], &names[..4]]);
        assert_eq!(report(&node.step(9_003), APP).phase, ImagePhase::Pending);
    }
}

#[test]
fn repeated_evictions_are_repaired_with_backoff() {
    let mut node = Node::new([mk_present(APP)]);
    let mut now = 0;
    let mut failures = 0;
    for _ in 0..3 {
        node.view = mk_node(now, &[&[APP]]);
        assert_eq!(phases(&node.step(now)), [ImagePhase::Cached]);
        now += 100;
        node.view = mk_node(now, &[]);
        let plan = node.step(now);
        let app = report(&plan, APP);
        assert_eq!(app.reason, Some(Reason::Evicted));
        failures += usize::from(app.phase == ImagePhase::Failed);
        now += 100;
    }
    assert_eq!(failures, 2);
}

#[test]
fn one_job_removes_present_images_and_keeps_other_names() {
    let digest = format!("a.test/app@sha256:{}", "1".repeat(64));
    let other = mk_present("a.test/app:2");
    let mut node = Node::new([mk_absent(APP), mk_absent(DB), mk_absent(CRON), other]);
    node.view = mk_node(0, &[&[&digest, APP], &[DB], &["a.test/app:2"]]);
    let plan = node.step(0);
    let expected = [
        ImagePhase::Removing,
        ImagePhase::Removing,
        ImagePhase::Removed,
        ImagePhase::Cached,
    ];
    assert_eq!(phases(&plan), expected);
    let [JobPlan::Remove(removal)] = created(&plan)[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(removal.key.namespace, "operator");
    assert_eq!(removal.images, [image(APP), image(DB)]);
    assert_eq!(removal.keep, [image("a.test/app:2")]);
    let message = r#"{"removed":[0],"kept":{"1":"container x"}}"#;
    node.pod("Succeeded", &[(REMOVE, removed(5, message))]);
    let plan = node.step(6);
    assert_eq!(report(&plan, APP).phase, ImagePhase::Removed);
    let db = report(&plan, DB);
    assert_eq!(
        (db.phase, db.reason),
        (ImagePhase::InUse, Some(Reason::InUse))
    );
    assert_eq!(plan.wake_at, Some(at(5 + 15 * 60)));
    let plan = node.step(5 + 15 * 60);
    assert_eq!(removals(&plan), [[DB]]);
}

#[test]
fn the_removal_of_an_image_in_use_is_retried_ever_later() {
    let mut node = Node::new([mk_absent(APP)]);
    node.view = mk_node(0, &[&[APP]]);
    let (mut now, mut jobs) = (0, 0);
    while now < 24 * 3600 {
        let plan = node.step(now);
        if !removals(&plan).is_empty() {
            jobs += 1;
            let message = r#"{"kept":{"0":"container x"}}"#;
            node.pod("Succeeded", &[(REMOVE, removed(now + 1, message))]);
        }
        now += 60;
    }
    assert!((2..12).contains(&jobs), "{jobs} Jobs in a day");
}

#[test]
fn a_retried_removal_in_vain_changes_no_report() {
    let mut node = Node::new([mk_absent(APP)]);
    node.view = mk_node(0, &[&[APP]]);
    node.step(0);
    let failed = r#"{"failed":{"0":["RuntimeUnavailable","no socket"]}}"#;
    node.pod("Succeeded", &[(REMOVE, removed(1, failed))]);
    assert_eq!(
        report(&node.step(2), APP).phase,
        ImagePhase::BackingOff,
        "the first attempt of the round fails"
    );
    assert_eq!(removals(&node.step(60)), [[APP]]);
    let message = r#"{"kept":{"0":"container x"}}"#;
    node.pod("Succeeded", &[(REMOVE, removed(61, message))]);
    let kept = node.step(62).report;
    assert_eq!(kept.images[0].attempts, 1, "as after each later Job");
    let plan = node.step(1_000);
    assert_eq!(removals(&plan), [[APP]]);
    assert_eq!(plan.report, kept);
    node.pod("Pending", &[(REMOVE, creating())]);
    assert_eq!(node.step(1_001).report, kept);
    node.pod("Succeeded", &[(REMOVE, removed(1_002, message))]);
    assert_eq!(node.step(1_003).report, kept);
    // A failure is reported, and a success.
    assert_eq!(removals(&node.step(9_000)), [[APP]]);
    node.pod("Succeeded", &[(REMOVE, removed(9_001, failed))]);
    let app = report(&node.step(9_002), APP);
    assert_eq!(app.phase, ImagePhase::BackingOff);
    assert_eq!(removals(&node.step(9_060)), [[APP]]);
    node.pod(
        "Succeeded",
        &[(REMOVE, removed(9_061, r#"{"removed":[0]}"#))],
    );
    let app = report(&node.step(9_062), APP);
    assert_eq!(app.phase, ImagePhase::Removed);
}

#[test]
fn a_protected_image_gets_no_removal_job() {
    let own = JobOptions::new(image("registry.test/tools/own:2"), "operator").image;
    for name in ["registry.k8s.io/pause:3.9", own.as_str()] {
        let mut node = Node::new([mk_absent(name)]);
        node.options = JobOptions::new(own.clone(), "operator");
        node.view = mk_node(0, &[&[name]]);
        let plan = node.step(0);
        let kept = report(&plan, name);
        let expected = (ImagePhase::InUse, Some(Reason::Protected));
        assert_eq!((kept.phase, kept.reason), expected, "{name}");
        assert_eq!((plan.actions, plan.wake_at), (vec![], None), "{name}");
    }
}

#[test]
fn a_pinned_image_gets_one_removal_job() {
    let mut node = Node::new([mk_absent(APP)]);
    node.view = mk_node(0, &[&[APP]]);
    assert_eq!(removals(&node.step(0)), [[APP]]);
    let message = r#"{"failed":{"0":["Pinned","the runtime has it pinned"]}}"#;
    node.pod("Succeeded", &[(REMOVE, removed(5, message))]);
    let plan = node.step(6);
    let kept = report(&plan, APP);
    let expected = (ImagePhase::InUse, Some(Reason::Pinned));
    assert_eq!((kept.phase, kept.reason), expected);
    assert_eq!(removals(&node.step(24 * 3600)), [[""; 0]; 0]);
}

#[test]
fn a_short_pull_deadline_does_not_cut_a_removal() {
    let mut node = Node::new([mk_absent(APP).with_deadline(Duration::from_secs(1))]);
    node.view = mk_node(0, &[&[APP]]);
    node.step(0);
    assert_eq!(phases(&node.step(119)), [ImagePhase::Removing]);
    assert_eq!(
        report(&node.step(120), APP).reason,
        Some(Reason::DeadlineExceeded)
    );
}

#[test]
fn an_image_with_a_desired_name_is_kept() {
    let mut node = Node::new([mk_absent(APP), mk_present(DB)]);
    node.view = mk_node(0, &[&[APP, DB]]);
    let plan = node.step(0);
    assert_eq!(phases(&plan), [ImagePhase::InUse, ImagePhase::Cached]);
    assert_eq!(report(&plan, APP).reason, Some(Reason::SharedImage));
    assert_eq!(plan.actions, []);
    node.assign([mk_absent(APP)]);
    let plan = node.step(1);
    assert_eq!(
        report(&plan, APP).reason,
        Some(Reason::SharedImage),
        "the image has another name"
    );
    node.assign([mk_absent(APP), mk_absent(DB)]);
    assert_eq!(removals(&node.step(2)), [[APP, DB]]);
}

#[test]
fn one_job_removes_all_names_of_an_image() {
    let mut options = mk_options();
    options.images_per_job = NonZeroUsize::MIN;
    let mut node = Node::with(options, [mk_absent(APP), mk_absent(CRON), mk_absent(DB)]);
    node.view = mk_node(0, &[&[APP, DB], &[CRON]]);
    assert_eq!(removals(&node.step(0)), [[APP, DB]]);
    // One name was looked at by an earlier Job, and is not due.
    let in_use = r#"{"kept":{"0":"container x","1":"container x"}}"#;
    node.pod("Succeeded", &[(REMOVE, removed(5, in_use))]);
    let plan = node.step(6);
    assert_eq!(report(&plan, DB).phase, ImagePhase::InUse);
    assert_eq!(removals(&plan), [[CRON]]);
}

#[test]
fn a_protected_name_is_in_no_removal_job() {
    let mut options = mk_options();
    options.protected = ProtectedImages::new([DB]);
    let mut node = Node::with(options, [mk_absent(APP), mk_absent(DB)]);
    node.view = mk_node(0, &[&[APP, DB]]);
    assert_eq!(removals(&node.step(0)), [[APP]]);
}

#[test]
fn unprocessed_images_are_in_the_next_removal_job() {
    let mut node = Node::new([mk_absent(APP), mk_absent(DB)]);
    node.view = mk_node(0, &[&[APP], &[DB]]);
    node.step(0);
    node.pod("Succeeded", &[(REMOVE, removed(5, r#"{"removed":[1]}"#))]);
    let plan = node.step(6);
    assert_eq!(removals(&plan), [[APP]]);
    let failed = r#"{"failed":{"0":["RuntimeUnavailable","no socket"]}}"#;
    node.pod("Succeeded", &[(REMOVE, removed(9, failed))]);
    let app = report(&node.step(10), APP);
    assert_eq!(app.phase, ImagePhase::BackingOff);
    assert_eq!(app.reason, Some(Reason::RuntimeUnavailable));
    assert_eq!(removals(&node.step(20)), [[APP]]);
}

#[test]
fn a_removal_job_without_any_result_is_retried_with_delays() {
    for message in ["", "{}", r#"{"removed":[7]}"#, "killed"] {
        let mut node = Node::new([mk_absent(APP), mk_absent(DB)]);
        node.view = mk_node(0, &[&[APP], &[DB]]);
        node.step(0);
        node.pod("Succeeded", &[(REMOVE, removed(5, message))]);
        let plan = node.step(6);
        assert_eq!(removals(&plan), [] as [Vec<String>; 0], "{message}");
        let app = report(&plan, APP);
        assert_eq!(app.phase, ImagePhase::BackingOff, "{message}");
        assert!(app.message.unwrap().contains("can't be read"), "{message}");
        assert_eq!(removals(&node.step(20)), [[APP, DB]], "{message}");
    }
}

#[test]
fn a_removal_job_with_an_old_socket_is_replaced() {
    let mut options = mk_options();
    options.socket = Some("/run/wrong.sock".to_owned());
    let mut node = Node::with(options, [mk_absent(APP)]);
    node.view = mk_node(0, &[&[APP]]);
    assert_eq!(removals(&node.step(0)), [[APP]]);
    node.pod("Pending", &[(REMOVE, creating())]);
    node.pod_trouble = Some(unknown("hostPath type check failed".to_owned()));
    assert_eq!(deletes(&node.step(5)), 0, "the socket may appear");
    // The controller starts again with another value.
    node.options.socket = Some("/run/right.sock".to_owned());
    node.memory = NodeMemory::new(2);
    let plan = node.step(10);
    assert_eq!((deletes(&plan), plan.actions.len()), (1, 1));
    assert_eq!(phases(&plan), [ImagePhase::Removing]);
    node.jobs_gone();
    assert_eq!(node.step(11).actions, [], "the old pod exists");
    node.pods.clear();
    node.pod_trouble = None;
    let plan = node.step(12);
    assert_eq!(removals(&plan), [[APP]]);
    let new = ObservedJob::read(node.jobs.last().unwrap(), &node.options, None).unwrap();
    assert_eq!(new.socket.as_deref(), Some("/run/right.sock"));
    // One that has begun found its socket.
    node.options.socket = Some("/run/other.sock".to_owned());
    node.pod("Running", &[(REMOVE, json!({ "running": {} }))]);
    assert_eq!(node.step(13).actions, []);
}

#[test]
fn pulls_wait_for_the_removal_of_the_same_image() {
    let mut node = Node::new([mk_absent(APP)]);
    node.view = mk_node(0, &[&[APP]]);
    node.step(0);
    node.pod("Running", &[(REMOVE, json!({ "running": {} }))]);
    node.assign([mk_present(APP)]);
    let plan = node.step(1);
    assert_eq!(
        phases(&plan),
        [ImagePhase::Pending],
        "the image may be removed"
    );
    assert_eq!(plan.actions, []);
    node.pod("Succeeded", &[(REMOVE, removed(2, r#"{"removed":[0]}"#))]);
    assert_eq!(pulls(&node.step(3)), [of_shop(&[APP])]);
}

#[test]
fn a_removal_without_a_pod_is_cancelled_for_a_pull() {
    let mut node = Node::new([mk_absent(APP)]);
    node.view = mk_node(0, &[&[APP]]);
    node.step(0);
    node.assign([mk_present(APP)]);
    let plan = node.step(1);
    assert_eq!(deletes(&plan), 1);
    assert_eq!(phases(&plan), [ImagePhase::Pending]);
    node.jobs_gone();
    node.step(2);
    // No pod has appeared, so nothing was removed and the list counts.
    assert_eq!(phases(&node.step(6)), [ImagePhase::Cached]);
}

#[test]
fn a_removal_job_is_replaced_if_one_of_its_images_is_wanted() {
    let mut node = Node::new([mk_absent(APP), mk_absent(DB)]);
    node.view = mk_node(0, &[&[APP], &[DB]]);
    assert_eq!(removals(&node.step(0)), [[APP, DB]]);
    node.assign([mk_present(APP), mk_absent(DB)]);
    assert_eq!(deletes(&node.step(1)), 1);
    node.jobs_gone();
    let plan = node.step(6);
    assert_eq!(removals(&plan), [[DB]]);
    assert_eq!(report(&plan, APP).phase, ImagePhase::Cached);
}

#[test]
fn a_clock_that_is_ahead_of_the_api_server_cuts_no_deadline() {
    let minute = Duration::from_secs(60);
    let mut node = Node::new([mk_present(APP).with_deadline(minute)]);
    node.behind = 600;
    assert_eq!(pulls(&node.step(1_000)), [of_shop(&[APP])]);
    let plan = node.step(1_059);
    assert_eq!(phases(&plan), [ImagePhase::Pulling]);
    assert_eq!(deletes(&plan), 0);
    assert_eq!(deletes(&node.step(1_060)), 1);
}

#[test]
fn a_job_that_waits_for_its_creation_follows_the_assignment() {
    let mut node = Node::new([mk_present(APP), mk_present(DB)]);
    node.creating = true;
    assert_eq!(pulls(&node.step(0)), [of_shop(&[APP, DB])]);
    node.assign([mk_present(APP)]);
    let plan = node.observe(1);
    assert!(
        matches!(plan.actions[..], [JobAction::Delete(_, None)]),
        "{:?}",
        plan.actions
    );
    node.jobs.clear();
    assert_eq!(pulls(&node.step(2)), [of_shop(&[APP])]);
}

#[test]
fn a_removal_waits_for_the_pod_of_a_cancelled_pull() {
    let mut node = Node::new([mk_present(APP), mk_present(DB)]);
    node.step(0);
    node.pod("Pending", &[(APP, creating()), (DB, creating())]);
    node.step(1);
    node.assign([mk_absent(APP), mk_absent(DB)]);
    let plan = node.step(2);
    assert_eq!(deletes(&plan), 1);
    assert_eq!(phases(&plan), [ImagePhase::Removing, ImagePhase::Removing]);
    node.jobs_gone();
    assert_eq!(node.step(3).actions, [], "the pod of the pull exists");
    node.pods.clear();
    // The list is complete and lacks the images, but it is older than the pod.
    assert_eq!(removals(&node.step(4)), [[APP, DB]]);
}

#[test]
fn a_removal_waits_for_a_pod_that_is_not_observed_yet() {
    let mut node = Node::new([mk_present(APP)]);
    node.step(0);
    node.step(0);
    node.assign([mk_absent(APP)]);
    node.step(1);
    node.jobs_gone();
    let plan = node.step(2);
    assert_eq!(plan.actions, []);
    assert_eq!(plan.wake_at, Some(at(5)));
    assert_eq!(removals(&node.step(5)), [[APP]]);
}

#[test]
fn a_removal_waits_for_pulls_and_fails_at_its_deadline() {
    let mut node = Node::new([mk_present(APP), mk_absent(DB)]);
    node.view = mk_node(0, &[]);
    node.step(0);
    node.view = mk_node(0, &[&[DB]]);
    node.pod("Pending", &[(APP, creating())]);
    node.assign([
        mk_present(APP).with_deadline(Duration::from_secs(1_000)),
        mk_absent(DB).with_revision(1),
    ]);
    let plan = node.step(1);
    assert_eq!(plan.actions, []);
    assert_eq!(report(&plan, DB).phase, ImagePhase::Removing);
    // A failing pull does not block the removal.
    node.pod("Pending", &[(APP, failing(REFUSED))]);
    assert_eq!(removals(&node.step(2)), [[DB]]);

    let mut node = Node::new([mk_present(APP)]);
    node.step(0);
    node.pod("Pending", &[(APP, creating())]);
    node.step(1);
    node.assign([mk_absent(APP)]);
    node.step(2);
    node.jobs_gone();
    node.step(3);
    let app = report(&node.step(303), APP);
    assert_eq!(
        (app.phase, app.reason),
        (ImagePhase::Failed, Some(Reason::DeadlineExceeded))
    );
    assert!(app.message.unwrap().contains("has to end first"));
}

#[test]
fn an_older_list_does_not_revive_a_removed_image() {
    // Purge, delete and apply again, while the kubelet's list still has the image.
    let mut node = mk_removed(mk_options());
    node.assign([]);
    assert_eq!(
        node.step(102).actions,
        [],
        "the Job must stay as the record of the removal"
    );
    node.assign([mk_present(APP)]);
    let plan = node.step(103);
    assert_eq!(phases(&plan), [ImagePhase::Pulling]);
    assert_eq!(pulls(&plan), [of_shop(&[APP])]);
}

#[test]
fn a_removal_is_known_after_a_restart() {
    // Known from the Job, although nothing was assigned when the process ended.
    let mut node = mk_removed(mk_options());
    node.assign([]);
    node.step(102);
    node.restart(&NodeReport::default());
    node.assign([mk_present(APP)]);
    assert_eq!(phases(&node.step(103)), [ImagePhase::Pulling]);
    // Known from the status, although the Job is gone.
    let mut node = mk_removed(mk_options());
    let report = node.step(102).report;
    node.jobs.clear();
    node.pods.clear();
    node.restart(&report);
    assert_eq!(phases(&node.step(103)), [ImagePhase::Removed]);
    node.assign([mk_present(APP)]);
    assert_eq!(phases(&node.step(104)), [ImagePhase::Pulling]);
}

#[test]
fn a_removal_job_stays_until_a_newer_list_covers_it() {
    let mut node = mk_removed(mk_options());
    node.view = mk_node(160, &[]);
    assert_eq!(node.step(160).actions, []);
    node.view = mk_node(161, &[]);
    assert_eq!(deletes(&node.step(161)), 1);
    // Another client has pulled the image: the newer list counts.
    let mut node = mk_removed(mk_options());
    node.assign([mk_present(APP)]);
    node.view = mk_node(161, &[&[APP]]);
    assert_eq!(phases(&node.step(161)), [ImagePhase::Cached]);
}

#[test]
fn an_older_pull_job_is_no_evidence_after_a_removal() {
    let mut options = mk_options();
    options.retention = Retention::Retain;
    let mut node = Node::with(options, [mk_present(APP)]);
    node.step(0);
    node.pod("Succeeded", &[(APP, done(50))]);
    node.end_job("Complete", "");
    let plan = node.step(51);
    assert_eq!(deletes(&plan), 0, "retained");
    node.assign([mk_absent(APP)]);
    assert_eq!(removals(&node.step(52)), [[APP]]);
    node.pod("Succeeded", &[(REMOVE, removed(60, r#"{"removed":[0]}"#))]);
    node.end_job("Complete", "");
    assert_eq!(phases(&node.step(61)), [ImagePhase::Removed]);
    for restarted in [false, true] {
        if restarted {
            node.restart(&NodeReport::default());
        }
        node.assign([mk_present(APP)]);
        let plan = node.observe(62);
        assert_eq!(phases(&plan), [ImagePhase::Pulling], "{restarted}");
        assert_eq!(deletes(&plan), 0);
        node.assign([]);
        node.observe(63);
    }
}

#[test]
fn a_removal_without_a_result_voids_older_evidence() {
    let mut node = Node::new([mk_present(APP)]);
    node.step(0);
    node.pod("Succeeded", &[(APP, done(10))]);
    node.step(11);
    node.jobs_gone();
    node.pods.clear();
    node.assign([mk_absent(APP)]);
    node.step(20);
    node.pod("Running", &[(REMOVE, json!({ "running": {} }))]);
    node.step(21);
    // The pod was killed and may have removed the image.
    node.jobs.clear();
    node.pods.clear();
    node.assign([mk_present(APP)]);
    assert_eq!(phases(&node.step(30)), [ImagePhase::Pulling]);
}

#[test]
fn a_restart_continues_needed_jobs_and_deletes_others() {
    let mut node = Node::new([mk_present(APP)]);
    let plan = node.step(0);
    node.pod("Pending", &[(APP, creating())]);
    node.restart(&plan.report);
    let plan = node.step(10);
    assert_eq!(plan.actions, []);
    let app = report(&plan, APP);
    assert_eq!(
        (app.phase, app.started_at),
        (ImagePhase::Pulling, Some(at(0)))
    );
    node.restart(&plan.report);
    node.assign([]);
    assert_eq!(deletes(&node.step(11)), 1);
    // An image that was reported as present counts as present until a newer list lacks it.
    let mut cached = ImageReport::new(image(APP), ImagePhase::Cached);
    cached.finished_at = Some(at(1_000));
    let mut node = Node::new([mk_present(APP)]);
    node.restart(&NodeReport::new(1, [cached]));
    node.view = mk_node(1_060, &[]);
    assert_eq!(phases(&node.step(1_060)), [ImagePhase::Cached]);
    node.view = mk_node(1_061, &[]);
    assert_eq!(phases(&node.step(1_061)), [ImagePhase::Pulling]);
}

#[test]
fn a_job_that_failed_during_downtime_is_no_failed_attempt() {
    let mut node = Node::new([mk_present(APP)]);
    let plan = node.step(0);
    node.end_job("Failed", "BackoffLimitExceeded");
    node.restart(&plan.report);
    let plan = node.step(100);
    assert_eq!(phases(&plan), [ImagePhase::Pulling]);
    assert_eq!((pulls(&plan).len(), deletes(&plan)), (1, 1));
}

#[test]
fn retained_jobs_are_kept_unless_they_pull_dropped_images() {
    let mut options = mk_options();
    options.retention = Retention::Retain;
    let mut node = Node::with(options, [mk_present(APP), mk_present(DB)]);
    node.step(0);
    node.pod(
        "Pending",
        &[(APP, failing("manifest unknown")), (DB, done(5))],
    );
    let plan = node.step(6);
    assert_eq!(phases(&plan), [ImagePhase::Failed, ImagePhase::Cached]);
    assert_eq!(deletes(&plan), 0);
    node.assign([mk_present(DB)]);
    assert_eq!(deletes(&node.step(7)), 1);
    // The end of a Job is observed some time after the end of its pod.
    let mut options = mk_options();
    options.retention = Retention::Retain;
    let mut node = Node::with(options, [mk_present(APP)]);
    node.step(0);
    node.pod("Running", &[(APP, done(5))]);
    assert_eq!(deletes(&node.step(6)), 0);
    node.assign([]);
    assert_eq!(deletes(&node.step(7)), 0);
}

#[test]
fn foreign_pods_are_no_evidence_and_block_nothing() {
    let mut node = Node::new([mk_present(APP)]);
    node.step(0);
    let job = node.jobs.last().unwrap().clone();
    let forged = |change: &dyn Fn(&mut Value)| {
        let mut pod = mk_pod_object(&job, "Succeeded", &[(APP, done(5))]);
        change(&mut pod);
        serde_json::from_value::<ObservedPod>(pod).unwrap().pruned()
    };
    let name = container_name(&image(APP));
    node.pods = vec![
        forged(&|pod| pod["metadata"]["ownerReferences"] = json!([])),
        forged(&|pod| pod["metadata"]["ownerReferences"][0]["uid"] = "another".into()),
        forged(&|pod| pod["metadata"]["namespace"] = "evil".into()),
        forged(&|pod| pod["spec"]["nodeName"] = "another".into()),
        // A container with the computed name and another image.
        forged(&|pod| {
            pod["spec"]["containers"] = json!([{ "name": name, "image": "a.test/other:1" }]);
        }),
    ];
    let plan = node.step(6);
    assert_eq!(phases(&plan), [ImagePhase::Pulling]);
    node.assign([mk_absent(APP)]);
    node.step(10);
    node.jobs_gone();
    // Only a pod that the Job owns in its namespace could still act.
    for pod in &mut node.pods {
        pod.set_status(json!({ "phase": "Running" }));
    }
    node.pods.truncate(3);
    assert_eq!(removals(&node.step(11)), [[APP]]);
}

#[test]
fn jobs_in_namespaces_without_the_cache_do_not_count() {
    let mut node = Node::new([mk_present(APP)]);
    node.step(0);
    let bank = CacheId::new("bank", "web", "uid-bank");
    node.assign([mk_present(APP).with_wanted_by([bank])]);
    node.pod("Pending", &[(APP, failing("manifest unknown"))]);
    let plan = node.step(1);
    assert_eq!(phases(&plan), [ImagePhase::Pulling]);
    assert_eq!(pulls(&plan), [("bank".to_owned(), vec![APP.to_owned()])]);
    assert_eq!(deletes(&plan), 1);
}

#[test]
fn present_wins_for_an_image_with_both_states() {
    let mut node = Node::new([mk_absent(APP), mk_present(APP)]);
    node.view = mk_node(0, &[&[APP]]);
    let plan = node.step(0);
    assert_eq!(phases(&plan), [ImagePhase::Cached]);
    assert_eq!(node.assignment.images[0].state, DesiredState::Absent);
}
