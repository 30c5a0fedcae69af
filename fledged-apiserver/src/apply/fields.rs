//! Sets of fields, as `fieldsV1` has them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::schema::{ListType, Schema};

/// A step into an object, as `fieldsV1` writes it: `f:name`, `k:{"key":"value"}`, `v:"value"` or `i:0`.
pub(super) type Element = String;

/// A set of fields. A field and what is below it are apart: either can be in the set without the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    pub(super) members: BTreeSet<Element>,
    pub(super) children: BTreeMap<Element, FieldSet>,
}

/// The element of a field.
pub(super) fn field(name: &str) -> Element {
    format!("f:{name}")
}

/// The element of an item of a list; none if the item lacks a key, or can't be in such a list.
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

    /// With every named field in it that has something of the set below it.
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
                    schema.merged_field(name)
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
                    let inner = schema.merged_field(name);
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

    /// The fields, as messages show them: `.spec.rules[key="a"].value`.
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

/// The same element, written as it is here.
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
