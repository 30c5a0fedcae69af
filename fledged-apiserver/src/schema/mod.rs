//! Schemas of objects: read from CRDs, and generated from the types of the built-in kinds.

mod cel;
mod generated;
mod parse;
mod structural;
mod values;

pub(crate) use cel::{RuleInput, check_rules};
pub(crate) use generated::{document, merged_field, object_meta, object_meta_document};
pub(crate) use parse::{parse_root, parse_trusted};
pub(crate) use structural::{ListType, Schema, Shape};
pub(crate) use values::{apply_defaults, default_faults, has_format, prune, validate};
