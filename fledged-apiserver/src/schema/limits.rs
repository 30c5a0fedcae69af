//! Reading the limits of schemas.

use regex::Regex;
use serde_json::Value;

use super::{Limits, Shape};
use crate::error::FieldError;

/// Reads the limits that a schema sets, and those of its `allOf`, `anyOf`, `oneOf` and `not`.
pub(super) fn limits(value: &Value, path: &str, faults: &mut Vec<FieldError>) -> Limits {
    let count = |name: &str| value.get(name).and_then(Value::as_u64);
    let number = |name: &str| value.get(name).and_then(Value::as_f64);
    let flag = |name: &str| value.get(name).and_then(Value::as_bool).unwrap_or(false);
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    let strings = |name: &str| -> Vec<String> {
        let listed = value.get(name).and_then(Value::as_array);
        listed
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    for name in ["minimum", "maximum", "multipleOf"] {
        if let Some(other) = value
            .get(name)
            .filter(|value| !value.is_number() && !value.is_null())
        {
            faults.push(FieldError::invalid(
                &format!("{path}.{name}"),
                other,
                "must be a number",
            ));
        }
    }
    if flag("uniqueItems") {
        let detail =
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        faults.push(FieldError::forbidden(
            &format!("{path}.uniqueItems"),
            detail,
        ));
    }
    let pattern = text("pattern").and_then(|pattern| match Regex::new(pattern) {
        Ok(regex) => Some(regex),
        Err(error) => {
            let detail = format!("must be a valid regular expression, but isn't: {error}");
            faults.push(FieldError::invalid(
                &format!("{path}.pattern"),
                &pattern.into(),
                detail,
            ));
            None
        }
    });
    Limits {
        shape: match text("type") {
            Some("object") => Shape::Object,
            Some("array") => Shape::Array,
            Some("string") => Shape::String,
            Some("integer") => Shape::Integer,
            Some("number") => Shape::Number,
            Some("boolean") => Shape::Boolean,
            _ if flag("x-kubernetes-int-or-string") => Shape::IntOrString,
            _ => Shape::Any,
        },
        required: strings("required"),
        one_of_values: value.get("enum").and_then(Value::as_array).cloned(),
        pattern,
        format: text("format").map(str::to_owned),
        min_length: count("minLength"),
        max_length: count("maxLength"),
        min_items: count("minItems"),
        max_items: count("maxItems"),
        unique_items: flag("uniqueItems"),
        min_properties: count("minProperties"),
        max_properties: count("maxProperties"),
        minimum: number("minimum"),
        exclusive_minimum: flag("exclusiveMinimum"),
        maximum: number("maximum"),
        exclusive_maximum: flag("exclusiveMaximum"),
        multiple_of: number("multipleOf"),
        all_of: junctor(value, "allOf", path, faults),
        any_of: junctor(value, "anyOf", path, faults),
        one_of: junctor(value, "oneOf", path, faults),
        not: value
            .get("not")
            .map(|not| Box::new(nested(not, &format!("{path}.not"), false, faults))),
        ..Limits::default()
    }
}

fn junctor(value: &Value, name: &str, path: &str, faults: &mut Vec<FieldError>) -> Vec<Limits> {
    // Only what is an integer or a string may say so there.
    let int_or_string = value.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
    let listed = value.get(name).and_then(Value::as_array);
    let listed = listed.into_iter().flatten().enumerate();
    listed
        .map(|(index, value)| {
            nested(
                value,
                &format!("{path}.{name}[{index}]"),
                int_or_string,
                faults,
            )
        })
        .collect()
}

/// Inside of a junctor fields may be limited, but not described.
fn nested(value: &Value, path: &str, int_or_string: bool, faults: &mut Vec<FieldError>) -> Limits {
    const DESCRIBING: &[&str] = &[
        "description",
        "default",
        "additionalProperties",
        "nullable",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-list-type",
        "x-kubernetes-validations",
    ];
    if value.get("type").is_some() && !int_or_string {
        let detail = "must be empty to be structural";
        faults.push(FieldError::forbidden(&format!("{path}.type"), detail));
    }
    for name in DESCRIBING.iter().filter(|name| value.get(**name).is_some()) {
        faults.push(FieldError::forbidden(
            &format!("{path}.{name}"),
            "must be undefined to be structural",
        ));
    }
    let mut found = limits(value, path, faults);
    let properties = value.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        let path = format!("{path}.properties[{name}]");
        found
            .properties
            .insert(name.clone(), nested(property, &path, false, faults));
    }
    if let Some(items) = value.get("items") {
        found.items = Some(Box::new(nested(
            items,
            &format!("{path}.items"),
            false,
            faults,
        )));
    }
    found
}
