//! Measures one phase: time, requests, CPU time and memory.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::task::JoinHandle;

use crate::bench::Bench;
use crate::controller_metrics::{ControllerMetrics, Latency};
use crate::limits::{Bound, Limit};
use crate::meter::Kind;
use crate::process::{Usage, usage};
use crate::snapshot::{ServerUsage, Snapshot};

/// Interval of checks for the end of writes, and their time limit: events of a busy phase may wait for minutes.
const LOOK: Duration = Duration::from_millis(500);
const QUIET_LIMIT: Duration = Duration::from_secs(300);
/// Checks in a row without a write: an agent reports a removal up to a second later.
const QUIET_LOOKS: usize = 5;
/// Interval of looks at the queue of the controller.
const QUEUE_LOOK: Duration = Duration::from_millis(200);

/// The measurements of one phase. Times are in seconds, sizes in bytes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Phase {
    pub(crate) name: String,
    /// Number of nodes in the phase.
    pub(crate) nodes: usize,
    /// Time until the status of the cache was complete.
    pub(crate) seconds: f64,
    /// Lower bound of the time: the pulls.
    pub(crate) floor: Option<f64>,
    /// Time until all images were present, before the status was complete.
    pub(crate) done: Option<f64>,
    /// Writes to NodeImageCaches, of the controller and of agents.
    pub(crate) record_writes: u64,
    /// All requests, by verb, resource and writer.
    pub(crate) requests: Vec<Requests>,
    /// Writes by the controller's own metrics.
    pub(crate) controller_writes: u64,
    /// Bytes of the bodies of writes.
    pub(crate) sent: f64,
    /// Bytes of answers to agents.
    pub(crate) agents_received: u64,
    /// Writes to the API server's store.
    pub(crate) revisions: u64,
    pub(crate) controller: Usage,
    /// How long events waited for the controller's plan.
    pub(crate) latency: Latency,
    /// The most writes of the controller that waited at one time.
    pub(crate) most_waiting: u64,
    /// Limits of writes.
    pub(crate) bounds: Vec<Bound>,
    /// Limits of other figures.
    pub(crate) limits: Vec<Limit>,
    pub(crate) server: ServerUsage,
    /// CPU time of this program: all agents but one, the stand-in kubelets and the user's requests.
    pub(crate) agents_cpu: f64,
    /// Other figures of this phase.
    pub(crate) figures: BTreeMap<&'static str, f64>,
}

impl Phase {
    /// A figure of the phase; no number if it has none of this name.
    pub(crate) fn figure(&self, name: &str) -> f64 {
        self.figures.get(name).copied().unwrap_or(f64::NAN)
    }

    /// The limits that are exceeded.
    pub(crate) fn exceeded(&self) -> Vec<String> {
        let bounds = self.bounds.iter().filter(|bound| bound.is_exceeded());
        let limits = self.limits.iter().filter(|limit| limit.is_exceeded());
        let bounds = bounds.map(|bound| format!("{}: {bound}", self.name));
        bounds
            .chain(limits.map(|limit| format!("{}: {limit}", self.name)))
            .collect()
    }
}

/// The counts of one kind of request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Requests {
    pub(crate) verb: String,
    pub(crate) resource: String,
    /// Requests answered by the API server.
    pub(crate) all: u64,
    /// Requests of the agents in this program.
    pub(crate) agents: u64,
    /// Requests of this program as user and kubelet.
    pub(crate) bench: u64,
    /// All other requests: those of the controller and of the agent process.
    pub(crate) controller: u64,
    /// Whether the request is a write.
    #[serde(skip)]
    pub(crate) is_write: bool,
}

/// The result of one phase.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) floor: Option<f64>,
    pub(crate) done: Option<Instant>,
    pub(crate) nodes: Option<usize>,
    pub(crate) figures: BTreeMap<&'static str, f64>,
    pub(crate) bounds: Vec<Bound>,
}

/// The resource that controller and agents write.
const RECORDS: &str = "nodeimagecaches";

struct Moment {
    at: Instant,
    server: Snapshot,
    agents: BTreeMap<Kind, u64>,
    own: BTreeMap<Kind, u64>,
    agents_received: u64,
    metrics: ControllerMetrics,
    controller_id: u32,
    controller: Usage,
    process: Usage,
}

impl Moment {
    async fn of(bench: &Bench) -> Result<Self, String> {
        let server = Snapshot::take(&bench.own_client).await?;
        Ok(Self {
            server,
            agents: bench.agents.requests(),
            own: bench.own.requests(),
            agents_received: bench.agents.received(),
            metrics: bench.controller_metrics().await?,
            controller_id: bench.controller_id(),
            controller: usage(bench.controller_id())?,
            process: usage(std::process::id())?,
            at: Instant::now(),
        })
    }

    /// Writes to NodeImageCaches so far, of all clients.
    fn record_writes(&self) -> u64 {
        let requests = self.server.requests.iter();
        let writes = requests.filter(|(kind, _)| kind.resource == RECORDS && kind.is_write());
        writes.map(|(_, count)| count).sum()
    }
}

