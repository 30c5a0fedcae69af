//! Decoding a body into an object, and checking it before it is stored.

use serde_json::{Map, Value};

use super::http_request::{FieldValidation, Request, Warnings};
use crate::error::{ApiError, ApiResult, Fault, FieldError};
use crate::kinds::{Builtin, Resource, convert};
use crate::protobuf;
use crate::schema::{
    RuleInput, Schema, Shape, apply_defaults, check_rules, has_format, object_meta, prune, validate,
};
use crate::validate::{
    check_metadata, check_metadata_change, check_object, default_object, normalize,
};

/// The largest object, in bytes: the limit of etcd for a request.
const OBJECT_LIMIT: usize = 1536 * 1024;

/// Reads a body into an object of the resource.
///
/// # Errors
///
/// A body in an unsupported format, or of another kind.
pub(crate) fn read(request: &Request, resource: &Resource) -> ApiResult<Value> {
    let value = parse(request)?;
    check_type(value, resource)
}

/// Reads a body, in JSON or YAML.
pub(crate) fn parse(request: &Request) -> ApiResult<Value> {
    let unreadable = |error: String| {
        ApiError::bad_request(format!(
            "couldn't get version/kind; json parse error: {error}"
        ))
    };
    match request.content_type() {
        "application/json" | "" | "*/*" => {
            serde_json::from_slice(&request.body).map_err(|error| unreadable(error.to_string()))
        }
        "application/yaml" | "application/apply-patch+yaml" => {
            // JSON is valid YAML, but the JSON parser is much faster.
            serde_json::from_slice(&request.body).or_else(|_| {
                serde_saphyr::from_slice(&request.body)
                    .map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))
            })
        }
        "application/vnd.kubernetes.protobuf" => protobuf::read(&request.body).map_err(|why| {
            let message =
                format!("the body of the request is protobuf that this server cannot read: {why}");
            ApiError::new(415, "UnsupportedMediaType", message)
        }),
        _ => Err(ApiError::unsupported_media_type(&[
            "application/json",
            "application/yaml",
        ])),
    }
}

/// Checks that an object is of the resource's kind and version.
pub(crate) fn check_type(mut value: Value, resource: &Resource) -> ApiResult<Value> {
    let text = |field: &str| {
        value
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (version, kind) = (text("apiVersion"), text("kind"));
    let Some(fields) = value.as_object_mut() else {
        return Err(ApiError::bad_request(
            "couldn't get version/kind; json parse error: no object",
        ));
    };
    match (version.as_str(), kind.as_str(), resource.is_custom()) {
        ("", "", false) => {
            fields.insert("apiVersion".into(), resource.api_version().into());
            fields.insert("kind".into(), resource.kind.clone().into());
        }
        (_, "", _) => {
            return Err(ApiError::bad_request(format!(
                "Object 'Kind' is missing in '{value}'"
            )));
        }
        ("", ..) => {
            return Err(ApiError::bad_request(format!(
                "Object 'apiVersion' is missing in '{value}'"
            )));
        }
        (version, ..) if version != resource.api_version() => {
            let expected = resource.api_version();
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({version}) does not match the expected API version ({expected})"
            )));
        }
        (_, kind, true) if kind != resource.kind => {
            let detail = format!("must be {}", resource.kind);
            let fault = FieldError::invalid("kind", &kind.into(), detail);
            let name = value
                .get("metadata")
                .and_then(|metadata| metadata.get("name"));
            let name = name.and_then(Value::as_str).unwrap_or_default();
            return Err(ApiError::invalid(&resource.group, kind, name, vec![fault]));
        }
        (_, kind, false) if kind != resource.kind => {
            let (version, expected) = (&resource.version, &resource.kind);
            return Err(ApiError::bad_request(format!(
                "{kind} in version \"{version}\" cannot be handled as a {expected}: converting ({kind}) to ({expected}): unknown conversion"
            )));
        }
        _ => {}
    }
    Ok(value)
}

fn cannot_be_handled(resource: &Resource, why: &str) -> ApiError {
    let (kind, version) = (&resource.kind, &resource.version);
    ApiError::bad_request(format!(
        "{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"
    ))
}

