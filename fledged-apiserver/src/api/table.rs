//! Tables, as `kubectl get` asks for them.

use serde_json::{Value, json};

use super::cells::cell;
use super::{Api, Request};
use crate::clock::Clock;
use crate::error::{ApiError, ApiResult};
use crate::kinds::{Column, Resource, convert};
use crate::store::Object;

/// What rows carry besides their cells.
#[derive(Debug, Clone, Copy)]
enum RowObject {
    Nothing,
    Metadata,
    Whole,
}

/// How a table is made.
#[derive(Debug, Clone)]
pub(crate) struct TableOptions {
    row_object: RowObject,
    /// What ages are counted from.
    clock: Clock,
}

impl TableOptions {
    pub(crate) fn of(api: &Api, request: &Request) -> ApiResult<Self> {
        let row_object = match request.parameter("includeObject") {
            None | Some("Metadata") => RowObject::Metadata,
            Some("None") => RowObject::Nothing,
            Some("Object") => RowObject::Whole,
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "unrecognized includeObject value: {other:?}"
                )));
            }
        };
        let clock = api.clock.clone();
        Ok(Self { row_object, clock })
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
    let now = options.clock.now();
    let rows = objects.iter().map(|object| {
        let cells: Vec<Value> = resource
            .columns
            .iter()
            .map(|column| cell(&object.value, column, now))
            .collect();
        let mut row = json!({"cells": cells});
        let shown = match options.row_object {
            RowObject::Nothing => None,
            RowObject::Whole => {
                Some(convert(&object.value, resource, &resource.api_version()).into_owned())
            }
            RowObject::Metadata => Some(json!({
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
