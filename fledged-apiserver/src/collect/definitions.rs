//! Beginning and ending to serve what CRDs define.

use std::collections::BTreeMap;

use serde_json::Value;

use super::collector::CRDS;
use super::finalizers::{change, drop_finalizer};
use crate::api::{Api, CLEANUP, Deletion, delete_selected};
use crate::kinds::{accepted_status, served_by};
use crate::select::Selection;
use crate::store::{Key, ObjectRef, Snapshot};

/// The CRDs that are served, with the generation that is.
#[derive(Default)]
pub(super) struct Definitions {
    served: BTreeMap<String, Value>,
}

fn at(name: &str) -> ObjectRef {
    ObjectRef {
        table: CRDS.into(),
        key: Key::new("", name),
    }
}

impl Definitions {
    /// Serves what a CRD defines, and says so in its status.
    pub(super) fn define(&mut self, api: &Api, name: &str) {
        let Some(crd) = api.store.get(CRDS, &Key::new("", name)) else {
            return;
        };
        let now = api.now();
        let mut status = accepted_status(&crd.value, &now);
        let taken = taken_kind(api, name, &crd.value);
        if let Some(kind) = &taken {
            status = refused_status(&status, kind);
        }
        change(api, &at(name), |value| {
            if let Some(fields) = value.as_object_mut() {
                fields.insert("status".into(), status.clone());
            }
        });
        let Some(crd) = api.store.get(CRDS, &Key::new("", name)) else {
            return;
        };
        let spec = crd.value.get("spec").cloned().unwrap_or_default();
        if taken.is_some() || self.served.get(name) == Some(&spec) {
            return;
        }
        api.catalogue.define(name, served_by(&crd.value));
        if self.served.insert(name.to_owned(), spec).is_some() {
            // Whoever watches must see the objects as they are defined now.
            api.store.cut_watches_of(name);
        }
    }

    /// Deletes the objects of a CRD that is going away, and the CRD once none is left.
    pub(super) fn finish(&mut self, api: &Api, name: &str) {
        let Some(resource) = api.catalogue.of_table(name) else {
            change(api, &at(name), |value| {
                drop_finalizer(value, "metadata", CLEANUP)
            });
            return;
        };
        let objects = || {
            api.store
                .list(name, "", Snapshot::Now)
                .map(|listed| listed.objects)
                .unwrap_or_default()
        };
        if objects().iter().any(|object| !object.is_deleting()) {
            // What can't be deleted now holds the CRD back.
            let _ = delete_selected(api, &resource, &Selection::default(), &Deletion::default());
        }
        if objects().is_empty() {
            change(api, &at(name), |value| {
                drop_finalizer(value, "metadata", CLEANUP)
            });
        }
    }

    /// Ends what a CRD defined that is gone.
    pub(super) fn forget(&mut self, api: &Api, name: &str) {
        self.served.remove(name);
        api.catalogue.define(name, Vec::new());
        api.store.cut_watches_of(name);
    }
}

/// The kind of a CRD, if another one in its group has it.
fn taken_kind(api: &Api, name: &str, crd: &Value) -> Option<String> {
    let spec = crd.get("spec")?;
    let group = spec.get("group")?.as_str()?;
    let kind = spec.get("names")?.get("kind")?.as_str()?;
    let taken = api
        .catalogue
        .all()
        .iter()
        .any(|other| other.group == group && other.kind == kind && *other.table != *name);
    taken.then(|| kind.to_owned())
}

fn refused_status(status: &Value, kind: &str) -> Value {
    let mut status = status.clone();
    if let Some(fields) = status.as_object_mut() {
        fields.insert(
            "acceptedNames".into(),
            serde_json::json!({"plural": "", "kind": ""}),
        );
    }
    for condition in status
        .get_mut("conditions")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let is_names = condition.get("type") == Some(&"NamesAccepted".into());
        let Some(fields) = condition.as_object_mut() else {
            continue;
        };
        let (reason, message) = match is_names {
            true => ("KindConflict", format!("\"{kind}\" is already in use")),
            false => ("NotAccepted", "not all names are accepted".to_owned()),
        };
        fields.insert("status".into(), "False".into());
        fields.insert("reason".into(), reason.into());
        fields.insert("message".into(), message.into());
    }
    status
}
