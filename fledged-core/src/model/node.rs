//! Nodes and their selection by labels, affinity, taints and tolerations.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::NodeName;

/// The properties of a node that decide about its images.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeFacts {
    /// Its name.
    pub name: NodeName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// Whether the node can pull and remove images now (the `Ready` condition).
    pub ready: bool,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// Operating system as in `GOOS`: `linux`, `windows`.
    pub os: String,
    /// Architecture as in `GOARCH`: `amd64`, `arm64`, `arm`.
    pub architecture: String,
}

impl NodeFacts {
    /// A Ready Linux node with this machine's architecture, without labels and taints.
    #[must_use]
    pub fn new(name: NodeName) -> Self {
        Self {
            name,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            ready: true,
            unschedulable: false,
            os: "linux".to_owned(),
            architecture: go_architecture(std::env::consts::ARCH).to_owned(),
        }
    }

    /// Adds labels.
    #[must_use]
    pub fn with_labels<K: Into<String>, V: Into<String>>(
        mut self,
        labels: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let labels = labels.into_iter();
        let labels = labels.map(|(key, value)| (key.into(), value.into()));
        self.labels.extend(labels);
        self
    }

    /// With these taints.
    #[must_use]
    pub fn with_taints(mut self, taints: impl IntoIterator<Item = Taint>) -> Self {
        self.taints = taints.into_iter().collect();
        self
    }

    /// Ready or not.
    #[must_use]
    pub fn with_ready(mut self, ready: bool) -> Self {
        self.ready = ready;
        self
    }

    /// Cordoned or not.
    #[must_use]
    pub fn with_unschedulable(mut self, unschedulable: bool) -> Self {
        self.unschedulable = unschedulable;
        self
    }

    /// With another operating system and architecture, as in `GOOS` and `GOARCH`.
    #[must_use]
    pub fn with_platform(mut self, os: impl Into<String>, architecture: impl Into<String>) -> Self {
        self.os = os.into();
        self.architecture = architecture.into();
        self
    }

    /// Whether caches select the node as they select one with the other facts. Readiness does not matter.
    pub(crate) fn is_selected_as(&self, other: &Self) -> bool {
        self.name == other.name
            && self.labels == other.labels
            && self.taints == other.taints
            && self.os == other.os
    }

    /// The label or taint that marks the node as virtual: it runs each pod on a machine of its own, and has no
    /// runtime that could hold images.
    #[must_use]
    pub fn virtual_mark(&self) -> Option<String> {
        let mut labels = VIRTUAL_LABELS.iter();
        let label =
            labels.find(|(key, value)| self.labels.get(*key).is_some_and(|found| found == value));
        let of_kubelet = |taint: &&Taint| taint.key == VIRTUAL_KUBELET_TAINT;
        match label {
            Some((key, value)) => Some(format!("{key}={value}")),
            None => {
                let taint = self.taints.iter().find(of_kubelet)?;
                Some(format!("{}={}", taint.key, taint.value))
            }
        }
    }
}

/// Labels of virtual nodes: EKS Fargate, and virtual-kubelet, also as Azure's virtual nodes.
const VIRTUAL_LABELS: [(&str, &str); 2] = [
    ("eks.amazonaws.com/compute-type", "fargate"),
    ("type", "virtual-kubelet"),
];
/// Key of the taint that virtual-kubelet sets on its node.
const VIRTUAL_KUBELET_TAINT: &str = "virtual-kubelet.io/provider";

/// Translates an architecture from Rust's name to that of Go and OCI.
fn go_architecture(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// A taint on a node (`core/v1 Taint`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value, often empty.
    #[serde(default)]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// Keys of taints of nodes that an autoscaler is about to delete.
const DELETION_TAINTS: [&str; 3] = [
    // Cluster Autoscaler, `utils/taints`.
    "ToBeDeletedByClusterAutoscaler",
    // Karpenter, since v1 and before.
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
];

/// Keys of taints that keep pods off the control plane: of Kubernetes, and of RKE.
const CONTROL_PLANE_TAINTS: [&str; 4] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
    "node-role.kubernetes.io/controlplane",
    "node-role.kubernetes.io/etcd",
];

impl Taint {
    /// Whether it keeps pods off a node of the control plane.
    #[must_use]
    pub fn marks_control_plane(&self) -> bool {
        self.repels() && CONTROL_PLANE_TAINTS.contains(&self.key.as_str())
    }

    /// Whether an autoscaler sets it on a node that it is about to delete. Pulls to such a node are wasted.
    #[must_use]
    pub fn marks_deletion(&self) -> bool {
        DELETION_TAINTS.contains(&self.key.as_str())
    }

