//! The measured system: API server, controller, nodes with agents.

use std::net::TcpListener;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fledged_kube::crd::{ImageCache, ImageCacheStatus};
use fledged_tests::kube::{TestNode, Way, World, WorldOptions};
use fledged_tests::{FakeCri, Fledged, Running};
use futures_util::stream::{self, StreamExt};
use kube::runtime::wait::{Condition, await_condition};

use crate::args::Args;
use crate::client::metered;
use crate::controller_metrics::ControllerMetrics;
use crate::meter::Meter;
use crate::server::{self, Server};

/// Concurrent requests of this program.
pub(crate) const AT_ONCE: usize = 16;
/// Time limit of each step, in addition to the pulls.
const PATIENCE: Duration = Duration::from_secs(1200);

/// The label by which a cache selects one node.
pub(crate) const NODE_LABEL: &str = "fledged-bench-node";

/// The running system.
pub(crate) struct Bench {
    // Writers are dropped first, then the world, which cleans up.
    pub(crate) nodes: Vec<TestNode>,
    /// Nodes that joined later.
    pub(crate) joined: Mutex<Vec<TestNode>>,
    controller: Mutex<Running>,
    /// An agent that runs as a process, to measure its memory and CPU time; none with Jobs.
    pub(crate) agent: Option<AgentProcess>,
    pub(crate) world: World,
    pub(crate) server: String,
    /// Requests of the agents in this process.
    pub(crate) agents: Meter,
    /// Requests of this program as user and kubelet.
    pub(crate) own: Meter,
    pub(crate) own_client: kube::Client,
    pub(crate) images: Vec<String>,
    /// Address of the controller's metrics.
    pub(crate) controller_address: String,
    controller_args: Vec<String>,
    /// Time limit of each step, including the pulls.
    patience: Duration,
    // Dropped last, because the world sends requests when it is dropped.
    _embedded: Option<server::Embedded>,
}

/// The agent program on a CRI runtime in memory.
pub(crate) struct AgentProcess {
    pub(crate) running: Running,
    pub(crate) runtime: FakeCri,
}

impl Bench {
    /// Registers nodes and starts all processes; returns once the controller has listed all objects.
    pub(crate) async fn start(args: &Args) -> Result<Self, String> {
        fledged_tests::find_operator()?;
        let Server {
            cluster,
            name,
            embedded,
        } = server::start(args).await?;
        let (agents, own) = (Meter::new(), Meter::new());
        let own_client = metered(cluster.kubeconfig(), &own).await?;
        let agents_client = metered(cluster.kubeconfig(), &agents).await?;
        let way = args.node_driver;
        let options = WorldOptions {
            pull: args.pull,
            inventory: Duration::from_secs(60),
            parallel: args.parallelism,
            image_report_interval: Duration::from_secs(10),
            job_controller: Some(args.kubeconfig.is_none()),
            ..WorldOptions::by(way)
        };
        let cluster = cluster.with_client(own_client.clone());
        let world = World::on(cluster, options).with_agents_client(agents_client);
        let images: Vec<String> = (0..args.images()).map(image).collect();
        let names: Vec<&str> = images.iter().map(String::as_str).collect();
        world.publish(&names);
        let nodes: Vec<TestNode> = stream::iter(0..args.nodes())
            .map(async |number| node(&world, number).await)
            .buffered(AT_ONCE)
            .collect()
            .await;
        let agent = match way {
            Way::Agents => Some(AgentProcess::start(&world, args).await),
            Way::Jobs => None,
        };
        let port = free_port()?;
        let controller_address = format!("127.0.0.1:{port}");
        let mut controller_args = vec![
            "controller".to_owned(),
            format!("--node-driver={}", way.node_driver()),
            "--stderrthreshold=WARNING".to_owned(),
            format!("--metrics-bind-address={controller_address}"),
            "--health-probe-bind-address=0".to_owned(),
            "--image-cache-refresh-frequency=0s".to_owned(),
            format!("--max-concurrent-nodes={}", args.max_concurrent_nodes),
            format!("--namespace={}", world.cluster().namespace()),
            "--identity=bench".to_owned(),
        ];
        if way == Way::Jobs {
            controller_args
                .push("--job-image=registry.example.com/fledged-operator:bench".to_owned());
        }
        let controller = controller(&controller_args, world.cluster().kubeconfig());
        let bench = Self {
            world,
            server: name,
            agents,
            own,
            own_client,
            images,
            nodes,
            joined: Mutex::default(),
            controller: Mutex::new(controller),
            controller_address,
            controller_args,
            patience: PATIENCE + Duration::from_secs_f64(args.pulls_alone(args.images())),
            agent,
            _embedded: embedded,
        };
        bench.settle("settled").await?;
        Ok(bench)
    }

