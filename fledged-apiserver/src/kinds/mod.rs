//! The kinds that are served: built-in ones, and those that CRDs define.

mod builtin;
mod catalogue;
mod convert;
mod crd;
mod custom;
mod resource;
mod rows;
mod rows_around;
mod version;

pub(crate) use builtin::Builtin;
pub(crate) use catalogue::Catalogue;
pub(crate) use convert::{convert, convert_path};
pub(crate) use crd::{accepted_status, check_crd, default_crd};
pub(crate) use custom::served_by;
pub(crate) use resource::{Column, Resource};
pub(crate) use version::version_rank;
