//! The commands for a cluster: they read ImageCaches, NodeImageCaches and Nodes, and decide nothing.
//!
//! Each command turns the objects it read into a view, a plain value that JSON and YAML show as it is
//! and that is rendered for people.

mod age;
mod args;
mod change;
mod connect;
mod dispatch;
mod document;
mod error;
mod follow;
mod get;
mod help;
mod matrix;
mod matrix_table;
mod node_objects;
mod objects;
mod overview;
mod plan;
mod progress;
mod record;
mod request;
mod selection;
mod status;
mod wait;
mod why;

pub use age::age;
pub use args::{
    ClusterCommand, ConnectionArgs, Format, FormatArgs, GetArgs, Goal, PlanArgs, RequestArgs,
    StatusArgs, WaitArgs, WhyArgs,
};
pub use change::{Action, Change, ChangeSummary, Changes, Inventory, changes};
#[cfg(feature = "demo")]
pub(crate) use connect::{Connection, connect};
pub(crate) use dispatch::dispatch;
pub use error::{ClusterError, Request};
#[cfg(feature = "demo")]
pub(crate) use get::get_until;
pub use matrix::{Cell, Matrix, NodeRow};
#[cfg(feature = "demo")]
pub(crate) use matrix_table::text as matrix_text;
pub use overview::{CacheOverview, Overview};
#[cfg(feature = "demo")]
pub(crate) use progress::{is_cached, is_empty, is_failed, missing};
#[cfg(feature = "demo")]
pub(crate) use record::is_warm;
pub use record::{State, Unreachable};
pub use why::{Answer, Evidence, Situation, WhyReason, explain};
