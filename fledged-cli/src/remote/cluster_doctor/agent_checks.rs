//! The agents: their DaemonSet, their pods on the nodes, and what their namespace allows.

use fledged_core::model::NodeName;
use fledged_operator::controller::ReadNode;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{ContainerStatus, Namespace, Pod};
use kube::ResourceExt as _;

use super::checks;
use super::installation::{
    Component, Workload as _, acting_controller, full_name, is_ready, of_component, pods_of,
    some_of,
};
use super::reader::Fact;
use crate::doctor::Finding;
use crate::output::{age, pluralised};
use crate::remote::agent_pod::trouble;

/// The flag, and its value in a cluster with Jobs.
const DRIVER_FLAG: &str = "node-driver";
const JOB_DRIVER: &str = "job";
/// A pod, or a node, may take that long to start before it counts as broken.
const START_SECONDS: i64 = 120;
/// How long a restart is reported.
const RESTART_SECONDS: i64 = 3600;
/// The label of a namespace with its Pod Security level, and the level that `hostPath` needs.
const LEVEL_LABEL: &str = "pod-security.kubernetes.io/enforce";
const LEVEL: &str = "privileged";

/// How images reach the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Driver {
    Agents,
    Jobs,
}

impl Driver {
    /// The driver of the controller; `None` if the controller is not known.
    pub(super) fn of(deployments: &Fact<Vec<Deployment>>) -> Option<Self> {
        let controller = acting_controller(deployments.as_ref().ok()?)?;
        Some(match controller.flag(DRIVER_FLAG) {
            Some(JOB_DRIVER) => Self::Jobs,
            _ => Self::Agents,
        })
    }
}

pub(super) fn daemon_set(driver: Option<Driver>, daemon_sets: &Fact<Vec<DaemonSet>>) -> Finding {
    let check = checks::AGENTS_DAEMON_SET;
    let daemon_sets = match daemon_sets {
        Ok(all) => of_component(all, Component::Agent),
        Err(unread) => return Finding::skipped(check, unread),
    };
    let names: Vec<String> = daemon_sets.iter().map(|one| full_name(*one)).collect();
    let failed = |found: String, remedy: &str| {
        Finding::advice(check, found, "no image is pulled on any node", remedy).into_failed()
    };
    match (driver, daemon_sets.as_slice()) {
        (Some(Driver::Jobs), []) => Finding::ok(
            check,
            "Jobs pull the images (nodeDriver: job); there are no agents",
        ),
        (Some(Driver::Jobs), _) => Finding::advice(
            check,
            format!(
                "the controller uses Jobs, and there are agents: {}",
                some_of(&names)
            ),
            "agents and Jobs both pull and report",
            "delete the DaemonSet, or set nodeDriver to agent",
        ),
        (None, []) => Finding::skipped(
            check,
            "not checked: neither a Deployment of a controller nor agents were found",
        ),
        (Some(Driver::Agents), []) => failed(
            "no DaemonSet of agents".to_owned(),
            "install the chart with nodeDriver: agent, or the whole of deploy/kubefledged.yaml",
        ),
        (_, all) => {
            let sum = |count: fn(&k8s_openapi::api::apps::v1::DaemonSetStatus) -> i32| {
                let statuses = all.iter().filter_map(|one| one.status.as_ref());
                statuses.map(count).sum::<i32>()
            };
            let wanted = sum(|status| status.desired_number_scheduled);
            let ready = sum(|status| status.number_ready);
            let updated = sum(|status| status.updated_number_scheduled.unwrap_or(0));
            let found = format!("{}: {ready} of {wanted} agents Ready", some_of(&names));
            let remedy = "`kubectl describe daemonset` and `kubectl get pods` in its namespace show why; see \
                          \"Troubleshooting\" in docs/operations.md";
            match (wanted, ready) {
                (0, _) => failed(
                    format!("{}: selects no node", some_of(&names)),
                    "compare agent.nodeSelector and agent.affinity with the labels of the nodes",
                ),
                (_, 0) => failed(found, remedy),
                (wanted, ready) if ready < wanted => Finding::advice(
                    check,
                    found,
                    "no image is pulled on the other nodes",
                    remedy,
                ),
                _ if updated < wanted => {
                    Finding::ok(check, format!("{found}; an update has reached {updated}"))
                }
                _ => Finding::ok(check, found),
            }
        }
    }
}

