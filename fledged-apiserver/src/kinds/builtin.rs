//! The built-in kinds, one by one.

use std::sync::{Arc, LazyLock};

use k8s_openapi::api::admissionregistration::v1 as admission;
use k8s_openapi::api::{
    apps, batch, coordination, core, events, networking, policy, rbac, scheduling,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use serde_json::Value;

use super::printer_column::Column;
use super::resource::{Builtin, Resource, table_name};
use crate::schema::{Schema, document, parse_trusted};

/// Every built-in resource.
pub(super) fn resources() -> Vec<Resource> {
    ALL.iter().map(resource).collect()
}

fn resource(known: &Known) -> Resource {
    let row = known.row;
    let owned = |list: &[&str]| list.iter().map(|item| (*item).to_owned()).collect();
    // Both groups serve the same Events.
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
        schema: Arc::clone(&known.schema),
        columns: row.columns.iter().map(column).collect(),
        selectable: Vec::new(),
        deprecation: None,
    }
}

/// A built-in kind with what is generated from its type, once for all API servers of the process.
struct Known {
    row: &'static Row,
    document: Value,
    schema: Arc<Schema>,
}

static ALL: LazyLock<Vec<Known>> = LazyLock::new(|| {
    let known = ROWS.iter().chain(POLICY_ROWS).map(|row| {
        let document = (row.document)();
        let schema = Arc::new(parse_trusted(&document));
        Known {
            row,
            document,
            schema,
        }
    });
    known.collect()
});

/// The OpenAPI document of a built-in resource.
pub(crate) fn builtin_document(resource: &Resource) -> Option<&'static Value> {
    let mut all = ALL.iter();
    let known = all.find(|known| {
        Some(known.row.builtin) == resource.builtin && known.row.group == resource.group
    })?;
    Some(&known.document)
}

/// A built-in kind.
struct Row {
    builtin: Builtin,
    /// The OpenAPI document of the kind, generated from its type.
    document: fn() -> Value,
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

/// Namespaces, nodes, workloads and what they use.
const ROWS: &[Row] = &[
    Row {
        builtin: Builtin::Namespace,
        document: document::<core::v1::Namespace>,
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
        document: document::<core::v1::Node>,
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
        document: document::<core::v1::Secret>,
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
        document: document::<core::v1::ServiceAccount>,
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
        document: document::<core::v1::ConfigMap>,
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
        document: document::<core::v1::Event>,
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
        document: document::<events::v1::Event>,
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
        document: document::<core::v1::Pod>,
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
        document: document::<coordination::v1::Lease>,
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
        document: document::<apps::v1::Deployment>,
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
        document: document::<apps::v1::DaemonSet>,
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
        document: document::<batch::v1::Job>,
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
        document: document::<apiextensions::CustomResourceDefinition>,
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

/// Services, access, budgets, priorities and admission.
const POLICY_ROWS: &[Row] = &[
    Row {
        builtin: Builtin::Service,
        document: document::<core::v1::Service>,
        group: "",
        plural: "services",
        kind: "Service",
        short: &["svc"],
        categories: &["all"],
        namespaced: true,
        status: true,
        columns: &[
            NAME,
            ("Type", "string", ".spec.type"),
            ("Cluster-IP", "string", ".spec.clusterIP"),
            AGE,
        ],
    },
    Row {
        builtin: Builtin::Role,
        document: document::<rbac::v1::Role>,
        group: "rbac.authorization.k8s.io",
        plural: "roles",
        kind: "Role",
        short: &[],
        categories: &[],
        namespaced: true,
        status: false,
        columns: &[NAME, ("Created At", "date", ".metadata.creationTimestamp")],
    },
    Row {
        builtin: Builtin::RoleBinding,
        document: document::<rbac::v1::RoleBinding>,
        group: "rbac.authorization.k8s.io",
        plural: "rolebindings",
        kind: "RoleBinding",
        short: &[],
        categories: &[],
        namespaced: true,
        status: false,
        columns: &[NAME, ("Role", "string", ".roleRef.name"), AGE],
    },
    Row {
        builtin: Builtin::ClusterRole,
        document: document::<rbac::v1::ClusterRole>,
        group: "rbac.authorization.k8s.io",
        plural: "clusterroles",
        kind: "ClusterRole",
        short: &[],
        categories: &[],
        namespaced: false,
        status: false,
        columns: &[NAME, ("Created At", "date", ".metadata.creationTimestamp")],
    },
    Row {
        builtin: Builtin::ClusterRoleBinding,
        document: document::<rbac::v1::ClusterRoleBinding>,
        group: "rbac.authorization.k8s.io",
        plural: "clusterrolebindings",
        kind: "ClusterRoleBinding",
        short: &[],
        categories: &[],
        namespaced: false,
        status: false,
        columns: &[NAME, ("Role", "string", ".roleRef.name"), AGE],
    },
    Row {
        builtin: Builtin::PodDisruptionBudget,
        document: document::<policy::v1::PodDisruptionBudget>,
        group: "policy",
        plural: "poddisruptionbudgets",
        kind: "PodDisruptionBudget",
        short: &["pdb"],
        categories: &[],
        namespaced: true,
        status: true,
        columns: &[
            NAME,
            ("Min Available", "string", ".spec.minAvailable"),
            ("Max Unavailable", "string", ".spec.maxUnavailable"),
            AGE,
        ],
    },
    Row {
        builtin: Builtin::NetworkPolicy,
        document: document::<networking::v1::NetworkPolicy>,
        group: "networking.k8s.io",
        plural: "networkpolicies",
        kind: "NetworkPolicy",
        short: &["netpol"],
        categories: &[],
        namespaced: true,
        status: false,
        columns: &[NAME, AGE],
    },
    Row {
        builtin: Builtin::PriorityClass,
        document: document::<scheduling::v1::PriorityClass>,
        group: "scheduling.k8s.io",
        plural: "priorityclasses",
        kind: "PriorityClass",
        short: &["pc"],
        categories: &[],
        namespaced: false,
        status: false,
        columns: &[
            NAME,
            ("Value", "integer", ".value"),
            ("Global-Default", "boolean", ".globalDefault"),
            AGE,
        ],
    },
    Row {
        builtin: Builtin::ValidatingAdmissionPolicy,
        document: document::<admission::ValidatingAdmissionPolicy>,
        group: "admissionregistration.k8s.io",
        plural: "validatingadmissionpolicies",
        kind: "ValidatingAdmissionPolicy",
        short: &[],
        categories: &["api-extensions"],
        namespaced: false,
        status: true,
        columns: &[NAME, AGE],
    },
    Row {
        builtin: Builtin::ValidatingAdmissionPolicyBinding,
        document: document::<admission::ValidatingAdmissionPolicyBinding>,
        group: "admissionregistration.k8s.io",
        plural: "validatingadmissionpolicybindings",
        kind: "ValidatingAdmissionPolicyBinding",
        short: &[],
        categories: &["api-extensions"],
        namespaced: false,
        status: false,
        columns: &[NAME, ("PolicyName", "string", ".spec.policyName"), AGE],
    },
    Row {
        builtin: Builtin::ValidatingWebhookConfiguration,
        document: document::<admission::ValidatingWebhookConfiguration>,
        group: "admissionregistration.k8s.io",
        plural: "validatingwebhookconfigurations",
        kind: "ValidatingWebhookConfiguration",
        short: &[],
        categories: &["api-extensions"],
        namespaced: false,
        status: false,
        columns: &[NAME, ("Webhooks", "integer", "=count:webhooks"), AGE],
    },
];
