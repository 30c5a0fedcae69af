//! Requests about Jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fledged_core::backoff::Schedule;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::ObjectName;
use fledged_core::port::Clock;
use futures_util::future::join_all;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Event;
use kube::api::{DeleteParams, ListParams, ObjectList, PostParams};
use kube::core::request::Request;
use kube::{Client, Resource};
use serde_json::Value;
use tracing::{debug, info, warn};

use super::metrics::JobMetrics;
use super::options::{JobOptions, PullMethod};
use super::pace::Pace;
use super::spec::{Method, PullPlan, RemovalPlan, pull_job, removal_job};
use crate::agent::credentials::{Objects, ServiceAccount};
use crate::report::{Refusal, RetryDelays, request};

/// Longest that one request may take: an API server's own limit.
const LIMIT: Duration = Duration::from_secs(60);
/// Between attempts at the same request.
const AGAIN: Schedule = Schedule::seconds(1, 30);

/// Makes the requests of all nodes.
pub(super) struct Requests {
    client: Client,
    pub(super) options: JobOptions,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: JobMetrics,
    pace: Pace,
    accounts: Objects<ServiceAccount>,
    /// Whether the API server has shown not to know of image volumes.
    no_image_volumes: AtomicBool,
}

/// What a Job is made from.
#[derive(Debug, Clone)]
pub(super) enum Plan {
    /// With the ServiceAccounts whose pull secrets it needs as well.
    Pull(PullPlan, Vec<ObjectName>),
    Remove(RemovalPlan),
}

impl Plan {
    fn name(&self) -> (&str, &str) {
        match self {
            Self::Pull(plan, _) => (&plan.namespace, &plan.name),
            Self::Remove(plan) => (&plan.namespace, &plan.name),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Pull(..) => "pull",
            Self::Remove(_) => "remove",
        }
    }

    fn body(&self, options: &JobOptions) -> Value {
        match self {
            Self::Pull(plan, _) => pull_job(plan, options),
            Self::Remove(plan) => removal_job(plan, options),
        }
    }
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

    /// Whether image volumes are known not to be served.
    pub(super) fn refuses_image_volumes(&self) -> bool {
        self.no_image_volumes.load(Ordering::Relaxed)
    }

    /// Creates a Job, however long that takes; `trouble` hears what keeps it. Returns what its pods
    /// need and do not have: pull secrets that could not be looked up.
    ///
    /// # Errors
    ///
    /// What the API server said when it refused the Job for what it is.
    pub(super) async fn create(
        &self,
        mut plan: Plan,
        seed: u64,
        trouble: impl Fn(Failure),
    ) -> Result<Vec<String>, Failure> {
        let mut delays = RetryDelays::new(AGAIN, seed);
        let mut missing = Vec::new();
        if let Plan::Pull(plan, accounts) = &mut plan {
            accounts.extend(unnamed_account(&self.options, plan, accounts));
            missing = self.add_secrets(plan, accounts).await;
        }
        loop {
            self.pace.turn(self.clock.as_ref()).await;
            let (namespace, name) = plan.name();
            let refusal = match self.post(namespace, &plan.body(&self.options)).await {
                Ok(()) => {
                    info!(namespace, name, "created a Job");
                    self.metrics.created(plan.kind(), "ok");
                    return Ok(missing);
                }
                Err(refusal) => refusal,
            };
            let status = refusal.status.as_deref();
            if status.is_some_and(|status| status.is_already_exists()) {
                // An answer was lost before.
                self.metrics.created(plan.kind(), "ok");
                return Ok(missing);
            }
            let code = status.map_or(0, |status| status.code);
            let text = format!("cannot create Job {namespace}/{name}: {}", refusal.problem);
            warn!(namespace, name, error = refusal.problem, "Job not created");
            let failure = Failure::new(Reason::Unknown, text);
            if code == 422 && self.falls_back(&mut plan, &refusal.problem) {
                continue;
            }
            self.metrics.created(plan.kind(), "failed");
            if (400..500).contains(&code) && !matches!(code, 408 | 409 | 429) {
                return Err(failure);
            }
            trouble(failure);
            if let Some(asked) = refusal.retry_after {
                self.pace.hold(asked, self.clock.now());
            }
            let delay = delays.next(refusal.retry_after);
            self.clock.sleep(delay).await;
        }
    }

    /// Goes on with containers where image volumes are refused and nobody insists on them.
    fn falls_back(&self, plan: &mut Plan, problem: &str) -> bool {
        let Plan::Pull(plan, _) = plan else {
            return false;
        };
        let auto = self.options.pull_method == PullMethod::Auto;
        if !auto || plan.method != Method::ImageVolume || !problem.contains("volumes[") {
            return false;
        }
        if !self.no_image_volumes.swap(true, Ordering::Relaxed) {
            warn!("the API server does not know image volumes: Jobs run images in containers");
        }
        plan.method = Method::Container;
        true
    }

