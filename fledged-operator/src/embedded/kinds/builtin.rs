//! The built-in kinds.

use std::sync::Arc;

use super::{Column, Resource};
use crate::embedded::schema::{Schema, builtin_schema};

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
}

struct Row {
    builtin: Builtin,
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
    status: bool,
    columns: &'static [(&'static str, &'static str, &'static str)],
}

const NAME: (&str, &str, &str) = ("Name", "string", ".metadata.name");
const AGE: (&str, &str, &str) = ("Age", "date", ".metadata.creationTimestamp");

const ROWS: &[Row] = &[
    Row {
        builtin: Builtin::Namespace,
        group: "",
        plural: "namespaces",
        kind: "Namespace",
        short: &["ns"],
        categories: &[],
        namespaced: false,
        status: true,
        columns: &[NAME, ("Status", "string", ".status.phase"), AGE],
    },
    Row {
        builtin: Builtin::Node,
        group: "",
        plural: "nodes",
        kind: "Node",
        short: &["no"],
        categories: &[],
        namespaced: false,
        status: true,
        columns: &[
            NAME,
            ("Status", "string", "=node-status"),
            ("Roles", "string", "=node-roles"),
            AGE,
            ("Version", "string", ".status.nodeInfo.kubeletVersion"),
        ],
    },
    Row {
        builtin: Builtin::Secret,
        group: "",
        plural: "secrets",
        kind: "Secret",
        short: &[],
        categories: &[],
        namespaced: true,
        status: false,
        columns: &[
            NAME,
            ("Type", "string", ".type"),
            ("Data", "string", "=count:data"),
            AGE,
        ],
    },
    Row {
        builtin: Builtin::ServiceAccount,
        group: "",
        plural: "serviceaccounts",
        kind: "ServiceAccount",
        short: &["sa"],
        categories: &[],
        namespaced: true,
        status: false,
        columns: &[NAME, ("Secrets", "string", "=count:secrets"), AGE],
    },
    Row {
        builtin: Builtin::ConfigMap,
        group: "",
        plural: "configmaps",
        kind: "ConfigMap",
        short: &["cm"],
        categories: &[],
        namespaced: true,
        status: false,
        columns: &[NAME, ("Data", "string", "=count:data"), AGE],
    },
    Row {
        builtin: Builtin::Event,
        group: "",
        plural: "events",
        kind: "Event",
        short: &["ev"],
        categories: &[],
        namespaced: true,
        status: false,
        columns: &EVENT_COLUMNS,
    },
    Row {
        builtin: Builtin::Event,
        group: "events.k8s.io",
        plural: "events",
        kind: "Event",
        short: &["ev"],
        categories: &[],
        namespaced: true,
        status: false,
        columns: &EVENT_COLUMNS,
    },
    Row {
        builtin: Builtin::Pod,
        group: "",
        plural: "pods",
        kind: "Pod",
        short: &["po"],
        categories: &["all"],
        namespaced: true,
        status: true,
        columns: &[
            NAME,
            ("Ready", "string", "=pod-ready"),
            ("Status", "string", ".status.phase"),
            ("Restarts", "string", "=pod-restarts"),
            AGE,
        ],
    },
    Row {
        builtin: Builtin::Lease,
        group: "coordination.k8s.io",
        plural: "leases",
        kind: "Lease",
        short: &[],
        categories: &[],
        namespaced: true,
        status: false,
        columns: &[NAME, ("Holder", "string", ".spec.holderIdentity"), AGE],
    },
    Row {
        builtin: Builtin::Deployment,
        group: "apps",
        plural: "deployments",
        kind: "Deployment",
        short: &["deploy"],
        categories: &["all"],
        namespaced: true,
        status: true,
        columns: &[
            NAME,
            ("Ready", "string", "=deployment-ready"),
            ("Up-to-date", "string", "=number:updatedReplicas"),
            ("Available", "string", "=number:availableReplicas"),
            AGE,
        ],
    },
    Row {
        builtin: Builtin::DaemonSet,
        group: "apps",
        plural: "daemonsets",
        kind: "DaemonSet",
        short: &["ds"],
        categories: &["all"],
        namespaced: true,
        status: true,
        columns: &[
            NAME,
            ("Desired", "integer", "=number:desiredNumberScheduled"),
            ("Current", "integer", "=number:currentNumberScheduled"),
            ("Ready", "integer", "=number:numberReady"),
            ("Up-to-date", "integer", "=number:updatedNumberScheduled"),
            ("Available", "integer", "=number:numberAvailable"),
            ("Node Selector", "string", "=node-selector"),
            AGE,
        ],
    },
    Row {
        builtin: Builtin::Job,
        group: "batch",
        plural: "jobs",
        kind: "Job",
        short: &[],
        categories: &["all"],
        namespaced: true,
        status: true,
        columns: &[
            NAME,
            ("Status", "string", "=job-status"),
            ("Completions", "string", "=job-completions"),
            AGE,
        ],
    },
    Row {
        builtin: Builtin::CustomResourceDefinition,
        group: "apiextensions.k8s.io",
        plural: "customresourcedefinitions",
        kind: "CustomResourceDefinition",
        short: &["crd", "crds"],
        categories: &["api-extensions"],
        namespaced: false,
        status: true,
        columns: &[NAME, ("Created At", "date", "=created-at")],
    },
];

const EVENT_COLUMNS: [(&str, &str, &str); 5] = [
    ("Last Seen", "string", "=event-last-seen"),
    ("Type", "string", ".type"),
    ("Reason", "string", ".reason"),
    ("Object", "string", "=event-object"),
    ("Message", "string", ".message"),
];

/// Every built-in resource.
pub(super) fn resources() -> Vec<Resource> {
    ROWS.iter().map(resource).collect()
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
