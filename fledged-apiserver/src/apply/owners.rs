//! Who owns the fields of an object after a write.

use serde_json::Value;

use super::change::Change;
use super::entries::{Managers, Owned, Owner};
use super::fields::{FieldSet, field};
use super::merge::{check_typed, merge, nothing_of};
use super::remove::remove;
use crate::error::{ApiError, ApiResult};
use crate::kinds::{Builtin, Resource, convert_path};

/// One who writes.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    pub(crate) manager: String,
    pub(crate) subresource: String,
    /// The time of the write, as it is recorded.
    pub(crate) now: String,
}

fn paths(list: &[&[&str]]) -> FieldSet {
    let mut set = FieldSet::default();
    for path in list {
        set.insert(&path.iter().map(|name| field(name)).collect::<Vec<_>>());
    }
    set
}

/// Fields that nobody owns.
fn unowned() -> FieldSet {
    paths(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
}

/// Fields that a write to that endpoint leaves as they are.
fn untouched(resource: &Resource, subresource: &str) -> FieldSet {
    match (subresource, resource.is_custom()) {
        ("status", true) => paths(&[&["metadata"], &["spec"]]),
        ("status", false) if resource.builtin == Some(Builtin::Deployment) => {
            paths(&[&["spec"], &["metadata", "labels"]])
        }
        ("status", false) => paths(&[&["spec"]]),
        _ if resource.status => paths(&[&["status"]]),
        _ => FieldSet::default(),
    }
}

fn shown(owner: &Owner, owned: &Owned) -> String {
    let mut text = format!("{:?}", owner.manager);
    if !owner.subresource.is_empty() {
        text.push_str(&format!(" with subresource {:?}", owner.subresource));
    }
    if owner.operation == "Update" {
        text.push_str(&format!(" using {}", owned.version));
    }
    text
}

/// The fields of an owner in the version that is written.
fn in_version(owned: &Owned, resource: &Resource) -> FieldSet {
    let version = resource.api_version();
    let renamed = |element: &String| match element.strip_prefix("f:") {
        Some(name) => field(convert_path(name, resource, &owned.version, &version)),
        None => element.clone(),
    };
    FieldSet {
        members: owned.fields.members.iter().map(renamed).collect(),
        children: owned
            .fields
            .children
            .iter()
            .map(|(element, set)| (renamed(element), set.clone()))
            .collect(),
    }
}

/// Takes from the other owners what a change concerns.
fn disown(
    managers: &mut Managers,
    writer: &Owner,
    change: &Change,
    resource: &Resource,
    force: bool,
) -> ApiResult<()> {
    let taken = change.modified.union(&change.added);
    let mut conflicts = Vec::new();
    let mut left = Managers::default();
    for (owner, owned) in &managers.0 {
        let mut owned = owned.clone();
        if owner != writer {
            let fields = in_version(&owned, resource);
            let conflict = fields.intersection(&taken);
            if !conflict.is_empty() {
                let manager = shown(owner, &owned);
                conflicts.extend(
                    conflict
                        .paths()
                        .into_iter()
                        .map(|path| (manager.clone(), path)),
                );
            }
            let remaining = fields.difference(&conflict).difference(&change.removed);
            if remaining != fields {
                owned.fields = remaining;
                owned.version = resource.api_version();
            }
        }
        if !owned.fields.is_empty() {
            left.0.insert(owner.clone(), owned);
        }
    }
    if !force && !conflicts.is_empty() {
        return Err(ApiError::apply_conflict(conflicts));
    }
    *managers = left;
    Ok(())
}

/// The live object, without what is not compared.
fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

/// Records in `new` what an update of `live` (none for a new object) did.
pub(crate) fn record_update(
    live: Option<&Value>,
    new: &mut Value,
    resource: &Resource,
    writer: &Writer,
) {
    let reset = new
        .get("metadata")
        .and_then(|m| m.get("managedFields"))
        .and_then(Value::as_array)
        .is_some_and(
            |entries| matches!(entries.as_slice(), [Value::Object(entry)] if entry.is_empty()),
        );
    let before = live.and_then(Managers::of);
    let given =
        Managers::of(new).filter(|managers| !managers.is_empty() && writer.subresource.is_empty());
    let mut managers = match (reset, given, before) {
        (true, ..) => Managers::default(),
        (_, Some(given), _) => given,
        (_, None, before) => before.unwrap_or_default(),
    };
    // Objects that were never tracked stay so until somebody applies.
    if live.is_some() && managers.is_empty() {
        managers.write(new);
        return;
    }
    let old = live.map_or_else(|| nothing_of(new, resource), bare);
    let change = Change::between(&old, &bare(new), &resource.schema);
    let change = change.without(&untouched(resource, &writer.subresource));
    let myself = Owner {
        // No client goes by that name: the writer's own earlier fields are another owner's for now.
        manager: String::new(),
        operation: "Update",
        version: resource.api_version(),
        subresource: String::new(),
    };
    // Forced, so that there are no conflicts to fail on.
    let _ = disown(&mut managers, &myself, &change, resource, true);
    let owned = change.added.union(&change.modified);
    let owned = owned.difference(&unowned());
    if !owned.is_empty() {
        let owner = Owner {
            manager: writer.manager.clone(),
            subresource: writer.subresource.clone(),
            ..myself
        };
        let before = managers
            .0
            .get(&owner)
            .map(|before| in_version(before, resource))
            .unwrap_or_default();
        let owned = Owned {
            fields: owned.union(&before),
            version: resource.api_version(),
            time: Some(writer.now.clone()),
        };
        managers.0.insert(owner, owned);
    }
    managers.cap();
    managers.write(new);
}

/// Applies a configuration to an object (none if it is not there yet).
///
/// # Errors
///
/// Conflicts, unless they are forced; a configuration that the schema has no place for.
pub(crate) fn apply(
    live: Option<&Value>,
    applied: &Value,
    resource: &Resource,
    writer: &Writer,
    force: bool,
) -> ApiResult<Value> {
    let schema = &resource.schema;
    let has_content = live.is_some();
    let nothing = nothing_of(applied, resource);
    let live = live.unwrap_or(&nothing);
    let mut managers = Managers::of(live).unwrap_or_default();
    let live_bare = bare(live);
    if managers.is_empty() && has_content {
        let fields = FieldSet::of(&live_bare, schema).difference(&unowned());
        let owner = Owner {
            manager: "before-first-apply".into(),
            operation: "Update",
            version: resource.api_version(),
            subresource: String::new(),
        };
        let time = Some(writer.now.clone());
        managers.0.insert(
            owner,
            Owned {
                fields,
                version: resource.api_version(),
                time,
            },
        );
    }
    let owner = Owner {
        manager: writer.manager.clone(),
        operation: "Apply",
        version: String::new(),
        subresource: writer.subresource.clone(),
    };
    let last = managers.0.get(&owner).cloned();
    let last_fields = last
        .as_ref()
        .map(|owned| in_version(owned, resource))
        .unwrap_or_default();
    let set = FieldSet::of(applied, schema).without(&untouched(resource, &writer.subresource));
    let merged = merge(&live_bare, applied, schema);
    managers.0.insert(
        owner.clone(),
        Owned {
            fields: set.clone(),
            version: resource.api_version(),
            time: last.as_ref().and_then(|l| l.time.clone()),
        },
    );
    let mut object = prune(merged, &last_fields, &managers, resource);
    let change = Change::between(&live_bare, &object, schema)
        .without(&untouched(resource, &writer.subresource));
    disown(&mut managers, &owner, &change, resource, force)?;
    let fields = set.difference(&unowned());
    match fields.is_empty() {
        true => {
            managers.0.remove(&owner);
        }
        false => {
            // Owning what is there already changes nothing, and has no time.
            let time = match change.is_none() {
                true => last.and_then(|last| last.time),
                false => Some(writer.now.clone()),
            };
            managers.0.insert(
                owner,
                Owned {
                    fields,
                    version: resource.api_version(),
                    time,
                },
            );
        }
    }
    managers.write(&mut object);
    Ok(object)
}

/// Checks that an object can be applied.
///
/// # Errors
///
/// What the schema has no place for.
pub(crate) fn check_configuration(applied: &Value, resource: &Resource) -> ApiResult<()> {
    let mut faults = Vec::new();
    check_typed(applied, &resource.schema, "", &mut faults);
    if faults.is_empty() {
        return Ok(());
    }
    let of = |field: &str| {
        applied
            .get("metadata")
            .and_then(|m| m.get(field))
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let listed = match faults.as_slice() {
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    let message = format!(
        "failed to create typed patch object ({}/{}; {}, Kind={}): {listed}",
        of("namespace"),
        of("name"),
        resource.api_version(),
        resource.kind
    );
    Err(ApiError::new(500, "", message))
}

/// Takes out what was applied before and isn't any more, unless somebody else owns it.
fn prune(merged: Value, last: &FieldSet, managers: &Managers, resource: &Resource) -> Value {
    if last.is_empty() {
        return merged;
    }
    let schema = &resource.schema;
    let gone = last.with_named_fields(schema);
    let pruned = remove(&merged, &gone, schema);
    let everything = FieldSet::of(&merged, schema).with_named_fields(schema);
    let owned = managers.0.values().fold(FieldSet::default(), |set, owned| {
        set.union(&in_version(owned, resource))
    });
    let owned = owned.with_named_fields(schema);
    let keep = FieldSet::of(&pruned, schema)
        .with_named_fields(schema)
        .union(&owned);
    let pruned = remove(&merged, &everything.difference(&keep), schema);
    // Only what was applied by the same manager before may go.
    let keep = FieldSet::of(&pruned, schema).with_named_fields(schema);
    let dangling = everything.difference(&keep).intersection(&gone);
    remove(&merged, &dangling, schema)
}
