#![doc = include_str!("../README.md")]

mod api;
mod apply;
mod builder;
mod collect;
mod connection;
mod error;
mod faults;
mod hollow_node;
mod kinds;
mod merge;
mod protobuf;
mod schema;
mod select;
mod server;
mod stats;
mod store;
mod validate;

pub use builder::Builder;
pub use error::StartError;
pub use faults::{Failure, RequestFilter};
pub use hollow_node::HollowNode;
pub use server::Server;
pub use stats::RequestKey;
