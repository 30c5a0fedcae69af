//! Requests and responses.

mod create;
mod delete;
mod discovery;
mod encode;
mod http_request;
mod openapi;
mod patch;
mod pod_proxy;
mod prepare;
mod printing;
mod read;
mod response;
mod route;
mod shared_state;
mod strategic_merge;
mod strategy;
mod update;

pub(crate) use create::insert;
pub(crate) use delete::{CLEANUP, Deletion, FOREGROUND, ORPHAN, delete, delete_selected};
pub(crate) use http_request::{FieldValidation, Request, Target, Warnings, WriteOptions};
pub(crate) use prepare::{check_type, shape};
pub(crate) use response::refusal;
pub(crate) use route::serve;
pub(crate) use shared_state::Api;
pub(crate) use strategy::is_done;
