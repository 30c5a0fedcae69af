//! Selections of objects by labels and fields.

mod field;
mod label;
mod selection;

pub(crate) use field::FieldSelector;
pub(crate) use label::LabelSelector;
pub(crate) use selection::Selection;
