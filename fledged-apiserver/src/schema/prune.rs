//! Fields that no schema knows.

use serde_json::Value;

use super::Schema;

/// Removes unknown fields, in place, and returns their paths.
pub(crate) fn prune(value: &mut Value, schema: &Schema) -> Vec<String> {
    let mut unknown = Vec::new();
    walk(value, schema, "", &mut unknown);
    unknown
}

fn walk(value: &mut Value, schema: &Schema, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let names: Vec<String> = fields.keys().cloned().collect();
            for name in names {
                let implied =
                    schema.embedded && matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
                let path = match path {
                    "" => name.clone(),
                    path => format!("{path}.{name}"),
                };
                match schema.properties.get(&name).or(schema.additional.as_ref()) {
                    // Metadata has rules of its own, whatever the schema says of it.
                    _ if implied => {}
                    Some(known) => {
                        if let Some(value) = fields.get_mut(&name) {
                            walk(value, known, &path, unknown);
                        }
                    }
                    None if schema.preserve => {}
                    None => {
                        fields.remove(&name);
                        unknown.push(path);
                    }
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                for (index, item) in items.iter_mut().enumerate() {
                    walk(item, schema, &format!("{path}[{index}]"), unknown);
                }
            }
        }
        _ => {}
    }
}
