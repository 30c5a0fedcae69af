//! Requests about Jobs.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fledged_core::backoff::{RetryDelays, Schedule};
use fledged_core::error::{Failure, Reason};
use fledged_core::model::ObjectName;
use fledged_core::port::Clock;
use fledged_core::time::after;
use fledged_kube::request_error::{problem, retry_after};
use futures_util::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Event;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::core::request::Request;
use kube::{Api, Client, Resource};
use serde_json::Value;
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::FIELD_MANAGER;
use super::job_object::{JobKey, JobPlan, Method, PullPlan};
use super::options::{JobOptions, PullMethod};
use crate::agent::pull_secrets::{Objects, ServiceAccount};
use crate::metrics::JobMetrics;

/// Delays between attempts at the same request.
const AGAIN: Schedule = Schedule::seconds(1, 30);

/// The end of a Job's creation.
pub(super) enum Created {
    /// The Job exists. Contains the ServiceAccounts whose pull secrets could not be read.
    Exists(Box<Job>, Vec<String>),
    /// The API server refuses the Job permanently.
    Refused(Failure),
    /// The creation was cancelled, or another client has deleted the Job already.
    Gone,
}

/// Makes the requests of all nodes.
pub(super) struct Requests {
    client: Client,
    pub(super) options: JobOptions,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: JobMetrics,
    pace: Pace,
    accounts: Objects<ServiceAccount>,
    /// Whether the API server is known not to serve image volumes.
    no_image_volumes: AtomicBool,
}

impl Requests {
    pub(super) fn new(
        client: Client,
        options: JobOptions,
        clock: Arc<dyn Clock>,
        metrics: JobMetrics,
    ) -> Self {
        Self {
            pace: Pace::new(options.creations_per_second),
            accounts: Objects::new(client.clone(), "serviceaccounts"),
            no_image_volumes: AtomicBool::new(false),
            client,
            options,
            clock,
            metrics,
        }
    }

    /// Whether the API server is known not to serve image volumes.
    pub(super) fn no_image_volumes(&self) -> bool {
        self.no_image_volumes.load(Ordering::Relaxed)
    }

    /// Creates a Job, with retries until it is cancelled. `trouble` is called with every failure.
    pub(super) async fn create(
        &self,
        mut plan: JobPlan,
        seed: u64,
        cancel: CancellationToken,
        trouble: impl Fn(Failure),
    ) -> Created {
        let mut delays = RetryDelays::new(AGAIN, seed);
        let mut missing = Vec::new();
        if let JobPlan::Pull(plan) = &mut plan {
            plan.accounts.extend(unnamed_account(&self.options, plan));
            missing = self.add_secrets(plan).await;
        }
        let key = plan.key().clone();
        // Whether an attempt without an answer may have taken effect.
        let mut unclear = false;
        loop {
            let turn = self.pace.turn(self.clock.as_ref());
            if cancel.run_until_cancelled(turn).await.is_none() {
                break;
            }
            let error = match self.post(&key, &plan.manifest(&self.options)).await {
                Ok(job) => {
                    info!(job = %key, kind = plan.kind().as_str(), "Job created");
                    self.metrics.created(plan.kind().as_str(), "ok");
                    return Created::Exists(Box::new(job), missing);
                }
                Err(error) => error,
            };
            let status = match &error {
                kube::Error::Api(status) => Some(status),
                _ => None,
            };
            if status.is_some_and(|status| status.is_already_exists()) {
                // The answer to an earlier attempt was lost. Without one, it is the Job of another program.
                let result = if unclear { "ok" } else { "failed" };
                self.metrics.created(plan.kind().as_str(), result);
                break;
            }
            let code = status.map_or(0, |status| status.code);
            unclear |= code == 0 || code >= 500;
            let (problem, asked) = (problem(&error), retry_after(&error));
            warn!(job = %key, error = problem, "Job not created");
            if code == 422 && self.fall_back(&mut plan, &problem) {
                continue;
            }
            self.metrics.created(plan.kind().as_str(), "failed");
            let text = format!("cannot create Job {key}: {problem}");
            let failure = Failure::new(Reason::Unknown, text);
            if (400..500).contains(&code) && !matches!(code, 408 | 409 | 429) {
                return Created::Refused(failure);
            }
            trouble(failure);
            if let Some(asked) = asked {
                self.pace.hold(asked, self.clock.now());
            }
            let delay = self.clock.sleep(delays.next(asked));
            if cancel.run_until_cancelled(delay).await.is_none() {
                break;
            }
        }
        if !unclear {
            return Created::Gone;
        }
        // Until that is known, the Job counts as being created: nothing else may begin on the node beside it.
        loop {
            let error = match self.find(&key).await {
                Ok(Some(job)) => return Created::Exists(Box::new(job), missing),
                Ok(None) => return Created::Gone,
                Err(error) => error,
            };
            warn!(job = %key, error = problem(&error), "Job of a creation without an answer not looked up");
            self.clock.sleep(delays.next(retry_after(&error))).await;
        }
    }

