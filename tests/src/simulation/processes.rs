//! The processes of a simulation: controllers and agents, started, killed and started again.

use std::future::poll_fn;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Poll;
use std::time::Duration;

use fledged_core::model::{CountOrPercent, NodeName};
use fledged_core::planner::PlannerConfig;
use fledged_kube::lease::LeaseName;
use fledged_operator::agent::{Agent, AgentConfig};
use fledged_operator::controller::{Candidate, Controller, ControllerConfig, ControllerError};
use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::clock::ProcessClock;
use super::faults::Connection;
use super::kubelets::{Kubelet, KubeletConfig, PodFaults};
use super::ledger::Ledger;
use super::machine::{AgentRuntime, Machine};
use super::moves::Setup;
use super::trace::Trace;

/// The namespace of the operator.
pub(super) const OPERATOR: &str = "kube-fledged";
/// How long a process that ended by itself stays away, as with a crash loop.
const RESTART: Duration = Duration::from_secs(10);
/// How long a process may take to stop.
const GRACE: Duration = Duration::from_secs(30);

/// How a process ended.
enum End {
    /// As asked, or because it may no longer lead.
    Well,
    /// In a way that the program calls unexpected.
    Badly(String),
    /// Killed at an await.
    Killed,
}

/// A process that runs, or will run again.
pub(super) struct Process {
    pub(super) connection: Connection,
    pub(super) clock: Arc<ProcessClock>,
    name: String,
    task: Option<JoinHandle<End>>,
    stop: Option<oneshot::Sender<()>>,
    /// When it is killed because it did not stop.
    grace: Option<Instant>,
    /// When it starts, if it does not run; `None`: never.
    start_at: Option<Instant>,
    /// When it starts after its end.
    pause: Duration,
    /// The poll of its future at which it is killed, counted from the next one; 0: at none.
    killed_at: Arc<AtomicU32>,
    /// When it started last.
    pub(super) since: Duration,
}

impl Process {
    /// A process that starts at the next look.
    pub(super) fn new(name: &str, connection: Connection, trace: &Trace) -> Self {
        Self {
            connection,
            clock: Arc::new(ProcessClock::new(trace.origin())),
            name: name.to_owned(),
            task: None,
            stop: None,
            grace: None,
            start_at: Some(Instant::now()),
            pause: RESTART,
            killed_at: Arc::default(),
            since: Duration::ZERO,
        }
    }

    /// Whether it runs.
    pub(super) fn is_running(&self) -> bool {
        self.task.is_some() && self.stop.is_some()
    }

    /// Kills it, as SIGKILL does. It starts again after this time; `None`: never.
    pub(super) fn kill(&mut self, away: Option<Duration>) {
        match &self.task {
            Some(task) => task.abort(),
            None => self.start_at = away.map(|away| Instant::now() + away),
        }
        self.stop = None;
        self.pause = away.unwrap_or(Duration::MAX);
    }

    /// Kills it at whatever it awaits after so many polls of its future. It starts again after this time.
    pub(super) fn kill_at_await(&mut self, polls: u32, away: Duration) {
        if self.is_running() {
            self.killed_at.store(polls, Ordering::Relaxed);
            self.pause = away;
        }
    }

