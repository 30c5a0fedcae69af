//! The node driver of a test: agents or Jobs.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use fledged_operator::controller::{AgentDriver, NodeDriver};
use fledged_operator::jobs::{JobDriver, JobOptions};
use kube::Client;

use super::world::WorldOptions;

/// The node driver of a [`World`](super::World), and what runs on its nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// An agent on each node.
    #[default]
    #[value(name = "agent")]
    Agents,
    /// Jobs, with a stand-in kubelet on each node that runs their pods. Every other kubelet supports image volumes.
    #[value(name = "job")]
    Jobs,
}

impl Way {
    /// Returns the controller's driver. `namespace` is the operator's.
    pub(super) fn driver(
        self,
        client: Client,
        namespace: &str,
        options: &WorldOptions,
    ) -> Arc<dyn NodeDriver> {
        match self {
            Self::Agents => Arc::new(AgentDriver::new(client)),
            Self::Jobs => {
                let image = "registry.test/fledged-operator:test".parse().unwrap();
                let mut jobs = JobOptions::new(image, namespace);
                jobs.retention = options.retention;
                jobs.ttl = options.ttl;
                jobs.list_margin = Duration::from_secs(1);
                jobs.creations_per_second = NonZeroU32::new(200).unwrap();
                Arc::new(JobDriver::new(client, jobs))
            }
        }
    }

    /// The value of the controller's flag `--node-driver`.
    #[must_use]
    pub fn node_driver(self) -> &'static str {
        match self {
            Self::Agents => "agent",
            Self::Jobs => "job",
        }
    }

    /// The field manager of node reports.
    #[must_use]
    pub fn field_manager(self) -> &'static str {
        match self {
            Self::Agents => fledged_operator::agent::FIELD_MANAGER,
            Self::Jobs => fledged_operator::jobs::FIELD_MANAGER,
        }
    }
}
