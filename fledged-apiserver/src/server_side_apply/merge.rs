//! Merging an applied configuration into the live object.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::{Map, Value, json};

use super::fields::{Element, item};
use crate::kinds::{Builtin, Resource};
use crate::schema::{Schema, Shape, merged_field};

/// The live object with the applied fields.
pub(super) fn merge(live: &Value, applied: &Value, schema: &Schema) -> Value {
    match (live, applied) {
        (Value::Object(live), Value::Object(applied)) if !schema.atomic_map => {
            let mut merged = live.clone();
            for (name, value) in applied {
                let value = match live.get(name) {
                    Some(old) => merge(old, value, merged_field(schema, name)),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Value::Array(live), Value::Array(applied))
            if !schema.is_leaf(&Value::Array(Vec::new())) =>
        {
            Value::Array(merge_items(live, applied, schema))
        }
        (_, applied) => applied.clone(),
    }
}

/// Applied items in their order; other items keep their place among them.
fn merge_items(live: &[Value], applied: &[Value], schema: &Schema) -> Vec<Value> {
    let elements = |items: &[Value]| -> Vec<Element> {
        items
            .iter()
            .map(|value| item(value, schema).unwrap_or_default())
            .collect()
    };
    let (live_elements, applied_elements) = (elements(live), elements(applied));
    let by_element = |elements: &[Element], items: &[Value]| -> BTreeMap<Element, Value> {
        elements
            .iter()
            .cloned()
            .zip(items.iter().cloned())
            .collect()
    };
    let (live_by, applied_by) = (
        by_element(&live_elements, live),
        by_element(&applied_elements, applied),
    );
    let both = |element: &Element| -> Option<Value> {
        match (live_by.get(element), applied_by.get(element)) {
            (Some(old), Some(new)) => Some(merge(old, new, schema.items_or_any())),
            (old, new) => new.or(old).cloned(),
        }
    };
    let mut shared: VecDeque<&Element> = applied_elements
        .iter()
        .filter(|e| live_by.contains_key(*e))
        .collect();
    let mut next_shared = shared.pop_front();
    let mut merged_elements: BTreeSet<&Element> = BTreeSet::new();
    let (mut merged, mut l, mut r) = (Vec::new(), 0, 0);
    loop {
        let (left, right) = (live_elements.get(l), applied_elements.get(r));
        match (left, right) {
            (None, None) => return merged,
            (Some(left), Some(right)) if left == right => {
                merged_elements.insert(left);
                merged.extend(both(left));
                (l, r) = (l + 1, r + 1);
                next_shared = shared.pop_front();
                continue;
            }
            (Some(left), Some(_))
                if applied_by.contains_key(left)
                    && next_shared.is_some_and(|next| next != left) =>
            {
                l += 1;
                continue;
            }
            _ => {}
        }
        if let Some(left) = left {
            if !applied_by.contains_key(left) {
                merged.extend(live.get(l).cloned());
                l += 1;
                continue;
            }
            if merged_elements.contains(left) {
                l += 1;
            }
        }
        if let Some(right) = right {
            merged_elements.insert(right);
            merged.extend(both(right));
            r += 1;
            if next_shared == Some(right) {
                next_shared = shared.pop_front();
            }
        }
    }
}

/// Collects what the schema does not allow in a configuration: unknown fields, values of other types, duplicate
/// items.
pub(super) fn check_typed(value: &Value, schema: &Schema, path: &str, faults: &mut Vec<String>) {
    if let Some(expected) = mismatch(value, schema.shape) {
        faults.push(format!("{path}: expected {expected}, got {value}"));
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let at = format!("{path}.{name}");
                match schema.names(name) || schema.field(name).is_some() {
                    true => check_typed(value, merged_field(schema, name), &at, faults),
                    false => faults.push(format!("{at}: field not declared in schema")),
                }
            }
        }
        Value::Array(items) if !schema.is_leaf(value) => check_items(items, schema, path, faults),
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                check_typed(
                    value,
                    schema.items_or_any(),
                    &format!("{path}[{index}]"),
                    faults,
                );
            }
        }
        _ => {}
    }
}

fn mismatch(value: &Value, shape: Shape) -> Option<&'static str> {
    match (shape, value) {
        (_, Value::Null) | (Shape::Any, _) => None,
        (Shape::Object, value) => (!value.is_object()).then_some("map"),
        (Shape::Array, value) => (!value.is_array()).then_some("list"),
        (Shape::String, value) => (!value.is_string()).then_some("string"),
        (Shape::Integer | Shape::Number, value) => {
            (!value.is_number()).then_some("numeric (int or float)")
        }
        (Shape::Boolean, value) => (!value.is_boolean()).then_some("boolean"),
        (Shape::IntOrString, value) => (value.is_object() || value.is_array()).then_some("scalar"),
    }
}

fn check_items(items: &[Value], schema: &Schema, path: &str, faults: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (index, value) in items.iter().enumerate() {
        let Some(element) = item(value, schema) else {
            faults.push(format!(
                "{path}: element {index}: associative list with keys has an element that omits all key fields (and doesn't have default values for any key fields)"
            ));
            continue;
        };
        let step = super::fields::step(&element);
        check_typed(
            value,
            schema.items_or_any(),
            &format!("{path}{step}"),
            faults,
        );
        if !seen.insert(element) {
            faults.push(format!("{path}: duplicate entries for key {step}"));
        }
    }
}

/// The empty object that a new object is compared with. Generated types of built-in kinds have some empty parts.
pub(super) fn nothing_of(value: &Value, resource: &Resource) -> Value {
    let fields = ["apiVersion", "kind"].into_iter();
    let fields = fields.filter_map(|name| Some((name.to_owned(), value.get(name)?.clone())));
    let mut nothing: Map<String, Value> = fields.collect();
    let spec = match resource.builtin {
        None => return Value::Object(nothing),
        Some(Builtin::Deployment) => json!({"strategy": {}, "template": {"metadata": {}}}),
        Some(Builtin::DaemonSet) => json!({"updateStrategy": {}, "template": {"metadata": {}}}),
        Some(Builtin::Job) => json!({"template": {"metadata": {}}}),
        Some(Builtin::CustomResourceDefinition) => json!({"names": {}}),
        Some(_) => json!({}),
    };
    for (name, part) in [
        ("spec", spec),
        ("status", json!({})),
        ("metadata", json!({})),
    ] {
        if value.get(name).is_some_and(Value::is_object) {
            nothing.insert(name.to_owned(), part);
        }
    }
    Value::Object(nothing)
}
