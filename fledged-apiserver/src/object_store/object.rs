//! States of objects, and the events between them.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::Value;

/// The key of an object within its resource: namespace (empty for cluster-scoped objects) and name, in the
/// order of lists.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }
}

/// The key of an object among all resources.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ObjectRef {
    /// Table: `resource.group`.
    pub(crate) table: Arc<str>,
    pub(crate) key: Key,
}

/// An immutable state of an object, shared by lists, watches and the history.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) value: Value,
    pub(crate) revision: u64,
    json: OnceLock<Bytes>,
    untyped_json: OnceLock<Bytes>,
}

impl Object {
    /// The state of `value` written at `revision`.
    pub(crate) fn new(mut value: Value, revision: u64) -> Self {
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".into(), revision.to_string().into());
        }
        Self {
            value,
            revision,
            json: OnceLock::new(),
            untyped_json: OnceLock::new(),
        }
    }

    /// The object in JSON, in the version it is stored in; encoded once.
    pub(crate) fn json(&self) -> &Bytes {
        self.json
            .get_or_init(|| Bytes::from(self.value.to_string()))
    }

    /// The object in JSON without `apiVersion` and `kind`, as in lists of built-in kinds; encoded once.
    pub(crate) fn untyped_json(&self) -> &Bytes {
        self.untyped_json.get_or_init(|| {
            let fields = self.value.as_object().into_iter().flatten();
            let fields = fields.filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind"));
            let fields: std::collections::BTreeMap<&String, &Value> = fields.collect();
            Bytes::from(serde_json::to_vec(&fields).unwrap_or_default())
        })
    }

    pub(crate) fn metadata(&self, field: &str) -> Option<&Value> {
        self.value.get("metadata")?.get(field)
    }

    pub(crate) fn metadata_str(&self, field: &str) -> &str {
        self.metadata(field).and_then(Value::as_str).unwrap_or("")
    }

    pub(crate) fn uid(&self) -> &str {
        self.metadata_str("uid")
    }

    pub(crate) fn is_deleting(&self) -> bool {
        self.metadata("deletionTimestamp")
            .is_some_and(|v| !v.is_null())
    }

    pub(crate) fn finalizers(&self) -> Vec<&str> {
        let listed = self.metadata("finalizers").and_then(Value::as_array);
        let listed = listed.map(Vec::as_slice).unwrap_or_default();
        listed.iter().filter_map(Value::as_str).collect()
    }

    pub(crate) fn owners(&self) -> &[Value] {
        let listed = self.metadata("ownerReferences").and_then(Value::as_array);
        listed.map(Vec::as_slice).unwrap_or_default()
    }
}

/// The type of a watch event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

impl Change {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One write.
#[derive(Debug)]
pub(crate) struct Event {
    /// The change of the object itself.
    pub(crate) change: Change,
    /// The state after the write. For a deletion: the last state, at the revision of the deletion.
    pub(crate) object: Arc<Object>,
    /// The state before the write.
    pub(crate) previous: Option<Arc<Object>>,
    left: OnceLock<Arc<Object>>,
    lines: [OnceLock<Bytes>; 3],
}

impl Event {
    pub(crate) fn new(change: Change, object: Arc<Object>, previous: Option<Arc<Object>>) -> Self {
        Self {
            change,
            object,
            previous,
            left: OnceLock::new(),
            lines: Default::default(),
        }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.object.revision
    }

    /// The object in the event for a watcher. An object that left the selection is sent as it was last selected,
    /// at the revision at which it left.
    pub(crate) fn shown(&self, change: Change) -> &Arc<Object> {
        match (change, self.change, &self.previous) {
            (Change::Deleted, Change::Modified, Some(previous)) => self.left.get_or_init(|| {
                Arc::new(Object::new(previous.value.clone(), self.object.revision))
            }),
            _ => &self.object,
        }
    }

    /// The line of a watch in the stored version; encoded once for all watchers.
    pub(crate) fn line(&self, change: Change) -> Bytes {
        let [added, modified, deleted] = &self.lines;
        let line = match change {
            Change::Added => added,
            Change::Modified => modified,
            Change::Deleted => deleted,
        };
        line.get_or_init(|| watch_line(change.as_str(), self.shown(change).json()))
            .clone()
    }
}

/// A line of a watch.
pub(crate) fn watch_line(kind: &str, object: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + 32);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(kind.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    Bytes::from(line)
}
