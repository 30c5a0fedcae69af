//! Facts about a node that decide which images it should hold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::NodeName;

/// What is known of one node. Only what decides: no conditions, no image list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeFacts {
    /// Its name.
    pub name: NodeName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// Whether it can act now (the `Ready` condition).
    pub ready: bool,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// `linux`, `windows`: `GOOS` words.
    pub os: String,
    /// `amd64`, `arm64`, `arm`: `GOARCH` words.
    pub architecture: String,
}

impl NodeFacts {
    /// A Ready Linux node of that name and this machine's architecture, without labels and taints.
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

    /// With these labels beside those it has.
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

    /// With another operating system and architecture, in the words of `GOOS` and `GOARCH`.
    #[must_use]
    pub fn with_platform(mut self, os: impl Into<String>, architecture: impl Into<String>) -> Self {
        self.os = os.into();
        self.architecture = architecture.into();
        self
    }
}

/// Rust's word for an architecture as Go and OCI write it.
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

impl Taint {
    /// Whether it keeps pods away that do not tolerate it.
    #[must_use]
    pub fn repels(&self) -> bool {
        matches!(self.effect.as_str(), "NoSchedule" | "NoExecute")
    }

    /// Whether it tells of a node's passing state (not ready, cordoned, under pressure), not of whom it
    /// is for; a DaemonSet's pods tolerate these as well.
    #[must_use]
    pub fn is_passing(&self) -> bool {
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
    /// Checks the words; the error is the field, its value and the problem.
    pub(super) fn validate(&self) -> Result<(), (&'static str, &str, String)> {
        let operator = self.operator();
        if !matches!(operator, "Equal" | "Exists") {
            return Err(("operator", operator, "must be Equal or Exists".to_owned()));
        }
        if operator == "Equal" && self.key.as_deref().unwrap_or_default().is_empty() {
            return Err((
                "key",
                "",
                "must be given, unless the operator is Exists".to_owned(),
            ));
        }
        match self.effect.as_deref() {
            None | Some("" | "NoSchedule" | "PreferNoSchedule" | "NoExecute") => Ok(()),
            Some(other) => Err((
                "effect",
                other,
                "must be NoSchedule, PreferNoSchedule or NoExecute".to_owned(),
            )),
        }
    }

    /// The operator, `Equal` where none is written.
    fn operator(&self) -> &str {
        match self.operator.as_deref() {
            None | Some("") => "Equal",
            Some(operator) => operator,
        }
    }

    /// Whether it tolerates that taint.
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
