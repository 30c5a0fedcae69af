//! What the loop tells, on its way to the reporter, the metrics and the probes.

use fledged_core::error::Failure;
use fledged_core::model::{ImageReport, NodeReport};
use fledged_core::runner::NodeObserver;
use tokio::sync::mpsc;

use super::health::AgentHealth;
use super::metrics::AgentMetrics;
use crate::report::{Heard, Taken};

/// Watches the loop.
#[derive(Debug)]
pub(super) struct Observer {
    pub(super) taken: Taken,
    /// Without a bound: the writer takes what comes also while it waits for the API.
    pub(super) heard: mpsc::UnboundedSender<Heard>,
    pub(super) metrics: AgentMetrics,
    pub(super) health: AgentHealth,
}

impl Observer {
    fn tell(&self, heard: Heard) {
        // Without a writer the agent ends anyway.
        let _ = self.heard.send(heard);
    }
}

impl NodeObserver for Observer {
    fn report(&self, report: &ImageReport) {
        self.metrics.image(report);
        self.tell(Heard::Changed(report.clone()));
    }

    fn assigned(&self, report: NodeReport) {
        self.metrics.images(&report.images);
        self.tell(Heard::Assigned(self.taken.take(), report));
    }

    fn runtime_failed(&self, operation: &str, failure: &Failure) {
        if operation == "inventory" {
            self.metrics.inventory_failed();
            self.health
                .inventory(Err(format!("{}: {failure}", failure.reason)));
        }
    }
}
