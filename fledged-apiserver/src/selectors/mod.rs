//! Selections of objects by labels and fields.

mod field_selector;
mod label_selector;

use crate::object_store::{Interest, Object};

pub(crate) use field_selector::FieldSelector;
pub(crate) use label_selector::LabelSelector;

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
