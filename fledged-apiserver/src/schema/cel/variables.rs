//! Objects as values of CEL expressions.

use std::collections::HashMap;
use std::sync::Arc;

use cel::Value as Cel;
use cel::objects::{Key, Map};
use serde_json::Value;

use crate::schema::structural::{Schema, Shape};

const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
];

/// The name of a property in expressions.
pub(super) fn escaped(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}

/// Converts a value. The schema decides whether a number is an integer.
pub(super) fn from_json(value: &Value, schema: &Schema) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(flag) => Cel::Bool(*flag),
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Number(number) => match (schema.shape, number.as_i64()) {
            (Shape::Number, _) | (_, None) => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
            (_, Some(integer)) => Cel::Int(integer),
        },
        Value::Array(items) => {
            let schema = schema.items_or_any();
            Cel::List(Arc::new(
                items.iter().map(|item| from_json(item, schema)).collect(),
            ))
        }
        Value::Object(fields) => {
            let fields =
                fields
                    .iter()
                    .filter_map(|(name, value)| match schema.properties.get(name) {
                        Some(known) => Some((escaped(name), from_json(value, known))),
                        None => {
                            let implied = schema.embedded
                                && matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
                            let known = schema.additional.as_deref();
                            // Unknown fields that are kept are not visible.
                            let known = known
                                .or(implied.then_some(Schema::any()))
                                .or((schema.shape == Shape::Any).then_some(Schema::any()));
                            known.map(|known| (name.clone(), from_json(value, known)))
                        }
                    });
            let map: HashMap<Key, Cel> = fields
                .map(|(name, value)| (Key::String(Arc::new(name)), value))
                .collect();
            Cel::Map(Map { map: Arc::new(map) })
        }
    }
}