    /// Falls back to containers if the API server refuses image volumes and they are not required.
    fn fall_back(&self, plan: &mut JobPlan, problem: &str) -> bool {
        let JobPlan::Pull(plan) = plan else {
            return false;
        };
        let auto = self.options.pull_method == PullMethod::Auto;
        if !auto || plan.method != Method::ImageVolume || !problem.contains("volumes[") {
            return false;
        }
        if !self.no_image_volumes.swap(true, Ordering::Relaxed) {
            warn!(
                "the API server does not support image volumes: Jobs run containers of the images"
            );
        }
        plan.method = Method::Container;
        true
    }

    /// Adds the pull secrets of ServiceAccounts; returns the accounts that can't be read.
    async fn add_secrets(&self, plan: &mut PullPlan) -> Vec<String> {
        let read = plan
            .accounts
            .iter()
            .map(async |name| (name, self.accounts.get(name).await));
        let mut missing = Vec::new();
        for (name, account) in join_all(read).await {
            match account {
                Ok(account) => {
                    let secrets = account.pull_secrets.iter().flatten();
                    plan.secrets
                        .extend(secrets.map(|secret| secret.name.clone()));
                }
                Err(error) => missing.push(format!("service account {name}: {error}")),
            }
        }
        let mut known = BTreeSet::new();
        plan.secrets
            .retain(|name| !name.is_empty() && known.insert(name.clone()));
        missing
    }

    async fn post(&self, key: &JobKey, manifest: &Value) -> Result<Job, kube::Error> {
        let body = serde_json::to_vec(manifest).unwrap_or_default();
        let params = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let post = Request::new(Job::url_path(&(), Some(&key.namespace))).create(&params, body);
        let post = post.map_err(kube::Error::BuildRequest)?;
        self.client.request(post).await
    }

    /// Finds a Job by its name, with a list, which needs no more rights than the watch.
    async fn find(&self, key: &JobKey) -> Result<Option<Job>, kube::Error> {
        let params = ListParams::default().fields(&format!("metadata.name={}", key.name));
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        Ok(jobs.list(&params).await?.items.into_iter().next())
    }

    /// Whether the Job with this UID certainly does not exist.
    async fn is_gone(&self, key: &JobKey, uid: &str) -> bool {
        let found = self.find(key).await;
        found.is_ok_and(|job| job.is_none_or(|job| job.metadata.uid.as_deref() != Some(uid)))
    }

    /// Deletes a Job with this UID and its pods, with retries until it is deleted.
    pub(super) async fn delete(&self, key: &JobKey, uid: String, seed: u64) {
        let mut delays = RetryDelays::new(AGAIN, seed);
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: Some(uid.clone()),
            resource_version: None,
        });
        loop {
            let error = match jobs.delete(&key.name, &params).await {
                Ok(_) => {
                    debug!(job = %key, "Job deleted");
                    return;
                }
                Err(kube::Error::Api(status)) if status.is_not_found() => return,
                Err(error) => error,
            };
            // A conflict may mean that another Job has this name now, and may be any other conflict.
            let conflict = matches!(&error, kube::Error::Api(status) if status.is_conflict());
            if conflict && self.is_gone(key, &uid).await {
                return;
            }
            warn!(job = %key, error = problem(&error), "Job not deleted");
            self.clock.sleep(delays.next(retry_after(&error))).await;
        }
    }

    /// The reason in a Job's events why it has no pod.
    pub(super) async fn explain(&self, key: &JobKey) -> Option<Failure> {
        let (namespace, name) = (&key.namespace, &key.name);
        let (_, message) = self
            .newest_event(namespace, "Job", name, &["FailedCreate"])
            .await?;
        let text = format!("Job {name} can't create its pod: {message}");
        Some(Failure::new(Reason::Unknown, text))
    }

    /// The reason in a pod's events why it does not start.
    pub(super) async fn explain_pod(&self, namespace: &str, pod: &str) -> Option<Failure> {
        let reasons = [
            "FailedMount",
            "FailedAttachVolume",
            "FailedCreatePodSandBox",
        ];
        let (reason, message) = self.newest_event(namespace, "Pod", pod, &reasons).await?;
        let text = format!("pod {pod} does not start: {reason}: {message}");
        Some(Failure::new(Reason::Unknown, text))
    }

    /// Reason and message of the newest event about an object that has one of these reasons.
    async fn newest_event(
        &self,
        namespace: &str,
        kind: &str,
        name: &str,
        reasons: &[&str],
    ) -> Option<(String, String)> {
        let about = format!("involvedObject.kind={kind},involvedObject.name={name}");
        let params = ListParams::default().fields(&about);
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let events = events.list(&params).await;
        let events =
            events.map_err(|error| debug!(kind, name, error = problem(&error), "events not read"));
        let events = events.ok()?.items.into_iter();
        let failed = events.filter(|event| {
            let reason = event.reason.as_deref();
            reason.is_some_and(|reason| reasons.contains(&reason))
        });
        let newest = failed.max_by_key(|event| event.last_timestamp.as_ref().map(|at| at.0))?;
        Some((newest.reason?, newest.message?))
    }
}