/// Ready nodes without a Ready agent.
pub(super) fn on_nodes(
    driver: Option<Driver>,
    nodes: &Fact<Vec<ReadNode>>,
    pods: &Fact<Vec<Pod>>,
    now: Timestamp,
) -> Finding {
    let check = checks::AGENTS_ON_NODES;
    if driver == Some(Driver::Jobs) {
        return Finding::ok(check, "Jobs pull the images; there are no agents");
    }
    let (nodes, pods) = match (nodes, pods) {
        (Ok(nodes), Ok(pods)) => (nodes, pods),
        (Err(unread), _) | (_, Err(unread)) => return Finding::skipped(check, unread),
    };
    let nodes: Vec<&ReadNode> = nodes.iter().filter(|node| can_have_agent(node)).collect();
    let agents: Vec<&Pod> = pods_of(pods, Component::Agent).collect();
    if nodes.is_empty() {
        return Finding::skipped(check, "not checked: the cluster has no Ready Linux node");
    }
    if agents.is_empty() && driver.is_none() {
        return Finding::skipped(
            check,
            "not checked: neither a Deployment of a controller nor agents were found",
        );
    }
    let (mut broken, mut missing, mut starting) = (Vec::new(), Vec::new(), 0_usize);
    for node in &nodes {
        let name = node.name_any();
        let here = |pod: &&&Pod| {
            let spec = pod.spec.as_ref();
            spec.and_then(|spec| spec.node_name.as_deref()) == Some(name.as_str())
        };
        let own: Vec<&&Pod> = agents.iter().filter(here).collect();
        match own.first() {
            _ if own.iter().any(|pod| is_ready(pod)) => {}
            Some(pod) if is_young(unready_since(pod), now) => starting += 1,
            Some(pod) => {
                let cause = trouble(pod);
                let cause = cause.map_or_else(String::new, |(_, value)| format!(" ({value})"));
                broken.push(format!("{name}{cause}"));
            }
            None if is_young(
                node.metadata.creation_timestamp.as_ref().map(|at| at.0),
                now,
            ) =>
            {
                starting += 1;
            }
            None => missing.push(name),
        }
    }
    let note = match starting {
        0 => String::new(),
        starting => format!("; {} starting", pluralised(starting, "agent")),
    };
    let remedy = "`fledged node status NODE` and `kubectl describe pod` show why; see \"Troubleshooting\" in \
                  docs/operations.md";
    if !broken.is_empty() {
        return Finding::advice(
            check,
            format!(
                "{} of {} with an agent that is not Ready: {}{note}",
                broken.len(),
                pluralised(nodes.len(), "node"),
                some_of(&broken)
            ),
            "no image is pulled on these nodes",
            remedy,
        )
        .into_failed();
    }
    if !missing.is_empty() {
        return Finding::advice(
            check,
            format!(
                "{} of {} without an agent: {}{note}",
                missing.len(),
                pluralised(nodes.len(), "node"),
                some_of(&missing)
            ),
            "no image is pulled on these nodes",
            "if this is not intended, compare agent.nodeSelector, agent.tolerations and agent.affinity with the nodes; \
             agent.priorityClassName makes room on full nodes",
        );
    }
    let running = nodes.len().saturating_sub(starting);
    let found = format!(
        "{running} of {} with a Ready agent{note}",
        pluralised(nodes.len(), "Ready node")
    );
    Finding::ok(check, found)
}

/// Whether the node is Ready, runs Linux, and is no virtual node.
fn can_have_agent(node: &ReadNode) -> bool {
    let Ok(name) = NodeName::new(node.name_any()) else {
        return false;
    };
    let facts = node.clone().into_facts(name);
    facts.ready && facts.os == "linux" && facts.virtual_mark().is_none()
}

/// Since when the pod is not Ready.
fn unready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter());
    let mut conditions = conditions.flatten();
    let ready = conditions.find(|one| one.type_ == "Ready");
    let changed = ready.and_then(|one| one.last_transition_time.as_ref());
    let changed = changed.or(pod.metadata.creation_timestamp.as_ref());
    changed.map(|at| at.0)
}

