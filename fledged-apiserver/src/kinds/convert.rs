//! Objects in another version than the one they are stored in.

use std::borrow::Cow;

use serde_json::Value;

use super::{Builtin, Resource};

/// The names that fields of an Event have in the core group and in `events.k8s.io`.
const EVENT_FIELDS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn is_event_of_group(resource: &Resource, api_version: &str) -> bool {
    resource.builtin == Some(Builtin::Event) && api_version.starts_with("events.k8s.io/")
}

/// An object in another version of its resource.
pub(crate) fn convert<'v>(
    value: &'v Value,
    resource: &Resource,
    api_version: &str,
) -> Cow<'v, Value> {
    let now = value
        .get("apiVersion")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if now == api_version {
        return Cow::Borrowed(value);
    }
    let (from, to) = (
        is_event_of_group(resource, now),
        is_event_of_group(resource, api_version),
    );
    let mut converted = value.clone();
    if let Some(fields) = converted.as_object_mut() {
        fields.insert("apiVersion".into(), api_version.into());
        if from != to {
            for (core, grouped) in EVENT_FIELDS {
                let (old, new) = if to { (core, grouped) } else { (grouped, core) };
                if let Some(value) = fields.remove(*old) {
                    fields.insert((*new).to_owned(), value);
                }
            }
        }
    }
    Cow::Owned(converted)
}

/// The name of a field of the root in another version.
pub(crate) fn convert_path<'n>(
    name: &'n str,
    resource: &Resource,
    from: &str,
    to: &str,
) -> &'n str {
    match (
        is_event_of_group(resource, from),
        is_event_of_group(resource, to),
    ) {
        (false, true) => EVENT_FIELDS
            .iter()
            .find(|(core, _)| *core == name)
            .map_or(name, |(_, grouped)| grouped),
        (true, false) => EVENT_FIELDS
            .iter()
            .find(|(_, grouped)| *grouped == name)
            .map_or(name, |(core, _)| core),
        _ => name,
    }
}
