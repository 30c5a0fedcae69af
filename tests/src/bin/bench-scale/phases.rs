//! What is done, in order.

use std::time::{Duration, Instant};

use fledged_tests::kube::{TestCluster, TestNode, World, WorldOptions, eventually};
use fledged_tests::{Fledged, find_operator};
use futures_util::stream::{self, StreamExt};

use crate::Args;
use crate::counts::{record_writes, usage};
use crate::report::{Report, percentile};

/// Requests of this program's own that are under way at once.
const AT_ONCE: usize = 16;

pub(crate) async fn run(args: &Args) -> Result<Report, String> {
    find_operator()?;
    let cluster = match &args.kubeconfig {
        Some(path) => TestCluster::start_on(path).await,
        None => TestCluster::start_embedded().await,
    };
    let world = World::on(
        cluster,
        WorldOptions {
            pull: args.pull,
            inventory: Duration::from_secs(60),
            parallel: args.parallelism,
            ..WorldOptions::default()
        },
    );
    let images: Vec<String> = (0..args.images.get())
        .map(|n| format!("registry.example.com/team/app-{n:04}:v1.0.0"))
        .collect();
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    world.publish(&images);
    let names = (0..args.nodes.get()).map(|n| format!("node-{n:05}"));
    let world = &world;
    let nodes: Vec<TestNode> = stream::iter(names)
        .map(async |name| world.node(&name).await)
        .buffered(AT_ONCE)
        .collect()
        .await;
    let controller = Fledged::operator()
        .args([
            "controller",
            "--leader-elect=false",
            "--stderrthreshold=WARNING",
        ])
        .args(["--metrics-bind-address=0", "--health-probe-bind-address=0"])
        .args(["--image-cache-refresh-frequency=0s"])
        .args(["--max-concurrent-nodes", &args.max_concurrent_nodes])
        .arg("--kubeconfig")
        .arg(world.cluster().kubeconfig())
        .spawn();
    settled(world).await;

    let before = record_writes(world.cluster()).await?;
    let began = Instant::now();
    world.apply("bench", &images).await;
    world.ended("bench", "ImageCacheCreate", "Succeeded").await;
    let rollout = began.elapsed().as_secs_f64();
    let writes = record_writes(world.cluster()).await? - before;
    let first = nodes.first().ok_or("there is no node")?;
    let record = world.records().get(first.name()).await;
    let record = record.map_err(|error| error.to_string())?;
    let record_bytes = serde_json::to_vec(&record).map_or(0, |text| text.len());

    let mut first_pulls = Vec::with_capacity(args.joins);
    for n in 0..args.joins {
        first_pulls.push(join(world, &format!("joins-{n:05}")).await);
    }
    let used = usage(controller.id()).ok_or("the controller has ended")?;
    controller.terminate();
    let rounds = args.images.get().div_ceil(args.parallelism.get());
    #[expect(clippy::cast_precision_loss, reason = "counts of some thousands")]
    Ok(Report {
        server: match world.cluster().embedded() {
            Some(_) => "embedded, in this process".to_owned(),
            None => world.cluster().kubeconfig().display().to_string(),
        },
        nodes: nodes.len(),
        images: images.len(),
        parallelism: args.parallelism.get(),
        pull: args.pull.as_secs_f64(),
        pulls_alone: args.pull.as_secs_f64() * rounds as f64,
        rollout,
        writes_per_node: writes as f64 / nodes.len() as f64,
        first_pull_p50: percentile(&first_pulls, 0.5),
        first_pull_p99: percentile(&first_pulls, 0.99),
        first_pulls,
        controller_peak_rss: used.peak_rss,
        controller_cpu: used.cpu,
        record_bytes,
    })
}

/// Waits until the controller has listed everything: a cache of its own has ended by then.
async fn settled(world: &World) {
    let group = serde_json::json!({ "images": ["registry.example.com/none:1"],
        "nodeSelector": { "fledged-bench": "none" } });
    world
        .apply_spec("settled", serde_json::json!({ "cacheSpec": [group] }))
        .await;
    world
        .ended("settled", "ImageCacheCreate", "NoImagesPulledOrDeleted")
        .await;
}

/// A node registers with its agent running and turns Ready; seconds until its first pull.
async fn join(world: &World, name: &str) -> f64 {
    let mut node = world.silent_node(name, &[]).await;
    node.start_agent();
    let ready = Instant::now();
    node.object.set_ready(true).await;
    let pulled = eventually("the first pull", || async {
        node.runtime.first_pull().ok_or("none".to_owned())
    })
    .await;
    pulled.duration_since(ready).as_secs_f64()
}
