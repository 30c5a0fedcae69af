//! Limits of a planner.

use std::time::Duration;

use crate::model::{AssignmentDefaults, CountOrPercent};

/// Limits and intervals of a [`Planner`](super::Planner).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PlannerConfig {
    /// What an assignment takes where a cache says nothing.
    pub defaults: AssignmentDefaults,
    /// Nodes that pull at once in the whole cluster; a percentage is one of all nodes. Default 100:
    /// enough to warm a thousand nodes in ten waves, few enough for a registry behind one address.
    /// A malformed value is taken as the default.
    pub max_concurrent_nodes: CountOrPercent,
    /// How often images that move are pulled again; zero: never. Default 15 min, kube-fledged's
    /// `--image-cache-refresh-frequency`.
    pub refresh_interval: Duration,
    /// Share by which that interval is lengthened at most, 0 to 1. Default 0.1, so that caches made
    /// together do not ask their registry together for ever.
    pub refresh_jitter: f64,
    /// How long a node may leave an assignment unanswered before it counts as silent and gives its
    /// slot to another. Default 30 s: agents answer within seconds, and within 20 s where they have to
    /// find their API server again. One that comes back later goes on with what it was asked for.
    pub answer_grace: Duration,
    /// How much longer than the deadline of an image a node that has answered may say nothing while
    /// it has something to do. Default 60 s: an agent that restarts is back by then.
    pub report_grace: Duration,
    /// Shortest time between two status writes of one cache that change numbers only. Default 1 s.
    pub status_interval: Duration,
    /// How many failures a status shows. Default 20, which keeps it within a screen.
    pub failures_max: usize,
}

/// [`PlannerConfig::max_concurrent_nodes`] where nothing valid is given.
pub(super) const CONCURRENT_NODES: usize = 100;

impl Default for PlannerConfig {
    fn default() -> Self {
        Self {
            defaults: AssignmentDefaults::default(),
            max_concurrent_nodes: CountOrPercent::Count(100),
            refresh_interval: Duration::from_secs(15 * 60),
            refresh_jitter: 0.1,
            answer_grace: Duration::from_secs(30),
            report_grace: Duration::from_secs(60),
            status_interval: Duration::from_secs(1),
            failures_max: 20,
        }
    }
}