    /// Whether pods need a toleration to be scheduled or to stay.
    #[must_use]
    pub fn repels(&self) -> bool {
        matches!(self.effect.as_str(), "NoSchedule" | "NoExecute")
    }

    /// Whether Kubernetes sets it for a condition of the node (not ready, cordoned, under pressure), rather than
    /// a user to dedicate the node. A DaemonSet's pods tolerate such taints as well.
    #[must_use]
    pub fn is_node_condition(&self) -> bool {
        self.key.starts_with("node.kubernetes.io/")
    }
}

/// A toleration (`core/v1 Toleration`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// Key of the taints meant; empty with `Exists`: every taint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `Equal` (default) or `Exists`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<String>,
    /// Value compared by `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Effect meant; none: every effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// How long a `NoExecute` taint is tolerated, in seconds. Has no meaning for images; accepted so
    /// that a pod's tolerations can be pasted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

impl Toleration {
    /// What is wrong with operator, key and effect: the field, its value and the problem.
    pub(super) fn problems(&self) -> Vec<(&'static str, &str, String)> {
        let mut problems = Vec::new();
        let operator = self.operator();
        if !matches!(operator, "Equal" | "Exists") {
            problems.push(("operator", operator, "must be Equal or Exists".to_owned()));
        }
        if operator == "Equal" && self.key.as_deref().unwrap_or_default().is_empty() {
            let problem = "must be given, unless the operator is Exists";
            problems.push(("key", "", problem.to_owned()));
        }
        if let Some(effect) = self.effect.as_deref()
            && !matches!(effect, "" | "NoSchedule" | "PreferNoSchedule" | "NoExecute")
        {
            let problem = "must be NoSchedule, PreferNoSchedule or NoExecute";
            problems.push(("effect", effect, problem.to_owned()));
        }
        problems
    }

    /// The operator; `Equal` if there is none.
    fn operator(&self) -> &str {
        match self.operator.as_deref() {
            None | Some("") => "Equal",
            Some(operator) => operator,
        }
    }

    /// Whether the toleration matches a taint.
    #[must_use]
    pub fn tolerates(&self, taint: &Taint) -> bool {
        let key = self.key.as_deref().unwrap_or_default();
        if self
            .effect
            .as_deref()
            .is_some_and(|e| !e.is_empty() && e != taint.effect)
        {
            return false;
        }
        match self.operator() {
            "Exists" => key.is_empty() || key == taint.key,
            "Equal" => key == taint.key && self.value.as_deref().unwrap_or_default() == taint.value,
            _ => false,
        }
    }
}

/// The labels of an object.
type Labels = BTreeMap<String, String>;

/// The error for a requirement that can't be evaluated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("requirement on {key:?} is invalid: {problem}")]
pub struct InvalidSelector {
    /// The label key of the requirement.
    pub key: String,
    /// The problem.
    pub problem: String,
}

/// One requirement on a label: key, operator, values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`; on nodes also `Gt` and `Lt`.
    pub operator: String,
    /// The operator's operands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

impl Requirement {
    /// Whether these labels satisfy the requirement. An invalid requirement matches nothing.
    ///
    /// `NotIn` and `DoesNotExist` also match where the key is absent, as in Kubernetes.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let number = |text: &String| text.parse::<i64>().ok();
        let compared = || Some((number(value?)?, number(self.values.first()?)?));
        match self.operator.as_str() {
            "In" => value.is_some_and(|v| self.values.contains(v)),
            "NotIn" => !value.is_some_and(|v| self.values.contains(v)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => compared().is_some_and(|(have, want)| have > want),
            "Lt" => compared().is_some_and(|(have, want)| have < want),
            _ => false,
        }
    }

    /// Checks the operator and the number of its operands.
    ///
    /// # Errors
    ///
    /// [`InvalidSelector`] naming the key and the problem.
    pub fn validate(&self) -> Result<(), InvalidSelector> {
        let fail = |problem: String| {
            Err(InvalidSelector {
                key: self.key.clone(),
                problem,
            })
        };
        if self.key.is_empty() {
            return fail("the key is empty".to_owned());
        }
        match self.operator.as_str() {
            "In" | "NotIn" if self.values.is_empty() => fail(format!(
                "operator {} needs at least one value",
                self.operator
            )),
            "Exists" | "DoesNotExist" if !self.values.is_empty() => {
                fail(format!("operator {} takes no values", self.operator))
            }
            "Gt" | "Lt" => match self.values.as_slice() {
                [one] if one.parse::<i64>().is_ok() => Ok(()),
                _ => fail(format!(
                    "operator {} needs exactly one integer",
                    self.operator
                )),
            },
            "In" | "NotIn" | "Exists" | "DoesNotExist" => Ok(()),
            other => fail(format!(
                "unknown operator {other:?} (known: In, NotIn, Exists, DoesNotExist, Gt, Lt)"
            )),
        }
    }
}

