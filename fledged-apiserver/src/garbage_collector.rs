//! The controllers that finish writes: garbage collection by owner, termination of namespaces, serving of CRDs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::api::{Api, CLEANUP, Deletion, FOREGROUND, ORPHAN, delete, delete_selected, is_done};
use crate::kinds::{accepted_status, served_by};
use crate::object_store::{CRDS, FollowUp, Key, Object, ObjectRef, Snapshot};
use crate::selectors::Selection;

/// Runs until the store is dropped.
pub(crate) async fn collect(api: Arc<Api>, mut follow_ups: mpsc::UnboundedReceiver<FollowUp>) {
    let mut definitions = Definitions::default();
    while let Some(left) = follow_ups.recv().await {
        handle(&api, &mut definitions, left);
        // A long queue must not block requests.
        tokio::task::yield_now().await;
    }
}

fn handle(api: &Api, definitions: &mut Definitions, left: FollowUp) {
    match left {
        FollowUp::Owned(at) => check_owners(api, &at),
        FollowUp::Defined(name) => definitions.define(api, &name),
        FollowUp::Deleting(at) => match &*at.table {
            CRDS => definitions.finish(api, &at.key.name),
            "namespaces" => {
                finish_namespace(api, &at.key.name);
                finish_deletion(api, &at);
            }
            _ => finish_deletion(api, &at),
        },
        FollowUp::Gone {
            table,
            key,
            uid,
            owners,
        } => {
            for dependent in api.store.dependents(&uid) {
                check_owners(api, &dependent);
            }
            for owner in owners {
                if let Some((at, _)) = api.store.by_uid(&owner) {
                    finish_deletion(api, &at);
                }
            }
            if &*table == CRDS {
                definitions.forget(api, &key.name);
                return;
            }
            let is_deleting = |table: &str, name: &str| {
                api.store
                    .get(table, &Key::new("", name))
                    .is_some_and(|object| object.is_deleting())
            };
            if !key.namespace.is_empty() && is_deleting("namespaces", &key.namespace) {
                finish_namespace(api, &key.namespace);
            }
            // A table of custom resources has the name of its CRD.
            if is_deleting(CRDS, &table) {
                definitions.finish(api, &table);
            }
        }
    }
}

/// Edits an object, retrying on conflicts, and removes it if it is marked for deletion and no finalizer is left.
fn change(api: &Api, at: &ObjectRef, edit: impl Fn(&mut Value)) {
    let Some(resource) = api.catalogue.of_table(&at.table) else {
        return;
    };
    while let Some(live) = api.store.get(&at.table, &at.key) {
        let mut value = live.value.clone();
        edit(&mut value);
        let written = match (value == live.value, is_done(&value, &resource)) {
            (_, true) => api.store.remove(at, &live, value),
            (true, false) => return,
            (false, false) => api.store.put(at, Some(&live), value),
        };
        if written.is_ok() {
            return;
        }
    }
}

/// Removes a finalizer from the list in `holder` (`metadata` or `spec`).
fn drop_finalizer(value: &mut Value, holder: &str, name: &str) {
    let Some(holder) = value.get_mut(holder).and_then(Value::as_object_mut) else {
        return;
    };
    let Some(list) = holder.get_mut("finalizers").and_then(Value::as_array_mut) else {
        return;
    };
    list.retain(|finalizer| finalizer != name);
    if list.is_empty() {
        holder.remove("finalizers");
    }
}

/// The state of an owner.
enum OwnerState {
    There,
    /// Deleted in the foreground: it waits for its dependents.
    Waiting,
    Gone,
    /// Of a kind that is not served, or in another scope.
    Unknown,
}

fn text<'v>(owner: &'v Value, field: &str) -> &'v str {
    owner.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn find_owner(api: &Api, owner: &Value, dependent: &Object) -> OwnerState {
    let Some(resource) = api
        .catalogue
        .find_kind(text(owner, "apiVersion"), text(owner, "kind"))
    else {
        return OwnerState::Unknown;
    };
    let namespace = match (resource.namespaced, dependent.metadata_str("namespace")) {
        (false, _) => "",
        // A cluster-scoped object can't have a namespaced owner.
        (true, "") => return OwnerState::Unknown,
        (true, namespace) => namespace,
    };
    let found = api
        .store
        .get(&resource.table, &Key::new(namespace, text(owner, "name")));
    match found.filter(|found| found.uid() == text(owner, "uid")) {
        None => OwnerState::Gone,
        Some(found) => {
            let blocks = owner.get("blockOwnerDeletion") == Some(&Value::Bool(true));
            match found.is_deleting() && found.finalizers().contains(&FOREGROUND) && blocks {
                true => OwnerState::Waiting,
                false => OwnerState::There,
            }
        }
    }
}