fn is_young(since: Option<Timestamp>, now: Timestamp) -> bool {
    since.is_some_and(|at| now.as_second().saturating_sub(at.as_second()) < START_SECONDS)
}

/// Agents that were restarted in the last hour.
pub(super) fn restarts(driver: Option<Driver>, pods: &Fact<Vec<Pod>>, now: Timestamp) -> Finding {
    let check = checks::AGENT_RESTARTS;
    let pods = match pods {
        Ok(pods) => pods,
        Err(unread) => return Finding::skipped(check, unread),
    };
    let agents: Vec<&Pod> = pods_of(pods, Component::Agent).collect();
    if agents.is_empty() {
        return match driver {
            Some(Driver::Jobs) => Finding::ok(check, "Jobs pull the images; there are no agents"),
            _ => Finding::skipped(check, "not checked: no agent was found"),
        };
    }
    let mut total: i32 = 0;
    let mut recent = Vec::new();
    let mut out_of_memory = false;
    for pod in &agents {
        let statuses = pod
            .status
            .iter()
            .flat_map(|status| status.container_statuses.iter());
        for status in statuses.flatten() {
            total = total.saturating_add(status.restart_count);
            let Some((reason, at)) = last_end(status) else {
                continue;
            };
            if now.as_second().saturating_sub(at.as_second()) > RESTART_SECONDS {
                continue;
            }
            out_of_memory |= reason == "OOMKilled";
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            let node = node.unwrap_or("no node");
            let count = status.restart_count;
            recent.push(format!(
                "{node} {count} times, last {} ago: {reason}",
                age(at, now)
            ));
        }
    }
    let counted = pluralised(agents.len(), "agent");
    if recent.is_empty() {
        let found = match total {
            0 => format!("{counted}: no restarts"),
            total => format!("{counted}: {total} restarts, none in the last hour"),
        };
        return Finding::ok(check, found);
    }
    let remedy = if out_of_memory {
        "raise agent.resources.limits.memory; with agent.pull.via: auto, or lower agent.pull.maxConnections"
    } else {
        "`kubectl logs --previous` of the pod has the cause"
    };
    Finding::advice(
        check,
        format!(
            "{} of {counted} restarted in the last hour: {}",
            recent.len(),
            some_of(&recent)
        ),
        "a restart interrupts the pulls that run on the node",
        remedy,
    )
}

/// Why and when the container ended before its last start.
fn last_end(status: &ContainerStatus) -> Option<(String, Timestamp)> {
    let ended = status.last_state.as_ref()?.terminated.as_ref()?;
    let reason = ended
        .reason
        .clone()
        .unwrap_or_else(|| format!("exit code {}", ended.exit_code));
    Some((reason, ended.finished_at.as_ref()?.0))
}

