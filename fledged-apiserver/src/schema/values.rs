//! Values against a schema: validation, defaults, pruning.

use serde_json::Value;

use super::generated::object_meta;
use super::structural::{Limits, ListType, Schema, Shape};
use crate::error::{Fault, FieldError};

/// All faults of a value, apart from CEL rules.
pub(crate) fn validate(value: &Value, schema: &Schema, path: &str) -> Vec<FieldError> {
    let mut faults = Vec::new();
    walk(value, schema, path, &mut faults);
    same_items(value, schema, path, &mut faults);
    faults
}

fn child(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

fn walk(value: &Value, schema: &Schema, path: &str, faults: &mut Vec<FieldError>) {
    if value.is_null() && (schema.nullable || schema.shape == Shape::Any) {
        return;
    }
    if !check(value, &schema.limits, path, faults) {
        return;
    }
    match value {
        Value::Object(fields) => {
            if schema.embedded && !path.is_empty() {
                check_embedded(value, path, faults);
            }
            for (name, value) in fields {
                let at = child(path, name);
                match schema.properties.get(name).or(schema.additional.as_ref()) {
                    _ if schema.embedded && name == "metadata" => {}
                    Some(known) => walk(value, known, &at, faults),
                    None => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                for (index, item) in items.iter().enumerate() {
                    walk(item, schema, &format!("{path}[{index}]"), faults);
                }
            }
        }
        _ => {}
    }
}

/// Checks an embedded object.
fn check_embedded(value: &Value, path: &str, faults: &mut Vec<FieldError>) {
    for field in ["apiVersion", "kind"] {
        if value
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .is_empty()
        {
            faults.push(FieldError::required(&child(path, field), ""));
        }
    }
    if let Some(metadata) = value.get("metadata") {
        walk(metadata, object_meta(), &child(path, "metadata"), faults);
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if is_integer(number) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_integer(number: &serde_json::Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|n| n.fract() == 0.0)
}

fn has_shape(value: &Value, shape: Shape) -> bool {
    match (shape, value) {
        (Shape::Any, _) => true,
        (Shape::Object, value) => value.is_object(),
        (Shape::Array, value) => value.is_array(),
        (Shape::String, value) => value.is_string(),
        (Shape::Integer, Value::Number(number)) => is_integer(number),
        (Shape::Number, value) => value.is_number(),
        (Shape::Boolean, value) => value.is_boolean(),
        (Shape::IntOrString, Value::Number(number)) => is_integer(number),
        (Shape::IntOrString, value) => value.is_string(),
        (Shape::Integer, _) => false,
    }
}

/// Checks a value itself. Returns false if it has the wrong type.
fn check(value: &Value, limits: &Limits, path: &str, faults: &mut Vec<FieldError>) -> bool {
    if !has_shape(value, limits.shape) {
        let detail = format!(
            "{path} in body must be of type {}: \"{}\"",
            limits.shape.name(),
            type_name(value)
        );
        // The real server shows the type as the value.
        let shown = Value::String(type_name(value).to_owned());
        faults.push(FieldError::new(
            Fault::TypeInvalid,
            path,
            &shown,
            detail.trim_start(),
        ));
        return false;
    }
    if let Some(allowed) = &limits.one_of_values
        && !allowed.contains(value)
    {
        let names = allowed
            .iter()
            .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
        faults.push(FieldError::not_supported(
            path,
            value,
            &names.collect::<Vec<_>>(),
        ));
    }
    let mut say = |detail: String| {
        let detail = format!("{path} in body {detail}");
        faults.push(FieldError::invalid(path, value, detail));
    };
    match value {
        Value::String(text) => check_text(text, limits, faults, path),
        Value::Number(number) => {
            check_number(number.as_f64().unwrap_or(f64::NAN), limits, &mut say)
        }
        Value::Array(items) => {
            if let Some(least) = limits.min_items.filter(|n| (items.len() as u64) < *n) {
                say(format!("should have at least {least} items"));
            }
            let twice = |(i, item)| items.iter().take(i).any(|earlier| earlier == item);
            if limits.unique_items && items.iter().enumerate().any(twice) {
                say("shouldn't contain duplicates".to_owned());
            }
        }
        Value::Object(fields) => {
            if let Some(least) = limits.min_properties.filter(|n| (fields.len() as u64) < *n) {
                say(format!("should have at least {least} properties"));
            }
            let missing = limits
                .required
                .iter()
                .filter(|name| !fields.contains_key(*name));
            faults.extend(missing.map(|name| FieldError::required(&child(path, name), "")));
        }
        _ => {}
    }
    check_maxima(value, limits, path, faults);
    check_junctors(value, limits, path, faults);
    true
}

/// The API server reports only the first fault of length and pattern.
fn check_text(text: &str, limits: &Limits, faults: &mut Vec<FieldError>, path: &str) {
    let length = text.chars().count() as u64;
    let value = Value::from(text);
    let invalid =
        |detail: String| FieldError::invalid(path, &value, format!("{path} in body {detail}"));
    if let Some(most) = limits.max_length.filter(|n| length > *n) {
        let detail = format!(
            "may not be more than {most} byte{}",
            if most == 1 { "" } else { "s" }
        );
        faults.push(FieldError::new(Fault::TooLong, path, &value, detail));
    } else if let Some(least) = limits.min_length.filter(|n| length < *n) {
        faults.push(invalid(format!("should be at least {least} chars long")));
    } else if let Some(pattern) = limits
        .pattern
        .as_ref()
        .filter(|pattern| !pattern.is_match(text))
    {
        faults.push(invalid(format!("should match '{pattern}'")));
    }
    if let Some(format) = limits
        .format
        .as_ref()
        .filter(|format| !has_format(text, format))
    {
        let detail = format!("{path} in body must be of type {format}: {text:?}");
        faults.push(FieldError::new(Fault::TypeInvalid, path, &value, detail));
    }
}

fn check_number(number: f64, limits: &Limits, say: &mut dyn FnMut(String)) {
    if let Some(least) = limits.minimum {
        match limits.exclusive_minimum {
            true if number <= least => say(format!("should be greater than {least}")),
            false if number < least => say(format!("should be greater than or equal to {least}")),
            _ => {}
        }
    }
    if let Some(most) = limits.maximum {
        match limits.exclusive_maximum {
            true if number >= most => say(format!("should be less than {most}")),
            false if number > most => say(format!("should be less than or equal to {most}")),
            _ => {}
        }
    }
    if let Some(factor) = limits.multiple_of {
        // The API server divides integers as integers, and refuses a fraction as the factor.
        if number.fract() == 0.0 && factor < 1.0 {
            say("has a factor that must be positive: 0".to_owned());
        } else if (number / factor).fract() != 0.0 {
            say(format!("should be a multiple of {factor}"));
        }
    }
    let range = match limits.format.as_deref() {
        Some("int32") => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
        _ => None,
    };
    if range.is_some_and(|(least, most)| number < least || number > most) {
        say("must be of type int32".to_owned());
    }
}

fn check_maxima(value: &Value, limits: &Limits, path: &str, faults: &mut Vec<FieldError>) {
    let too_many = |found: usize, most: u64| {
        FieldError::new(
            Fault::TooMany,
            path,
            &found.into(),
            format!(
                "must have at most {most} item{}",
                if most == 1 { "" } else { "s" }
            ),
        )
    };
    match value {
        Value::Array(items) => {
            let most = limits.max_items.filter(|n| items.len() as u64 > *n);
            faults.extend(most.map(|most| too_many(items.len(), most)));
        }
        Value::Object(fields) => {
            let most = limits.max_properties.filter(|n| fields.len() as u64 > *n);
            faults.extend(most.map(|most| too_many(fields.len(), most)));
        }
        _ => {}
    }
}

/// Checks a value against a member of `allOf` and its like, at every depth.
fn check_nested(value: &Value, limits: &Limits, path: &str, faults: &mut Vec<FieldError>) {
    if !check(value, limits, path, faults) {
        return;
    }
    match value {
        Value::Object(fields) => {
            for (name, limits) in &limits.properties {
                if let Some(value) = fields.get(name) {
                    check_nested(value, limits, &child(path, name), faults);
                }
            }
        }
        Value::Array(items) => {
            if let Some(limits) = &limits.items {
                for (index, item) in items.iter().enumerate() {
                    check_nested(item, limits, &format!("{path}[{index}]"), faults);
                }
            }
        }
        _ => {}
    }
}

fn check_junctors(value: &Value, limits: &Limits, path: &str, faults: &mut Vec<FieldError>) {
    let holds = |limits: &Limits| {
        let mut inner = Vec::new();
        check_nested(value, limits, path, &mut inner);
        inner.is_empty()
    };
    for limits in &limits.all_of {
        check_nested(value, limits, path, faults);
    }
    // The API server reports these without a field.
    let must =
        |what: &str| FieldError::invalid("", &"".into(), format!("{path:?} must validate {what}"));
    if !limits.any_of.is_empty() && !limits.any_of.iter().any(holds) {
        faults.push(must("at least one schema (anyOf)"));
        faults.extend(closest(value, &limits.any_of, path));
    }
    if !limits.one_of.is_empty() {
        match limits.one_of.iter().filter(|limits| holds(limits)).count() {
            1 => {}
            0 => {
                faults.push(must("one and only one schema (oneOf). Found none valid"));
                faults.extend(closest(value, &limits.one_of, path));
            }
            n => faults.push(must(&format!(
                "one and only one schema (oneOf). Found {n} valid alternatives"
            ))),
        }
    }
    if limits.not.as_deref().is_some_and(holds) {
        faults.push(must("the schema (not)"));
    }
}

/// The faults by the alternative with the fewest.
fn closest(value: &Value, alternatives: &[Limits], path: &str) -> Vec<FieldError> {
    let found = alternatives.iter().map(|limits| {
        let mut inner = Vec::new();
        check_nested(value, limits, path, &mut inner);
        inner
    });
    found.min_by_key(Vec::len).unwrap_or_default()
}

/// Collects duplicate items of sets and maps.
fn same_items(value: &Value, schema: &Schema, path: &str, faults: &mut Vec<FieldError>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let Some(known) = schema.properties.get(name).or(schema.additional.as_ref()) {
                    same_items(value, known, &child(path, name), faults);
                }
            }
        }
        Value::Array(items) => {
            let keys: Vec<Option<Value>> = match &schema.list {
                ListType::Atomic => vec![None; items.len()],
                ListType::Set => items.iter().cloned().map(Some).collect(),
                ListType::Map(keys) => items
                    .iter()
                    .map(|item| {
                        let fields = keys
                            .iter()
                            .filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
                        Some(Value::Object(fields.collect()))
                    })
                    .collect(),
            };
            for (index, item) in items.iter().enumerate() {
                let at = format!("{path}[{index}]");
                if let Some(Some(key)) = keys.get(index)
                    && keys
                        .iter()
                        .take(index)
                        .flatten()
                        .any(|earlier| earlier == key)
                {
                    faults.push(FieldError::duplicate(&at, key));
                }
                if let Some(schema) = &schema.items {
                    same_items(item, schema, &at, faults);
                }
            }
        }
        _ => {}
    }
}

