//! Server-side apply: `managedFields`, who owns which field after a write, and merging what is applied.

mod fields;
mod merge;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::error::{ApiError, ApiResult};
use crate::kinds::{Builtin, Resource, convert_path};
use fields::{FieldChange, FieldSet, field, remove};
use merge::{check_typed, merge, nothing_of};

/// The author of a write.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    pub(crate) manager: String,
    pub(crate) subresource: String,
    /// The time of the write.
    pub(crate) now: String,
}

fn paths(list: &[&[&str]]) -> FieldSet {
    let mut set = FieldSet::default();
    for path in list {
        set.insert(&path.iter().map(|name| field(name)).collect::<Vec<_>>());
    }
    set
}

/// Fields without an owner.
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

/// Fields that a write to a subresource does not change.
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
    owned.fields.renamed(renamed)
}

/// Removes changed fields from the other owners.
fn disown(
    managers: &mut Managers,
    writer: &Owner,
    change: &FieldChange,
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

/// The object without `managedFields`, for comparison.
fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

/// Records the ownership of an update of `live` (none for a new object) in `new`.
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
    // An object without managed fields gets none before the first apply.
    if live.is_some() && managers.is_empty() {
        managers.write(new);
        return;
    }
    let old = live.map_or_else(|| nothing_of(new, resource), bare);
    let change = FieldChange::between(&old, &bare(new), &resource.schema);
    let change = change.without(&untouched(resource, &writer.subresource));
    let myself = Owner {
        // A name that no client has, so that the earlier fields of the writer count as another owner's.
        manager: String::new(),
        operation: "Update",
        version: resource.api_version(),
        subresource: String::new(),
    };
    // A forced update has no conflicts.
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

/// Applies a configuration to an object (none for a new object).
///
/// # Errors
///
/// Conflicts, unless forced.
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
    let change = FieldChange::between(&live_bare, &object, schema)
        .without(&untouched(resource, &writer.subresource));
    disown(&mut managers, &owner, &change, resource, force)?;
    let fields = set.difference(&unowned());
    match fields.is_empty() {
        true => {
            managers.0.remove(&owner);
        }
        false => {
            // Owning an unchanged field does not change the time.
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

/// Checks a configuration against the schema.
///
/// # Errors
///
/// Fields and values that the schema does not allow.
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

/// Removes fields that the manager applied before and does not apply now, unless another manager owns them.
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
    // Only fields that the same manager applied before are removed.
    let keep = FieldSet::of(&pruned, schema).with_named_fields(schema);
    let dangling = everything.difference(&keep).intersection(&gone);
    remove(&merged, &dangling, schema)
}

/// The number of managers that update (and don't apply) with an entry of their own. The oldest of the others share
/// one entry, as on the API server.
const MOST_UPDATERS: usize = 10;

/// The manager of the shared entry of the oldest updates.
const ANCIENT: &str = "ancient-changes";

/// An owner of fields.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner {
    pub(crate) manager: String,
    /// `Apply` or `Update`.
    pub(crate) operation: &'static str,
    /// The version of an update; empty for an apply, which has one entry for all versions.
    pub(crate) version: String,
    pub(crate) subresource: String,
}

/// The fields of an owner.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Owned {
    pub(crate) fields: FieldSet,
    pub(crate) version: String,
    pub(crate) time: Option<String>,
}

/// All owners of an object's fields.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Managers(BTreeMap<Owner, Owned>);

impl Managers {
    /// Reads `managedFields`; none if any entry is malformed.
    pub(crate) fn of(object: &Value) -> Option<Self> {
        let entries = object.get("metadata").and_then(|m| m.get("managedFields"));
        let mut managers = BTreeMap::new();
        for entry in entries.and_then(Value::as_array).into_iter().flatten() {
            let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
            let operation = match text("operation") {
                "Apply" => "Apply",
                "Update" => "Update",
                _ => return None,
            };
            if text("fieldsType") != "FieldsV1"
                || !entry.get("fieldsV1").is_some_and(Value::is_object)
            {
                return None;
            }
            let version = text("apiVersion").to_owned();
            let owner = Owner {
                manager: text("manager").to_owned(),
                operation,
                version: if operation == "Apply" {
                    String::new()
                } else {
                    version.clone()
                },
                subresource: text("subresource").to_owned(),
            };
            let owned = Owned {
                fields: entry
                    .get("fieldsV1")
                    .map(FieldSet::from_json)
                    .unwrap_or_default(),
                version,
                time: entry.get("time").and_then(Value::as_str).map(str::to_owned),
            };
            managers.insert(owner, owned);
        }
        Some(Self(managers))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Merges the oldest updates into one entry, if there are too many.
    fn cap(&mut self) {
        let updaters = |managers: &Self| -> Vec<(Option<String>, Owner)> {
            let all = managers
                .0
                .iter()
                .filter(|(owner, _)| owner.operation == "Update");
            let mut all: Vec<_> = all
                .map(|(owner, owned)| (owned.time.clone(), owner.clone()))
                .collect();
            all.sort();
            all
        };
        let mut all = updaters(self);
        while all.len() > MOST_UPDATERS {
            let Some((_, oldest)) = all
                .iter()
                .find(|(_, owner)| owner.manager != ANCIENT)
                .cloned()
            else {
                return;
            };
            let Some(owned) = self.0.remove(&oldest) else {
                return;
            };
            let ancient = Owner {
                manager: ANCIENT.into(),
                subresource: String::new(),
                ..oldest
            };
            let fields = self.0.get(&ancient).map_or_else(
                || owned.fields.clone(),
                |old| old.fields.union(&owned.fields),
            );
            self.0.insert(ancient, Owned { fields, ..owned });
            let now = updaters(self);
            // Merging the first one only renames it.
            if now.len() == all.len()
                && now.iter().filter(|(_, o)| o.manager == ANCIENT).count() > 1
            {
                return;
            }
            all = now;
        }
    }

    /// Writes `managedFields` into an object.
    pub(crate) fn write(&self, object: &mut Value) {
        let mut entries: Vec<(&Owner, &Owned)> = self
            .0
            .iter()
            .filter(|(_, owned)| !owned.fields.is_empty())
            .collect();
        entries.sort_by_key(|(owner, owned)| {
            (
                owner.operation,
                &owned.time,
                &owner.manager,
                &owned.version,
                &owner.subresource,
            )
        });
        let entries: Vec<Value> = entries
            .into_iter()
            .map(|(owner, owned)| entry(owner, owned))
            .collect();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            match entries.is_empty() {
                true => metadata.remove("managedFields"),
                false => metadata.insert("managedFields".into(), entries.into()),
            };
        }
    }
}

fn entry(owner: &Owner, owned: &Owned) -> Value {
    let mut entry = Map::new();
    entry.insert("apiVersion".into(), owned.version.clone().into());
    entry.insert("fieldsType".into(), "FieldsV1".into());
    entry.insert("fieldsV1".into(), owned.fields.to_json());
    entry.insert("manager".into(), owner.manager.clone().into());
    entry.insert("operation".into(), owner.operation.into());
    if !owner.subresource.is_empty() {
        entry.insert("subresource".into(), owner.subresource.clone().into());
    }
    if let Some(time) = &owned.time {
        entry.insert("time".into(), json!(time));
    }
    Value::Object(entry)
}
