//! Garbage collection by owner references.

use std::sync::Arc;

use serde_json::Value;

use super::finalizers::{change, drop_finalizer};
use crate::api::{Api, Deletion, FOREGROUND, ORPHAN, delete};
use crate::store::{Key, Object, ObjectRef};

/// What has become of an owner.
enum Owner {
    There,
    /// It waits for its dependents to go first.
    Waiting,
    Gone,
    /// It can't be told.
    Unknown,
}

fn text<'v>(owner: &'v Value, field: &str) -> &'v str {
    owner.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn find(api: &Api, owner: &Value, dependent: &Object) -> Owner {
    let Some(resource) = api
        .catalogue
        .find_kind(text(owner, "apiVersion"), text(owner, "kind"))
    else {
        return Owner::Unknown;
    };
    let namespace = match (resource.namespaced, dependent.metadata_str("namespace")) {
        (false, _) => "",
        // What is in no namespace can't be owned by something that is.
        (true, "") => return Owner::Unknown,
        (true, namespace) => namespace,
    };
    let found = api
        .store
        .get(&resource.table, &Key::new(namespace, text(owner, "name")));
    match found.filter(|found| found.uid() == text(owner, "uid")) {
        None => Owner::Gone,
        Some(found) => {
            let blocks = owner.get("blockOwnerDeletion") == Some(&Value::Bool(true));
            match found.is_deleting() && found.finalizers().contains(&FOREGROUND) && blocks {
                true => Owner::Waiting,
                false => Owner::There,
            }
        }
    }
}

/// Deletes an object whose owners are gone.
pub(super) fn check(api: &Api, at: &ObjectRef) {
    let Some(object) = api.store.get(&at.table, &at.key) else {
        return;
    };
    let Some(resource) = api.catalogue.of_table(&at.table) else {
        return;
    };
    let (mut there, mut waiting, mut lost) = (false, false, Vec::new());
    for owner in object.owners() {
        match find(api, owner, &object) {
            Owner::There => there = true,
            Owner::Waiting => {
                waiting = true;
                lost.push(text(owner, "uid").to_owned());
            }
            Owner::Gone => lost.push(text(owner, "uid").to_owned()),
            Owner::Unknown => return,
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
    // One that is gone, or another one by now, needs no deletion.
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

/// Does for an object that is marked for deletion what its finalizers ask of the garbage collector.
pub(super) fn finish(api: &Api, at: &ObjectRef) {
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
                check(api, &dependent);
            }
        }
    }
}

fn dependents(api: &Api, owner: &Arc<Object>) -> Vec<ObjectRef> {
    api.store.dependents(owner.uid())
}
