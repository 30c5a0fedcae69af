//! The built-in kinds.

use std::sync::Arc;

use super::rows::{ROWS, Row};
use super::rows_around::ROWS_AROUND;
use super::{Column, Resource};
use crate::schema::{Schema, builtin_schema};

/// A kind that no CRD defines.
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

/// Every built-in resource.
pub(super) fn resources() -> Vec<Resource> {
    ROWS.iter().chain(ROWS_AROUND).map(resource).collect()
}

fn resource(row: &Row) -> Resource {
    let owned = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect();
    // Events of both groups are one and the same.
    let stored_group = if row.builtin == Builtin::Event {
        ""
    } else {
        row.group
    };
    let column = |(name, kind, path): &(&str, &str, &str)| Column {
        name: (*name).to_owned(),
        kind: (*kind).to_owned(),
        format: if *name == "Name" {
            "name".to_owned()
        } else {
            String::new()
        },
        description: String::new(),
        priority: 0,
        path: (*path).to_owned(),
    };
    Resource {
        group: row.group.to_owned(),
        version: "v1".to_owned(),
        plural: row.plural.to_owned(),
        singular: row.kind.to_lowercase(),
        kind: row.kind.to_owned(),
        list_kind: format!("{}List", row.kind),
        namespaced: row.namespaced,
        short_names: owned(row.short),
        categories: owned(row.categories),
        status: row.status,
        table: table_name(stored_group, row.plural),
        stored_as: match stored_group {
            "" => "v1".to_owned(),
            group => format!("{group}/v1"),
        },
        builtin: Some(row.builtin),
        schema: builtin_schema(row.builtin, !row.group.is_empty())
            .unwrap_or_else(|| Arc::new(Schema::default())),
        columns: row.columns.iter().map(column).collect(),
        selectable: Vec::new(),
        deprecation: None,
    }
}

/// The table of a resource.
pub(crate) fn table_name(group: &str, plural: &str) -> Arc<str> {
    match group {
        "" => plural.into(),
        group => format!("{plural}.{group}").into(),
    }
}
