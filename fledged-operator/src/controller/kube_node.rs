//! A Node as the controller reads it.

use fledged_core::model::{NodeFacts, NodeName, Taint};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};

/// The parts of a Node that are used. Images, addresses, capacities and volumes are skipped.
#[derive(Resource, Debug, Clone, Default, Serialize, Deserialize)]
#[resource(inherit = Node)]
pub struct ReadNode {
    /// Name, UID, labels.
    #[serde(default)]
    pub metadata: ObjectMeta,
    #[serde(default)]
    spec: ReadSpec,
    #[serde(default)]
    status: ReadStatus,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct ReadSpec {
    taints: Vec<Taint>,
    unschedulable: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ReadStatus {
    conditions: Vec<NodeCondition>,
    node_info: ReadInfo,
}

/// A condition of a Node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeCondition {
    #[serde(rename = "type")]
    kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The reason, one word.
    pub reason: String,
    /// Time of the last change of the status.
    pub last_transition_time: Option<Time>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ReadInfo {
    operating_system: String,
    architecture: String,
}

impl ReadNode {
    /// The name; `None` if it is not a valid node name.
    #[must_use]
    pub fn name(&self) -> Option<NodeName> {
        NodeName::new(self.name_any()).ok()
    }

    /// The condition `Ready`, once the kubelet has set it.
    #[must_use]
    pub fn ready(&self) -> Option<&NodeCondition> {
        self.status.conditions.iter().find(|c| c.kind == "Ready")
    }

    /// The taint of an autoscaler that is about to delete the node.
    #[must_use]
    pub fn leaving(&self) -> Option<&Taint> {
        let mut taints = self.spec.taints.iter();
        taints.find(|taint| taint.marks_deletion())
    }

    /// The facts for the planner. A node that is being deleted counts as not ready.
    #[must_use]
    pub fn into_facts(self, name: NodeName) -> NodeFacts {
        let ready = self.ready().is_some_and(|c| c.status == "True");
        let leaving = self.metadata.deletion_timestamp.is_some() || self.leaving().is_some();
        let labels = self.metadata.labels.unwrap_or_default();
        // Before the first report of the kubelet, the labels may be set already.
        let or_label = |reported: String, label: &str, otherwise: &str| {
            let labelled = || labels.get(label).cloned();
            let reported = Some(reported).filter(|text| !text.is_empty());
            reported
                .or_else(labelled)
                .unwrap_or_else(|| otherwise.to_owned())
        };
        let info = self.status.node_info;
        let os = or_label(info.operating_system, "kubernetes.io/os", "linux");
        let architecture = or_label(info.architecture, "kubernetes.io/arch", "");
        NodeFacts::new(name)
            .with_labels(labels)
            .with_platform(os, architecture)
            .with_taints(self.spec.taints)
            .with_ready(ready && !leaving)
            .with_unschedulable(self.spec.unschedulable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_facts(node: serde_json::Value) -> NodeFacts {
        let node: ReadNode = serde_json::from_value(node).unwrap();
        let name = node.name().unwrap();
        node.into_facts(name)
    }

    #[test]
    fn ready_needs_the_condition_and_no_deletion_taint() {
        let facts = |status: &str, taint: &str| {
            mk_facts(serde_json::json!({
                "metadata": { "name": "a", "labels": { "tier": "backend" } },
                "spec": { "taints": [{ "key": taint, "effect": "NoSchedule" }] },
                "status": {
                    "conditions": [{ "type": "Ready", "status": status }],
                    "nodeInfo": { "operatingSystem": "linux", "architecture": "arm64" },
                },
            }))
        };
        assert!(facts("True", "dedicated").ready);
        assert!(!facts("Unknown", "dedicated").ready);
        assert!(!facts("True", "ToBeDeletedByClusterAutoscaler").ready);
        assert_eq!(facts("True", "dedicated").architecture, "arm64");
        assert_eq!(facts("True", "x").labels.get("tier").unwrap(), "backend");
    }

    #[test]
    fn a_node_without_conditions_is_not_ready() {
        let facts = mk_facts(serde_json::json!({
            "metadata": { "name": "a", "labels": { "kubernetes.io/os": "windows" } },
        }));
        assert!(!facts.ready);
        assert_eq!(facts.os, "windows");
    }
}
