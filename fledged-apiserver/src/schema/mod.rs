//! Schemas of objects: read from CRDs and from the types of the built-in kinds.

mod builtin;
mod cel;
mod default;
mod format;
mod limits;
mod model;
mod parse;
mod prune;
mod validate;

pub(crate) use builtin::{builtin_document, builtin_schema, object_meta};
pub(crate) use cel::{Rule, RuleInput, check_rules};
pub(crate) use default::apply_defaults;
pub(crate) use format::has_format;
pub(crate) use model::{Limits, ListType, PatchStrategy, Schema, Shape};
pub(crate) use parse::{parse_root, parse_trusted};
pub(crate) use prune::prune;
pub(crate) use validate::validate;
