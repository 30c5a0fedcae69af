//! What a request is about.

use std::sync::Arc;

use crate::kinds::Resource;
use crate::store::{Key, ObjectRef};

/// A resource, and one object of it or a part of that.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) resource: Arc<Resource>,
    /// Empty for cluster-scoped resources, and for all namespaces.
    pub(crate) namespace: String,
    /// Empty for collections.
    pub(crate) name: String,
    /// Empty for the object itself.
    pub(crate) subresource: String,
}

impl Target {
    /// The object.
    pub(crate) fn at(&self) -> ObjectRef {
        self.named(&self.name)
    }

    /// Another object beside it.
    pub(crate) fn named(&self, name: &str) -> ObjectRef {
        ObjectRef {
            table: Arc::clone(&self.resource.table),
            key: Key::new(&self.namespace, name),
        }
    }
}