/// The pod's ServiceAccount, if its pull secrets must be added: a pod gets the secrets of its account only if it
/// names none itself, such as those of the operator's image.
fn unnamed_account(options: &JobOptions, plan: &PullPlan) -> Option<ObjectName> {
    let named = !plan.secrets.is_empty() || !plan.accounts.is_empty();
    if named || options.image_pull_secrets.is_empty() {
        return None;
    }
    let name = options.service_account.as_deref().unwrap_or("default");
    Some(ObjectName::new(plan.key.namespace.as_str(), name))
}

/// Limits requests per second.
#[derive(Debug)]
struct Pace {
    gap: Duration,
    /// When the next request may be made. Locked by the one whose turn it is.
    next: AsyncMutex<Timestamp>,
    /// Until when the server has asked for no request.
    held: Mutex<Timestamp>,
}

impl Pace {
    fn new(per_second: NonZeroU32) -> Self {
        Self {
            gap: Duration::from_secs(1) / per_second.get(),
            next: AsyncMutex::new(Timestamp::MIN),
            held: Mutex::new(Timestamp::MIN),
        }
    }

    /// Waits until a request may be made, in the order of the calls. A call that is dropped takes no turn.
    async fn turn(&self, clock: &dyn Clock) {
        let mut next = self.next.lock().await;
        loop {
            let now = clock.now();
            let at = (*next).max(self.held_until());
            match Duration::try_from(at.duration_since(now)) {
                Ok(pause) if !pause.is_zero() => clock.sleep(pause).await,
                _ => {
                    *next = after(now, self.gap);
                    return;
                }
            }
        }
    }

    fn held_until(&self) -> Timestamp {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends no request for `delay`, as the server has asked.
    fn hold(&self, delay: Duration, now: Timestamp) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held = (*held).max(after(now, delay));
    }
}

#[cfg(test)]
mod tests {
    use fledged_core::model::NodeName;
    use fledged_core::tokio::TokioClock;
    use http::Method;
    use kube::client::Body;
    use serde_json::json;
    use tokio::time::{Instant, timeout};

    use super::super::job_object::RemovalPlan;
    use super::super::observe::ObservedNode;
    use super::*;

    #[test]
    fn pods_have_the_secrets_of_account_and_job_image() {
        let mut plan = PullPlan {
            key: JobKey {
                namespace: "shop".to_owned(),
                name: "job".to_owned(),
            },
            node: NodeName::new("a").unwrap(),
            method: crate::jobs::job_object::Method::Container,
            images: Vec::new(),
            secrets: Vec::new(),
            accounts: Vec::new(),
            caches: Vec::new(),
            cache: None,
            deadline: Duration::from_secs(1),
        };
        let mut options = JobOptions::new("a.test/ours:1".parse().unwrap(), "operator");
        assert_eq!(unnamed_account(&options, &plan), None);
        options.image_pull_secrets = vec!["login".to_owned()];
        let of = |name: &str| Some(ObjectName::new("shop", name));
        assert_eq!(unnamed_account(&options, &plan), of("default"));
        options.service_account = Some("jobs".to_owned());
        assert_eq!(unnamed_account(&options, &plan), of("jobs"));
        // If a cache names a ServiceAccount, the pod gets the secrets of no other account.
        plan.accounts.push(ObjectName::new("shop", "web"));
        assert_eq!(unnamed_account(&options, &plan), None);
        plan.accounts.clear();
        plan.secrets.push("own".to_owned());
        assert_eq!(unnamed_account(&options, &plan), None);
    }

