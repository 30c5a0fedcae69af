//! Which requests were made, and how often.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

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

/// What requests of one kind, whoever made them, were answered with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AnswerKey {
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) verb: String,
    pub(crate) code: u16,
}

/// Requests of one kind, and the bytes of their bodies.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Answers {
    pub(crate) count: u64,
    pub(crate) body_bytes: u64,
}

/// Counts of requests.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    made: Mutex<BTreeMap<RequestKey, u64>>,
    answered: Mutex<BTreeMap<AnswerKey, Answers>>,
}

impl Requests {
    pub(crate) fn count(&self, key: RequestKey) {
        *lock(&self.made).entry(key).or_default() += 1;
    }

    /// A request whose body had that many bytes was answered.
    pub(crate) fn answered(&self, key: AnswerKey, body_bytes: usize) {
        let mut answered = lock(&self.answered);
        let answers = answered.entry(key).or_default();
        answers.count += 1;
        answers.body_bytes += body_bytes as u64;
    }

    pub(crate) fn all(&self) -> BTreeMap<RequestKey, u64> {
        lock(&self.made).clone()
    }

    /// What was answered since the server was started; [`Self::reset`] leaves it alone.
    pub(crate) fn answers(&self) -> BTreeMap<AnswerKey, Answers> {
        lock(&self.answered).clone()
    }

    pub(crate) fn reset(&self) {
        lock(&self.made).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