/// The faults of the defaults in a schema, at every depth.
pub(crate) fn default_faults(schema: &Schema, path: &str) -> Vec<FieldError> {
    let mut faults = Vec::new();
    check_defaults(schema, path, &mut faults);
    faults
}

fn check_defaults(schema: &Schema, path: &str, faults: &mut Vec<FieldError>) {
    if let Some(default) = &schema.default {
        let found = validate(default, schema, "").into_iter();
        faults.extend(found.map(|fault| FieldError {
            path: match fault.path.as_str() {
                "" => format!("{path}.default"),
                inner => format!("{path}.default.{inner}"),
            },
            ..fault
        }));
    }
    for (name, property) in &schema.properties {
        check_defaults(property, &format!("{path}.properties[{name}]"), faults);
    }
    if let Some(additional) = &schema.additional {
        check_defaults(additional, &format!("{path}.additionalProperties"), faults);
    }
    if let Some(items) = &schema.items {
        check_defaults(items, &format!("{path}.items"), faults);
    }
}

/// Whether a text has a format; unknown formats match every text.
pub(crate) fn has_format(text: &str, format: &str) -> bool {
    match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "byte" => is_base64(text),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "uri" => text.contains(':') || text.starts_with('/'),
        "uuid" => is_uuid(text),
        "duration" => is_duration(text),
        _ => true,
    }
}

