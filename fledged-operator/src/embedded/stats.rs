//! Which requests were made, and how often.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What kind of request one is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct RequestKey {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `apply` (a patch of that kind), `delete` or
    /// `deletecollection`; `other` for what is none of them.
    pub verb: String,
    /// Empty for the core group, and for paths that are no resources.
    pub group: String,
    /// In the plural; empty for paths that are no resources.
    pub resource: String,
    /// Empty for objects themselves.
    pub subresource: String,
    /// As the client sent it.
    pub user_agent: String,
    /// Of writes: the field manager, or what the server takes for one.
    pub field_manager: String,
}

impl RequestKey {
    /// Whether it is of a kind that changes something.
    pub fn is_write(&self) -> bool {
        matches!(
            self.verb.as_str(),
            "create" | "update" | "patch" | "apply" | "delete" | "deletecollection"
        )
    }
}

/// Counts of requests.
#[derive(Debug, Default)]
pub(crate) struct Requests(Mutex<BTreeMap<RequestKey, u64>>);

impl Requests {
    pub(crate) fn count(&self, key: RequestKey) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(key).or_default() += 1;
    }

    pub(crate) fn all(&self) -> BTreeMap<RequestKey, u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn reset(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}
