//! One stored state of an object.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::Value;

/// Where an object lies within its resource: namespace (empty for cluster-scoped objects) and name, in the
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

/// An object among all resources.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ObjectRef {
    /// Table: `resource.group`.
    pub(crate) table: Arc<str>,
    pub(crate) key: Key,
}

/// A state of an object; never changed, so that lists, watches and history can share it.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) value: Value,
    pub(crate) revision: u64,
    json: OnceLock<Bytes>,
    untyped_json: OnceLock<Bytes>,
}

impl Object {
    /// The state that `value` becomes at `revision`.
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

    /// The same without `apiVersion` and `kind`, as items of lists are.
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
