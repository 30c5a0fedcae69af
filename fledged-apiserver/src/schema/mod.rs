//! Schemas of objects: read from CRDs, and generated from the types of the built-in kinds.

mod cel;
mod generated;
mod model;
mod parse;
mod values;

pub(crate) use cel::{RuleInput, check_rules};
pub(crate) use generated::{document, object_meta, object_meta_document};
pub(crate) use model::{ListType, Schema, Shape};
pub(crate) use parse::{parse_root, parse_trusted};
pub(crate) use values::{apply_defaults, has_format, prune, validate};
