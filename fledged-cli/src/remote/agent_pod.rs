//! The pod of a node's agent: whether there is one, and what keeps it from running.

use fledged_core::model::NodeName;
use fledged_kube::request_error::with_causes;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

use super::kubeconfig::Connection;
use super::why_text::Answer;

/// The labels of agents' pods: of the plain YAML, and of the chart.
const LABELS: [&str; 2] = [
    "kubefledged=kubefledged-agent",
    "app.kubernetes.io/component=agent,app.kubernetes.io/instance,app.kubernetes.io/part-of",
];
/// The namespace that is read if the user may not list the pods of all namespaces.
const NAMESPACE: &str = "kube-fledged";

/// What is known of the pod of a node's agent.
#[derive(Debug)]
pub(super) enum AgentPod {
    /// The node has none, although agents run in the cluster.
    Missing,
    /// It is or will be on the node.
    Found(Box<Pod>),
}

impl Connection {
    /// The pod of the node's agent. `None` if pods may not be listed, or the cluster has no agents.
    pub(super) async fn agent_pod(&self, node: &NodeName) -> Option<AgentPod> {
        let namespaces: [Api<Pod>; 2] = [
            Api::all(self.client.clone()),
            Api::namespaced(self.client.clone(), NAMESPACE),
        ];
        for api in namespaces {
            // Not permitted: the next one may be.
            let Ok(pods) = agents(&api, &format!("spec.nodeName={node}"), None).await else {
                continue;
            };
            // One that is not scheduled yet names its node in its affinity.
            let waiting = agents(&api, "spec.nodeName=", None).await.ok()?;
            let waiting = waiting.into_iter().filter(|pod| is_for(pod, node));
            let mut pods: Vec<Pod> = pods.into_iter().chain(waiting).collect();
            // During an update, the old pod may still be there.
            pods.sort_by_key(|pod| pod.metadata.deletion_timestamp.is_some());
            if let Some(pod) = pods.into_iter().next() {
                return Some(AgentPod::Found(Box::new(pod)));
            }
            let others = agents(&api, "", Some(1)).await.ok()?;
            return (!others.is_empty()).then_some(AgentPod::Missing);
        }
        None
    }
}

/// Where the metrics of an agent are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodPort {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) port: i32,
}

/// Finds the agents' metrics ports.
#[derive(Default)]
pub(super) struct AgentPorts {
    /// The pods that the user may list.
    pods: Option<Api<Pod>>,
}

impl AgentPorts {
    /// Finds the pods that the user may list: those of all namespaces, or of the operator's usual one.
    ///
    /// # Errors
    ///
    /// The answer of the API server if the user may list neither, or if it does not answer.
    pub(super) async fn find(&mut self, connection: &Connection) -> Result<(), kube::Error> {
        if self.pods.is_some() {
            return Ok(());
        }
        let all: Api<Pod> = Api::all(connection.client.clone());
        let (found, error) = match agents(&all, "", Some(1)).await {
            Ok(_) => (all, None),
            Err(error) => {
                let usual = Api::namespaced(connection.client.clone(), NAMESPACE);
                let allowed = agents(&usual, "", Some(1)).await.is_ok();
                (usual, (!allowed).then_some(error))
            }
        };
        match error {
            Some(error) => Err(error),
            None => {
                self.pods = Some(found);
                Ok(())
            }
        }
    }

    /// The metrics port of a node's agent, if it has one.
    ///
    /// # Errors
    ///
    /// The answer of the API server.
    pub(super) async fn of(&self, node: &NodeName) -> Result<Option<PodPort>, String> {
        let Some(api) = &self.pods else {
            return Ok(None);
        };
        let pods = agents(api, &format!("spec.nodeName={node}"), None).await;
        let mut pods = pods.map_err(|error| with_causes(&error))?;
        // During an update, the old pod may still be there.
        pods.sort_by_key(|pod| pod.metadata.deletion_timestamp.is_some());
        Ok(pods.iter().find_map(metrics_port))
    }
}

/// The container port named `metrics`. The API server resolves no names of ports.
fn metrics_port(pod: &Pod) -> Option<PodPort> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let port = ports.find(|port| port.name.as_deref() == Some("metrics"))?;
    Some(PodPort {
        namespace: pod.namespace()?,
        name: pod.name_any(),
        port: port.container_port,
    })
}

