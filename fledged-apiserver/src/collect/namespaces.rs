//! Ending namespaces.

use std::collections::BTreeSet;

use super::finalizers::{change, drop_finalizer};
use crate::api::{Api, Deletion, delete_selected};
use crate::select::Selection;
use crate::store::{Key, ObjectRef, Snapshot};

/// Deletes what is in a namespace that is going away, and the namespace once nothing is left.
pub(super) fn finish(api: &Api, namespace: &str) {
    let selection = Selection {
        namespace: namespace.to_owned(),
        ..Selection::default()
    };
    let deletion = Deletion {
        propagation: Some("Background".to_owned()),
        ..Deletion::default()
    };
    let mut tables = BTreeSet::new();
    let mut left = 0;
    for resource in api
        .catalogue
        .all()
        .iter()
        .filter(|resource| resource.namespaced)
    {
        if !tables.insert(resource.table.clone()) {
            continue;
        }
        let objects = || {
            let listed = api.store.list(&resource.table, namespace, Snapshot::Now);
            listed.map(|listed| listed.objects).unwrap_or_default()
        };
        if objects().iter().any(|object| !object.is_deleting()) {
            // What can't be deleted now holds the namespace back.
            let _ = delete_selected(api, resource, &selection, &deletion);
        }
        left += objects().len();
    }
    if left == 0 {
        let at = ObjectRef {
            table: "namespaces".into(),
            key: Key::new("", namespace),
        };
        change(api, &at, |value| {
            drop_finalizer(value, "spec", "kubernetes")
        });
    }
}