/// Whether a text is standard base64 with padding.
fn is_base64(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let padding = text.len() - body.len();
    text.len().is_multiple_of(4)
        && padding <= 2
        && body
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/')
}

fn is_uuid(text: &str) -> bool {
    let hex: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = hex.iter().map(|part| part.len()).collect();
    (lengths == [8, 4, 4, 4, 12] || lengths == [32])
        && hex
            .iter()
            .all(|part| part.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Durations as Go writes them: `1h30m`, `-1.5s`, `0`.
fn is_duration(text: &str) -> bool {
    let mut rest = text.trim_start_matches(['+', '-']);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, unit) = rest.split_at(end);
        if number.parse::<f64>().is_err() {
            return false;
        }
        let units = ["ns", "us", "µs", "μs", "ms", "s", "m", "h", "d", "w"];
        match units.iter().find_map(|name| unit.strip_prefix(name)) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    true
}

/// Sets the defaults of the schema, in place.
pub(crate) fn apply_defaults(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(fields) => {
            for (name, property) in &schema.properties {
                let missing = match fields.get(name) {
                    None => true,
                    // A null that is not allowed becomes the default.
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

/// Removes unknown fields, in place, and returns their paths.
pub(crate) fn prune(value: &mut Value, schema: &Schema) -> Vec<String> {
    let mut unknown = Vec::new();
    prune_below(value, schema, "", &mut unknown);
    unknown
}

fn prune_below(value: &mut Value, schema: &Schema, path: &str, unknown: &mut Vec<String>) {
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
                    // Metadata is checked by its own rules.
                    _ if implied => {}
                    Some(known) => {
                        if let Some(value) = fields.get_mut(&name) {
                            prune_below(value, known, &path, unknown);
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
                    prune_below(item, schema, &format!("{path}[{index}]"), unknown);
                }
            }
        }
        _ => {}
    }
}
