//! What happened to an object, as watches tell it.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::Object;

/// What a watcher is told about an object.
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
    /// What happened to the object itself.
    pub(crate) change: Change,
    /// The state after the write; of a deleted object the last one, at the revision of its deletion.
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

    /// The object that a watcher is to be shown: one that left a selection is shown as it was last selected,
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
