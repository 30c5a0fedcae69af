//! Versions of a resource: their order, and objects in another version than the stored one.

use std::borrow::Cow;

use serde_json::Value;

use super::resource::{Builtin, Resource};

/// The rank of a version: stable above beta above alpha, later above earlier.
pub(crate) fn version_rank(version: &str) -> (u8, u64, u64) {
    let (major, rest) = number(version.trim_start_matches('v'));
    let (stage, rest) = match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
        (Some(rest), _) => (1, rest),
        (_, Some(rest)) => (0, rest),
        _ => (2, rest),
    };
    (stage, major, number(rest).0)
}

fn number(text: &str) -> (u64, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    (number.parse().unwrap_or(0), rest)
}

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

/// Converts an object to another version of its resource.
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

/// Converts the name of a top-level field to another version.
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

#[cfg(test)]
mod tests {
    use super::version_rank;

    #[test]
    fn stable_versions_come_first() {
        let mut versions = ["v1alpha2", "v2", "v1beta1", "v10", "v1alpha10"];
        versions.sort_by_key(|version| std::cmp::Reverse(version_rank(version)));
        assert_eq!(versions, ["v10", "v2", "v1beta1", "v1alpha10", "v1alpha2"]);
    }
}