/// Whether the namespace of the agents, or of Jobs that remove images, admits their pods.
pub(super) fn pod_security(driver: Option<Driver>, namespace: &Fact<Option<Namespace>>) -> Finding {
    let check = checks::POD_SECURITY;
    let namespace = match namespace {
        Ok(Some(namespace)) => namespace,
        Ok(None) => return Finding::skipped(check, "not checked: no operator was found"),
        Err(unread) => return Finding::skipped(check, unread),
    };
    let name = namespace.name_any();
    let pods = match driver {
        Some(Driver::Jobs) => "Jobs that remove images",
        _ => "agents",
    };
    match namespace.labels().get(LEVEL_LABEL).map(String::as_str) {
        Some(LEVEL) => Finding::ok(
            check,
            format!("namespace {name} enforces the level {LEVEL}"),
        ),
        None => Finding::ok(
            check,
            format!(
                "namespace {name} has no label {LEVEL_LABEL}: the API server's default applies, usually {LEVEL}"
            ),
        ),
        Some(level) => Finding::advice(
            check,
            format!("namespace {name} enforces the level {level}"),
            format!(
                "the API server refuses new pods of {pods}, because they have hostPath volumes"
            ),
            format!("kubectl label namespace {name} --overwrite {LEVEL_LABEL}={LEVEL}"),
        )
        .into_failed(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::doctor::Verdict;
    use crate::remote::cluster_doctor::installation::tests::{mk_agents, mk_controller};
    use crate::remote::cluster_doctor::reader::{Unread, request};

    const NOW: &str = "2026-01-01T00:10:00Z";
    const LONG_AGO: &str = "2026-01-01T00:00:00Z";

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn mk_node(name: &str, change: impl FnOnce(&mut Value)) -> ReadNode {
        let mut object = json!({
            "metadata": { "name": name, "creationTimestamp": LONG_AGO },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        change(&mut object);
        serde_json::from_value(object).unwrap()
    }

    fn mk_pod(node: &str, change: impl FnOnce(&mut Value)) -> Pod {
        let mut object = json!({
            "metadata": { "namespace": "kube-fledged", "name": format!("agent-{node}"),
                "creationTimestamp": LONG_AGO, "labels": { "kubefledged": "kubefledged-agent" } },
            "spec": { "nodeName": node, "containers": [{ "name": "agent" }] },
            "status": {
                "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": LONG_AGO }],
                "containerStatuses": [{ "name": "agent", "ready": true, "restartCount": 0, "image": "",
                    "imageID": "" }],
            },
        });
        change(&mut object);
        serde_json::from_value(object).unwrap()
    }

    fn unready(pod: &mut Value) {
        pod["status"]["conditions"][0]["status"] = "False".into();
        pod["status"]["conditions"][0]["message"] = "runtime".into();
    }

    fn judge_nodes(nodes: Vec<ReadNode>, pods: Vec<Pod>) -> Finding {
        on_nodes(Some(Driver::Agents), &Ok(nodes), &Ok(pods), now())
    }

    #[test]
    fn every_ready_node_needs_a_ready_agent() {
        let a = mk_node("a", |_| {});
        let b = mk_node("b", |_| {});
        let finding = judge_nodes(
            vec![a.clone(), b.clone()],
            vec![mk_pod("a", |_| {}), mk_pod("b", |_| {})],
        );
        assert_eq!(finding.found, "2 of 2 Ready nodes with a Ready agent");
        let finding = judge_nodes(vec![a.clone(), b.clone()], vec![mk_pod("a", |_| {})]);
        assert_eq!(finding.result, Verdict::Advice);
        assert_eq!(finding.found, "1 of 2 nodes without an agent: b");
        let pods = vec![mk_pod("a", |_| {}), mk_pod("b", unready)];
        let finding = judge_nodes(vec![a.clone(), b], pods);
        assert_eq!(finding.result, Verdict::Failed);
        assert!(
            finding.found.ends_with("not Ready: b (runtime)"),
            "{finding:?}"
        );
        let what = request("list", "pods", None, None);
        let forbidden = Err(Unread::ForbiddenAnywhere(what));
        let finding = on_nodes(None, &Ok(vec![a]), &forbidden, now());
        assert_eq!(finding.result, Verdict::Skipped);
        assert!(
            finding.found.contains("no permission to list pods"),
            "{finding:?}"
        );
    }

    #[test]
    fn nodes_and_agents_that_just_started_are_only_counted() {
        let new = mk_node("new", |node| {
            node["metadata"]["creationTimestamp"] = "2026-01-01T00:09:30Z".into()
        });
        let a = mk_node("a", |_| {});
        let pod = mk_pod("a", |pod| {
            unready(pod);
            pod["status"]["conditions"][0]["lastTransitionTime"] = "2026-01-01T00:09:00Z".into();
        });
        let finding = judge_nodes(vec![new, a], vec![pod]);
        assert_eq!(finding.result, Verdict::Ok);
        assert!(
            finding
                .found
                .ends_with("0 of 2 Ready nodes with a Ready agent; 2 agents starting"),
            "{finding:?}"
        );
    }

    #[test]
    fn nodes_that_cannot_have_agents_are_left_out() {
        let windows = mk_node("w", |node| {
            node["status"]["nodeInfo"] = json!({ "operatingSystem": "windows" })
        });
        let fargate = mk_node("f", |node| {
            node["metadata"]["labels"] = json!({ "eks.amazonaws.com/compute-type": "fargate" });
        });
        let gone = mk_node("g", |node| {
            node["status"]["conditions"][0]["status"] = "Unknown".into()
        });
        let finding = judge_nodes(vec![windows, fargate, gone], Vec::new());
        assert_eq!(finding.result, Verdict::Skipped, "{finding:?}");
    }

    #[test]
    fn the_daemon_set_is_judged_with_the_driver() {
        let agents = || Ok(vec![mk_agents(|_| {})]);
        let judge = |driver, found: &Fact<Vec<DaemonSet>>| daemon_set(driver, found).result;
        assert_eq!(judge(Some(Driver::Agents), &agents()), Verdict::Ok);
        assert_eq!(judge(None, &agents()), Verdict::Ok);
        assert_eq!(judge(Some(Driver::Jobs), &Ok(Vec::new())), Verdict::Ok);
        assert_eq!(judge(Some(Driver::Jobs), &agents()), Verdict::Advice);
        assert_eq!(
            judge(Some(Driver::Agents), &Ok(Vec::new())),
            Verdict::Failed
        );
        assert_eq!(judge(None, &Ok(Vec::new())), Verdict::Skipped);
        let counts = |wanted: i32, ready: i32| {
            Ok(vec![mk_agents(|d| {
                d["status"]["desiredNumberScheduled"] = wanted.into();
                d["status"]["numberReady"] = ready.into();
            })])
        };
        assert_eq!(judge(None, &counts(0, 0)), Verdict::Failed);
        assert_eq!(judge(None, &counts(2, 0)), Verdict::Failed);
        assert_eq!(judge(None, &counts(2, 1)), Verdict::Advice);
    }

    #[test]
    fn the_driver_is_the_flag_of_the_controller() {
        let of = |flag: &str| {
            let controller = mk_controller(|d| {
                d["spec"]["template"]["spec"]["containers"][0]["args"] =
                    json!(["controller", flag]);
            });
            Driver::of(&Ok(vec![controller]))
        };
        assert_eq!(of("--node-driver=job"), Some(Driver::Jobs));
        assert_eq!(of("--node-driver=agent"), Some(Driver::Agents));
        assert_eq!(of("--log-format=text"), Some(Driver::Agents));
        assert_eq!(Driver::of(&Ok(Vec::new())), None);
    }

    #[test]
    fn restarts_of_the_last_hour_are_reported() {
        let restarted = |reason: &str, at: &str| {
            mk_pod("a", |pod| {
                let status = &mut pod["status"]["containerStatuses"][0];
                status["restartCount"] = 4.into();
                status["lastState"] = json!({ "terminated": { "exitCode": 137, "reason": reason,
                    "finishedAt": at } });
            })
        };
        let judge = |pods: Vec<Pod>| restarts(Some(Driver::Agents), &Ok(pods), now());
        let finding = judge(vec![restarted("OOMKilled", "2026-01-01T00:05:00Z")]);
        assert_eq!(finding.result, Verdict::Advice);
        assert!(
            finding.found.contains("a 4 times, last 5m ago: OOMKilled"),
            "{finding:?}"
        );
        assert!(
            finding
                .remedy
                .unwrap()
                .contains("agent.resources.limits.memory")
        );
        let finding = judge(vec![restarted("Error", "2025-12-31T22:00:00Z")]);
        assert_eq!(finding.result, Verdict::Ok);
        assert!(finding.found.contains("4 restarts"), "{finding:?}");
        assert_eq!(judge(Vec::new()).result, Verdict::Skipped);
        assert_eq!(
            restarts(Some(Driver::Jobs), &Ok(Vec::new()), now()).result,
            Verdict::Ok
        );
    }

    #[test]
    fn only_the_level_privileged_admits_agents() {
        let of = |labels: Value| {
            let object = json!({ "metadata": { "name": "kube-fledged", "labels": labels } });
            pod_security(
                Some(Driver::Agents),
                &Ok(Some(serde_json::from_value(object).unwrap())),
            )
        };
        assert_eq!(of(json!({ LEVEL_LABEL: "privileged" })).result, Verdict::Ok);
        assert_eq!(of(json!({})).result, Verdict::Ok);
        let finding = of(json!({ LEVEL_LABEL: "baseline" }));
        assert_eq!(finding.result, Verdict::Failed);
        let remedy = "kubectl label namespace kube-fledged --overwrite pod-security.kubernetes.io/enforce=privileged";
        assert_eq!(finding.remedy.as_deref(), Some(remedy));
    }
}
