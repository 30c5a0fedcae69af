#![doc = include_str!("../README.md")]

mod api;
mod apply;
mod control;
mod error;
mod failures;
mod garbage_collector;
mod hollow_node;
mod json;
mod kinds;
mod protobuf;
mod request_counts;
mod schema;
mod selectors;
mod server;
mod service;
mod store;
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
