//! The settings of a planner.

use std::time::Duration;

use crate::model::{AssignmentDefaults, CountOrPercent};

/// Limits and intervals of a [`Planner`](super::Planner).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct PlannerConfig {
    /// Values for caches that don't set them.
    pub defaults: AssignmentDefaults,
    /// Most nodes that pull at once in the whole cluster; a percentage is one of all nodes. Default 100:
    /// enough to warm a thousand nodes in ten waves, few enough for a registry that limits requests by
    /// address. A malformed value counts as the default.
    ///
    /// The limit is exact while caches of one namespace pull, and always for the nodes of one namespace. If others
    /// hold all slots, a namespace still has one node, and its share of the limit while fewer than twice the limit
    /// pull. So `n` namespaces never pull on more than twice the limit plus `n` nodes, and a namespace with images
    /// that finish has them on all nodes, one node after another at least, whatever the images of others do.
    pub max_concurrent_nodes: CountOrPercent,
    /// How often mutable tags are pulled again; zero means never. Default 15 min, as kube-fledged's
    /// `--image-cache-refresh-frequency`.
    pub refresh_interval: Duration,
    /// Shortest time between two refreshes on demand of a cache. A request that comes earlier waits. Default zero:
    /// no limit.
    pub refresh_min_interval: Duration,
    /// Largest share by which the refresh interval is lengthened at random, 0 to 1. Default 0.1, so that
    /// caches created together don't refresh together.
    pub refresh_jitter: f64,
    /// How long a node may take to acknowledge an assignment before it counts as unresponsive and its
    /// slot is given to another node. Default 30 s: agents answer within seconds, and within 20 s if
    /// they have to reconnect to the API server. A node that comes back continues with its assignment.
    pub answer_grace: Duration,
    /// How much longer than the deadline of an image a node may go without a report while it has work.
    /// Default 60 s, within which an agent restarts.
    pub report_grace: Duration,
    /// Shortest time between two status writes of a cache that change only counts. Default 1 s.
    pub status_interval: Duration,
    /// Most failures in a status. Default 20, which fit on a screen.
    pub failures_max: usize,
    /// Room for an assignment in the record of a node, in bytes. If all caches together take more, whole
    /// caches are left out, always of the namespace that takes most, and report
    /// [`Reason::NodeRecordFull`](crate::error::Reason). Removals have as much room again. Default 512 KiB:
    /// etcd takes 1.5 MiB an object, and the node's report is in the same one.
    pub record_bytes_max: usize,
    /// Most images that a cache may list, counted once an entry. The spec of a cache with more is invalid: the
    /// images of its last valid spec stay. Default: no limit but that of the schema.
    pub images_per_cache_max: usize,
    /// Most images that all caches of a namespace may list, counted once an entry. The oldest caches keep theirs. The
    /// spec of one that does not fit counts as invalid, and its images are no longer kept. Default: no limit.
    pub images_per_namespace_max: usize,
    /// How long a removal waits for an image that is kept, because it is in use for example. Then it is given up
    /// and the image stays. It counts from [`ClusterEvent::Synced`](super::ClusterEvent::Synced) at the earliest,
    /// because the clock of the planner that ordered the removal may have differed, and again from a jump of the clock
    /// by more than an hour. Default one day.
    pub removal_limit: Duration,
}

impl Default for PlannerConfig {
    fn default() -> Self {
        Self {
            defaults: AssignmentDefaults::default(),
            max_concurrent_nodes: CountOrPercent::Count(100),
            refresh_interval: Duration::from_secs(15 * 60),
            refresh_min_interval: Duration::ZERO,
            refresh_jitter: 0.1,
            answer_grace: Duration::from_secs(30),
            report_grace: Duration::from_secs(60),
            status_interval: Duration::from_secs(1),
            failures_max: 20,
            record_bytes_max: 512 * 1024,
            images_per_cache_max: usize::MAX,
            images_per_namespace_max: usize::MAX,
            removal_limit: Duration::from_secs(24 * 3600),
        }
    }
}
