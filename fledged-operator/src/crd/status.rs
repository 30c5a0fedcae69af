//! From core's status of a cache to the wire, and back.

use fledged_core::error::Reason;
use fledged_core::model::NodeName;
use fledged_core::planner::{ActionReason, ActionStatus, CacheStatus, Condition, NodeFailure};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition as WireCondition, Time};

use super::image_cache::{ImageCacheStatus, NodeReasonMessage};
use super::wire::{parse, whole_seconds};

impl From<&CacheStatus> for ImageCacheStatus {
    fn from(status: &CacheStatus) -> Self {
        let failures = status.failures.iter().map(|(image, failures)| {
            let failures = failures.iter().map(|failure| NodeReasonMessage {
                node: failure.node.to_string(),
                reason: failure.reason.to_string(),
                message: failure.message.clone(),
            });
            (image.clone(), failures.collect())
        });
        let observed_generation = i64::try_from(status.observed_generation).ok();
        let conditions = status.conditions.iter().map(|condition| WireCondition {
            type_: condition.kind.to_string(),
            status: if condition.status { "True" } else { "False" }.to_owned(),
            reason: condition.reason.clone(),
            message: condition.message.clone(),
            last_transition_time: whole_seconds(condition.since),
            observed_generation,
        });
        let counts = status.counts;
        Self {
            status: status.status.to_string(),
            reason: status.reason.to_string(),
            message: status.message.clone(),
            failures: failures.collect(),
            start_time: whole_seconds(status.start_time),
            completion_time: status.completion_time.map(whole_seconds),
            observed_generation,
            conditions: conditions.collect(),
            cached: Some(format!("{}/{}", counts.cached, counts.desired)),
            counts: Some(counts),
            failures_total: Some(status.failures_total),
            refresh_revision: Some(status.refresh_revision),
            verify_revision: Some(status.verify_revision),
            purged: Some(status.purged),
        }
    }
}

impl ImageCacheStatus {
    /// What the next planner goes on from; `None` where it was not written by this operator, unless
    /// kube-fledged left the cache purged: then it stays so. The generation is the object's own, for
    /// that case.
    #[must_use]
    pub fn to_recorded(&self, generation: u64) -> Option<CacheStatus> {
        let reason: ActionReason = parse(&self.reason)?;
        let status: ActionStatus = parse(&self.status)?;
        let theirs = self.observed_generation.is_none();
        if theirs && reason != ActionReason::ImageCachePurge {
            return None;
        }
        let observed = self.observed_generation.map(u64::try_from);
        let failures = self.failures.iter().map(|(image, failures)| {
            let failures = failures.iter().filter_map(|failure| {
                Some(NodeFailure::new(
                    NodeName::new(&failure.node).ok()?,
                    parse(&failure.reason).unwrap_or(Reason::Unknown),
                    failure.message.clone(),
                ))
            });
            (image.clone(), failures.collect())
        });
        let conditions = self.conditions.iter().filter_map(|condition| {
            Some(Condition::new(
                parse(&condition.type_)?,
                condition.status == "True",
                condition.reason.clone(),
                condition.message.clone(),
                condition.last_transition_time.0,
            ))
        });
        let generation = observed.map_or(Ok(generation), |o| o).ok()?;
        let mut recorded = CacheStatus::new(generation, reason, status, self.start_time.0);
        recorded.message.clone_from(&self.message);
        recorded.failures = failures.collect();
        recorded.failures_total = self.failures_total.unwrap_or_default();
        recorded.counts = self.counts.unwrap_or_default();
        recorded.conditions = conditions.collect();
        recorded.completion_time = self.completion_time.as_ref().map(|Time(at)| *at);
        recorded.refresh_revision = self.refresh_revision.unwrap_or_default();
        recorded.verify_revision = self.verify_revision.unwrap_or_default();
        recorded.purged = self.purged.unwrap_or(theirs);
        Some(recorded)
    }
}
