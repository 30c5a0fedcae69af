//! Taking fields out of an object.

use serde_json::Value;

use super::fields::{FieldSet, field, item};
use crate::schema::Schema;

/// An object without the fields of a set. What is emptied stays, empty, unless it is in the set itself.
pub(super) fn remove(value: &Value, set: &FieldSet, schema: &Schema) -> Value {
    match value {
        Value::Object(fields) if !schema.atomic_map => {
            let left = fields.iter().filter_map(|(name, value)| {
                let element = field(name);
                if set.contains(&element) {
                    return None;
                }
                let value = match set.below(&element) {
                    Some(below) => remove(value, below, schema.merged_field(name)),
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
