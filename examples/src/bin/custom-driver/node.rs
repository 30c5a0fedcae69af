//! One node: core's loop on a folder.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use fledged_core::model::{Assignment, ImageReport, NodeName, NodeReport};
use fledged_core::planner::ClusterEvent;
use fledged_core::port::Credentials;
use fledged_core::runner::{NodeInput, NodeLoop, NodeObserver};
use fledged_core::tokio::TokioClock;
use fledged_core::warmer::Warmer;
use fledged_cri::oci::OpenError;
use fledged_cri::target::RuntimeUri;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Takes what nodes say.
pub(crate) type Told = mpsc::UnboundedSender<ClusterEvent>;

/// A folder that is kept at what was last assigned, until this is dropped.
pub(crate) struct Node {
    inputs: mpsc::UnboundedSender<NodeInput>,
    _task: AbortOnDropHandle<()>,
}

impl Node {
    pub(crate) fn start(
        name: NodeName,
        folder: &Path,
        credentials: Arc<dyn Credentials>,
        told: Told,
    ) -> Result<Self, OpenError> {
        let folder = RuntimeUri::Oci(folder.to_owned());
        let runtime = fledged_cri::open(&folder, Default::default())?;
        let seed = name.as_str().bytes().map(u64::from).sum();
        let warmer = Warmer::new(Default::default(), seed);
        let mut node_loop = NodeLoop::new(warmer, runtime, Arc::new(TokioClock::new()))
            .with_credentials(credentials)
            .with_observer(Arc::new(Teller::new(name, told)));
        let (inputs, mut assigned) = mpsc::unbounded_channel();
        let assigned = stream::poll_fn(move |context| assigned.poll_recv(context));
        let task = tokio::spawn(async move {
            node_loop.run(assigned, std::future::pending()).await;
        });
        let _task = AbortOnDropHandle::new(task);
        Ok(Self { inputs, _task })
    }

    /// From now on it is to hold this. Done and told in its own time.
    pub(crate) fn assign(&self, assignment: Assignment) {
        // The task takes inputs as long as this lives.
        self.inputs.send(NodeInput::Assign(assignment)).ok();
    }
}

/// Tells the controller where all images stand whenever one of them has moved.
struct Teller {
    node: NodeName,
    told: Told,
    report: Mutex<NodeReport>,
}

impl Teller {
    fn new(node: NodeName, told: Told) -> Self {
        let report = Mutex::default();
        Self { node, told, report }
    }

    fn tell(&self, change: impl FnOnce(&mut NodeReport)) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut report);
        let (node, report) = (self.node.clone(), report.clone());
        // Nobody listens any more once the controller has ended.
        self.told.send(ClusterEvent::Reported { node, report }).ok();
    }
}

impl NodeObserver for Teller {
    /// Something was assigned: this is the answer to its generation.
    fn assigned(&self, all: NodeReport) {
        self.tell(|report| *report = all);
    }

    /// An image has moved on.
    fn report(&self, image: &ImageReport) {
        self.tell(|report| {
            let mut images = report.images.iter_mut();
            if let Some(known) = images.find(|known| known.image == image.image) {
                known.clone_from(image);
            }
        });
    }
}
