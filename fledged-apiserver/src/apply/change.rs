//! What differs between two states of an object.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::fields::{Element, FieldSet, field, item};
use crate::schema::Schema;

/// The fields that differ.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

impl Change {
    pub(super) fn between(old: &Value, new: &Value, schema: &Schema) -> Self {
        let mut change = Self::default();
        let mut path = Vec::new();
        change.walk(Some(old), Some(new), schema, &mut path);
        change
    }

    /// The same change, but for some fields and what is below them.
    pub(super) fn without(&self, fields: &FieldSet) -> Self {
        Self {
            added: self.added.without(fields),
            modified: self.modified.without(fields),
            removed: self.removed.without(fields),
        }
    }

    pub(super) fn is_none(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    fn walk(
        &mut self,
        old: Option<&Value>,
        new: Option<&Value>,
        schema: &Schema,
        path: &mut Vec<Element>,
    ) {
        let is_empty = |value: Option<&Value>| match value {
            None | Some(Value::Null) => true,
            Some(Value::Object(fields)) => fields.is_empty(),
            Some(Value::Array(items)) => items.is_empty(),
            Some(_) => false,
        };
        let leaf = |value: Option<&Value>| value.is_none_or(|value| schema.is_leaf(value));
        if (leaf(old) && leaf(new)) || (is_empty(old) && is_empty(new)) {
            match (old, new) {
                (None, Some(_)) => self.added.insert(path),
                (Some(_), None) => self.removed.insert(path),
                (Some(old), Some(new)) if old != new => self.modified.insert(path),
                _ => {}
            }
            return;
        }
        if leaf(old) != leaf(new) && old.is_some() && new.is_some() {
            self.modified.insert(path);
        }
        let (old_fields, new_fields) = (fields(old), fields(new));
        let names: BTreeSet<&String> = [old_fields, new_fields]
            .into_iter()
            .flatten()
            .flat_map(Map::keys)
            .collect();
        for name in names {
            path.push(field(name));
            let old = old_fields.and_then(|fields| fields.get(name));
            let new = new_fields.and_then(|fields| fields.get(name));
            self.walk(old, new, schema.merged_field(name), path);
            path.pop();
        }
        let (old_items, new_items) = (items(old, schema), items(new, schema));
        let elements: BTreeSet<&Element> = old_items.keys().chain(new_items.keys()).collect();
        for element in elements {
            path.push(element.clone());
            let (old, new) = (old_items.get(element), new_items.get(element));
            self.walk(old.copied(), new.copied(), schema.items_or_any(), path);
            path.pop();
        }
        match (old, new) {
            (None, Some(_)) => self.added.insert(path),
            (Some(_), None) => self.removed.insert(path),
            _ => {}
        }
    }
}

fn fields(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

fn items<'v>(value: Option<&'v Value>, schema: &Schema) -> BTreeMap<Element, &'v Value> {
    let items = value.and_then(Value::as_array);
    let items = items.into_iter().flatten();
    items
        .filter_map(|value| Some((item(value, schema)?, value)))
        .collect()
}
