//! Reading structural schemas and their limits.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::Regex;
use serde_json::{Map, Value};

use super::cel::{compile, expensive_rules, misplaced_transitions};
use super::structural::{Limits, ListType, PatchStrategy, Rule, Schema, Shape};
use crate::error::FieldError;

/// Reads the root schema of a version of a CRD. Returns it with all places at which it is not structural, with paths
/// below `path`.
pub(crate) fn parse_root(value: &Value, path: &str) -> (Schema, Vec<FieldError>) {
    let mut reader = Reader {
        faults: Vec::new(),
        strict: true,
    };
    let mut schema = reader.schema(value, path, Place::Root);
    if schema.shape != Shape::Object {
        let detail = "must be object at the root";
        reader.faults.push(FieldError::invalid(
            &format!("{path}.type"),
            value.get("type").unwrap_or(&"".into()),
            detail,
        ));
    }
    // The fields that every object has need not be listed.
    schema.embedded = true;
    reader.faults.extend(misplaced_transitions(&schema, path));
    reader.faults.extend(expensive_rules(&schema, path));
    (schema, reader.faults)
}

/// Reads a schema that needs no checking.
pub(crate) fn parse_trusted(value: &Value) -> Schema {
    let mut reader = Reader {
        faults: Vec::new(),
        strict: false,
    };
    reader.schema(value, "", Place::Inside)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Inside,
}

struct Reader {
    faults: Vec<FieldError>,
    strict: bool,
}

const SUPPORTED: &[&str] = &[
    "$schema",
    "id",
    "title",
    "description",
    "type",
    "format",
    "nullable",
    "default",
    "example",
    "externalDocs",
    "properties",
    "additionalProperties",
    "items",
    "required",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-validations",
];

fn flag(value: &Value, name: &str) -> bool {
    value.get(name).and_then(Value::as_bool).unwrap_or(false)
}

impl Reader {
    fn fault(&mut self, fault: FieldError) {
        if self.strict {
            self.faults.push(fault);
        }
    }

    fn schema(&mut self, value: &Value, path: &str, place: Place) -> Schema {
        let empty = Map::new();
        let fields = value.as_object().unwrap_or(&empty);
        self.known(fields, path);
        let preserve = flag(value, "x-kubernetes-preserve-unknown-fields");
        let shape = self.shape(value, path);
        let mut schema = Schema {
            shape,
            nullable: flag(value, "nullable"),
            preserve,
            embedded: flag(value, "x-kubernetes-embedded-resource"),
            default: value.get("default").cloned(),
            list: self.list_type(value, path),
            atomic_map: value.get("x-kubernetes-map-type").and_then(Value::as_str)
                == Some("atomic"),
            limits: limits(value, path, &mut self.faults),
            ..Schema::default()
        };
        if let Some(kind) = value.get("x-kubernetes-map-type").and_then(Value::as_str)
            && !matches!(kind, "atomic" | "granular")
        {
            let known = ["atomic", "granular"].map(str::to_owned);
            self.fault(FieldError::not_supported(
                &format!("{path}.x-kubernetes-map-type"),
                &kind.into(),
                &known,
            ));
        }
        schema.properties = self.properties(value, path);
        match value.get("additionalProperties") {
            Some(Value::Bool(true)) => schema.preserve = true,
            Some(Value::Bool(false)) => {
                let detail = "additionalProperties cannot be set to false";
                self.fault(FieldError::forbidden(
                    &format!("{path}.additionalProperties"),
                    detail,
                ));
            }
            Some(additional @ Value::Object(_)) => {
                if !schema.properties.is_empty() {
                    let detail = "additionalProperties and properties are mutual exclusive";
                    self.fault(FieldError::forbidden(
                        &format!("{path}.additionalProperties"),
                        detail,
                    ));
                }
                let path = format!("{path}.additionalProperties");
                schema.additional = Some(Arc::new(self.schema(additional, &path, Place::Inside)));
            }
            _ => {}
        }
        match value.get("items") {
            Some(items @ Value::Object(_)) => {
                let path = format!("{path}.items");
                schema.items = Some(Arc::new(self.schema(items, &path, Place::Inside)));
            }
            Some(_) => {
                let detail = "items must be a schema object and not an array";
                self.fault(FieldError::forbidden(&format!("{path}.items"), detail));
            }
            None if shape == Shape::Array => {
                self.fault(FieldError::required(
                    &format!("{path}.items"),
                    "must be specified",
                ));
            }
            None => {}
        }
        if !self.strict {
            let text = |name: &str| value.get(name).and_then(Value::as_str);
            schema.patch = PatchStrategy {
                merge: text("x-kubernetes-patch-strategy")
                    .is_some_and(|s| s.split(',').any(|s| s == "merge")),
                key: text("x-kubernetes-patch-merge-key").map(str::to_owned),
            };
        }
        if let (Some(default), Place::Root) = (&schema.default, place) {
            let detail = "must not be set at the root";
            self.fault(FieldError::invalid(
                &format!("{path}.default"),
                default,
                detail,
            ));
        }
        schema.rules = self.rules(value, path, &schema);
        schema
    }

    fn known(&mut self, fields: &Map<String, Value>, path: &str) {
        if !self.strict {
            return;
        }
        for name in fields
            .keys()
            .filter(|name| !SUPPORTED.contains(&name.as_str()))
        {
            self.fault(FieldError::forbidden(
                &format!("{path}.{name}"),
                format!("{name} is not supported"),
            ));
        }
    }