/// The agents' pods that match these fields.
async fn agents(api: &Api<Pod>, fields: &str, limit: Option<u32>) -> Result<Vec<Pod>, kube::Error> {
    let mut found = Vec::new();
    for labels in LABELS {
        let mut params = ListParams::default().labels(labels).fields(fields);
        params.limit = limit;
        let pods = api.list(&params).await?.items;
        found.extend(pods.into_iter().filter(is_agent));
    }
    Ok(found)
}

/// Whether the pod is that of an agent of fledged, and not of another program's component `agent`.
fn is_agent(pod: &Pod) -> bool {
    let label = |name: &str| pod.labels().get(name).map(String::as_str);
    let part = label("app.kubernetes.io/part-of").and_then(|part| part.strip_suffix("-agent"));
    label("kubefledged").is_some()
        || part.is_some_and(|of| label("app.kubernetes.io/instance") == Some(of))
}

/// Whether a DaemonSet made the pod for that node.
fn is_for(pod: &Pod, node: &NodeName) -> bool {
    let affinity = pod
        .spec
        .iter()
        .filter_map(|spec| spec.affinity.as_ref()?.node_affinity.as_ref());
    let terms = affinity
        .filter_map(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        })
        .flat_map(|selector| &selector.node_selector_terms);
    terms
        .flat_map(|term| term.match_fields.iter().flatten())
        .any(|field| {
            let mut values = field.values.iter().flatten();
            field.key == "metadata.name" && values.any(|name| name == node.as_str())
        })
}

/// What keeps a pod from working: the field, and its value.
pub(super) fn trouble(pod: &Pod) -> Option<(String, String)> {
    let status = pod.status.as_ref()?;
    let condition = |of: &str| {
        let mut conditions = status.conditions.iter().flatten();
        let found = conditions.find(|one| one.type_ == of && one.status == "False")?;
        let text = found.message.as_ref().or(found.reason.as_ref());
        Some((
            format!("status.conditions[{of}]"),
            text.cloned().unwrap_or_default(),
        ))
    };
    if pod.metadata.deletion_timestamp.is_some() {
        return Some(("metadata.deletionTimestamp".to_owned(), "set".to_owned()));
    }
    if status.phase.as_deref() == Some("Failed") {
        let text = [&status.reason, &status.message].map(|text| text.as_deref());
        let text: Vec<&str> = text.into_iter().flatten().collect();
        return Some((
            "status.phase".to_owned(),
            format!("Failed {}", text.join(": ")),
        ));
    }
    let waiting = status
        .container_statuses
        .iter()
        .flatten()
        .find_map(|container| {
            let waiting = container.state.as_ref()?.waiting.as_ref()?;
            let texts = [&waiting.reason, &waiting.message].map(|text| text.as_deref());
            let texts: Vec<&str> = texts.into_iter().flatten().collect();
            let field = format!("status.containerStatuses[{}].state.waiting", container.name);
            Some((field, texts.join(": ")))
        });
    condition("PodScheduled")
        .or(waiting)
        .or_else(|| condition("Ready"))
}