    /// Asks it to stop, as SIGTERM does. It starts again this long after its end.
    pub(super) fn stop(&mut self, away: Duration) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
            self.grace = Some(Instant::now() + GRACE);
            self.pause = away;
        }
    }

    /// Makes it run as soon as possible.
    pub(super) fn hurry(&mut self) {
        self.killed_at.store(0, Ordering::Relaxed);
        self.pause = RESTART;
        if self.task.is_none() {
            self.start_at = Some(Instant::now());
        }
    }

    /// Notes an end, and returns whether it is to start now.
    pub(super) fn look(&mut self, trace: &Trace, ledger: &Ledger) -> bool {
        let now = Instant::now();
        if let Some(task) = self.task.as_mut().filter(|task| task.is_finished()) {
            let word = match task.now_or_never() {
                Some(Ok(End::Well)) | None => "ended".to_owned(),
                Some(Ok(End::Badly(why))) => {
                    ledger.violate(
                        "no process ends unexpectedly",
                        format!("{}: {why}", self.name),
                    );
                    why
                }
                Some(Err(error)) if error.is_panic() => {
                    let why = format!("{}: {error}", self.name);
                    ledger.violate("no process panics", why.clone());
                    why
                }
                Some(Ok(End::Killed)) => "killed at an await".to_owned(),
                Some(Err(_)) => "killed".to_owned(),
            };
            trace.step(format_args!("{} is down: {word}", self.name));
            (self.task, self.stop, self.grace) = (None, None, None);
            self.start_at = now
                .checked_add(self.pause)
                .filter(|_| self.pause < Duration::MAX);
            self.pause = RESTART;
        }
        if let Some(task) = &self.task
            && self.grace.is_some_and(|until| now >= until)
        {
            task.abort();
        }
        self.task.is_none() && self.start_at.is_some_and(|at| now >= at)
    }

    /// Starts an agent on this machine.
    pub(super) fn start_agent(&mut self, machine: &Arc<Machine>, setup: &Setup, trace: &Trace) {
        let (client, incarnation) = self.connection.client();
        let runtime = AgentRuntime::new(Arc::clone(machine), self.connection.clone(), incarnation);
        let mut config = AgentConfig::default();
        config.clock = self.clock.clone();
        config.seed = Some(self.connection.seed(incarnation));
        config.warmer.max_parallel_pulls = NonZeroUsize::new(setup.pulls).unwrap();
        let name = NodeName::new(self.name.as_str()).unwrap();
        let agent = Agent::new(client, name, Arc::new(runtime), config);
        self.spawn(trace, async |stop: oneshot::Receiver<()>| {
            let stopped = async move { drop(stop.await) };
            match agent.run(stopped).await {
                Ok(()) => End::Well,
                Err(error) => End::Badly(error.to_string()),
            }
        });
    }

    /// Starts a kubelet on this machine.
    pub(super) fn start_kubelet(
        &mut self,
        machine: &Arc<Machine>,
        faults: &Arc<PodFaults>,
        config: KubeletConfig,
        ledger: &Ledger,
        trace: &Trace,
    ) {
        let (client, incarnation) = self.connection.client();
        let kubelet = Kubelet {
            config,
            client,
            connection: self.connection.clone(),
            incarnation,
            seed: self.connection.seed(incarnation),
            machine: Arc::clone(machine),
            clock: self.clock.clone(),
            faults: Arc::clone(faults),
            ledger: ledger.clone(),
        };
        self.spawn(trace, async |stop: oneshot::Receiver<()>| {
            kubelet.run(stop).await;
            End::Well
        });
    }

    /// Starts a controller.
    pub(super) fn start_controller(&mut self, setup: &Setup, trace: &Trace) {
        let (client, incarnation) = self.connection.client();
        let mut config = ControllerConfig::default();
        config.planner = planner_config(setup);
        config.clock = self.clock.clone();
        config.seed = self.connection.seed(incarnation);
        config.driver = setup.jobs.as_ref().map(|jobs| {
            let (client, clock) = (client.clone(), self.clock.clone());
            jobs.driver(client, clock, config.seed)
        });
        let identity = self.connection.sender(&[]).identity();
        let mut candidate = Candidate::new(LeaseName::of_controller(OPERATOR), identity);
        candidate.times.retry_period = setup.lease_retry;
        config.election = Some(candidate);
        let controller = Controller::new(client, config);
        self.spawn(trace, async |stop: oneshot::Receiver<()>| {
            let stopped = async move { drop(stop.await) };
            match controller.run(Box::pin(stopped)).await {
                Ok(()) | Err(ControllerError::NotLeading(_)) => End::Well,
                Err(error) => End::Badly(error.to_string()),
            }
        });
    }

    fn spawn<F>(&mut self, trace: &Trace, run: impl FnOnce(oneshot::Receiver<()>) -> F)
    where
        F: Future<Output = End> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let mut run = Box::pin(run(stopped));
        self.killed_at.store(0, Ordering::Relaxed);
        let killed_at = Arc::clone(&self.killed_at);
        let task = tokio::spawn(poll_fn(move |context| {
            let end = run.as_mut().poll(context);
            let left = killed_at.load(Ordering::Relaxed);
            killed_at.store(left.saturating_sub(1), Ordering::Relaxed);
            match end {
                Poll::Pending if left == 1 => Poll::Ready(End::Killed),
                end => end,
            }
        }));
        self.connection.set_process(task.abort_handle());
        (self.task, self.stop, self.start_at) = (Some(task), Some(stop), None);
        self.since = trace.now();
        trace.step(format_args!("{} starts", self.name));
    }
}

/// The configuration of the planner.
pub(super) fn planner_config(setup: &Setup) -> PlannerConfig {
    let mut planner = PlannerConfig::default();
    planner.max_concurrent_nodes = CountOrPercent::Count(setup.node_limit);
    planner.refresh_interval = setup.refresh;
    planner.refresh_min_interval = Duration::from_secs(30);
    planner.record_bytes_max = setup.record_bytes;
    planner
}
