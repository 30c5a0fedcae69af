//! The cluster side: which node should hold which images, and how far every cache has got.
//!
//! [`Planner`] is a pure state machine like the node's: [`Planner::apply`] takes what happened,
//! [`Planner::poll`] says what to do now, [`Planner::next_wakeup`] when to ask again.

mod assess;
mod cache;
mod config;
mod event;
mod fold;
mod node;
mod plan;
mod planner;
mod requests;
mod status;
mod status_update;
mod tally;

pub use config::PlannerConfig;
pub use event::{Annotation, CacheEvent, CacheFacts, ClusterCommand, ClusterEvent, WriteTarget};
pub use planner::Planner;
pub use status::{
    ActionReason, ActionStatus, CacheStatus, Condition, ConditionKind, NodeFailure, PairCounts,
};
