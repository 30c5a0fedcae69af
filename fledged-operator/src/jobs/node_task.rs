//! Everything that goes on for one node.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;

use fledged_core::backoff::Schedule;
use fledged_core::model::{ImageReport, NodeName, NodeReport};
use fledged_core::reporter::ReporterEvent;
use fledged_core::runner::{NodeLoop, NodeObserver};
use fledged_core::warmer::{NodeEvent, Warmer, WarmerConfig};
use futures_util::stream;
use kube::Client;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::FIELD_MANAGER;
use super::batch::{LINGER, NodeJobs};
use super::job::{Kind, ReadJob};
use super::node::NodeView;
use super::pod::ReadPod;
use super::presence::Presence;
use super::removals::Removals;
use super::requests::Requests;
use super::runtime::{JobRuntime, Shared};
use super::told::Told;
use super::worker::{State, Worker};
use crate::report::{RetryDelays, StatusApi, Writer, after};

/// Between attempts to write a status.
const WRITE_AGAIN: Schedule = Schedule::seconds(1, 30);

/// Where a node's task is told things.
pub(super) struct Handle {
    pub(super) told: mpsc::UnboundedSender<Told>,
    pub(super) reports: mpsc::UnboundedSender<ReporterEvent>,
    pub(super) stop: CancellationToken,
}

/// What is known of a node when its task begins.
pub(super) struct Beginning {
    pub(super) node: NodeName,
    pub(super) view: Arc<NodeView>,
    /// Jobs that are there already, and their pods.
    pub(super) jobs: Vec<(Arc<ReadJob>, Option<Arc<ReadPod>>)>,
    /// What was reported before.
    pub(super) reports: Vec<ImageReport>,
    pub(super) seed: u64,
}

/// Passes the loop's reports to the status writer.
struct Observer(mpsc::UnboundedSender<ReporterEvent>);

impl NodeObserver for Observer {
    fn report(&self, report: NodeReport) {
        // Without a writer the task ends anyway.
        let _ = self.0.send(ReporterEvent::Observed(report));
    }
}

/// Makes the task of a node, and the handle to it. It ends when it is told to stop; its Jobs stay, unless
/// it was told before that the node is let go.
pub(super) fn node_task(
    client: Client,
    requests: Arc<Requests>,
    beginning: Beginning,
) -> (Handle, impl Future<Output = ()> + Send + 'static) {
    let Beginning {
        node,
        view,
        jobs: found,
        reports,
        seed,
    } = beginning;
    let mut seeds = fastrand::Rng::with_seed(seed);
    let options = &requests.options;
    let clock = Arc::clone(&requests.clock);
    let now = clock.now();
    let mut presence = Presence::new(options.list_margin, options.list_max);
    presence.resume(&reports, now);
    presence.node(Arc::clone(&view));
    let shared = Arc::new(Shared::new(presence));
    let mut jobs = NodeJobs::new(node.clone(), options, seeds.u64(..));
    let mut removals = Removals::default();
    let mut adopted = BTreeSet::new();
    for (job, pod) in found {
        if job.kind() == Some(Kind::Pull) && job.end().is_none() {
            adopted.extend(job.containers().map(str::to_owned));
        }
        if let Some(name) = &job.metadata.name {
            removals.adopt(name, job.removes());
        }
        jobs.adopt(&job, pod, after(now, LINGER), now);
    }
    jobs.ready(view.ready);

    let (told, hears) = mpsc::unbounded_channel();
    let (reports_sender, reporter_events) = mpsc::unbounded_channel();
    let (inputs, mut loop_inputs) = mpsc::unbounded_channel();
    if !reports.is_empty() {
        let _ = inputs.send(NodeEvent::Resumed(reports));
    }
    let observer = Observer(reports_sender.clone());
    let runtime = JobRuntime {
        shared: Arc::clone(&shared),
        told: told.clone(),
        clock: Arc::clone(&clock),
        namespace: options.namespace.clone(),
    };
    // A Job takes everything that is missing: whatever waits in line is missing from it.
    let mut config = WarmerConfig::default();
    config.max_parallel_pulls = NonZeroUsize::MAX;
    config.inventory_interval = options.inventory_interval;
    let warmer = Warmer::new(config, seeds.u64(..));
    // Without credentials: the kubelet has them from the pod.
    let mut node_loop = NodeLoop::new(warmer, Arc::new(runtime), Arc::clone(&clock))
        .with_observer(Arc::new(observer));
    let metrics = requests.metrics.clone();
    let writer = Writer::new(
        StatusApi::new(client, node.clone(), FIELD_MANAGER),
        seeds.u64(..),
        RetryDelays::new(WRITE_AGAIN, seeds.u64(..)),
        clock,
        move |result| metrics.status_written(result),
    );
    let stop = CancellationToken::new();
    let loop_stop = stop.child_token();
    let worker = Worker {
        node,
        requests,
        shared,
        jobs,
        removals,
        view,
        inputs,
        told: told.clone(),
        loop_stop: loop_stop.clone(),
        adopted,
        rng: fastrand::Rng::with_seed(seeds.u64(..)),
        state: State::default(),
    };
    let handle = Handle {
        told,
        reports: reports_sender,
        stop: stop.clone(),
    };
    let task = async move {
        let inputs = stream::poll_fn(move |context| loop_inputs.poll_recv(context));
        // The writer has its last word once nobody is left to tell it anything.
        let looping = async move {
            node_loop.run(inputs, loop_stop.cancelled()).await;
        };
        let working = async move {
            // What the loop drops at the end is no reason to give Jobs up.
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = worker.run(hears) => {}
            }
        };
        tokio::join!(looping, writer.run(reporter_events), working);
    };
    (handle, task)
}
