//! Measures one phase: time, requests, CPU time and memory.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fledged_tests::http;
use hyper::Method;
use serde::Serialize;

use crate::bench::Bench;
use crate::meter::Kind;
use crate::process::{Usage, usage};
use crate::snapshot::{ServerUsage, Snapshot};

/// Interval and largest number of checks for the end of writes.
const LOOK: Duration = Duration::from_millis(500);
const LOOKS: usize = 20;

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
    pub(crate) server: ServerUsage,
    /// CPU time of this program: all agents but one, the stand-in kubelets and the user's requests.
    pub(crate) agents_cpu: f64,
    /// Other figures of this phase.
    pub(crate) figures: BTreeMap<&'static str, f64>,
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
}

/// The resource that controller and agents write.
const RECORDS: &str = "nodeimagecaches";

struct Moment {
    at: Instant,
    server: Snapshot,
    agents: BTreeMap<Kind, u64>,
    own: BTreeMap<Kind, u64>,
    agents_received: u64,
    controller_writes: u64,
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
            controller_writes: controller_writes(bench).await?,
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
async fn quiet(bench: &Bench) -> Result<Moment, String> {
    let mut seen = Moment::of(bench).await?;
    for _ in 0..LOOKS {
        tokio::time::sleep(LOOK).await;
        let next = Moment::of(bench).await?;
        let is_quiet = next.controller_writes == seen.controller_writes
            && next.record_writes() == seen.record_writes();
        seen = next;
        if is_quiet {
            break;
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
    let before = quiet(bench).await?;
    let outcome = act(bench).await?;
    let seconds = before.at.elapsed().as_secs_f64();
    let after = quiet(bench).await?;
    let requests = requests(&before, &after);
    // A new controller process starts its counters at 0.
    let (controller_writes, controller_cpu) = match before.controller_id == after.controller_id {
        true => (before.controller_writes, before.controller.cpu),
        false => (0, 0.0),
    };
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
        controller_writes: after.controller_writes.saturating_sub(controller_writes),
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

/// Reads the controller's count of writes, which starts at 0 in a new process.
async fn controller_writes(bench: &Bench) -> Result<u64, String> {
    let address = &bench.controller_metrics;
    let answer = tokio::task::block_in_place(|| {
        http::send(address, Method::GET, "/metrics", &[], None, Bytes::new())
    });
    let answer = answer.map_err(|error| format!("the controller's metrics: {error}"))?;
    let text = String::from_utf8_lossy(&answer.body);
    let samples = crate::prometheus::samples(&text);
    let writes = samples.filter(|sample| sample.name == "fledged_api_writes_total");
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    let sum = writes.map(|sample| sample.value).sum::<f64>() as u64;
    Ok(sum)
}
