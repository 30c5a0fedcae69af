//! Requests, and what is answered to them.

mod address;
mod body;
mod cells;
mod context;
mod create;
mod delete;
mod discovery;
mod encode;
pub(crate) mod jsonpath;
mod list;
mod metrics;
mod openapi;
mod options;
mod patch;
mod prepare;
mod request;
mod route;
mod table;
mod target;
mod update;
mod watch;

pub(crate) use body::refusal;
pub(crate) use context::Api;
pub(crate) use create::insert;
pub(crate) use delete::{CLEANUP, Deletion, FOREGROUND, ORPHAN, delete, delete_selected};
pub(crate) use options::{FieldValidation, WriteOptions};
pub(crate) use prepare::{check_type, shape};
pub(crate) use request::{Request, Warnings};
pub(crate) use route::serve;
pub(crate) use target::Target;
pub(crate) use update::is_done;