/// Decodes an object by its schema: checks types, prunes unknown fields, fills in defaults.
///
/// # Errors
///
/// Fields of wrong types; unknown fields under strict validation.
pub(crate) fn shape(
    mut value: Value,
    resource: &Resource,
    validation: FieldValidation,
    warnings: &Warnings,
) -> ApiResult<Value> {
    if !value
        .get("metadata")
        .is_none_or(|metadata| metadata.is_object() || metadata.is_null())
    {
        return Err(cannot_be_handled(
            resource,
            "json: cannot unmarshal metadata that is no object",
        ));
    }
    let metadata = value
        .as_object_mut()
        .map(|fields| fields.entry("metadata").or_insert(Value::Null));
    let mut unknown = Vec::new();
    if let Some(metadata) = metadata {
        drop_nulls(metadata, object_meta());
        if metadata.is_null() {
            *metadata = Value::Object(Map::new());
        }
        if let Some(why) = type_fault(
            metadata,
            object_meta(),
            &format!("{}.metadata", resource.kind),
        ) {
            return Err(cannot_be_handled(resource, &why));
        }
        let found = prune(metadata, object_meta());
        unknown.extend(found.into_iter().map(|path| format!("metadata.{path}")));
        if let Some(fields) = metadata.as_object_mut() {
            normalize(fields);
        }
    }
    if let (false, Some(schema)) = (resource.is_custom(), Some(&resource.schema)) {
        drop_nulls(&mut value, schema);
        if let Some(why) = type_fault(&value, schema, &resource.kind) {
            return Err(cannot_be_handled(resource, &why));
        }
    }
    unknown.extend(prune(&mut value, &resource.schema));
    if !unknown.is_empty() {
        let named: Vec<String> = unknown
            .iter()
            .map(|path| format!("unknown field \"{path}\""))
            .collect();
        match validation {
            FieldValidation::Ignore => {}
            FieldValidation::Warn => warnings.extend(named),
            FieldValidation::Strict => {
                let why = format!("strict decoding error: {}", named.join(", "));
                return Err(cannot_be_handled(resource, &why));
            }
        }
    }
    drop_impossible_nulls(&mut value, &resource.schema);
    complete(&mut value, resource);
    Ok(value)
}

/// Decodes the result of server-side apply, which refuses unknown fields and keeps nulls.
pub(crate) fn reshape(
    mut value: Value,
    resource: &Resource,
    warnings: &Warnings,
) -> ApiResult<Value> {
    if !resource.is_custom() {
        return shape(value, resource, FieldValidation::Warn, warnings);
    }
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        normalize(metadata);
    }
    complete(&mut value, resource);
    Ok(value)
}

/// Removes nulls of fields that are not nullable.
fn drop_impossible_nulls(value: &mut Value, schema: &Schema) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, value| {
                let property = schema.properties.get(name);
                // These become the default.
                let has_default = property.is_some_and(|property| property.default.is_some());
                let known = property.or(schema.additional.as_ref());
                !value.is_null()
                    || has_default
                    || known.is_none_or(|known| known.nullable || known.shape == Shape::Any)
            });
            for (name, value) in fields.iter_mut() {
                if let Some(known) = schema.properties.get(name).or(schema.additional.as_ref()) {
                    drop_impossible_nulls(value, known);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                items
                    .iter_mut()
                    .for_each(|item| drop_impossible_nulls(item, schema));
            }
        }
        _ => {}
    }
}

/// Sets defaults.
pub(crate) fn complete(value: &mut Value, resource: &Resource) {
    apply_defaults(value, &resource.schema);
    if let Some(kind) = resource.builtin {
        default_object(kind, value);
    }
}

/// Removes nulls and empty lists and maps, which the Go types of the API server omit.
fn drop_nulls(value: &mut Value, schema: &Schema) {
    if schema.shape == Shape::Any {
        return;
    }
    match value {
        Value::Object(fields) => {
            fields.retain(|name, value| match value {
                Value::Null => false,
                // An empty optional list or map is omitted.
                Value::Array(items) => {
                    !items.is_empty() || schema.limits.required.iter().any(|r| r == name)
                }
                Value::Object(inner) => {
                    let known = schema.properties.get(name);
                    let is_map = known.is_some_and(|known| known.additional.is_some());
                    !(is_map && inner.is_empty())
                }
                _ => true,
            });
            for (name, value) in fields.iter_mut() {
                if let Some(known) = schema.properties.get(name).or(schema.additional.as_ref()) {
                    drop_nulls(value, known);
                }
            }
        }
        Value::Array(items) => {
            if let Some(schema) = &schema.items {
                items.iter_mut().for_each(|item| drop_nulls(item, schema));
            }
        }
        _ => {}
    }
}

