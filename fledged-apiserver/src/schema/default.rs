//! Filling in defaults.

use serde_json::Value;

use super::Schema;

/// Fills in what the schema has defaults for, in place.
pub(crate) fn apply_defaults(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(fields) => {
            for (name, property) in &schema.properties {
                let missing = match fields.get(name) {
                    None => true,
                    // A null that may not be one is as good as nothing where there is a default.
                    Some(Value::Null) => !property.nullable,
                    Some(_) => false,
                };
                if let (true, Some(default)) = (missing, &property.default) {
                    fields.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in fields.iter_mut() {
                let known = schema.properties.get(name).or(schema.additional.as_ref());
                if let Some(known) = known {
                    apply_defaults(value, known);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                for item in items {
                    apply_defaults(item, schema);
                }
            }
        }
        _ => {}
    }
}
