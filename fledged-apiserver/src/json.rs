//! Access to the fields of JSON values.

use serde_json::{Map, Value, json};

/// The value at a path of fields; null where there is none.
pub(crate) fn at<'v>(value: &'v Value, path: &[&str]) -> &'v Value {
    path.iter()
        .fold(value, |value, name| value.get(name).unwrap_or(&Value::Null))
}

/// The text at a path; empty where there is none.
pub(crate) fn text<'v>(value: &'v Value, path: &[&str]) -> &'v str {
    at(value, path).as_str().unwrap_or_default()
}

/// The items of the list at a path; none where there is no list.
pub(crate) fn items<'v>(value: &'v Value, path: &[&str]) -> &'v [Value] {
    at(value, path)
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// A field that is an object; it is inserted where it is absent.
pub(crate) fn object<'v>(value: &'v mut Value, field: &str) -> Option<&'v mut Map<String, Value>> {
    let fields = value.as_object_mut()?;
    let entry = fields.entry(field).or_insert_with(|| json!({}));
    entry.as_object_mut()
}

/// Sets a field that is absent or null.
pub(crate) fn set_default(fields: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    let missing = fields.get(field).is_none_or(Value::is_null);
    if missing {
        fields.insert(field.to_owned(), value.into());
    }
}
