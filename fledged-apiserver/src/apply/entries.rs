//! `managedFields`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::fields::FieldSet;

/// How many managers that update (and don't apply) are told apart; more are folded into one, as the API server
/// does.
const MOST_UPDATERS: usize = 10;

/// The name that updates of the oldest managers go by.
const ANCIENT: &str = "ancient-changes";

/// One who owns fields.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Owner {
    pub(crate) manager: String,
    /// `Apply` or `Update`.
    pub(crate) operation: &'static str,
    /// The version of an update. An applier is one, whatever the versions it applies.
    pub(crate) version: String,
    pub(crate) subresource: String,
}

/// What an owner owns.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Owned {
    pub(crate) fields: FieldSet,
    pub(crate) version: String,
    pub(crate) time: Option<String>,
}

/// All owners of an object's fields.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Managers(pub(super) BTreeMap<Owner, Owned>);

impl Managers {
    /// Reads `managedFields`; entries that make no sense make all of them useless.
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

    /// Folds the oldest updates into one, if there are too many.
    pub(super) fn cap(&mut self) {
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
            // Folding the first one only gives it another name.
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
