//! The cluster side: which node should hold which images, and the status of every cache.
//!
//! [`Planner`] is a pure state machine: [`Planner::apply`] takes events, [`Planner::poll`] returns
//! commands, and [`Planner::next_wakeup`] is the time of the next poll. [`Planner::explain`] returns
//! why an image is on a node or not, from the same state.

mod cache;
mod caches;
mod cluster_event;
mod config;
mod desired;
mod due;
mod explain;
mod namespace_limit;
mod node_state;
mod rollout;
mod slots;
mod state_machine;
mod status;
mod status_update;
mod tally;
mod trouble;
mod trouble_event;

pub use cluster_event::{
    Annotation, CacheEvent, CacheFacts, ClusterCommand, ClusterEvent, EventReason, NodeRecord,
    WriteTarget,
};
pub use config::PlannerConfig;
pub use explain::{Cause, Explanation, PullFailure, SelectorMismatch};
pub use state_machine::Planner;
pub use status::{
    ActionReason, ActionStatus, CacheStatus, Condition, ConditionKind, LastActions, NodeFailure,
    PairCounts, RemovedCounts,
};
