//! The cluster side: which node should hold which images, and the status of every cache.
//!
//! [`Planner`] is a pure state machine: [`Planner::apply`] takes events, [`Planner::poll`] returns
//! commands, and [`Planner::next_wakeup`] is the time of the next poll.

mod cache;
mod desired;
mod event;
mod node;
#[expect(clippy::module_inception, reason = "the file is named after its type")]
mod planner;
mod rollout;
mod status;
mod status_update;
mod tally;

pub use event::{
    Annotation, CacheEvent, CacheFacts, ClusterCommand, ClusterEvent, WriteTarget,
};
pub use planner::{Planner, PlannerConfig};
pub use status::{
    ActionReason, ActionStatus, CacheStatus, Condition, ConditionKind, NodeFailure, PairCounts,
};
