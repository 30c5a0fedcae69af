//! Sets of fields as `fieldsV1` has them: their operations, what differs between two states, removal from an object.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::schema::{ListType, Schema, merged_field};

/// A step into an object, as `fieldsV1` writes it: `f:name`, `k:{"key":"value"}`, `v:"value"` or `i:0`.
pub(super) type Element = String;

/// A set of fields. A field and its children are separate members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    members: BTreeSet<Element>,
    children: BTreeMap<Element, FieldSet>,
}

/// The element of a field.
pub(super) fn field(name: &str) -> Element {
    format!("f:{name}")
}

/// The element of an item of a list; none if the item lacks all keys, or the list is atomic.
pub(super) fn item(value: &Value, schema: &Schema) -> Option<Element> {
    match &schema.list {
        ListType::Atomic => None,
        ListType::Set => Some(format!("v:{value}")),
        ListType::Map(keys) => {
            let mut found = Map::new();
            for key in keys {
                let default = schema
                    .items_or_any()
                    .properties
                    .get(key)
                    .and_then(|p| p.default.as_ref());
                if let Some(value) = value.get(key).or(default) {
                    found.insert(key.clone(), value.clone());
                }
            }
            (!found.is_empty()).then(|| format!("k:{}", Value::Object(found)))
        }
    }
}

impl FieldSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.is_empty()
    }

    pub(super) fn insert(&mut self, path: &[Element]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    pub(super) fn contains(&self, element: &str) -> bool {
        self.members.contains(element)
    }

    pub(super) fn below(&self, element: &str) -> Option<&FieldSet> {
        self.children.get(element)
    }

    fn with_children(
        members: BTreeSet<Element>,
        children: impl Iterator<Item = (Element, FieldSet)>,
    ) -> Self {
        Self {
            members,
            children: children.filter(|(_, set)| !set.is_empty()).collect(),
        }
    }

    pub(crate) fn union(&self, other: &Self) -> Self {
        let mut children = self.children.clone();
        for (element, set) in &other.children {
            let merged = children
                .get(element)
                .map_or_else(|| set.clone(), |mine| mine.union(set));
            children.insert(element.clone(), merged);
        }
        let members = self.members.union(&other.members).cloned().collect();
        Self { members, children }
    }

    pub(crate) fn difference(&self, other: &Self) -> Self {
        let members = self.members.difference(&other.members).cloned().collect();
        let children = self.children.iter().map(|(element, set)| {
            let left = other
                .children
                .get(element)
                .map_or_else(|| set.clone(), |o| set.difference(o));
            (element.clone(), left)
        });
        Self::with_children(members, children)
    }

    pub(crate) fn intersection(&self, other: &Self) -> Self {
        let members = self.members.intersection(&other.members).cloned().collect();
        let children = self.children.iter().filter_map(|(element, set)| {
            let other = other.children.get(element)?;
            Some((element.clone(), set.intersection(other)))
        });
        Self::with_children(members, children)
    }

    /// The same set with the elements of the root renamed.
    pub(super) fn renamed(&self, rename: impl Fn(&Element) -> Element) -> Self {
        let children = self.children.iter();
        Self {
            members: self.members.iter().map(&rename).collect(),
            children: children
                .map(|(element, set)| (rename(element), set.clone()))
                .collect(),
        }
    }

    /// Without the fields of a set and everything below them.
    pub(crate) fn without(&self, other: &Self) -> Self {
        let members = self.members.difference(&other.members).cloned().collect();
        let children = self
            .children
            .iter()
            .filter(|(element, _)| !other.members.contains(*element));
        let children = children.map(|(element, set)| {
            let left = other
                .children
                .get(element)
                .map_or_else(|| set.clone(), |o| set.without(o));
            (element.clone(), left)
        });
        Self::with_children(members, children)
    }

    /// The set with every named field that has a member below it.
    pub(super) fn with_named_fields(&self, schema: &Schema) -> Self {
        let mut set = Self {
            members: self.members.clone(),
            children: BTreeMap::new(),
        };
        for (element, below) in &self.children {
            let inner = match element.strip_prefix("f:") {
                Some(name) => {
                    if schema.names(name) {
                        set.members.insert(element.clone());
                    }
                    merged_field(schema, name)
                }
                None => schema.items_or_any(),
            };
            set.children
                .insert(element.clone(), below.with_named_fields(inner));
        }
        set
    }

    /// The fields that a value sets.
    pub(crate) fn of(value: &Value, schema: &Schema) -> Self {
        let mut set = Self::default();
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let element = field(name);
                    let inner = merged_field(schema, name);
                    let is_leaf = set.add(&element, value, inner);
                    let is_empty = value.as_object().is_some_and(Map::is_empty);
                    if is_leaf || value.is_null() || is_empty || !schema.names(name) {
                        set.members.insert(element);
                    }
                }
            }
            Value::Array(items) => {
                for value in items {
                    if let Some(element) = item(value, schema) {
                        set.add(&element, value, schema.items_or_any());
                        set.members.insert(element);
                    }
                }
            }
            _ => {}
        }
        set
    }

    /// Adds what is below an element; whether the element is a leaf.
    fn add(&mut self, element: &str, value: &Value, schema: &Schema) -> bool {
        if schema.is_leaf(value) {
            return true;
        }
        let below = Self::of(value, schema);
        if !below.is_empty() {
            self.children.insert(element.to_owned(), below);
        }
        false
    }

    /// Reads `fieldsV1`.
    pub(crate) fn from_json(value: &Value) -> Self {
        let mut set = Self::default();
        for (element, below) in value
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(e, _)| *e != ".")
        {
            let fields = below.as_object();
            let is_member =
                fields.is_none_or(|fields| fields.is_empty() || fields.contains_key("."));
            let element = normal(element);
            if is_member {
                set.members.insert(element.clone());
            }
            let below = Self::from_json(below);
            if !below.is_empty() {
                set.children.insert(element, below);
            }
        }
        set
    }

    /// Writes `fieldsV1`.
    pub(crate) fn to_json(&self) -> Value {
        let mut fields = Map::new();
        for element in &self.members {
            fields.insert(element.clone(), Value::Object(Map::new()));
        }
        for (element, below) in &self.children {
            let mut below = below.to_json();
            if let (true, Some(below)) = (self.members.contains(element), below.as_object_mut()) {
                below.insert(".".into(), Value::Object(Map::new()));
            }
            fields.insert(element.clone(), below);
        }
        Value::Object(fields)
    }

    /// The fields as messages write them: `.spec.rules[key="a"].value`.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        paths.extend(
            self.members
                .iter()
                .map(|element| format!("{prefix}{}", step(element))),
        );
        for (element, below) in &self.children {
            below.collect(&format!("{prefix}{}", step(element)), paths);
        }
    }
}