/// Which nodes, in the shape of a pod's `nodeAffinity`; only the required part decides here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeAffinity {
    /// Nodes must match this selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_during_scheduling_ignored_during_execution: Option<NodeSelector>,
}

impl NodeAffinity {
    /// Whether a node with this name and these labels matches.
    #[must_use]
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.required_during_scheduling_ignored_during_execution
            .as_ref()
            .is_none_or(|selector| selector.matches(name, labels))
    }

    /// Checks every term.
    ///
    /// # Errors
    ///
    /// The first [`InvalidSelector`].
    pub fn validate(&self) -> Result<(), InvalidSelector> {
        self.problems().into_iter().next().map_or(Ok(()), Err)
    }

    /// Every invalid requirement.
    pub(super) fn problems(&self) -> Vec<InvalidSelector> {
        let required = &self.required_during_scheduling_ignored_during_execution;
        required
            .as_ref()
            .map_or_else(Vec::new, NodeSelector::problems)
    }
}

/// Terms of which at least one must match (`core/v1 NodeSelector`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeSelector {
    /// The terms, ORed. None match when there is none.
    pub node_selector_terms: Vec<NodeSelectorTerm>,
}

impl NodeSelector {
    fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.node_selector_terms
            .iter()
            .any(|term| term.matches(name, labels))
    }

    fn problems(&self) -> Vec<InvalidSelector> {
        if self.node_selector_terms.is_empty() {
            return vec![InvalidSelector {
                key: String::new(),
                problem: "nodeSelectorTerms must have at least one term".to_owned(),
            }];
        }
        let terms = self.node_selector_terms.iter();
        terms.flat_map(NodeSelectorTerm::problems).collect()
    }
}

/// Requirements that must all hold; a term without any matches nothing, as in Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeSelectorTerm {
    /// Requirements on labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
    /// Requirements on fields; Kubernetes knows `metadata.name` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_fields: Vec<Requirement>,
}

impl NodeSelectorTerm {
    fn matches(&self, name: &str, labels: &Labels) -> bool {
        if self.match_expressions.is_empty() && self.match_fields.is_empty() {
            return false;
        }
        let fields = Labels::from([("metadata.name".to_owned(), name.to_owned())]);
        self.match_expressions.iter().all(|r| r.matches(labels))
            && self.match_fields.iter().all(|r| r.matches(&fields))
    }

    fn problems(&self) -> impl Iterator<Item = InvalidSelector> {
        let labels = self.match_expressions.iter().map(Requirement::validate);
        let fields = self.match_fields.iter().map(|field| {
            field.validate()?;
            if field.key == "metadata.name" {
                return Ok(());
            }
            Err(InvalidSelector {
                key: field.key.clone(),
                problem: "matchFields knows metadata.name only".to_owned(),
            })
        });
        labels.chain(fields).filter_map(Result::err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_of_autoscalers_mark_deletion() {
        let taint = |key: &str| Taint {
            key: key.to_owned(),
            value: String::new(),
            effect: "NoSchedule".to_owned(),
        };
        for key in DELETION_TAINTS {
            assert!(taint(key).marks_deletion(), "{key}");
        }
        assert!(!taint("dedicated").marks_deletion());
    }

    #[test]
    fn virtual_nodes_are_known_by_label_or_taint() {
        let node = || NodeFacts::new(NodeName::new("n").unwrap());
        let fargate = node().with_labels([("eks.amazonaws.com/compute-type", "fargate")]);
        let mark = fargate.virtual_mark();
        assert_eq!(
            mark.as_deref(),
            Some("eks.amazonaws.com/compute-type=fargate")
        );
        let azure = node().with_labels([("type", "virtual-kubelet")]);
        assert!(azure.virtual_mark().is_some());
        let tainted = node().with_taints([Taint {
            key: VIRTUAL_KUBELET_TAINT.to_owned(),
            value: "azure".to_owned(),
            effect: "NoSchedule".to_owned(),
        }]);
        assert!(tainted.virtual_mark().is_some());
        let other = node().with_labels([
            ("eks.amazonaws.com/compute-type", "ec2"),
            ("type", "worker"),
        ]);
        assert_eq!(other.virtual_mark(), None);
    }
}
