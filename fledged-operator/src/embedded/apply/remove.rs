//! Taking fields out of an object.

use serde_json::{Map, Value};

use super::fields::{FieldSet, field, item};
use crate::embedded::schema::Schema;

/// An object without the fields of a set.
pub(super) fn remove(value: &Value, set: &FieldSet, schema: &Schema) -> Option<Value> {
    match value {
        Value::Object(fields) if !schema.atomic_map => {
            let mut left = Map::new();
            for (name, value) in fields {
                let element = field(name);
                if set.contains(&element) {
                    continue;
                }
                let value = match set.below(&element) {
                    Some(below) => remove(value, below, schema.merged_field(name)),
                    None => Some(value.clone()),
                };
                left.extend(value.map(|value| (name.clone(), value)));
            }
            // What was emptied goes; what was empty stays.
            (!left.is_empty() || fields.is_empty()).then_some(Value::Object(left))
        }
        Value::Array(items) if !schema.is_leaf(value) => {
            let mut left = Vec::new();
            for value in items {
                let element = item(value, schema).unwrap_or_default();
                if set.contains(&element) {
                    continue;
                }
                left.extend(match set.below(&element) {
                    Some(below) => remove(value, below, schema.items_or_any()),
                    None => Some(value.clone()),
                });
            }
            (!left.is_empty() || items.is_empty()).then_some(Value::Array(left))
        }
        other => Some(other.clone()),
    }
}
