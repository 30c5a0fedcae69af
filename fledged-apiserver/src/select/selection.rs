//! What a list or a watch asks for.

use super::{FieldSelector, LabelSelector};
use crate::store::{Interest, Object};

/// A namespace (empty for all of them), labels and fields.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    pub(crate) namespace: String,
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
}

impl Interest for Selection {
    fn selects(&self, object: &Object) -> bool {
        let in_namespace =
            self.namespace.is_empty() || self.namespace == object.metadata_str("namespace");
        in_namespace
            && self.labels.matches(object.metadata("labels"))
            && self.fields.matches(&object.value)
    }

    fn only_name(&self) -> Option<&str> {
        self.fields.only_name()
    }
}
