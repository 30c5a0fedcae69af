//! Resources in one of their versions.

use std::sync::Arc;

use super::printer_column::Column;
use crate::error::ApiError;
use crate::schema::Schema;

/// A built-in kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Builtin {
    Namespace,
    Node,
    Secret,
    ServiceAccount,
    ConfigMap,
    Event,
    Pod,
    Lease,
    Deployment,
    DaemonSet,
    Job,
    CustomResourceDefinition,
    Service,
    Role,
    RoleBinding,
    ClusterRole,
    ClusterRoleBinding,
    PodDisruptionBudget,
    NetworkPolicy,
    PriorityClass,
    ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding,
    ValidatingWebhookConfiguration,
}

/// A resource as it is served in one version.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) namespaced: bool,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    /// Whether there is a `/status`.
    pub(crate) status: bool,
    /// The table of its objects: `resource.group`.
    pub(crate) table: Arc<str>,
    /// The `apiVersion` that its objects are stored in.
    pub(crate) stored_as: String,
    /// None for custom resources.
    pub(crate) builtin: Option<Builtin>,
    pub(crate) schema: Arc<Schema>,
    pub(crate) columns: Vec<Column>,
    /// The selectable fields of a CRD, beyond name and namespace.
    pub(crate) selectable: Vec<String>,
    /// The warning that every request of this version gets.
    pub(crate) deprecation: Option<String>,
}

impl Resource {
    /// `group/version`, or `v1`.
    pub(crate) fn api_version(&self) -> String {
        match self.group.as_str() {
            "" => self.version.clone(),
            group => format!("{group}/{}", self.version),
        }
    }

    pub(crate) fn is_custom(&self) -> bool {
        self.builtin.is_none()
    }

    pub(crate) fn not_found(&self, name: &str) -> ApiError {
        ApiError::not_found(&self.group, &self.plural, name)
    }

    pub(crate) fn modified(&self, name: &str) -> ApiError {
        ApiError::modified(&self.group, &self.plural, name)
    }
}

/// The table of a resource.
pub(crate) fn table_name(group: &str, plural: &str) -> Arc<str> {
    match group {
        "" => plural.into(),
        group => format!("{plural}.{group}").into(),
    }
}
