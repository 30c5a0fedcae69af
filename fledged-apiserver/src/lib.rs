#![doc = include_str!("../README.md")]

mod api;
mod control;
mod error;
mod failures;
mod garbage_collector;
mod hollow_node;
mod json;
mod kinds;
mod object_store;
mod protobuf;
mod request_counts;
mod schema;
mod selectors;
mod server;
mod server_side_apply;
mod service;
mod timestamps;
mod validate;

pub use control::Control;
pub use error::StartError;
pub use failures::{Failure, RequestFilter};
pub use hollow_node::HollowNode;
pub use request_counts::RequestKey;
pub use server::{Builder, Server};
pub use service::{ResponseBody, Service};
pub use timestamps::Clock;