    async fn add_secrets(&self, plan: &mut PullPlan, accounts: &[ObjectName]) -> Vec<String> {
        let read = accounts
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
        let mut known = std::collections::BTreeSet::new();
        plan.secrets
            .retain(|name| !name.is_empty() && known.insert(name.clone()));
        missing
    }

    async fn post(&self, namespace: &str, body: &Value) -> Result<(), Refusal> {
        let body = serde_json::to_vec(body).unwrap_or_default();
        let path = Request::new(Job::url_path(&(), Some(namespace)));
        let post = path.create(&PostParams::default(), body);
        let post = post.map_err(|error| Refusal::no_answer(error.to_string()))?;
        request(&self.client, post, LIMIT).await.map(drop)
    }

    /// Deletes a Job and its pods, however long that takes; whether it was there.
    pub(super) async fn delete(&self, namespace: &str, name: &str, seed: u64) -> bool {
        let mut delays = RetryDelays::new(AGAIN, seed);
        loop {
            let delete = Request::new(Job::url_path(&(), Some(namespace)));
            let delete = delete.delete(name, &DeleteParams::background());
            let refusal = match delete {
                Ok(delete) => match request(&self.client, delete, LIMIT).await {
                    Ok(_) => {
                        debug!(namespace, name, "deleted a Job");
                        return true;
                    }
                    Err(refusal) => refusal,
                },
                Err(error) => Refusal::no_answer(error.to_string()),
            };
            if refusal.status.as_ref().is_some_and(|s| s.is_not_found()) {
                return false;
            }
            warn!(namespace, name, error = refusal.problem, "Job not deleted");
            let delay = delays.next(refusal.retry_after);
            self.clock.sleep(delay).await;
        }
    }

    /// Why a Job has no pod, if anybody said so.
    pub(super) async fn inquire(&self, namespace: &str, name: &str) -> Option<Failure> {
        let about = format!("involvedObject.kind=Job,involvedObject.name={name}");
        let params = ListParams::default().fields(&about);
        let list = Request::new(Event::url_path(&(), Some(namespace))).list(&params);
        let answer = request(&self.client, list.ok()?, LIMIT).await;
        let answer =
            answer.map_err(|refusal| debug!(namespace, name, error = refusal.problem, "no events"));
        let events: ObjectList<Event> = serde_json::from_slice(&answer.ok()?).ok()?;
        let failed = events.items.into_iter();
        let failed = failed.filter(|event| event.reason.as_deref() == Some("FailedCreate"));
        let newest = failed.max_by_key(|event| event.last_timestamp.as_ref().map(|at| at.0));
        let text = format!("Job {name} can't create its pod: {}", newest?.message?);
        Some(Failure::new(Reason::Unknown, text))
    }
}

/// The ServiceAccount whose pull secrets a pod gets without a word as long as it names none: that of the
/// pod. Where it names those of the Jobs' own image, the others have to be named as well.
fn unnamed_account(
    options: &JobOptions,
    plan: &PullPlan,
    accounts: &[ObjectName],
) -> Option<ObjectName> {
    let named = !plan.secrets.is_empty() || !accounts.is_empty();
    if named || options.image_pull_secrets.is_empty() {
        return None;
    }
    let name = options.service_account.as_deref().unwrap_or("default");
    Some(ObjectName::new(plan.namespace.as_str(), name))
}

#[cfg(test)]
mod tests {
    use fledged_core::model::NodeName;

    use super::*;

    #[test]
    fn a_pod_that_names_the_secrets_of_its_own_image_names_those_of_its_account_too() {
        let mut plan = PullPlan {
            name: "job".to_owned(),
            namespace: "shop".to_owned(),
            node: NodeName::new("a").unwrap(),
            method: Method::Container,
            images: Vec::new(),
            secrets: Vec::new(),
            caches: Vec::new(),
            cache: None,
            limit: Duration::from_secs(1),
        };
        let options = JobOptions::new("a.test/ours:1".parse().unwrap(), "operator");
        assert_eq!(unnamed_account(&options, &plan, &[]), None);
        let options = options.with_image_pull_secrets(["login"]);
        let of = |name: &str| Some(ObjectName::new("shop", name));
        assert_eq!(unnamed_account(&options, &plan, &[]), of("default"));
        let named = options.clone().with_service_account("jobs".to_owned());
        assert_eq!(unnamed_account(&named, &plan, &[]), of("jobs"));
        // Somebody has said which: no pod adds those of its account then, either.
        assert_eq!(
            unnamed_account(&options, &plan, &[ObjectName::new("shop", "web")]),
            None
        );
        plan.secrets.push("own".to_owned());
        assert_eq!(unnamed_account(&options, &plan, &[]), None);
    }
}