/// The decoding error of the first value of a wrong type.
fn type_fault(value: &Value, schema: &Schema, path: &str) -> Option<String> {
    let (found, wanted) = match (schema.shape, value) {
        (_, Value::Null) | (Shape::Any, _) => return None,
        (Shape::Object, Value::Object(fields)) => {
            return fields.iter().find_map(|(name, value)| {
                match (schema.properties.get(name), &schema.additional) {
                    (Some(known), _) => type_fault(value, known, &format!("{path}.{name}")),
                    (None, Some(known)) => type_fault(value, known, path),
                    (None, None) => None,
                }
            });
        }
        (Shape::Array, Value::Array(items)) => {
            let schema = schema.items_or_any();
            return items.iter().find_map(|item| type_fault(item, schema, path));
        }
        (Shape::String, Value::String(text)) => {
            return match schema.limits.format.as_deref() {
                Some("date-time") if !has_format(text, "date-time") => Some(format!(
                    "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?}"
                )),
                Some("byte") if !has_format(text, "byte") => {
                    Some("illegal base64 data at input byte 0".to_owned())
                }
                _ => None,
            };
        }
        (Shape::IntOrString, Value::String(_) | Value::Number(_))
        | (Shape::Boolean, Value::Bool(_))
        | (Shape::Number, Value::Number(_)) => return None,
        (Shape::Integer, Value::Number(number)) => {
            let range = match schema.limits.format.as_deref() {
                Some("int32") => i64::from(i32::MIN)..=i64::from(i32::MAX),
                _ => i64::MIN..=i64::MAX,
            };
            match number
                .as_i64()
                .is_some_and(|number| range.contains(&number))
            {
                true => return None,
                false => ("number", "integer"),
            }
        }
        (shape, Value::String(_)) => ("string", shape.name()),
        (shape, Value::Number(_)) => ("number", shape.name()),
        (shape, Value::Bool(_)) => ("bool", shape.name()),
        (shape, Value::Array(_)) => ("array", shape.name()),
        (shape, Value::Object(_)) => ("object", shape.name()),
    };
    Some(format!(
        "json: cannot unmarshal {found} into Go struct field {path} of type {wanted}"
    ))
}

/// Checks an object before it is stored.
///
/// # Errors
///
/// All faults of the object.
pub(crate) fn check(new: &Value, old: Option<&Value>, resource: &Resource) -> ApiResult<()> {
    let none = Value::Null;
    let metadata = new.get("metadata").unwrap_or(&none);
    let mut faults = check_metadata(metadata, resource);
    let old_metadata = old.and_then(|old| old.get("metadata"));
    if let Some(old) = old_metadata {
        faults.extend(check_metadata_change(metadata, old));
    }
    match resource.builtin {
        Some(kind) => {
            let core = convert(new, resource, &resource.stored_as);
            let old = old.map(|old| convert(old, resource, &resource.stored_as));
            let in_group = kind == Builtin::Event && !resource.group.is_empty();
            faults.extend(check_object(kind, in_group, &core, old.as_deref()));
        }
        None => check_custom(new, old, &resource.schema, &mut faults),
    }
    let name = metadata
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if !faults.is_empty() {
        return Err(ApiError::invalid(
            &resource.group,
            &resource.kind,
            name,
            faults,
        ));
    }
    if new.to_string().len() > OBJECT_LIMIT {
        return Err(ApiError::new(500, "", "etcdserver: request is too large"));
    }
    Ok(())
}

fn check_custom(new: &Value, old: Option<&Value>, schema: &Schema, faults: &mut Vec<FieldError>) {
    faults.extend(validate(new, schema, ""));
    let blocks = |fault: &FieldError| {
        matches!(
            fault.fault,
            Fault::NotSupported
                | Fault::Required
                | Fault::TooLong
                | Fault::TooMany
                | Fault::TypeInvalid
        )
    };
    if !schema.has_rules() {
        return;
    }
    if faults.iter().any(blocks) {
        let detail = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
        faults.push(FieldError::invalid("", &Value::Null, detail));
        return;
    }
    faults.extend(check_rules(RuleInput { new, old }, schema, ""));
}
