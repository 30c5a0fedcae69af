//! Resources that a CRD defines.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::printer_column::Column;
use super::resource::{Resource, table_name};
use super::versions::version_rank;
use crate::error::FieldError;
use crate::schema::{Schema, default_faults, parse_root};

/// The schema of a version of a CRD.
pub(crate) type CustomSchema = Arc<Schema>;

fn text(value: &Value, field: &str) -> String {
    value
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    let listed = value.get(field).and_then(Value::as_array);
    listed
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value
        .get(field)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// Reads the schemas of all versions of a CRD.
///
/// # Errors
///
/// All faults of the schemas.
pub(crate) fn schemas(spec: &Value) -> Result<Vec<CustomSchema>, Vec<FieldError>> {
    let versions = list(spec, "versions");
    let schema_of = |version: &Value| {
        version
            .get("schema")
            .and_then(|s| s.get("openAPIV3Schema"))
            .cloned()
    };
    let first = versions.first().and_then(schema_of);
    let all_same = versions.iter().all(|version| schema_of(version) == first);
    let (mut schemas, mut faults) = (Vec::new(), Vec::new());
    for (index, version) in versions.iter().enumerate() {
        // The API server reports a schema that all versions share at this path.
        let path = match all_same {
            true => "spec.validation.openAPIV3Schema".to_owned(),
            false => format!("spec.versions[{index}].schema.openAPIV3Schema"),
        };
        match schema_of(version) {
            None => {
                let path = format!("spec.versions[{index}].schema.openAPIV3Schema");
                faults.push(FieldError::required(&path, ""));
            }
            Some(schema) => {
                let (schema, mut found) = parse_root(&schema, &path);
                found.extend(default_faults(&schema, &path));
                match found.is_empty() {
                    true => schemas.push(Arc::new(schema)),
                    false if all_same && index > 0 => {}
                    false => faults.extend(found),
                }
            }
        }
    }
    match faults.is_empty() {
        true => Ok(schemas),
        false => Err(faults),
    }
}

/// The resources of a valid CRD, one for each served version.
pub(crate) fn served_by(crd: &Value) -> Vec<Arc<Resource>> {
    let Some(spec) = crd.get("spec") else {
        return Vec::new();
    };
    let Ok(schemas) = schemas(spec) else {
        return Vec::new();
    };
    let names = crd
        .get("status")
        .and_then(|s| s.get("acceptedNames"))
        .unwrap_or(&Value::Null);
    let group = text(spec, "group");
    let versions = list(spec, "versions");
    let stored = versions
        .iter()
        .find(|v| v.get("storage") == Some(&Value::Bool(true)));
    let stored_as = format!(
        "{group}/{}",
        stored.map(|v| text(v, "name")).unwrap_or_default()
    );
    let served = versions
        .iter()
        .zip(schemas)
        .filter(|(v, _)| v.get("served") == Some(&Value::Bool(true)));
    let resources = served.map(|(version, schema)| {
        let name = text(version, "name");
        let deprecated = version.get("deprecated") == Some(&Value::Bool(true));
        let warning = text(version, "deprecationWarning");
        let kind = text(names, "kind");
        Resource {
            plural: text(names, "plural"),
            singular: text(names, "singular"),
            list_kind: text(names, "listKind"),
            namespaced: text(spec, "scope") == "Namespaced",
            short_names: texts(names, "shortNames"),
            categories: texts(names, "categories"),
            status: version
                .get("subresources")
                .and_then(|s| s.get("status"))
                .is_some(),
            table: table_name(&group, &text(names, "plural")),
            stored_as: stored_as.clone(),
            builtin: None,
            columns: columns(version),
            selectable: list(version, "selectableFields")
                .iter()
                .map(|field| text(field, "jsonPath").trim_start_matches('.').to_owned())
                .collect(),
            deprecation: deprecated.then(|| match warning.is_empty() {
                true => deprecation(&group, &name, &kind, versions),
                false => warning,
            }),
            group: group.clone(),
            version: name,
            kind,
            schema,
        }
    });
    resources.map(Arc::new).collect()
}

/// The warning for users of a deprecated version, with the version to use instead if there is a later one.
fn deprecation(group: &str, name: &str, kind: &str, versions: &[Value]) -> String {
    let is = |version: &Value, field: &str| version.get(field) == Some(&Value::Bool(true));
    let better = versions
        .iter()
        .filter(|version| is(version, "served") && !is(version, "deprecated"));
    let better = better
        .map(|version| text(version, "name"))
        .max_by_key(|name| version_rank(name));
    match better.filter(|better| version_rank(better) > version_rank(name)) {
        Some(better) => format!("{group}/{name} {kind} is deprecated; use {group}/{better} {kind}"),
        None => format!("{group}/{name} {kind} is deprecated"),
    }
}

fn columns(version: &Value) -> Vec<Column> {
    let mut columns = vec![Column {
        name: "Name".into(),
        kind: "string".into(),
        format: "name".into(),
        description: "Name must be unique within a namespace. Is required when creating resources."
            .into(),
        priority: 0,
        path: ".metadata.name".into(),
    }];
    let listed = list(version, "additionalPrinterColumns");
    if listed.is_empty() {
        columns.push(Column {
            name: "Age".into(),
            kind: "date".into(),
            format: String::new(),
            description: String::new(),
            priority: 0,
            path: ".metadata.creationTimestamp".into(),
        });
    }
    columns.extend(listed.iter().map(|column| Column {
        name: text(column, "name"),
        kind: text(column, "type"),
        format: text(column, "format"),
        description: match text(column, "description") {
            none if none.is_empty() => {
                let path = text(column, "jsonPath");
                format!("Custom resource definition column (in JSONPath format): {path}")
            }
            description => description,
        },
        priority: column.get("priority").and_then(Value::as_i64).unwrap_or(0),
        path: text(column, "jsonPath"),
    }));
    columns
}

/// The status of a CRD whose names are accepted.
pub(crate) fn accepted_status(crd: &Value, now: &str) -> Value {
    let spec = crd.get("spec").cloned().unwrap_or_default();
    let old = crd.get("status").cloned().unwrap_or_default();
    let condition = |kind: &str, reason: &str, message: &str| {
        let before = list(&old, "conditions")
            .iter()
            .find(|c| text(c, "type") == kind);
        match before.filter(|condition| text(condition, "status") == "True") {
            Some(before) => before.clone(),
            None => {
                json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now})
            }
        }
    };
    let mut conditions = vec![
        condition("NamesAccepted", "NoConflicts", "no conflicts found"),
        condition(
            "Established",
            "InitialNamesAccepted",
            "the initial names have been accepted",
        ),
    ];
    let kept = list(&old, "conditions")
        .iter()
        .filter(|c| !matches!(text(c, "type").as_str(), "NamesAccepted" | "Established"));
    conditions.extend(kept.cloned());
    let mut stored: Vec<Value> = list(&old, "storedVersions").to_vec();
    for version in list(&spec, "versions")
        .iter()
        .filter(|v| v.get("storage") == Some(&Value::Bool(true)))
    {
        let name = version.get("name").cloned().unwrap_or_default();
        if !stored.contains(&name) {
            stored.push(name);
        }
    }
    let mut status = Map::new();
    status.insert(
        "acceptedNames".into(),
        spec.get("names").cloned().unwrap_or_default(),
    );
    status.insert("conditions".into(), conditions.into());
    status.insert("storedVersions".into(), stored.into());
    Value::Object(status)
}
