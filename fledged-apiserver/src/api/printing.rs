//! Tables as `kubectl get` asks for them, and their cells.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::http_request::Request;
use super::shared_state::Api;
use crate::error::{ApiError, ApiResult};
use crate::json::{at, items, text};
use crate::kinds::{Column, JsonPath, Resource, convert};
use crate::object_store::Object;
use crate::timestamps::Clock;

/// The object in a row, besides its cells.
#[derive(Debug, Clone, Copy)]
enum RowObject {
    Nothing,
    Metadata,
    Whole,
}

/// Options of a table.
#[derive(Debug, Clone)]
pub(crate) struct TableOptions {
    row_object: RowObject,
    /// The clock that ages are computed with.
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
pub(crate) fn table(
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

/// The cell of an object in a column. A path that begins with `=` names a computed value.
fn cell(object: &Value, column: &Column, now: Timestamp) -> Value {
    if let Some(name) = column.path.strip_prefix('=') {
        return computed(object, name, now);
    }
    let Ok(path) = JsonPath::parse(&column.path) else {
        return Value::Null;
    };
    let found = path.find(object);
    let Some(first) = found.first() else {
        // An absent metadata field is an empty cell.
        return if column.path.starts_with(".metadata.") {
            "".into()
        } else {
            Value::Null
        };
    };
    match (column.kind.as_str(), first) {
        ("date", Value::String(text)) => age(text, now),
        ("integer", Value::Number(number)) => match number.as_i64() {
            Some(integer) => integer.into(),
            None => (number.as_f64().unwrap_or_default() as i64).into(),
        },
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*first).clone(),
        ("string", _) => {
            let shown = |value: &&Value| {
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned)
            };
            found.iter().map(shown).collect::<Vec<_>>().join(",").into()
        }
        _ => Value::Null,
    }
}

fn number(object: &Value, path: &[&str]) -> i64 {
    at(object, path).as_i64().unwrap_or_default()
}

fn computed(object: &Value, name: &str, now: Timestamp) -> Value {
    match name.split_once(':') {
        Some(("count", field)) => {
            return match object.get(field) {
                Some(Value::Object(fields)) => fields.len().into(),
                Some(Value::Array(items)) => items.len().into(),
                _ => 0.into(),
            };
        }
        Some(("number", field)) => return number(object, &["status", field]).into(),
        _ => {}
    }
    match name {
        "node-status" => {
            let ready = items(object, &["status", "conditions"])
                .iter()
                .find(|c| text(c, &["type"]) == "Ready");
            let mut status = match ready.map(|condition| text(condition, &["status"])) {
                Some("True") => "Ready".to_owned(),
                Some(_) => "NotReady".to_owned(),
                None => "Unknown".to_owned(),
            };
            if at(object, &["spec", "unschedulable"]) == &Value::Bool(true) {
                status.push_str(",SchedulingDisabled");
            }
            status.into()
        }
        "node-roles" => {
            let labels = at(object, &["metadata", "labels"]).as_object();
            let roles = labels
                .into_iter()
                .flatten()
                .filter_map(|(key, _)| key.strip_prefix("node-role.kubernetes.io/"));
            match roles
                .filter(|role| !role.is_empty())
                .collect::<Vec<_>>()
                .join(",")
            {
                none if none.is_empty() => "<none>".into(),
                roles => roles.into(),
            }
        }
        "node-selector" => {
            let selector = at(object, &["spec", "template", "spec", "nodeSelector"]).as_object();
            let terms = selector
                .into_iter()
                .flatten()
                .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
            match terms.collect::<Vec<_>>().join(",") {
                none if none.is_empty() => "<none>".into(),
                terms => terms.into(),
            }
        }
        "deployment-ready" => {
            let (ready, wanted) = (
                number(object, &["status", "readyReplicas"]),
                number(object, &["spec", "replicas"]),
            );
            format!("{ready}/{wanted}").into()
        }
        "pod-ready" => {
            let statuses = items(object, &["status", "containerStatuses"]);
            let ready = statuses
                .iter()
                .filter(|status| at(status, &["ready"]) == &Value::Bool(true))
                .count();
            format!("{ready}/{}", items(object, &["spec", "containers"]).len()).into()
        }
        "pod-restarts" => {
            let statuses = items(object, &["status", "containerStatuses"]).iter();
            statuses
                .map(|status| number(status, &["restartCount"]))
                .sum::<i64>()
                .to_string()
                .into()
        }
        "job-status" => {
            let is = |kind: &str| {
                let mut conditions = items(object, &["status", "conditions"]).iter();
                conditions.any(|c| text(c, &["type"]) == kind && text(c, &["status"]) == "True")
            };
            match (is("Complete"), is("Failed"), is("Suspended")) {
                (true, ..) => "Complete".into(),
                (_, true, _) => "Failed".into(),
                (.., true) => "Suspended".into(),
                _ => "Running".into(),
            }
        }
        "job-completions" => {
            let wanted = at(object, &["spec", "completions"]).as_i64().unwrap_or(1);
            format!("{}/{wanted}", number(object, &["status", "succeeded"])).into()
        }
        "created-at" => at(object, &["metadata", "creationTimestamp"]).clone(),
        "event-object" => {
            let about = at(object, &["involvedObject"]);
            format!(
                "{}/{}",
                text(about, &["kind"]).to_lowercase(),
                text(about, &["name"])
            )
            .into()
        }
        "event-last-seen" => {
            let times = [
                &["series", "lastObservedTime"][..],
                &["lastTimestamp"],
                &["firstTimestamp"],
                &["eventTime"],
            ];
            let time = times
                .iter()
                .map(|path| text(object, path))
                .find(|time| !time.is_empty());
            time.map_or_else(|| "<unknown>".into(), |time| age(time, now))
        }
        _ => Value::Null,
    }
}

/// The age, as `kubectl` writes it.
fn age(text: &str, now: Timestamp) -> Value {
    let Ok(time) = text.parse::<Timestamp>() else {
        return "<invalid>".into();
    };
    let seconds = now.as_second() - time.as_second();
    human(seconds).into()
}

fn human(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |whole: i64, unit: &str, rest: i64, small: &str| match rest {
        0 => format!("{whole}{unit}"),
        rest => format!("{whole}{unit}{rest}{small}"),
    };
    match seconds {
        // Clocks may differ by a second.
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        s if s < 2 * MINUTE => format!("{s}s"),
        s if s < 10 * MINUTE => two(s / MINUTE, "m", s % MINUTE, "s"),
        s if s < 3 * HOUR => format!("{}m", s / MINUTE),
        s if s < 8 * HOUR => two(s / HOUR, "h", s % HOUR / MINUTE, "m"),
        s if s < 2 * DAY => format!("{}h", s / HOUR),
        s if s < 8 * DAY => two(s / DAY, "d", s % DAY / HOUR, "h"),
        s if s < 2 * YEAR => format!("{}d", s / DAY),
        s if s < 8 * YEAR => two(s / YEAR, "y", s % YEAR / DAY, "d"),
        s => format!("{}y", s / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn ages_are_rounded_as_kubectl_rounds_them() {
        for (seconds, expected) in [
            (0, "0s"),
            (119, "119s"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (50 * 3600, "2d2h"),
            (20 * 86_400, "20d"),
        ] {
            assert_eq!(human(seconds), expected);
        }
    }
}