    /// The client of an API server with these answers, one after another, and the methods of the requests.
    fn answering(answers: Vec<(u16, Value)>) -> (Requests, Arc<Mutex<Vec<Method>>>) {
        let methods = Arc::new(Mutex::new(Vec::new()));
        let sent = Arc::clone(&methods);
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let mut sent = sent.lock().unwrap();
            let (code, answer) = answers[sent.len()].clone();
            sent.push(request.method().clone());
            let answer = Body::from(answer.to_string().into_bytes());
            let answer = http::Response::builder().status(code).body(answer);
            async move { answer }
        });
        let requests = Requests::new(
            Client::new(service, "default"),
            JobOptions::new("a.test/ours:1".parse().unwrap(), "operator"),
            Arc::new(TokioClock::new()),
            JobMetrics::default(),
        );
        (requests, methods)
    }

    fn failure(code: u16, reason: &str) -> (u16, Value) {
        (
            code,
            json!({ "status": "Failure", "reason": reason, "code": code }),
        )
    }

    /// A list of the Job "shop/job" with this UID.
    fn list(uid: Option<&str>) -> (u16, Value) {
        let meta = |uid| json!({ "metadata": { "name": "job", "namespace": "shop", "uid": uid } });
        let items: Vec<Value> = uid.into_iter().map(meta).collect();
        (
            200,
            json!({ "apiVersion": "batch/v1", "kind": "JobList", "metadata": {}, "items": items }),
        )
    }

    fn key() -> JobKey {
        JobKey {
            namespace: "shop".to_owned(),
            name: "job".to_owned(),
        }
    }

    /// Deletes the Job "shop/job" with the UID "1": the first deletion is a conflict, and the Job of that name has
    /// `uid` then. Returns the methods of the requests.
    async fn methods_of_deletion(uid: Option<&str>) -> Vec<Method> {
        let deleted = (200, json!({ "kind": "Status", "status": "Success" }));
        let (requests, methods) = answering(vec![failure(409, "Conflict"), list(uid), deleted]);
        requests.delete(&key(), "1".to_owned(), 1).await;
        let methods = methods.lock().unwrap();
        methods.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn a_creation_without_an_answer_is_looked_up_until_it_is_known() {
        let unclear = failure(504, "Timeout");
        let exists = failure(409, "AlreadyExists");
        for uid in [Some("1"), None] {
            let answers = vec![
                unclear.clone(),
                exists.clone(),
                failure(500, "InternalError"),
                failure(503, "ServiceUnavailable"),
                list(uid),
            ];
            let (requests, methods) = answering(answers);
            let plan = JobPlan::Remove(RemovalPlan {
                key: key(),
                node: NodeName::new("a").unwrap(),
                images: vec!["a.test/app:1".parse().unwrap()],
                keep: Vec::new(),
                socket: ObservedNode::default().socket(None),
                deadline: Duration::from_secs(60),
            });
            let created = requests
                .create(plan, 1, CancellationToken::new(), |_| {})
                .await;
            assert_eq!(matches!(created, Created::Exists(..)), uid.is_some());
            let methods = methods.lock().unwrap();
            let [get, post] = [Method::GET, Method::POST];
            assert_eq!(
                *methods,
                [post.clone(), post, get.clone(), get.clone(), get]
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deletion_is_retried_after_a_conflict() {
        let methods = methods_of_deletion(Some("1")).await;
        assert_eq!(methods, [Method::DELETE, Method::GET, Method::DELETE]);
        // The Job is gone.
        for uid in [Some("2"), None] {
            let methods = methods_of_deletion(uid).await;
            assert_eq!(methods, [Method::DELETE, Method::GET], "{uid:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_are_spaced_and_respect_retry_after() {
        let pace = Pace::new(NonZeroU32::new(20).unwrap());
        let (clock, began) = (TokioClock::new(), Instant::now());
        let turn = async || {
            pace.turn(&clock).await;
            began.elapsed().as_millis()
        };
        let turns = join_all((0..4).map(|_| turn())).await;
        assert_eq!(turns, [0, 50, 100, 150]);
        pace.hold(Duration::from_secs(7), clock.now());
        assert_eq!(turn().await, 7_150);
        assert_eq!(turn().await, 7_200);
        // Unused time does not allow a burst of requests.
        tokio::time::advance(Duration::from_secs(60)).await;
        let turns = join_all((0..2).map(|_| turn())).await;
        assert_eq!(turns, [67_200, 67_250]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_given_up_takes_no_turn() {
        let pace = Pace::new(NonZeroU32::MIN);
        let (clock, began) = (TokioClock::new(), Instant::now());
        pace.turn(&clock).await;
        for _ in 0..10 {
            let waiting = timeout(Duration::from_millis(10), pace.turn(&clock));
            assert!(waiting.await.is_err());
        }
        pace.turn(&clock).await;
        assert_eq!(began.elapsed().as_millis(), 1_000);
    }
}