/// Deletes an object whose owners are gone.
fn check_owners(api: &Api, at: &ObjectRef) {
    let Some(object) = api.store.get(&at.table, &at.key) else {
        return;
    };
    let Some(resource) = api.catalogue.of_table(&at.table) else {
        return;
    };
    let (mut there, mut waiting, mut lost) = (false, false, Vec::new());
    for owner in object.owners() {
        match find_owner(api, owner, &object) {
            OwnerState::There => there = true,
            OwnerState::Waiting => {
                waiting = true;
                lost.push(text(owner, "uid").to_owned());
            }
            OwnerState::Gone => lost.push(text(owner, "uid").to_owned()),
            OwnerState::Unknown => return,
        }
    }
    if lost.is_empty() {
        return;
    }
    if there {
        change(api, at, |value| drop_owners(value, &lost));
        return;
    }
    let has_dependents = !api.store.dependents(object.uid()).is_empty();
    let held = object.finalizers();
    let propagation = match (
        waiting && has_dependents,
        held.contains(&ORPHAN),
        held.contains(&FOREGROUND),
    ) {
        (true, ..) => "Foreground",
        (_, true, _) => "Orphan",
        (_, _, true) => "Foreground",
        _ => "Background",
    };
    let deletion = Deletion {
        propagation: Some(propagation.to_owned()),
        uid: Some(object.uid().to_owned()),
        ..Deletion::default()
    };
    // An object that is gone or was replaced needs no deletion.
    let _ = delete(api, &resource, at, &deletion);
}

fn drop_owners(value: &mut Value, uids: &[String]) {
    let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    let Some(owners) = metadata
        .get_mut("ownerReferences")
        .and_then(Value::as_array_mut)
    else {
        return;
    };
    owners.retain(|owner| !uids.iter().any(|uid| uid == text(owner, "uid")));
    if owners.is_empty() {
        metadata.remove("ownerReferences");
    }
}

/// Handles the garbage collector's finalizers of an object that is marked for deletion.
fn finish_deletion(api: &Api, at: &ObjectRef) {
    let Some(object) = api
        .store
        .get(&at.table, &at.key)
        .filter(|object| object.is_deleting())
    else {
        return;
    };
    let uid = [object.uid().to_owned()];
    if object.finalizers().contains(&ORPHAN) {
        for dependent in dependents(api, &object) {
            change(api, &dependent, |value| drop_owners(value, &uid));
        }
        change(api, at, |value| drop_finalizer(value, "metadata", ORPHAN));
    }
    if object.finalizers().contains(&FOREGROUND) {
        let blocking = |dependent: &ObjectRef| {
            let found = api.store.get(&dependent.table, &dependent.key);
            found.is_some_and(|found| {
                found.owners().iter().any(|owner| {
                    text(owner, "uid") == object.uid()
                        && owner.get("blockOwnerDeletion") == Some(&Value::Bool(true))
                })
            })
        };
        let blocking: Vec<ObjectRef> = dependents(api, &object)
            .into_iter()
            .filter(blocking)
            .collect();
        if blocking.is_empty() {
            change(api, at, |value| {
                drop_finalizer(value, "metadata", FOREGROUND)
            });
        }
        for dependent in blocking {
            let marked = api
                .store
                .get(&dependent.table, &dependent.key)
                .is_none_or(|d| d.is_deleting());
            if !marked {
                check_owners(api, &dependent);
            }
        }
    }
}

fn dependents(api: &Api, owner: &Arc<Object>) -> Vec<ObjectRef> {
    api.store.dependents(owner.uid())
}

/// Deletes the objects in a terminating namespace, and the namespace once it is empty.
fn finish_namespace(api: &Api, namespace: &str) {
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
            // An object that can't be deleted keeps the namespace.
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

/// The CRDs that are served, with the spec that is served.
#[derive(Default)]
struct Definitions {
    served: BTreeMap<String, Value>,
}

fn crd_at(name: &str) -> ObjectRef {
    ObjectRef {
        table: CRDS.into(),
        key: Key::new("", name),
    }
}

impl Definitions {
    /// Serves the resources of a CRD and sets its status.
    fn define(&mut self, api: &Api, name: &str) {
        let Some(crd) = api.store.get(CRDS, &Key::new("", name)) else {
            return;
        };
        let now = api.now();
        let mut status = accepted_status(&crd.value, &now);
        let taken = taken_kind(api, name, &crd.value);
        if let Some(kind) = &taken {
            status = refused_status(&status, kind);
        }
        change(api, &crd_at(name), |value| {
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
            // Watchers must list the objects again in their new form.
            api.store.cut_watches_of(name);
        }
    }

    /// Deletes the objects of a CRD that is being deleted, and the CRD once none is left.
    fn finish(&mut self, api: &Api, name: &str) {
        let Some(resource) = api.catalogue.of_table(name) else {
            change(api, &crd_at(name), |value| {
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
            // An object that can't be deleted keeps the CRD.
            let _ = delete_selected(api, &resource, &Selection::default(), &Deletion::default());
        }
        if objects().is_empty() {
            change(api, &crd_at(name), |value| {
                drop_finalizer(value, "metadata", CLEANUP)
            });
        }
    }

    /// Stops serving the resources of a deleted CRD.
    fn forget(&mut self, api: &Api, name: &str) {
        self.served.remove(name);
        api.catalogue.define(name, Vec::new());
        api.store.cut_watches_of(name);
    }
}

/// The kind of a CRD, if another CRD of the group defines it too.
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
        fields.insert("acceptedNames".into(), json!({"plural": "", "kind": ""}));
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
