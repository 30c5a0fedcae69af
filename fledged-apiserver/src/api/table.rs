//! Tables, as `kubectl get` asks for them.

use serde_json::{Value, json};

use super::Request;
use super::cells::cell;
use crate::error::{ApiError, ApiResult};
use crate::kinds::{Column, Resource, convert};
use crate::store::Object;

/// What rows carry besides their cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableOptions {
    Nothing,
    Metadata,
    Object,
}

impl TableOptions {
    pub(crate) fn of(request: &Request) -> ApiResult<Self> {
        match request.parameter("includeObject") {
            None | Some("Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::Nothing),
            Some("Object") => Ok(Self::Object),
            Some(other) => Err(ApiError::bad_request(format!(
                "unrecognized includeObject value: {other:?}"
            ))),
        }
    }
}

fn definition(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": column.kind,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    })
}

/// A table of objects.
pub(crate) fn of(
    objects: &[&Object],
    resource: &Resource,
    options: &TableOptions,
    metadata: Value,
    with_columns: bool,
) -> Value {
    let rows = objects.iter().map(|object| {
        let cells: Vec<Value> = resource
            .columns
            .iter()
            .map(|column| cell(&object.value, column))
            .collect();
        let mut row = json!({"cells": cells});
        let shown = match options {
            TableOptions::Nothing => None,
            TableOptions::Object => {
                Some(convert(&object.value, resource, &resource.api_version()).into_owned())
            }
            TableOptions::Metadata => Some(json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": object.value.get("metadata"),
            })),
        };
        if let (Some(shown), Some(row)) = (shown, row.as_object_mut()) {
            row.insert("object".into(), shown);
        }
        row
    });
    let rows: Vec<Value> = rows.collect();
    let columns: Vec<Value> = resource.columns.iter().map(definition).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": if with_columns { Value::Array(columns) } else { Value::Null },
        "rows": rows,
    })
}
