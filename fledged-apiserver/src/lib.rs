#![doc = include_str!("../README.md")]

mod api;
mod apply;
mod builder;
mod clock;
mod collect;
mod control;
mod error;
mod faults;
mod hollow_node;
mod kinds;
mod merge;
mod protobuf;
mod schema;
mod select;
mod server;
mod service;
mod stats;
mod store;
mod validate;

pub use builder::Builder;
pub use clock::Clock;
pub use control::Control;
pub use error::StartError;
pub use faults::{Failure, RequestFilter};
pub use hollow_node::HollowNode;
pub use server::Server;
pub use service::{ResponseBody, Service};
pub use stats::RequestKey;