    /// Kills the controller with SIGKILL and starts a new one.
    pub(crate) fn restart_controller(&self) {
        let start = || controller(&self.controller_args, self.world.cluster().kubeconfig());
        let mut running = lock(&self.controller);
        running.kill();
        *running = start();
    }

    /// Warnings in the logs of the current controller and of the agent process.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let agent = self.agent.iter().map(|agent| agent.running.stderr());
        let logs: Vec<String> = agent.chain([lock(&self.controller).stderr()]).collect();
        let lines = logs.iter().flat_map(|log| log.lines());
        lines.map(str::to_owned).collect()
    }

    /// Process ID of the controller.
    pub(crate) fn controller_id(&self) -> u32 {
        lock(&self.controller).id()
    }

    /// The image references of the cache.
    pub(crate) fn image_names(&self) -> Vec<&str> {
        self.images.iter().map(String::as_str).collect()
    }

    /// The number of Ready nodes with an agent, or with a kubelet that runs Jobs.
    pub(crate) fn served(&self) -> usize {
        self.nodes.len() + usize::from(self.agent.is_some()) + lock(&self.joined).len()
    }

    /// Waits until the controller has listed all objects: then a cache that selects no node gets its final status.
    pub(crate) async fn settle(&self, cache: &str) -> Result<(), String> {
        let group = serde_json::json!({ "images": ["registry.example.com/none:1"],
            "nodeSelector": { "fledged-bench": "none" } });
        let spec = serde_json::json!({ "cacheSpec": [group] });
        self.world.apply_spec(cache, spec).await;
        self.ended(cache, "ImageCacheCreate", "NoImagesPulledOrDeleted")
            .await?;
        self.world.delete(cache).await;
        Ok(())
    }

    /// Waits until a cache has this reason and status; fails on another final status.
    pub(crate) async fn ended(
        &self,
        cache: &str,
        reason: &'static str,
        status: &'static str,
    ) -> Result<(), String> {
        let what = format!("{cache} to be {status} after {reason}");
        let ended =
            |seen: &ImageCacheStatus| seen.reason == reason && seen.completion_time.is_some();
        let seen = self.until(cache, &what, ended).await?;
        match seen.status == status {
            true => Ok(()),
            false => Err(format!("waited for {what}; it ended otherwise: {seen:?}")),
        }
    }

    /// Waits until this many pairs of a cache are cached.
    pub(crate) async fn cached(&self, cache: &str, pairs: usize) -> Result<(), String> {
        let what = format!("{pairs} images of {cache} to be on their nodes");
        self.until(cache, &what, move |seen| {
            let cached = seen.counts.as_ref().map_or(0, |counts| counts.cached);
            cached == pairs as u64
        })
        .await
        .map(drop)
    }

    /// Waits until the controller counts so many caches as succeeded and no other, and no image is missing.
    pub(crate) async fn all_succeed(&self, caches: usize) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let seen = self.controller_metrics().await?;
            let all = usize::try_from(seen.succeeded).is_ok_and(|succeeded| succeeded >= caches);
            if all && seen.others + seen.lacking == 0 {
                return Ok(());
            }
            if began.elapsed() > self.patience {
                let patience = self.patience;
                return Err(format!(
                    "waited {patience:?} for {caches} caches; seen: {seen:?}"
                ));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Reads the controller's own metrics.
    pub(crate) async fn controller_metrics(&self) -> Result<ControllerMetrics, String> {
        let address = self.controller_address.clone();
        let read = tokio::task::spawn_blocking(move || ControllerMetrics::read(&address));
        let read = read.await.map_err(|error| error.to_string())?;
        read.map_err(|error| {
            let log = lock(&self.controller).stderr();
            format!("{error}; its log:\n{log}")
        })
    }

    /// Watches a cache until its status is for the newest generation and satisfies a condition.
    async fn until(
        &self,
        cache: &str,
        what: &str,
        wanted: impl Fn(&ImageCacheStatus) -> bool + Send + Sync,
    ) -> Result<ImageCacheStatus, String> {
        let condition = UntilStatus(wanted);
        let seen = await_condition(self.world.caches(), cache, condition);
        tokio::select! {
            seen = seen => match seen {
                Ok(found) => found
                    .and_then(|cache| cache.status)
                    .ok_or_else(|| format!("{cache} was gone while waiting for {what}")),
                Err(error) => Err(format!("waiting for {what}: {error}")),
            },
            died = self.controller_dies() => Err(died),
            () = tokio::time::sleep(self.patience) => {
                let seen = self.world.caches().get(cache).await;
                let seen = seen.map(|cache| cache.status);
                Err(format!("waited {:?} for {what}; seen: {seen:?}", self.patience))
            }
        }
    }

    /// The controller's log if it has ended unexpectedly.
    async fn controller_dies(&self) -> String {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let mut running = lock(&self.controller);
            if running.has_ended() {
                return format!("the controller has ended:\n{}", running.stderr());
            }
        }
    }

    /// Checks that every runtime holds these images (`held`), or that none does.
    pub(crate) fn check(&self, images: &[&str], held: bool) -> Result<(), String> {
        let mismatch = |node: &str, image: &str| {
            let (claimed, seen) = match held {
                true => ("cached", "does not hold"),
                false => ("removed", "still holds"),
            };
            Err(format!(
                "by the status all images are {claimed}, but {node} {seen} {image}"
            ))
        };
        let joined = lock(&self.joined);
        for image in images {
            let mut nodes = self.nodes.iter().chain(joined.iter());
            if let Some(node) = nodes.find(|node| node.runtime.holds(image) != held) {
                return mismatch(node.name(), image);
            }
            let mut processes = self.agent.iter();
            if processes.any(|agent| agent.runtime.holds(image) != held) {
                return mismatch("the node of the agent that is a process", image);
            }
        }
        Ok(())
    }

    /// Waits for a condition outside the API server.
    pub(crate) async fn eventually(
        &self,
        what: &str,
        limit: Duration,
        done: impl Fn() -> bool,
    ) -> Result<(), String> {
        let began = Instant::now();
        while !done() {
            if began.elapsed() > limit {
                return Err(format!("waited {limit:?} for {what}"));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

struct UntilStatus<F>(F);

impl<F: Fn(&ImageCacheStatus) -> bool> Condition<ImageCache> for UntilStatus<F> {
    fn matches_object(&self, cache: Option<&ImageCache>) -> bool {
        let Some(cache) = cache else { return false };
        let Some(status) = &cache.status else {
            return false;
        };
        status.observed_generation == cache.metadata.generation && (self.0)(status)
    }
}

impl AgentProcess {
    async fn start(world: &World, args: &Args) -> Self {
        let runtime = tokio::task::block_in_place(FakeCri::start);
        let node = world.unresponsive_node("process", &[]).await;
        node.object.describe().await;
        let running = Fledged::operator()
            .arg("agent")
            .arg("--kubeconfig")
            .arg(world.cluster().kubeconfig())
            .args(["--node-name", node.name(), "--runtime", &runtime.uri()])
            .args(["--metrics-bind-address=0", "--health-probe-bind-address=0"])
            // Whatever the disk of this machine holds.
            .arg("--image-fs-high-threshold=100%")
            .args(["--stderrthreshold=WARNING", "--max-parallel-pulls"])
            .arg(args.parallelism.to_string())
            .spawn();
        node.object.set_ready(true).await;
        Self { running, runtime }
    }
}

/// A Ready node with an agent and the full status that a kubelet writes. Its label is its number.
async fn node(world: &World, number: usize) -> TestNode {
    let name = format!("node-{number:05}");
    let labels = [(NODE_LABEL, &*number.to_string())];
    let mut node = world.unresponsive_node(&name, &labels).await;
    node.object.describe().await;
    node.start_agent();
    node.object.set_ready(true).await;
    node
}

/// The reference of the nth image, with a fixed tag.
pub(crate) fn image(n: usize) -> String {
    format!("registry.example.com/team/app-{n:04}:v1.0.0")
}

fn controller(args: &[String], kubeconfig: &Path) -> Running {
    Fledged::operator()
        .args(args)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .spawn()
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0");
    let address = listener.and_then(|listener| listener.local_addr());
    address
        .map(|address| address.port())
        .map_err(|e| format!("no free port: {e}"))
}
