//! A Job, as far as it tells of itself.

use fledged_core::model::{ImageRef, NodeName};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Serialize};

use super::names::{KIND, NODE};

/// A Job of this driver.
#[derive(Resource, Debug, Clone, Default, Serialize, Deserialize)]
#[resource(inherit = Job)]
pub(super) struct ReadJob {
    #[serde(default)]
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Spec {
    template: Template,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Template {
    spec: PodSpec,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct PodSpec {
    containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Container {
    name: String,
    args: Vec<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Status {
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
}

/// What a Job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Pull,
    Remove,
}

impl Kind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Remove => "remove",
        }
    }
}

/// How a Job has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum JobEnd {
    Complete,
    /// With why.
    Failed(String),
}

/// The node that an object of this driver is for.
pub(super) fn node_of(metadata: &ObjectMeta) -> Option<NodeName> {
    let name = metadata.annotations.as_ref()?.get(NODE)?;
    NodeName::new(name.as_str()).ok()
}

impl ReadJob {
    /// Whether it may be one of this driver's. Anybody may make Jobs with its labels; those that remove are
    /// in the operator's own namespace.
    pub(super) fn is_credible(&self, operator: &str) -> bool {
        match self.kind() {
            Some(Kind::Pull) => true,
            Some(Kind::Remove) => self.metadata.namespace.as_deref() == Some(operator),
            None => false,
        }
    }

    pub(super) fn kind(&self) -> Option<Kind> {
        let labels = self.metadata.labels.as_ref()?;
        match labels.get(KIND)?.as_str() {
            "pull" => Some(Kind::Pull),
            "remove" => Some(Kind::Remove),
            _ => None,
        }
    }

    pub(super) fn containers(&self) -> impl Iterator<Item = &str> {
        let containers = self.spec.template.spec.containers.iter();
        containers.map(|container| container.name.as_str())
    }

    /// The images that it removes, in its own order.
    pub(super) fn removes(&self) -> Vec<ImageRef> {
        let containers = self.spec.template.spec.containers.iter();
        let args = containers.flat_map(|container| &container.args);
        let images = args.skip_while(|arg| *arg != "--").skip(1);
        images
            .filter_map(|image| ImageRef::parse(image).ok())
            .collect()
    }

    /// Whether it has ended, and how.
    pub(super) fn end(&self) -> Option<JobEnd> {
        let conditions = self.status.conditions.iter();
        conditions
            .filter(|condition| condition.status == "True")
            .find_map(|condition| match condition.kind.as_str() {
                "Complete" | "SuccessCriteriaMet" => Some(JobEnd::Complete),
                "Failed" | "FailureTarget" => Some(JobEnd::Failed(format!(
                    "{}: {}",
                    condition.reason, condition.message
                ))),
                _ => None,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_removes_is_in_the_operators_namespace() {
        let credible = |namespace: &str, kind: &str| {
            let job: ReadJob = serde_json::from_value(serde_json::json!({
                "metadata": { "name": "j", "namespace": namespace, "labels": { KIND: kind } },
            }))
            .unwrap();
            job.is_credible("operator")
        };
        assert!(credible("operator", "remove"));
        assert!(!credible("shop", "remove"));
        assert!(credible("shop", "pull"));
        assert!(!credible("operator", "other"));
    }
}
