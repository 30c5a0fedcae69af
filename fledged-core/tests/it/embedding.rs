//! The API for embedding: a minimal runtime, futures that are `Send`, the simulated cluster.
use std::sync::Arc;
use std::time::Duration;

use fledged_core::async_trait;
use fledged_core::error::{Failure, Reason};
use fledged_core::futures_util::{FutureExt, stream};
use fledged_core::model::{
    Assignment, ByteSize, CacheId, CacheSpecImages, ImageCacheSpec, ImageRef, NodeFacts,
};
use fledged_core::planner::{ActionStatus, Planner, PlannerConfig};
use fledged_core::port::{
    Cluster, ImageRuntime, ImageUse, PullRequest, Removal, RemovalScope, RuntimeImage, RuntimeInfo,
};
use fledged_core::runner::{ClusterLoop, NodeLoop};
use fledged_core::sim::{SimClock, SimCluster, SimImage, SimRegistry, SimRuntime};
use fledged_core::warmer::{Warmer, WarmerConfig};

/// A runtime that lists one image or fails; implements only the required methods.
struct Least(Result<ImageRef, Failure>);

#[async_trait]
impl ImageRuntime for Least {
    async fn info(&self) -> Result<RuntimeInfo, Failure> {
        Ok(RuntimeInfo::new("least", "1", RemovalScope::Image))
    }

    async fn list(&self) -> Result<Vec<RuntimeImage>, Failure> {
        let image = self.0.clone()?;
        Ok(vec![RuntimeImage::new("1", [image])])
    }

    async fn in_use(&self) -> Result<Vec<ImageUse>, Failure> {
        Ok(Vec::new())
    }

    async fn pull(&self, request: PullRequest) -> Result<RuntimeImage, Failure> {
        let message = format!("there is nowhere to pull {} from", request.image);
        Err(Failure::new(Reason::ImageNotFound, message))
    }

    async fn remove(&self, _: &ImageRef) -> Result<Removal, Failure> {
        Ok(Removal::Absent)
    }
}

fn mk_ref(text: &str) -> ImageRef {
    text.parse().unwrap()
}

#[test]
fn the_default_lookup_searches_the_list() {
    let held = Least(Ok(mk_ref("app:1")));
    let look = |runtime: &Least, image| runtime.lookup(&mk_ref(image)).now_or_never().unwrap();
    let found = look(&held, "docker.io/library/app:1").unwrap();
    assert_eq!(found.map(|image| image.id), Some("1".into()));
    assert_eq!(look(&held, "app:2"), Ok(None));

    let failure = Failure::new(Reason::RuntimeUnavailable, "no answer");
    let silent = Least(Err(failure.clone()));
    assert_eq!(look(&silent, "app:1"), Err(failure));
    assert_eq!(held.filesystems().now_or_never().unwrap(), Ok(Vec::new()));
}

#[test]
fn all_futures_are_send() {
    fn sent<T: Send>(future: T) -> T {
        future
    }
    fn shared<T: Send + Sync>(_: &T) {}
    let clock = SimClock::new();
    let cluster = SimCluster::new(clock.clone(), 1);
    let runtime: Arc<dyn ImageRuntime> = Arc::new(Least(Ok(mk_ref("app:1"))));
    let warmer = Warmer::new(WarmerConfig::default(), 1);
    let planner = Planner::new(PlannerConfig::default(), 1);
    shared(&runtime);
    shared(&warmer);
    shared(&planner);
    shared(&cluster);
    let mut node = NodeLoop::new(warmer, runtime, Arc::new(clock.clone()));
    drop(sent(node.settle(Assignment::default())));
    drop(sent(node.run(stream::empty(), std::future::ready(()))));
    let shared_cluster: Arc<dyn Cluster> = Arc::new(cluster.clone());
    let mut controller = ClusterLoop::new(planner, shared_cluster, Arc::new(clock), 1);
    drop(sent(controller.run(std::future::ready(()))));
    drop(sent(
        cluster.run_nodes(WarmerConfig::default(), std::future::ready(())),
    ));
}

#[test]
fn a_simulated_cluster_continues_after_run_for() {
    let clock = SimClock::new();
    let cluster = SimCluster::new(clock.clone(), 1);
    let image = SimImage::new("app", &[("base", ByteSize::new(60_000_000))]);
    let registry = SimRegistry::new().with("app:1", image);
    let runtime = SimRuntime::new(clock.clone(), registry, 1).with_bandwidth(1_000_000);
    cluster.apply_node(NodeFacts::new("node-1".parse().unwrap()), runtime);
    let id = CacheId::new("shop", "web", "1");
    cluster.apply_cache(&id, &ImageCacheSpec::new([CacheSpecImages::new(["app:1"])]));
    let run = |seconds| {
        let planner = Planner::new(PlannerConfig::default(), 1);
        cluster.run_for(planner, Duration::from_secs(seconds))
    };
    assert_eq!(cluster.status(&id), None);
    run(30).unwrap();
    let status = cluster.status(&id).unwrap();
    assert_eq!(
        (status.status, status.counts.pulling),
        (ActionStatus::Processing, 1)
    );
    run(90).unwrap();
    let status = cluster.status(&id).unwrap();
    assert_eq!(
        (status.status, status.counts.cached),
        (ActionStatus::Succeeded, 1)
    );
    assert_eq!(clock.elapsed(), Duration::from_secs(120));
}