/// Adds what is known of the agent's pod. `silent`: the agent does not report.
pub(super) fn with_agent_pod(mut answer: Answer, pod: &AgentPod, silent: bool) -> Answer {
    let pod = match pod {
        AgentPod::Found(pod) => pod,
        AgentPod::Missing => {
            answer.because.push_str("; the node has no agent pod");
            let object = format!("Node {}", answer.node);
            return answer.with(object, "pods of the agents' DaemonSet", "none").advise(
                "compare agent.nodeSelector, agent.tolerations and agent.affinity of the chart with the node; \
                 `kubectl get events -A --field-selector involvedObject.kind=DaemonSet` shows what prevents the pod",
            );
        }
    };
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let object = format!("Pod {namespace}/{name}");
    let logs = format!("`kubectl logs -n {namespace} {name}`");
    match trouble(pod) {
        Some((field, value)) => {
            let scheduled = pod
                .spec
                .as_ref()
                .is_some_and(|spec| spec.node_name.is_some());
            let advice = match scheduled {
                true => format!(
                    "`kubectl describe pod -n {namespace} {name}` shows why; {logs} has its log, `--previous` that of a container that ended"
                ),
                false => {
                    "make room on the node, or give agents a priority (agent.priorityClassName)"
                        .to_owned()
                }
            };
            answer.because.push_str("; its pod does not work");
            answer.with(object, field, value).advise(advice)
        }
        None if silent => {
            answer.because.push_str("; its pod is Ready");
            let advice = format!("read its log: {logs}");
            answer
                .with(object, "status.conditions[Ready]", "True")
                .advise(advice)
        }
        None => answer,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mk_pod(change: impl FnOnce(&mut Value)) -> Pod {
        let mut pod = json!({
            "metadata": { "namespace": "kube-fledged", "name": "agent-x", "labels": {} },
            "spec": { "nodeName": "node-1", "containers": [{ "name": "agent" }] },
            "status": {
                "phase": "Running",
                "conditions": [
                    { "type": "PodScheduled", "status": "True" },
                    { "type": "Ready", "status": "True" },
                ],
            },
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    fn trouble_of(change: impl FnOnce(&mut Value)) -> Option<String> {
        trouble(&mk_pod(change)).map(|(field, value)| format!("{field}: {value}"))
    }

    #[test]
    fn the_trouble_of_a_pod_is_named() {
        assert_eq!(trouble_of(|_| {}), None);
        let waiting = |reason: &str| {
            json!([{ "name": "agent", "ready": false, "restartCount": 3, "image": "", "imageID": "",
                "state": { "waiting": { "reason": reason, "message": "back-off" } } }])
        };
        let crashing = trouble_of(|pod| {
            pod["status"]["containerStatuses"] = waiting("CrashLoopBackOff");
            pod["status"]["conditions"][1]["status"] = "False".into();
        });
        let text = "status.containerStatuses[agent].state.waiting: CrashLoopBackOff: back-off";
        assert_eq!(crashing.as_deref(), Some(text));
        let pending = trouble_of(|pod| {
            pod["status"]["phase"] = "Pending".into();
            pod["status"]["conditions"] = json!([{ "type": "PodScheduled", "status": "False",
                "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Too many pods." }]);
        });
        let text = "status.conditions[PodScheduled]: 0/1 nodes are available: 1 Too many pods.";
        assert_eq!(pending.as_deref(), Some(text));
        let evicted = trouble_of(|pod| {
            pod["status"]["phase"] = "Failed".into();
            pod["status"]["reason"] = "Evicted".into();
        });
        assert_eq!(evicted.as_deref(), Some("status.phase: Failed Evicted"));
        let unready = trouble_of(|pod| pod["status"]["conditions"][1]["status"] = "False".into());
        assert_eq!(unready.as_deref(), Some("status.conditions[Ready]: "));
    }

    #[test]
    fn agents_are_recognised_by_their_labels() {
        let of = |labels: Value| is_agent(&mk_pod(|pod| pod["metadata"]["labels"] = labels));
        assert!(of(json!({ "kubefledged": "kubefledged-agent" })));
        let chart = |part: &str| {
            json!({ "app.kubernetes.io/instance": "kf", "app.kubernetes.io/component": "agent",
                "app.kubernetes.io/part-of": part })
        };
        assert!(of(chart("kf-agent")));
        assert!(!of(chart("datadog")));
    }

    #[test]
    fn the_metrics_port_is_found_by_its_name() {
        let of =
            |ports: Value| metrics_port(&mk_pod(|p| p["spec"]["containers"][0]["ports"] = ports));
        assert_eq!(
            of(json!([{ "name": "probes", "containerPort": 8083 }])),
            None
        );
        let ports = json!([{ "containerPort": 1 }, { "name": "metrics", "containerPort": 8082 }]);
        let port = of(ports).map(|found| (found.namespace, found.name, found.port));
        let expected = ("kube-fledged".to_owned(), "agent-x".to_owned(), 8082);
        assert_eq!(port, Some(expected));
    }

    #[test]
    fn a_pod_that_waits_for_a_node_names_it() {
        let pod = mk_pod(|pod| {
            let field = json!({ "key": "metadata.name", "operator": "In", "values": ["node-7"] });
            let terms = json!([{ "matchFields": [field] }]);
            let required = json!({ "nodeSelectorTerms": terms });
            let affinity = json!({ "requiredDuringSchedulingIgnoredDuringExecution": required });
            pod["spec"]["affinity"] = json!({ "nodeAffinity": affinity });
        });
        let name = |name: &str| NodeName::new(name).unwrap();
        assert!(is_for(&pod, &name("node-7")));
        assert!(!is_for(&pod, &name("node-1")));
    }
}
