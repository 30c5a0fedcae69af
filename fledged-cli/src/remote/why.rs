//! `fledged why`: why an image of an ImageCache is or is not on a node.

use std::collections::BTreeSet;

use fledged_core::error::Reason;
use fledged_core::model::{
    CacheId, DesiredState, ImagePhase, ImageRef, ImageReport, NodeName, Taint,
};
use fledged_core::planner::{Cause, Explanation, Planner, PullFailure, SelectorMismatch};
use fledged_kube::crd::{ReadCache, ReadNodeCache};
use fledged_operator::controller::ReadNode;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::Value;

use super::agent_pod::with_agent_pod;
use super::kubeconfig::{ClusterError, Connection, connect};
use super::node_state::{NodeDetails, Unreachable, planner};
use super::overview::current_status;
use super::render;
use super::why_text::{Answer, WhyReason, answer_text, pull_advice};
use crate::args::WhyArgs;
use crate::command_result::{CommandError, Exit, print};
use crate::invocation;
use crate::output::pluralised;

/// Fields shown for an image that is in use.
const USERS_MAX: usize = 10;
/// Running pulls that are named.
const PULLS_MAX: usize = 3;

pub(super) async fn why(args: WhyArgs) -> Result<Exit, CommandError> {
    let connection = connect(&args.connection).await?;
    let cache = connection.cache(&args.name).await?;
    let objects = Objects::read(&connection, &args.node, &cache).await?;
    let now = Timestamp::now();
    let query = Query {
        program: invocation::program(),
        cache: &cache,
        node_name: &args.node,
        node: objects.node(&args.node),
        record: objects.record(&args.node),
        image: &args.image,
    };
    let mut answer = query.answer(&objects.planner(now));
    if answer.reason == WhyReason::KeptInUse {
        // Without the permission to list pods, the advice says how to find them.
        let pods = connection.pods_on(&args.node).await.unwrap_or_default();
        answer = query.with_users(answer, &pods);
    }
    let silent = answer.reason == WhyReason::AgentSilent;
    if silent || answer.reason == WhyReason::Waiting {
        // Without the permission to list pods, the answer stays as it is.
        if let Some(pod) = connection.agent_pod(&args.node).await {
            answer = with_agent_pod(answer, &pod, silent);
        }
    }
    print(&render(args.output.output, &answer, |answer| {
        answer_text(answer, now)
    })?)?;
    Ok(if answer.cached {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// The objects that the planner's answer depends on.
struct Objects {
    caches: Vec<ReadCache>,
    nodes: Vec<ReadNode>,
    records: Vec<ReadNodeCache>,
}

impl Objects {
    /// Every object of the cluster, since other ImageCaches and nodes use rollout slots. Without permission to
    /// list them, only the objects of the query.
    async fn read(
        connection: &Connection,
        node: &NodeName,
        cache: &ReadCache,
    ) -> Result<Self, ClusterError> {
        match Self::list(connection).await {
            Err(ClusterError::Forbidden { .. }) => Ok(Self {
                caches: vec![cache.clone()],
                nodes: connection
                    .find_node(node.as_str())
                    .await?
                    .into_iter()
                    .collect(),
                records: connection
                    .find_record(node.as_str())
                    .await?
                    .into_iter()
                    .collect(),
            }),
            listed => listed,
        }
    }

    async fn list(connection: &Connection) -> Result<Self, ClusterError> {
        Ok(Self {
            caches: connection.list_caches(true).await?,
            nodes: connection.list_nodes().await?,
            records: connection.list_records().await?,
        })
    }

    fn node(&self, name: &NodeName) -> Option<&ReadNode> {
        self.nodes
            .iter()
            .find(|node| node.name().as_ref() == Some(name))
    }

    fn record(&self, name: &NodeName) -> Option<&ReadNodeCache> {
        self.records
            .iter()
            .find(|record| record.name_any() == name.as_str())
    }

    fn planner(&self, now: Timestamp) -> Planner {
        planner(&self.caches, &self.nodes, &self.records, now)
    }
}

/// A question, and the objects that it is about.
#[derive(Debug, Clone, Copy)]
struct Query<'a> {
    /// What the user types to run this program.
    program: &'a str,
    cache: &'a ReadCache,
    node_name: &'a NodeName,
    /// The Node, if it exists.
    node: Option<&'a ReadNode>,
    /// The node's NodeImageCache, if it exists.
    record: Option<&'a ReadNodeCache>,
    image: &'a ImageRef,
}

impl Query<'_> {
    /// The planner's explanation, with evidence and advice.
    fn answer(&self, planner: &Planner) -> Answer {
        let explanation = planner.explain(&self.cache.id(), self.node_name, self.image);
        let answer = self.by_cause(&explanation);
        self.cached_for_others(&explanation, answer)
    }

    fn by_cause(&self, explanation: &Explanation) -> Answer {
        match &explanation.cause {
            // The ImageCache was read before, so it exists.
            Cause::ImageNotListed | Cause::CacheNotFound => self.not_in_cache(explanation),
            Cause::InvalidSpec(invalid) => {
                let mut answer = self.because(
                    WhyReason::InvalidSpec,
                    "the spec of the ImageCache is invalid",
                );
                for field in &invalid.fields {
                    let value = match field.value.as_str() {
                        "" => field.problem.clone(),
                        value => format!("{value:?}: {}", field.problem),
                    };
                    answer = answer.with(self.cache_object(), field.field.clone(), value);
                }
                answer.advise("correct these fields")
            }
            Cause::CacheDeleting => {
                let at = self.cache.metadata.deletion_timestamp.as_ref();
                let answer = self
                    .because(WhyReason::CacheDeleting, "the ImageCache is being deleted")
                    .with(self.cache_object(), "metadata.deletionTimestamp", "set")
                    .since(at.map(|at| at.0));
                self.with_assignment(explanation, answer)
            }
            Cause::NodeNotFound => self
                .because(WhyReason::NodeNotFound, "the cluster has no such node")
                .with(self.node_object(), "metadata.name", "not found")
                .advise("list the nodes with `kubectl get nodes`"),
            Cause::NodeNotSelected(mismatches) => self.not_selected(mismatches),
            Cause::TaintNotTolerated { group, taint } => self.tainted(*group, taint),
            Cause::KeptInUse => self.kept(),
            Cause::CachePurged => {
                let at = current_status(self.cache).map(|status| status.start_time.0);
                self.because(WhyReason::CachePurged, "the ImageCache is purged")
                    .with(self.cache_object(), "status.purged", "true")
                    .since(at)
                    .advise(format!("{} ends the purge", self.command("refresh")))
            }
            Cause::NodeVirtual { mark } => self
                .because(
                    WhyReason::NodeVirtual,
                    "the node is virtual: it has no runtime that could hold images",
                )
                .with(self.node_object(), "metadata.labels, spec.taints", mark.clone()),
            Cause::NodeNotLinux { os } => self
                .because(
                    WhyReason::NodeNotLinux,
                    format!("the node runs {os}; only Linux nodes are supported"),
                )
                .with(
                    self.node_object(),
                    "status.nodeInfo.operatingSystem",
                    os.clone(),
                )
                .advise(
                    "limit the ImageCache to Linux nodes with the nodeSelector kubernetes.io/os: linux",
                ),
            Cause::NodeNotReady => self.not_ready(),
            Cause::NodeRecordFull => self
                .because(
                    WhyReason::NodeRecordFull,
                    "the NodeImageCache of the node has no room for the images of the ImageCache",
                )
                .advise("list fewer images for the node; the largest ImageCache of the namespace that takes most room is left out first"),
            Cause::Cached { verifying } => self.cached(*verifying),
            Cause::AgentUnresponsive {
                since,
                generation,
                observed_generation,
            } => {
                let because = match observed_generation {
                    None => "the node's agent has never reported",
                    Some(_) => "the node's agent has stopped reporting",
                };
                let answer = self
                    .because(WhyReason::AgentSilent, because)
                    .with_generations(self.record_object(), *generation, *observed_generation)
                    .since(Some(*since));
                self.with_last_report(answer).advise(
                    "check that the agent's pod runs on the node, and read its log; on a full node it is \
                     Pending without a priority (agent.priorityClassName); with nodeDriver=job, read the \
                     controller's log",
                )
            }
            Cause::SpecNotObserved {
                generation,
                observed_generation,
            } => self
                .because(
                    WhyReason::NotTakenUp,
                    "no controller has processed the newest version of the ImageCache",
                )
                .with_generations(self.cache_object(), *generation, *observed_generation)
                .advise(
                    "check that a controller runs and is the leader: `fledged-operator controller`",
                ),
            Cause::CacheLimit {
                cache,
                limit,
                active,
            } => self.cache_limit(cache, *limit, *active),
            Cause::NotAssigned { active: 0 } => self
                .not_assigned(
                    "the controller has not assigned the image to the node, though no node pulls"
                        .to_owned(),
                )
                .advise(format!(
                    "check that a controller runs and is the leader (`fledged-operator controller`), and whether its log has a refused write of {}",
                    self.record_object()
                )),
            Cause::NotAssigned { active } => self
                .not_assigned(format!(
                    "the controller has not assigned the image to the node; {} now",
                    match active {
                        1 => "1 node pulls".to_owned(),
                        more => format!("{more} nodes pull"),
                    }
                ))
                .advise(
                    "wait: the controller's --max-concurrent-nodes and spec.rollout.maxConcurrentNodes limit how many nodes pull at once; if no pull ends, check that a controller runs",
                ),
            Cause::NotAcknowledged {
                generation,
                observed_generation,
                since,
            } => self
                .because(
                    WhyReason::Waiting,
                    "the image was assigned to the node a moment ago",
                )
                .with_generations(
                    self.record_object(),
                    generation.unwrap_or_default(),
                    *observed_generation,
                )
                .since(Some(*since)),
            Cause::Pending => self.by_report(WhyReason::Waiting, &self.waits_for()),
            Cause::Pulling { again } => {
                let because = if *again {
                    "it is present and is being pulled again for a refresh"
                } else {
                    "it is being pulled"
                };
                let answer = self.by_report(WhyReason::Pulling, because);
                self.with_pull_rate(answer)
                    .advise(format!("wait: {}", self.command("wait")))
            }
            Cause::BackingOff(failure) => self.failing(
                WhyReason::BackingOff,
                "pulls fail and are retried",
                failure,
            ),
            Cause::Failed(failure) => {
                let mut answer =
                    self.failing(WhyReason::Failed, "the last round of pulls failed", failure);
                // A refresh shortens no hold of a registry or of a full disk.
                let held = [
                    Reason::TooManyRequests,
                    Reason::DiskFull,
                    Reason::ImageFsAboveThreshold,
                ];
                let held = held.contains(&failure.reason);
                if let Some(advice) = answer.advice.as_mut().filter(|_| !held) {
                    advice.push_str(&format!("; {} retries at once", self.command("refresh")));
                }
                answer
            }
            other => self.because(WhyReason::Waiting, other.to_string()),
        }
    }

    /// An image of a purged ImageCache that is not removed.
    fn kept(&self) -> Answer {
        let details = NodeDetails::new(self.record);
        let why = details.report(self.image).and_then(|report| report.reason);
        let refresh = self.command("refresh");
        let (why, advice) = match why {
            Some(Reason::Pinned) => (
                "the runtime pins it",
                format!("unpin it in the runtime of the node; {refresh} ends the purge"),
            ),
            Some(Reason::SharedImage) => (
                "the image has another name that must stay",
                format!("{refresh} ends the purge"),
            ),
            _ => (
                "a container uses it",
                format!(
                    "delete the pod; `kubectl get pods -A --field-selector spec.nodeName={}` lists the pods of the node; {refresh} ends the purge",
                    self.node_name
                ),
            ),
        };
        let because = format!("the ImageCache is purged; the image is kept because {why}");
        self.by_report(WhyReason::KeptInUse, &because)
            .advise(advice)
    }

    /// Adds the containers of these pods that have the image.
    fn with_users(&self, mut answer: Answer, pods: &[Pod]) -> Answer {
        let digest = self.digest();
        let is_image = |reference: &str| {
            let by_digest = digest
                .as_deref()
                .is_some_and(|digest| reference.ends_with(digest));
            by_digest || ImageRef::parse(reference).is_ok_and(|image| image == *self.image)
        };
        for pod in pods {
            let object = format!(
                "Pod {}/{}",
                pod.namespace().unwrap_or_default(),
                pod.name_any()
            );
            let status = pod.status.as_ref();
            let lists = status.map(|status| {
                [
                    &status.init_container_statuses,
                    &status.container_statuses,
                    &status.ephemeral_container_statuses,
                ]
            });
            let started = lists.into_iter().flatten().flatten().flatten();
            let started: BTreeSet<&str> = started
                .filter(|status| is_image(&status.image_id) || is_image(&status.image))
                .map(|status| status.name.as_str())
                .collect();
            let containers = pod.spec.iter().flat_map(|spec| {
                let init = spec.init_containers.iter().flatten();
                init.chain(&spec.containers)
            });
            for container in containers {
                let reference = container.image.as_deref().unwrap_or_default();
                if is_image(reference) || started.contains(container.name.as_str()) {
                    let field = format!("spec.containers[{}].image", container.name);
                    answer = answer.with(object.clone(), field, reference);
                }
            }
        }
        answer.evidence.truncate(USERS_MAX);
        answer
    }

    fn not_in_cache(&self, explanation: &Explanation) -> Answer {
        let spec = self.cache.clone().into_facts().spec;
        let images: Vec<&ImageRef> = spec
            .iter()
            .flat_map(|spec| &spec.groups)
            .flat_map(|group| &group.images)
            .collect();
        let similar: Vec<String> = images
            .iter()
            .filter(|known| known.repository() == self.image.repository())
            .map(ToString::to_string)
            .collect();
        let (value, advice) = if similar.is_empty() {
            (
                pluralised(images.len(), "image"),
                "add it to spec.cacheSpec",
            )
        } else {
            (
                similar.join(", "),
                "use one of these images, or add it to spec.cacheSpec",
            )
        };
        let answer = self
            .because(
                WhyReason::ImageNotInCache,
                format!("the ImageCache does not contain {}", self.image.as_str()),
            )
            .with(self.cache_object(), "spec.cacheSpec[*].images", value);
        self.with_assignment(explanation, answer).advise(advice)
    }

    fn not_selected(&self, mismatches: &[SelectorMismatch]) -> Answer {
        let mut answer = self.because(WhyReason::NodeNotSelected, "");
        let mut selectors = Vec::new();
        for mismatch in mismatches {
            match mismatch {
                SelectorMismatch::Label {
                    group,
                    key,
                    expected,
                    found,
                } => {
                    let label = match found {
                        Some(found) => format!("the node has {key}={found}"),
                        None => format!("the node has no label {key}"),
                    };
                    selectors.push(format!("it requires {key}={expected}, and {label}"));
                    answer = answer
                        .with(
                            self.cache_object(),
                            format!("spec.cacheSpec[{group}].nodeSelector[{key}]"),
                            expected,
                        )
                        .with(
                            self.node_object(),
                            format!("metadata.labels[{key}]"),
                            found.as_deref().unwrap_or("none"),
                        );
                }
                SelectorMismatch::Affinity { group } => {
                    selectors.push("its nodeAffinity does not match the node's labels".to_owned());
                    answer = answer.with(
                        self.cache_object(),
                        format!("spec.cacheSpec[{group}].nodeAffinity"),
                        "no match",
                    );
                }
                _ => {}
            }
        }
        answer.because = format!(
            "the ImageCache does not select the node: {}",
            selectors.join("; ")
        );
        answer.advise("label the node, or change the selector")
    }

    fn tainted(&self, group: usize, taint: &Taint) -> Answer {
        let shown = match taint.value.as_str() {
            "" => format!("{}:{}", taint.key, taint.effect),
            value => format!("{}={value}:{}", taint.key, taint.effect),
        };
        self.because(
            WhyReason::NodeTainted,
            format!("the node has the taint {shown}, which the ImageCache does not tolerate"),
        )
        .with(self.node_object(), "spec.taints", shown)
        .with(
            self.cache_object(),
            format!("spec.cacheSpec[{group}].tolerations"),
            "no match",
        )
        .advise(if taint.marks_control_plane() {
            "add a toleration; without one, an ImageCache leaves control-plane nodes out"
        } else {
            "add a toleration, or remove tolerations to tolerate every such taint"
        })
    }

    fn not_ready(&self) -> Answer {
        let object = self.node_object();
        let why = self.node.map(Unreachable::not_ready);
        if let Some(Unreachable::Leaving(taint)) = why {
            let answer = self.because(
                WhyReason::NodeLeaving,
                "the node is about to be deleted, so nothing is pulled onto it",
            );
            return match taint {
                Some(taint) => answer.with(object, "spec.taints", taint),
                None => answer.with(object, "metadata.deletionTimestamp", "set"),
            };
        }
        let mut answer = self.because(
            WhyReason::NodeNotReady,
            "the node is not Ready; the image is pulled once it is",
        );
        if let Some(Unreachable::NotReady {
            status,
            reason,
            since,
        }) = why
        {
            let value = match reason.as_str() {
                "" => status,
                reason => format!("{status} ({reason})"),
            };
            answer = answer
                .with(object, "status.conditions[Ready]", value)
                .since(since);
        }
        self.with_last_report(answer)
            .advise("check the node's kubelet")
    }

    /// What an image waits for that the node has not begun to pull: its running pulls. Images of other namespaces
    /// are not named.
    fn waits_for(&self) -> String {
        let own = self.cache.id();
        let details = NodeDetails::new(self.record);
        let (mut named, mut others) = (Vec::new(), 0);
        for entry in details.entries() {
            let report = details.report(&entry.image);
            if report.is_none_or(|report| report.phase != ImagePhase::Pulling) {
                continue;
            }
            let mut wanted_by = entry.wanted_by.iter();
            let of_namespace = wanted_by.find(|id| id.namespace == own.namespace);
            match of_namespace {
                _ if entry.wanted_by.contains(&own) => named.push(entry.image.to_string()),
                Some(id) => named.push(format!("{} of ImageCache {id}", entry.image)),
                None => others += 1,
            }
        }
        let hidden = named.len().saturating_sub(PULLS_MAX);
        named.truncate(PULLS_MAX);
        if hidden > 0 {
            named.push(format!("{hidden} more of this namespace"));
        }
        if others > 0 {
            named.push(format!(
                "{} of other namespaces",
                pluralised(others, "image")
            ));
        }
        let report = details.report(self.image);
        match report.and_then(|report| report.reason) {
            _ if !named.is_empty() => format!("the node pulls first: {}", named.join(", ")),
            Some(reason) => format!("its pull has not begun: {reason}"),
            None => "its pull has not begun".to_owned(),
        }
    }

    fn cached(&self, verifying: bool) -> Answer {
        let digest = self.digest();
        let mut because = match &digest {
            Some(digest) => format!("the node has it, {digest}"),
            None => "the node has it".to_owned(),
        };
        if verifying {
            because.push_str("; the check for a refresh is pending");
        }
        let details = NodeDetails::new(self.record);
        let report = details.report(self.image);
        let superseded = report.map_or(0, |r| r.superseded.len());
        if superseded > 0 {
            let versions = pluralised(superseded, "superseded version");
            because.push_str(&format!("; {versions} still on the node"));
        }
        let refresh_held = report.is_some_and(ImageReport::is_refresh_held);
        let without_credentials = report.is_some_and(ImageReport::is_cached_without_credentials);
        if refresh_held {
            because.push_str("; its refresh waits");
        }
        if without_credentials {
            because.push_str("; credentials of an ImageCache could not be used");
        }
        let mut answer = self.by_report(WhyReason::Cached, &because);
        answer.digest = digest;
        answer.next_attempt = None;
        let reason = report.and_then(|report| report.reason);
        let reason = reason.filter(|_| refresh_held || without_credentials);
        let Some(reason) = reason else {
            return answer;
        };
        answer.failure = Some(reason.to_string());
        let advice = pull_advice(reason, "", self.image, "", &self.cache.id().namespace);
        answer.advise(if without_credentials {
            format!(
                "{advice}; then {} ends the warning",
                self.command("refresh")
            )
        } else {
            advice
        })
    }

    fn cache_limit(&self, cache: &CacheId, limit: usize, active: usize) -> Answer {
        let object = if *cache == self.cache.id() {
            self.cache_object()
        } else {
            format!("ImageCache {cache}")
        };
        self.not_assigned(format!(
            "the rollout limit of {object} is reached: {active} of {limit} nodes pull"
        ))
        .with(object, "spec.rollout.maxConcurrentNodes", limit.to_string())
        .advise("wait, or raise spec.rollout.maxConcurrentNodes")
    }

    fn not_assigned(&self, because: String) -> Answer {
        self.because(WhyReason::NotAssigned, because).with(
            self.record_object(),
            "spec.images",
            "does not contain it",
        )
    }

    fn failing(&self, reason: WhyReason, words: &str, failure: &PullFailure) -> Answer {
        let cause = failure.reason;
        let mut answer = self.by_report(reason, &format!("{words}: {cause}"));
        answer.failure = Some(cause.to_string());
        let architecture = self
            .node
            .map(|node| node.clone().into_facts(self.node_name.clone()).architecture)
            .unwrap_or_default();
        answer.advise(pull_advice(
            cause,
            &failure.message,
            self.image,
            &architecture,
            &self.cache.id().namespace,
        ))
    }

    /// An answer with the agent's report on the image as evidence.
    fn by_report(&self, reason: WhyReason, because: &str) -> Answer {
        let answer = self.because(reason, because);
        let details = NodeDetails::new(self.record);
        let Some(report) = details.report(self.image) else {
            return answer.with(self.record_object(), "status.images", "does not contain it");
        };
        let since = match reason {
            WhyReason::Pulling | WhyReason::BackingOff => report.started_at,
            _ => report.finished_at.or(report.started_at),
        };
        let mut answer = answer
            .with(
                self.record_object(),
                self.phase_field(),
                report.phase.as_str(),
            )
            .since(since);
        answer.message.clone_from(&report.message);
        answer.attempts = Some(report.attempts);
        answer.next_attempt = report.next_attempt_at;
        answer
    }

    /// Adds the rate that limits the pulls of the image, if there is one.
    fn with_pull_rate(&self, answer: Answer) -> Answer {
        let details = NodeDetails::new(self.record);
        let assigned = details.assigned(self.image);
        match assigned.and_then(|entry| entry.pull_limit.as_ref()) {
            Some(limit) => answer.with(
                self.record_object(),
                "spec.images[*].maxPullRate",
                limit.rate.to_string(),
            ),
            None => answer,
        }
    }

    /// Turns an answer about this ImageCache into "cached" if the node has the image for other ImageCaches.
    fn cached_for_others(&self, explanation: &Explanation, mut answer: Answer) -> Answer {
        use WhyReason::{
            CacheDeleting, CachePurged, ImageNotInCache, InvalidSpec, NodeNotSelected,
            NodeRecordFull, NodeTainted,
        };
        let not_by_this_cache = matches!(
            answer.reason,
            CacheDeleting
                | CachePurged
                | ImageNotInCache
                | InvalidSpec
                | NodeNotSelected
                | NodeRecordFull
                | NodeTainted
        );
        let by_others = explanation.present && !explanation.other_caches.is_empty();
        if !not_by_this_cache || !by_others {
            return answer;
        }
        if answer.reason == CachePurged {
            answer = self.with_assignment(explanation, answer);
        }
        answer.cached = true;
        answer.because = format!("the node has it for other ImageCaches; {}", answer.because);
        answer.digest = self.digest();
        let finished = NodeDetails::new(self.record)
            .report(self.image)
            .and_then(|report| report.finished_at);
        answer
            .with(self.record_object(), self.phase_field(), "Cached")
            .since(finished)
    }

    /// Adds the assignment of an image that this ImageCache does not want.
    fn with_assignment(&self, explanation: &Explanation, answer: Answer) -> Answer {
        let details = NodeDetails::new(self.record);
        let Some(entry) = details.assigned(self.image) else {
            return answer;
        };
        let value = match (entry.state, explanation.last_phase) {
            (DesiredState::Present, _) => {
                let caches: Vec<String> = entry.wanted_by.iter().map(CacheId::to_string).collect();
                format!("wanted by {}", caches.join(", "))
            }
            (DesiredState::Absent, Some(ImagePhase::InUse)) => {
                "to be removed, but a container uses it".to_owned()
            }
            (DesiredState::Absent, Some(ImagePhase::Removed)) => "removed".to_owned(),
            (DesiredState::Absent, _) => "to be removed".to_owned(),
        };
        answer.with(self.record_object(), "spec.images", value)
    }

    /// Adds the last report on the image from an unreachable node.
    fn with_last_report(&self, answer: Answer) -> Answer {
        let details = NodeDetails::new(self.record);
        let Some(report) = details.report(self.image) else {
            return answer;
        };
        answer
            .with(
                self.record_object(),
                self.phase_field(),
                format!("{} (last report)", report.phase),
            )
            .since(report.finished_at.or(report.started_at))
    }

    fn because(&self, reason: WhyReason, because: impl Into<String>) -> Answer {
        let id = self.cache.id();
        Answer {
            namespace: id.namespace,
            name: id.name,
            node: self.node_name.to_string(),
            image: self.image.to_string(),
            cached: reason == WhyReason::Cached,
            reason,
            because: because.into(),
            evidence: Vec::new(),
            failure: None,
            message: None,
            attempts: None,
            next_attempt: None,
            digest: None,
            advice: None,
        }
    }

    fn cache_object(&self) -> String {
        format!("ImageCache {}", self.cache.id())
    }

    fn node_object(&self) -> String {
        format!("Node {}", self.node_name)
    }

    fn record_object(&self) -> String {
        format!("NodeImageCache {}", self.node_name)
    }

    /// A command line about the ImageCache.
    fn command(&self, command: &str) -> String {
        let id = self.cache.id();
        format!("{} {command} {} -n {}", self.program, id.name, id.namespace)
    }

    /// The digest that the agent reports.
    fn digest(&self) -> Option<String> {
        NodeDetails::new(self.record)
            .report(self.image)
            .and_then(|report| report.digest.as_ref().map(ToString::to_string))
    }

    /// The field of the NodeImageCache with the image's phase.
    fn phase_field(&self) -> String {
        let index = self.record.and_then(|record| {
            record
                .status
                .get("images")?
                .as_array()?
                .iter()
                .position(|entry| {
                    entry.get("image").and_then(Value::as_str) == Some(self.image.as_str())
                })
        });
        match index {
            Some(index) => format!("status.images[{index}].phase"),
            None => "status.images".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use fledged_core::error::Reason;
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-01-01T00:10:00Z";
    const APP: &str = "registry.test/app:1";

    /// An ImageCache, a Node and a NodeImageCache with the image cached.
    struct Scene {
        cache: Value,
        node: Option<Value>,
        record: Option<Value>,
    }

    impl Scene {
        fn new() -> Self {
            let condition = json!({ "type": "Ready", "status": "True" });
            let report =
                json!({ "image": APP, "phase": "Cached", "finished": "2026-01-01T00:05:00Z" });
            Self {
                cache: json!({
                    "metadata": { "namespace": "shop", "name": "web", "uid": "1", "generation": 1 },
                    "spec": { "cacheSpec": [{ "images": [APP], "nodeSelector": { "tier": "web" } }] },
                    "status": { "status": "Processing", "reason": "ImageCacheCreate", "message": "",
                        "observedGeneration": 1, "startTime": "2026-01-01T00:00:00Z" },
                }),
                node: Some(json!({
                    "metadata": { "name": "node-1", "labels": { "tier": "web" } },
                    "spec": { "taints": [] },
                    "status": { "conditions": [condition],
                        "nodeInfo": { "operatingSystem": "linux", "architecture": "arm64" } },
                })),
                record: Some(json!({
                    "metadata": { "name": "node-1", "generation": 3,
                        "managedFields": [{ "time": "2026-01-01T00:09:40Z" }] },
                    "spec": { "images": [{ "image": APP }] },
                    "status": { "observedGeneration": 3, "images": [report] },
                })),
            }
        }

        fn group(&mut self) -> &mut Value {
            &mut self.cache["spec"]["cacheSpec"][0]
        }

        fn node(&mut self) -> &mut Value {
            self.node.as_mut().unwrap()
        }

        fn record(&mut self) -> &mut Value {
            self.record.as_mut().unwrap()
        }

        /// Sets the agent's report on the image.
        fn report(&mut self, phase: &str, more: Value) {
            let mut report =
                json!({ "image": APP, "phase": phase, "started": "2026-01-01T00:09:00Z" });
            let more = more.as_object().unwrap().clone();
            report.as_object_mut().unwrap().extend(more);
            self.record()["status"]["images"] = json!([report]);
        }

        fn answer(&self, image: &str) -> Answer {
            self.asked(image, |_, answer| answer)
        }

        /// The answer, completed with what only a request to the cluster shows.
        fn asked(&self, image: &str, complete: impl FnOnce(Query<'_>, Answer) -> Answer) -> Answer {
            fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
                serde_json::from_value(value.clone()).unwrap()
            }
            let (node, record) = (self.node.as_ref().map(read), self.record.as_ref().map(read));
            let name = NodeName::new("node-1").unwrap();
            let objects = Objects {
                caches: vec![read(&self.cache)],
                nodes: node.into_iter().collect(),
                records: record.into_iter().collect(),
            };
            let query = Query {
                program: "fledged",
                cache: &objects.caches[0],
                node_name: &name,
                node: objects.node(&name),
                record: objects.record(&name),
                image: &image.parse().unwrap(),
            };
            let answer = query.answer(&objects.planner(NOW.parse().unwrap()));
            complete(query, answer)
        }
    }

    /// The answer after a change of the scene.
    fn when(change: impl FnOnce(&mut Scene)) -> Answer {
        let mut scene = Scene::new();
        change(&mut scene);
        scene.answer(APP)
    }

    fn reason(change: impl FnOnce(&mut Scene)) -> WhyReason {
        when(change).reason
    }

    fn tainted(scene: &mut Scene, key: &str) {
        scene.group()["tolerations"] = json!([]);
        scene.node()["spec"]["taints"] = json!([{ "key": key, "effect": "NoSchedule" }]);
    }

    #[test]
    fn causes_in_the_cache_come_first() {
        use WhyReason::{
            CacheDeleting, CachePurged, Cached, ImageNotInCache, InvalidSpec, KeptInUse,
        };
        assert_eq!(reason(|_| ()), Cached);
        let other = Scene::new().answer("registry.test/db:1");
        assert_eq!(other.reason, ImageNotInCache);
        let invalid = reason(|scene| scene.group()["images"] = json!(["UPPER"]));
        assert_eq!(invalid, InvalidSpec);
        let deleting = reason(|scene| {
            scene.cache["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        });
        assert_eq!(deleting, CacheDeleting);
        let purged = reason(|scene| scene.cache["status"]["purged"] = true.into());
        assert_eq!(purged, CachePurged);
        let kept = reason(|scene| {
            scene.cache["status"]["purged"] = true.into();
            scene.record()["spec"]["images"][0]["state"] = "Absent".into();
            scene.report("InUse", json!({}));
        });
        assert_eq!(kept, KeptInUse);
    }

    #[test]
    fn the_containers_that_use_an_image_are_named() {
        let mut scene = Scene::new();
        scene.cache["status"]["purged"] = true.into();
        scene.record()["spec"]["images"][0]["state"] = "Absent".into();
        let digest = format!("sha256:{}", "1".repeat(64));
        scene.report("InUse", json!({ "reason": "InUse", "digest": digest }));
        let pod = |name: &str, container: Value, status: Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": { "namespace": "shop", "name": name },
                "spec": { "containers": [container] },
                "status": { "containerStatuses": [status] },
            }))
            .unwrap()
        };
        let status = |image: &str, id: &str| json!({ "name": "app", "image": image, "imageID": id, "ready": true, "restartCount": 0 });
        let pods = [
            pod(
                "by-name",
                json!({ "name": "app", "image": APP }),
                status(APP, ""),
            ),
            pod(
                "by-digest",
                json!({ "name": "app", "image": "other.test/copy:1" }),
                status("other.test/copy:1", &format!("other.test/copy@{digest}")),
            ),
            pod(
                "other",
                json!({ "name": "app", "image": "db:1" }),
                status("db:1", ""),
            ),
        ];
        let answer = scene.asked(APP, |query, answer| query.with_users(answer, &pods));
        assert!(
            answer.because.ends_with("kept because a container uses it"),
            "{answer:?}"
        );
        let users: Vec<_> = answer.evidence.iter().map(|e| e.object.as_str()).collect();
        assert_eq!(
            users,
            [
                "NodeImageCache node-1",
                "Pod shop/by-name",
                "Pod shop/by-digest"
            ]
        );
        assert!(answer.advice.unwrap().contains("spec.nodeName=node-1"));

        scene.report(
            "InUse",
            json!({ "reason": "Pinned", "message": "pinned by the runtime" }),
        );
        let pinned = scene.answer(APP);
        assert!(
            pinned.because.ends_with("because the runtime pins it"),
            "{pinned:?}"
        );
        assert_eq!(pinned.message.as_deref(), Some("pinned by the runtime"));
    }

    #[test]
    fn advice_on_credentials_names_the_rights() {
        for reason in ["CredentialsUnavailable", "Unauthorized"] {
            let answer = when(|scene| scene.report("Failed", json!({ "reason": reason })));
            let advice = answer.advice.unwrap();
            for part in [
                "add shop to the chart value agent.secretNamespaces",
                "kubectl apply -n shop -f deploy/kubefledged-pull-secrets.yaml",
            ] {
                assert!(advice.contains(part), "{advice}");
            }
        }
        let held = when(|scene| scene.report("Failed", json!({ "reason": "DiskFull" })));
        assert!(!held.advice.unwrap().contains("retries at once"));
    }

    #[test]
    fn an_image_of_another_cache_is_shown() {
        let mut scene = Scene::new();
        scene.record()["spec"] = json!({
            "images": [{ "image": "registry.test/db:1" }],
            "caches": [{ "namespace": "shop", "name": "other", "uid": "2" }],
        });
        let answer = scene.answer("registry.test/db:1");
        assert_eq!(answer.reason, WhyReason::ImageNotInCache);
        let last = answer.evidence.last().unwrap();
        assert_eq!(last.value, "wanted by shop/other");
        assert_eq!(last.object, "NodeImageCache node-1");
        assert!(!answer.cached, "it is not present yet");
    }

    #[test]
    fn an_image_cached_for_others_is_cached() {
        let other = json!([{ "namespace": "shop", "name": "other", "uid": "2" }]);
        let mut scene = Scene::new();
        scene.record()["spec"]["caches"] = other;
        scene.cache["status"]["purged"] = true.into();
        let purged = scene.answer(APP);
        assert!(purged.cached);
        assert!(
            purged
                .because
                .contains("for other ImageCaches; the ImageCache is purged"),
            "{}",
            purged.because
        );
        assert!(
            purged
                .evidence
                .iter()
                .any(|e| e.value == "wanted by shop/other")
        );

        scene.group()["images"] = json!(["registry.test/db:1"]);
        let not_named = scene.answer(APP);
        assert_eq!(not_named.reason, WhyReason::ImageNotInCache);
        assert!(not_named.cached && not_named.because.contains("does not contain"));

        // Wanted only by this cache, which is purged.
        let mut scene = Scene::new();
        scene.cache["status"]["purged"] = true.into();
        assert!(!scene.answer(APP).cached);
    }

    #[test]
    fn causes_in_the_node_come_second() {
        use WhyReason::{
            Cached, NodeLeaving, NodeNotFound, NodeNotLinux, NodeNotReady, NodeNotSelected,
            NodeTainted, NodeVirtual,
        };
        assert_eq!(reason(|scene| scene.node = None), NodeNotFound);
        let unlabelled = reason(|scene| scene.node()["metadata"]["labels"] = json!({}));
        assert_eq!(unlabelled, NodeNotSelected);
        assert_eq!(reason(|scene| tainted(scene, "gpu")), NodeTainted);
        // A cordoned node is still warmed.
        let passing = reason(|scene| tainted(scene, "node.kubernetes.io/unschedulable"));
        assert_eq!(passing, Cached);
        let control_plane = "node-role.kubernetes.io/control-plane";
        assert_eq!(reason(|scene| tainted(scene, control_plane)), NodeTainted);
        let fargate = reason(|scene| {
            let label = json!("fargate");
            scene.node()["metadata"]["labels"]["eks.amazonaws.com/compute-type"] = label;
        });
        assert_eq!(fargate, NodeVirtual);
        let windows = reason(|scene| {
            scene.node()["status"]["nodeInfo"]["operatingSystem"] = "windows".into();
        });
        assert_eq!(windows, NodeNotLinux);
        let away = reason(|scene| {
            scene.node()["status"]["conditions"][0]["status"] = "Unknown".into();
        });
        assert_eq!(away, NodeNotReady);
        let leaving = reason(|scene| {
            let taint = json!({ "key": "karpenter.sh/disrupted", "effect": "NoSchedule" });
            scene.node()["spec"]["taints"] = json!([taint]);
        });
        assert_eq!(leaving, NodeLeaving);
    }

    #[test]
    fn causes_in_the_record_come_last() {
        use WhyReason::{
            AgentSilent, BackingOff, Cached, Failed, NotAssigned, NotTakenUp, Pulling, Waiting,
        };
        let unassigned = when(|scene| scene.record = None);
        assert_eq!(unassigned.reason, NotAssigned);
        let advice = unassigned.advice.unwrap();
        assert!(
            advice.starts_with("check that a controller runs"),
            "{advice}"
        );
        assert!(!advice.contains("oncurrent"), "{advice}");
        let full = reason(|scene| {
            scene.record = None;
            let failure = json!({ "node": "node-1", "reason": "NodeRecordFull", "message": "" });
            scene.cache["status"]["failures"] = json!({ APP: [failure] });
        });
        assert_eq!(full, WhyReason::NodeRecordFull);
        let edited = reason(|scene| {
            scene.record = None;
            scene.cache["metadata"]["generation"] = 2.into();
        });
        assert_eq!(edited, NotTakenUp);
        let unanswered = reason(|scene| scene.record()["status"] = json!({}));
        assert_eq!(unanswered, Waiting);
        let unresponsive = reason(|scene| {
            scene.record()["status"] = json!({});
            let long_ago = json!([{ "time": "2026-01-01T00:08:00Z" }]);
            scene.record()["metadata"]["managedFields"] = long_ago;
        });
        assert_eq!(unresponsive, AgentSilent);
        // Another image keeps the agent from being idle, and this one is not assigned.
        let silent = when(|scene| {
            scene.record()["spec"]["images"] = json!([{ "image": "registry.test/db:1" }]);
            let long_ago = json!([{ "time": "2026-01-01T00:03:00Z" }]);
            scene.record()["metadata"]["managedFields"] = long_ago;
        });
        assert_eq!(silent.reason, AgentSilent);
        assert!(
            silent
                .evidence
                .iter()
                .any(|e| e.value == "Cached (last report)")
        );
        let refreshed =
            |scene: &mut Scene| scene.record()["spec"]["images"][0]["revision"] = 7.into();
        let verified = when(refreshed);
        assert_eq!(verified.reason, Cached);
        assert!(
            verified
                .because
                .ends_with("the check for a refresh is pending"),
            "{verified:?}"
        );
        let mutable = reason(|scene| {
            refreshed(scene);
            scene.record()["spec"]["images"][0]["pullPolicy"] = "Always".into();
        });
        assert_eq!(mutable, Pulling);
        for (phase, wanted) in [
            ("Pending", Waiting),
            ("Pulling", Pulling),
            ("BackingOff", BackingOff),
            ("Failed", Failed),
        ] {
            assert_eq!(reason(|scene| scene.report(phase, json!({}))), wanted);
        }
    }

    #[test]
    fn the_rate_of_a_running_pull_is_named() {
        let rates = |change: &dyn Fn(&mut Scene)| {
            let answer = when(|scene| {
                scene.report("Pulling", json!({}));
                change(scene);
            });
            assert_eq!(answer.reason, WhyReason::Pulling);
            let evidence = answer.evidence.into_iter();
            let rates = evidence.filter(|one| one.field.ends_with("maxPullRate"));
            rates.map(|one| one.value).collect::<Vec<_>>()
        };
        let limit = |scene: &mut Scene| {
            let cache = json!({ "namespace": "shop", "name": "web", "uid": "web" });
            scene.cache["metadata"]["uid"] = "web".into();
            scene.record()["spec"]["caches"] = json!([cache]);
            scene.record()["spec"]["images"][0]["maxPullRate"] = (20 << 20).into();
        };
        assert_eq!(rates(&limit), ["20.0 MiB/s"]);
        assert_eq!(rates(&|_| {}), [""; 0]);
    }

    #[test]
    fn the_pulls_that_a_node_makes_first_are_named() {
        let waiting = |reports: Value| {
            let mut scene = Scene::new();
            let cache =
                |namespace, name| json!({ "namespace": namespace, "name": name, "uid": name });
            scene.record()["spec"]["caches"] = json!([
                cache("shop", "web"),
                cache("shop", "other"),
                cache("secret-team", "theirs"),
            ]);
            scene.cache["metadata"]["uid"] = "web".into();
            let image = |image: &str, uids: &[&str]| json!({ "image": image, "wantedBy": uids });
            scene.record()["spec"]["images"] = json!([
                image("r.test/own:1", &["web"]),
                image("r.test/shared:1", &["other", "theirs"]),
                image("r.test/hidden:1", &["theirs"]),
                image(APP, &["web"]),
            ]);
            scene.record()["status"]["images"] = reports;
            let answer = scene.answer(APP);
            assert_eq!(answer.reason, WhyReason::Waiting);
            answer.because
        };
        let pulling =
            |name: &str| json!({ "image": format!("r.test/{name}:1"), "phase": "Pulling" });
        let pending = json!({ "image": APP, "phase": "Pending" });
        let all = [
            pulling("own"),
            pulling("shared"),
            pulling("hidden"),
            pending.clone(),
        ];
        assert_eq!(
            waiting(json!(all)),
            "the node pulls first: r.test/own:1, r.test/shared:1 of ImageCache shop/other, 1 image of other namespaces"
        );
        assert_eq!(waiting(json!([pending])), "its pull has not begun");
        let held = json!({ "image": APP, "phase": "Pending", "reason": "TooManyRequests" });
        assert_eq!(
            waiting(json!([held])),
            "its pull has not begun: TooManyRequests"
        );
    }

    #[test]
    fn a_warning_of_a_cached_image_has_a_remedy() {
        let answer = |reason: &str| {
            let report =
                json!({ "reason": reason, "message": "pull secret shop/login: not found" });
            when(|scene| scene.report("Cached", report))
        };
        let secret = answer("CredentialsUnavailable");
        assert!(secret.cached);
        assert_eq!(secret.failure.as_deref(), Some("CredentialsUnavailable"));
        let advice = secret.advice.unwrap();
        for part in [
            "create it in the namespace shop",
            "fledged refresh web -n shop ends the warning",
        ] {
            assert!(advice.contains(part), "{advice}");
        }
        let full = answer("ImageFsAboveThreshold");
        assert!(full.cached && full.because.ends_with("its refresh waits"));
        assert!(full.advice.unwrap().starts_with("free space"));
    }

    #[test]
    fn a_limit_of_the_controller_names_the_field() {
        let answer = when(|scene| {
            scene.cache["status"]["reason"] = "CacheSpecValidationFailed".into();
            scene.cache["status"]["message"] =
                "the spec is invalid: spec.cacheSpec: \"2\": lists 2 images, the limit of this cluster is 1"
                    .into();
        });
        let shown = answer_text(&answer, NOW.parse().unwrap());
        let line = "  ImageCache shop/web spec.cacheSpec: \"2\": lists 2 images, the limit of this cluster is 1\n";
        assert!(shown.contains(line), "{shown}");
    }

    #[test]
    fn a_failed_pull_is_shown_with_evidence_and_advice() {
        let answer = when(|scene| {
            let more = json!({ "reason": "PlatformNotFound", "message": "no match for platform",
                "finished": "2026-01-01T00:09:01Z", "attempts": 2,
                "nextAttempt": "2026-01-01T00:14:00Z" });
            scene.report("Failed", more);
        });
        assert_eq!(
            answer_text(&answer, NOW.parse().unwrap()),
            "\
no: registry.test/app:1 is not cached on node-1: the last round of pulls failed: PlatformNotFound
  message: no match for platform
  NodeImageCache node-1 status.images[0].phase: Failed, since 2026-01-01T00:09:01Z (59s ago)
  2 attempts, next at 2026-01-01T00:14:00Z (in 4m)
  what to do: publish the image for arm64, or exclude such nodes with a nodeSelector on kubernetes.io/arch; fledged refresh web -n shop retries at once
"
        );
    }

    #[test]
    fn a_refused_pull_from_a_cloud_names_credential_providers() {
        let advice = |image: &str, reason, message| {
            pull_advice(reason, message, &image.parse().unwrap(), "", "shop")
        };
        let ecr = "1.dkr.ecr.eu-west-1.amazonaws.com/app:1";
        let text = advice(ecr, Reason::Unauthorized, "no basic auth credentials");
        assert!(text.contains("Amazon ECR"), "{text}");
        assert!(text.contains("agent.credentialProviders"), "{text}");
        let text = advice("registry.test/app:1", Reason::Unauthorized, "denied");
        assert!(!text.contains("credentialProviders"), "{text}");
        let failed = "denied (tried without credentials: credential provider \"ecr\": failed)";
        let text = advice(ecr, Reason::CredentialsUnavailable, failed);
        assert!(text.contains("agent.hostNetwork"), "{text}");
    }

    #[test]
    fn a_node_that_is_not_selected_is_shown_by_its_label() {
        let answer = when(|scene| scene.node()["metadata"]["labels"]["tier"] = "db".into());
        assert_eq!(
            answer_text(&answer, NOW.parse().unwrap()),
            "\
no: registry.test/app:1 is not cached on node-1: the ImageCache does not select the node: it requires tier=web, and the node has tier=db
  ImageCache shop/web spec.cacheSpec[0].nodeSelector[tier]: web
  Node node-1 metadata.labels[tier]: db
  what to do: label the node, or change the selector
"
        );
    }
}