    fn shape(&mut self, value: &Value, path: &str) -> Shape {
        let int_or_string = flag(value, "x-kubernetes-int-or-string");
        let named = value.get("type").and_then(Value::as_str).unwrap_or("");
        let shape = match named {
            "object" => Shape::Object,
            "array" => Shape::Array,
            "string" => Shape::String,
            "integer" => Shape::Integer,
            "number" => Shape::Number,
            "boolean" => Shape::Boolean,
            "" if int_or_string => Shape::IntOrString,
            "" => {
                if !flag(value, "x-kubernetes-preserve-unknown-fields") {
                    let detail = "must not be empty for specified object fields";
                    self.fault(FieldError::required(&format!("{path}.type"), detail));
                }
                Shape::Any
            }
            other => {
                let known = ["array", "boolean", "integer", "number", "object", "string"]
                    .map(str::to_owned);
                self.fault(FieldError::not_supported(
                    &format!("{path}.type"),
                    &other.into(),
                    &known,
                ));
                Shape::Any
            }
        };
        if int_or_string && shape != Shape::IntOrString {
            let detail = "must be empty if x-kubernetes-int-or-string is true";
            self.fault(FieldError::invalid(
                &format!("{path}.type"),
                &named.into(),
                detail,
            ));
        }
        shape
    }

    fn properties(&mut self, value: &Value, path: &str) -> BTreeMap<String, Arc<Schema>> {
        let listed = value.get("properties").and_then(Value::as_object);
        let mut properties = BTreeMap::new();
        for (name, property) in listed.into_iter().flatten() {
            let path = format!("{path}.properties[{name}]");
            properties.insert(
                name.clone(),
                Arc::new(self.schema(property, &path, Place::Inside)),
            );
        }
        properties
    }

    fn list_type(&mut self, value: &Value, path: &str) -> ListType {
        let keys = value
            .get("x-kubernetes-list-map-keys")
            .and_then(Value::as_array);
        let keys: Vec<String> = keys
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let at = format!("{path}.x-kubernetes-list-type");
        let is_array = value.get("type").and_then(Value::as_str) == Some("array");
        let named = value.get("x-kubernetes-list-type").and_then(Value::as_str);
        if named.is_some() && !is_array {
            let detail = "must be array if x-kubernetes-list-type is specified";
            self.fault(FieldError::invalid(
                &format!("{path}.type"),
                value.get("type").unwrap_or(&"".into()),
                detail,
            ));
        }
        match named {
            Some("set") => {
                let items = value.get("items");
                let of_items = |field: &str| {
                    items
                        .and_then(|items| items.get(field))
                        .and_then(Value::as_str)
                };
                let whole = match of_items("type") {
                    Some("object") => of_items("x-kubernetes-map-type") == Some("atomic"),
                    Some("array") => {
                        matches!(of_items("x-kubernetes-list-type"), None | Some("atomic"))
                    }
                    _ => true,
                };
                if !whole {
                    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
                    let at = format!("{path}.items.x-kubernetes-map-type");
                    self.fault(FieldError::invalid(&at, &Value::Null, detail));
                }
                ListType::Set
            }
            Some("map") => {
                if keys.is_empty() {
                    let detail = "must not be empty if x-kubernetes-list-type is map";
                    self.fault(FieldError::required(
                        &format!("{path}.x-kubernetes-list-map-keys"),
                        detail,
                    ));
                }
                self.map_keys(value, path, &keys);
                ListType::Map(keys)
            }
            None | Some("atomic") => ListType::Atomic,
            Some(other) => {
                let known = ["atomic", "map", "set"].map(str::to_owned);
                self.fault(FieldError::not_supported(&at, &other.into(), &known));
                ListType::Atomic
            }
        }
    }

    fn map_keys(&mut self, value: &Value, path: &str, keys: &[String]) {
        let items = value.get("items");
        let required = items
            .and_then(|items| items.get("required"))
            .and_then(Value::as_array);
        for key in keys {
            let property = items
                .and_then(|items| items.get("properties"))
                .and_then(|p| p.get(key));
            let Some(property) = property else {
                let detail = "entries must all be names of item properties";
                let at = format!("{path}.x-kubernetes-list-map-keys");
                self.fault(FieldError::invalid(&at, &key.as_str().into(), detail));
                continue;
            };
            let is_required = required.is_some_and(|names| names.iter().any(|name| name == key));
            if property.get("default").is_none() && !is_required {
                let at = format!("{path}.items.properties[{key}].default");
                let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                self.fault(FieldError::required(&at, detail));
            }
        }
    }

    fn rules(&mut self, value: &Value, path: &str, schema: &Schema) -> Vec<Rule> {
        let listed = value
            .get("x-kubernetes-validations")
            .and_then(Value::as_array);
        let mut rules = Vec::new();
        for (index, rule) in listed.into_iter().flatten().enumerate() {
            let path = format!("{path}.x-kubernetes-validations[{index}]");
            match compile(rule, &path, schema) {
                Ok(rule) => rules.push(rule),
                Err(fault) => self.fault(fault),
            }
        }
        rules
    }
}

/// Reads the limits that a schema sets, and those of its `allOf`, `anyOf`, `oneOf` and `not`.
fn limits(value: &Value, path: &str, faults: &mut Vec<FieldError>) -> Limits {
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
    // Only an integer-or-string may set types there.
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

/// A member of `allOf` and its like may validate fields, but not describe them.
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