/// Waits until writes end, because some follow the final status. Returns the figures at that moment.
///
/// # Errors
///
/// If writes go on after [`QUIET_LIMIT`]: they would be counted in the wrong phase.
async fn quiet(bench: &Bench, when: &str) -> Result<Moment, String> {
    let began = Instant::now();
    let mut seen = Moment::of(bench).await?;
    let mut quiet = 0;
    while quiet < QUIET_LOOKS {
        tokio::time::sleep(LOOK).await;
        let next = Moment::of(bench).await?;
        let of_controller = next.metrics.writes.abs_diff(seen.metrics.writes);
        let of_records = next.record_writes().abs_diff(seen.record_writes());
        let took = next.at.duration_since(seen.at);
        quiet = match of_controller + of_records {
            0 => quiet + 1,
            _ => 0,
        };
        seen = next;
        if quiet == 0 && began.elapsed() > QUIET_LIMIT {
            return Err(format!(
                "{when}: writes go on after {QUIET_LIMIT:?}: in the last {took:.1?}, {of_controller} of the \
                 controller, {of_records} of NodeImageCaches"
            ));
        }
    }
    Ok(seen)
}

/// Runs and measures a phase.
pub(crate) async fn measured<'b, F>(
    name: &str,
    bench: &'b Bench,
    act: impl FnOnce(&'b Bench) -> F,
) -> Result<Phase, String>
where
    F: Future<Output = Result<Outcome, String>>,
{
    eprintln!("bench-scale: {name}");
    let before = quiet(bench, &format!("before {name}")).await?;
    let queue = QueueWatch::start(&bench.controller_address);
    let outcome = act(bench).await?;
    let seconds = before.at.elapsed().as_secs_f64();
    let after = quiet(bench, &format!("after {name}")).await?;
    let requests = requests(&before, &after);
    // A new controller process starts its counters at 0.
    let (metrics, controller_cpu) = match before.controller_id == after.controller_id {
        true => (before.metrics, before.controller.cpu),
        false => (ControllerMetrics::default(), 0.0),
    };
    let bounds = outcome.bounds.into_iter();
    let bounds = bounds.map(|bound| bound.of(&requests)).collect();
    let is_record = |r: &&Requests| r.is_write && r.resource.starts_with(RECORDS);
    let records = requests.iter().filter(is_record);
    let done = outcome
        .done
        .map(|done| done.saturating_duration_since(before.at).as_secs_f64());
    Ok(Phase {
        name: name.to_owned(),
        nodes: outcome.nodes.unwrap_or_else(|| bench.served()),
        seconds,
        floor: outcome.floor,
        done,
        record_writes: records.map(|r| r.controller + r.agents).sum(),
        requests,
        controller_writes: after.metrics.writes.saturating_sub(metrics.writes),
        latency: after.metrics.latency_since(&metrics),
        most_waiting: queue.end(),
        bounds,
        limits: Vec::new(),
        sent: after.server.body_bytes - before.server.body_bytes,
        agents_received: after.agents_received.saturating_sub(before.agents_received),
        revisions: after.server.revision.saturating_sub(before.server.revision),
        controller: Usage {
            cpu: after.controller.cpu - controller_cpu,
            ..after.controller
        },
        server: ServerUsage {
            cpu: after.server.server.cpu - before.server.server.cpu,
            rss: after.server.server.rss,
        },
        agents_cpu: after.process.cpu - before.process.cpu,
        figures: outcome.figures,
    })
}

fn requests(before: &Moment, after: &Moment) -> Vec<Requests> {
    let since = |kind: &Kind, before: &BTreeMap<Kind, u64>, after: &BTreeMap<Kind, u64>| {
        let of = |counts: &BTreeMap<Kind, u64>| counts.get(kind).copied().unwrap_or_default();
        of(after).saturating_sub(of(before))
    };
    let kinds = after.server.requests.keys();
    let all = kinds.map(|kind| {
        let all = since(kind, &before.server.requests, &after.server.requests);
        let agents = since(kind, &before.agents, &after.agents);
        let bench = since(kind, &before.own, &after.own);
        Requests {
            verb: kind.verb.clone(),
            resource: match kind.status {
                true => format!("{}/status", kind.resource),
                false => kind.resource.clone(),
            },
            all,
            agents,
            bench,
            controller: all.saturating_sub(agents + bench),
            is_write: kind.is_write(),
        }
    });
    all.filter(|requests| requests.all > 0).collect()
}

/// Watches the queue of the controller. Dropping it ends that.
struct QueueWatch {
    most: Arc<AtomicU64>,
    watching: JoinHandle<()>,
}

impl QueueWatch {
    fn start(address: &str) -> Self {
        let most = Arc::new(AtomicU64::new(0));
        let (seen, address) = (Arc::clone(&most), address.to_owned());
        let watching = tokio::spawn(async move {
            loop {
                let address = address.clone();
                let read = move || ControllerMetrics::read(&address);
                // While the controller restarts, there is nothing to read.
                if let Ok(Ok(metrics)) = tokio::task::spawn_blocking(read).await {
                    seen.fetch_max(metrics.waiting, Ordering::Relaxed);
                }
                tokio::time::sleep(QUEUE_LOOK).await;
            }
        });
        Self { most, watching }
    }

    /// The most writes that waited at one time.
    fn end(self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for QueueWatch {
    fn drop(&mut self) {
        self.watching.abort();
    }
}
