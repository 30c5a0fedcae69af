//! One node: the node loop of fledged-core on a folder.

use std::path::Path;
use std::sync::Arc;

use fledged_core::model::{Assignment, NodeName, NodeReport};
use fledged_core::planner::ClusterEvent;
use fledged_core::port::Credentials;
use fledged_core::runner::{NodeLoop, NodeObserver};
use fledged_core::tokio::TokioClock;
use fledged_core::warmer::{NodeEvent, Warmer};
use fledged_cri::oci::OpenError;
use fledged_cri::target::RuntimeUri;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Sends events of nodes to the controller.
pub(crate) type EventSender = mpsc::UnboundedSender<ClusterEvent>;

/// A folder that is reconciled with the last assignment until the value is dropped.
pub(crate) struct Node {
    inputs: mpsc::UnboundedSender<NodeEvent>,
    _task: AbortOnDropHandle<()>,
}

impl Node {
    pub(crate) fn start(
        name: NodeName,
        folder: &Path,
        credentials: Arc<dyn Credentials>,
        sender: EventSender,
    ) -> Result<Self, OpenError> {
        let folder = RuntimeUri::Oci(folder.to_owned());
        let runtime = fledged_cri::open(&folder, Default::default())?;
        let seed = name.as_str().bytes().map(u64::from).sum();
        let warmer = Warmer::new(Default::default(), seed);
        let mut node_loop = NodeLoop::new(warmer, runtime, Arc::new(TokioClock::new()))
            .with_credentials(credentials)
            .with_observer(Arc::new(ReportSender {
                node: name,
                events: sender,
            }));
        let (inputs, mut assigned) = mpsc::unbounded_channel();
        let assigned = stream::poll_fn(move |context| assigned.poll_recv(context));
        let task = tokio::spawn(async move {
            node_loop.run(assigned, std::future::pending()).await;
        });
        let _task = AbortOnDropHandle::new(task);
        Ok(Self { inputs, _task })
    }

    /// Sets what the node should hold. The work and its reports follow later.
    pub(crate) fn assign(&self, assignment: Assignment) {
        // The task receives inputs as long as this value exists, so the send succeeds.
        self.inputs.send(NodeEvent::Assigned(assignment)).ok();
    }
}

/// Sends the node's report to the controller whenever an image's state changed.
struct ReportSender {
    node: NodeName,
    events: EventSender,
}

impl NodeObserver for ReportSender {
    fn report(&self, report: NodeReport) {
        let node = self.node.clone();
        // The controller may have ended.
        self.events
            .send(ClusterEvent::Reported { node, report })
            .ok();
    }
}
