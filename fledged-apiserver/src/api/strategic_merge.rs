//! Strategic merge patches.

use serde_json::{Map, Value};

use crate::error::{ApiError, ApiResult};
use crate::schema::{Schema, merged_field};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Applies a strategic merge patch to an object.
///
/// # Errors
///
/// Malformed directives.
pub(super) fn strategic(object: &Value, patch: &Value, schema: &Schema) -> ApiResult<Value> {
    let none = Map::new();
    let (fields, patch) = (
        object.as_object().unwrap_or(&none),
        patch.as_object().unwrap_or(&none),
    );
    Ok(Value::Object(merge_fields(fields, patch, schema)?))
}

fn unreadable(what: &str) -> ApiError {
    ApiError::bad_request(format!("invalid strategic merge patch: {what}"))
}

fn merge_fields(
    original: &Map<String, Value>,
    patch: &Map<String, Value>,
    schema: &Schema,
) -> ApiResult<Map<String, Value>> {
    match patch.get(DIRECTIVE).map(Value::as_str) {
        None | Some(Some("merge")) => {}
        Some(Some("replace")) => {
            let kept = patch.iter().filter(|(name, _)| *name != DIRECTIVE);
            return Ok(kept
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect());
        }
        Some(Some("delete")) => return Ok(Map::new()),
        Some(_) => return Err(unreadable("unknown $patch directive")),
    }
    let mut merged = original.clone();
    if let Some(retained) = patch.get(RETAIN_KEYS) {
        let retained = retained
            .as_array()
            .ok_or_else(|| unreadable("$retainKeys is no list"))?;
        merged.retain(|name, _| retained.iter().any(|kept| kept == name));
    }
    for (name, gone) in patch {
        if let Some(field) = name.strip_prefix(DELETE_FROM)
            && let (Some(gone), Some(Value::Array(items))) =
                (gone.as_array(), merged.get_mut(field))
        {
            items.retain(|item| !gone.contains(item));
        }
    }
    for (name, value) in patch {
        if name == DIRECTIVE
            || name == RETAIN_KEYS
            || name.starts_with(DELETE_FROM)
            || name.starts_with(ORDER)
        {
            continue;
        }
        let schema = merged_field(schema, name);
        let value = match (merged.get(name), value) {
            (_, Value::Null) => {
                merged.remove(name);
                continue;
            }
            (Some(Value::Object(old)), Value::Object(new)) => {
                Value::Object(merge_fields(old, new, schema)?)
            }
            (_, Value::Object(new)) => Value::Object(merge_fields(&Map::new(), new, schema)?),
            (Some(Value::Array(old)), Value::Array(new)) if schema.patch.merge => {
                Value::Array(merge_items(old, new, schema)?)
            }
            (_, Value::Array(new)) if schema.patch.merge => {
                Value::Array(merge_items(&[], new, schema)?)
            }
            (_, other) => other.clone(),
        };
        merged.insert(name.clone(), value);
    }
    for (name, order) in patch {
        if let Some(field) = name.strip_prefix(ORDER)
            && let (Some(order), Some(Value::Array(items))) = (order.as_array(), merged.get(field))
        {
            let before = original
                .get(field)
                .and_then(Value::as_array)
                .map(Vec::as_slice)
                .unwrap_or_default();
            let key = merged_field(schema, field).patch.key.as_deref();
            let ordered = ordered(items, order, before, key);
            merged.insert(field.to_owned(), ordered.into());
        }
    }
    Ok(merged)
}

fn merge_items(original: &[Value], patch: &[Value], schema: &Schema) -> ApiResult<Vec<Value>> {
    let Some(key) = &schema.patch.key else {
        let mut merged = original.to_vec();
        for item in patch {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return Ok(ordered(&merged, patch, original, None));
    };
    let directive = |item: &Value| {
        item.get(DIRECTIVE)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let replaces = patch
        .iter()
        .any(|item| directive(item).as_deref() == Some("replace"));
    let mut merged = if replaces {
        Vec::new()
    } else {
        original.to_vec()
    };
    for item in patch {
        let fields = item
            .as_object()
            .ok_or_else(|| unreadable("an item of a merged list is no object"))?;
        let id = item.get(key);
        match directive(item).as_deref() {
            Some("replace") => continue,
            Some("delete") => {
                let id = id.ok_or_else(|| unreadable(&format!("no {key} in an item to delete")))?;
                merged.retain(|other| other.get(key) != Some(id));
                continue;
            }
            _ => {}
        }
        let id = id.ok_or_else(|| {
            let shown = Value::Object(fields.clone());
            ApiError::new(
                500,
                "",
                format!("map: {shown} does not contain declared merge key: {key}"),
            )
        })?;
        let items = schema.items_or_any();
        match merged.iter_mut().find(|other| other.get(key) == Some(id)) {
            Some(old) => {
                let none = Map::new();
                let new = merge_fields(old.as_object().unwrap_or(&none), fields, items)?;
                *old = Value::Object(new);
            }
            None => merged.push(Value::Object(merge_fields(&Map::new(), fields, items)?)),
        }
    }
    // The order of the patch is the default.
    Ok(ordered(&merged, patch, original, Some(key)))
}

/// Items in the given order; items that it does not name keep their place before their successors.
fn ordered(items: &[Value], order: &[Value], before: &[Value], key: Option<&str>) -> Vec<Value> {
    let id = |value: &Value| match key {
        Some(key) => value.get(key).cloned().unwrap_or_default(),
        None => value.clone(),
    };
    let place = |list: &[Value], item: &Value| list.iter().position(|other| id(other) == id(item));
    let mut named: Vec<&Value> = items
        .iter()
        .filter(|item| place(order, item).is_some())
        .collect();
    named.sort_by_key(|item| place(order, item));
    let mut others = items
        .iter()
        .filter(|item| place(order, item).is_none())
        .peekable();
    let mut named = named.into_iter().peekable();
    let mut result = Vec::new();
    loop {
        match (others.peek(), named.peek()) {
            (None, None) => return result,
            (Some(_), None) => result.extend(others.next().cloned()),
            (None, Some(_)) => result.extend(named.next().cloned()),
            (Some(other), Some(next)) => match (place(before, other), place(before, next)) {
                (Some(o), Some(n)) if o < n => result.extend(others.next().cloned()),
                _ => result.extend(named.next().cloned()),
            },
        }
    }
}
