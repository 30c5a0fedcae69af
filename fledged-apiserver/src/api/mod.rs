//! Requests and responses.

mod create;
mod delete;
mod discovery;
mod encode;
mod openapi;
mod patch;
mod prepare;
mod read;
mod request;
mod response;
mod route;
mod state;
mod strategic_merge;
mod strategy;
mod table;
mod update;

pub(crate) use create::insert;
pub(crate) use delete::{CLEANUP, Deletion, FOREGROUND, ORPHAN, delete, delete_selected};
pub(crate) use prepare::{check_type, shape};
pub(crate) use request::{FieldValidation, Request, Target, Warnings, WriteOptions};
pub(crate) use response::refusal;
pub(crate) use route::serve;
pub(crate) use state::Api;
pub(crate) use strategy::is_done;