/// The element with its JSON in normal form.
fn normal(element: &str) -> Element {
    match element.split_once(':') {
        Some((kind @ ("k" | "v"), json)) => match serde_json::from_str::<Value>(json) {
            Ok(value) => format!("{kind}:{value}"),
            Err(_) => element.to_owned(),
        },
        _ => element.to_owned(),
    }
}

pub(super) fn step(element: &str) -> String {
    match element.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", json)) => {
            let keys: Map<String, Value> = serde_json::from_str(json).unwrap_or_default();
            let keys: Vec<String> = keys
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            format!("[{}]", keys.join(","))
        }
        Some(("v", json)) => format!("[={json}]"),
        Some((_, index)) => format!("[{index}]"),
        None => element.to_owned(),
    }
}

/// The fields that differ.
#[derive(Debug, Default)]
pub(super) struct FieldChange {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

impl FieldChange {
    pub(super) fn between(old: &Value, new: &Value, schema: &Schema) -> Self {
        let mut change = Self::default();
        let mut path = Vec::new();
        change.walk(Some(old), Some(new), schema, &mut path);
        change
    }

    /// The change without some fields and what is below them.
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
        let (old_fields, new_fields) = (fields_of(old), fields_of(new));
        let names: BTreeSet<&String> = [old_fields, new_fields]
            .into_iter()
            .flatten()
            .flat_map(Map::keys)
            .collect();
        for name in names {
            path.push(field(name));
            let old = old_fields.and_then(|fields| fields.get(name));
            let new = new_fields.and_then(|fields| fields.get(name));
            self.walk(old, new, merged_field(schema, name), path);
            path.pop();
        }
        let (old_items, new_items) = (items_of(old, schema), items_of(new, schema));
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

fn fields_of(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

fn items_of<'v>(value: Option<&'v Value>, schema: &Schema) -> BTreeMap<Element, &'v Value> {
    let items = value.and_then(Value::as_array);
    let items = items.into_iter().flatten();
    items
        .filter_map(|value| Some((item(value, schema)?, value)))
        .collect()
}

/// Removes the fields of a set. A field that becomes empty stays, unless it is in the set itself.
pub(super) fn remove(value: &Value, set: &FieldSet, schema: &Schema) -> Value {
    match value {
        Value::Object(fields) if !schema.atomic_map => {
            let left = fields.iter().filter_map(|(name, value)| {
                let element = field(name);
                if set.contains(&element) {
                    return None;
                }
                let value = match set.below(&element) {
                    Some(below) => remove(value, below, merged_field(schema, name)),
                    None => value.clone(),
                };
                Some((name.clone(), value))
            });
            Value::Object(left.collect())
        }
        Value::Array(items) if !schema.is_leaf(value) => {
            let left = items.iter().filter_map(|value| {
                let element = item(value, schema).unwrap_or_default();
                if set.contains(&element) {
                    return None;
                }
                Some(match set.below(&element) {
                    Some(below) => remove(value, below, schema.items_or_any()),
                    None => value.clone(),
                })
            });
            Value::Array(left.collect())
        }
        other => other.clone(),
    }
}
