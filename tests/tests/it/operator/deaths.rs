//! A controller dies at each of its writes in turn; its successor must reach the same final state.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use fledged_core::model::{AssignedImage, CacheId, NodeName};
use fledged_core::planner::{Annotation, CacheEvent, CacheStatus, ClusterEvent, Planner};
use fledged_core::port::{Cluster, WriteFailure};
use fledged_core::runner::ClusterLoop;
use fledged_core::tokio::TokioClock;
use fledged_kube::crd::{PURGE_ANNOTATION, REFRESH_ANNOTATION};
use fledged_operator::controller::KubeCluster;
use fledged_tests::kube::{ServerKind, Way, World, WorldOptions};
use futures_util::stream::{self, BoxStream, StreamExt};
use serde_json::json;
use tokio_util::sync::CancellationToken;

scenarios! {
    a_successor_finishes_after_a_death_at_any_write,
}

const APP: &str = "registry.test/app:1";
const DB: &str = "registry.test/db:1";
const MOVING: &str = "registry.test/moving:latest";

/// Whether the write at which the controller dies takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    Before,
    After,
}

/// A cluster that cancels `dead` at write number `last`, and never answers again.
struct Mortal {
    inner: KubeCluster,
    writes: AtomicUsize,
    last: usize,
    death: Death,
    dead: CancellationToken,
}

impl Mortal {
    async fn write<T>(
        &self,
        write: impl Future<Output = Result<T, WriteFailure>>,
    ) -> Result<T, WriteFailure> {
        let number = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        if number < self.last {
            return write.await;
        }
        if number == self.last && self.death == Death::After {
            let _ = write.await;
        }
        self.dead.cancel();
        std::future::pending().await
    }
}

#[async_trait]
impl Cluster for Mortal {
    fn events(&self) -> BoxStream<'static, ClusterEvent> {
        self.inner.events()
    }

    async fn write_assignment(
        &self,
        node: &NodeName,
        images: &[AssignedImage],
    ) -> Result<u64, WriteFailure> {
        self.write(self.inner.write_assignment(node, images)).await
    }

    async fn delete_assignment(&self, node: &NodeName) -> Result<(), WriteFailure> {
        self.write(self.inner.delete_assignment(node)).await
    }

    async fn write_status(
        &self,
        cache: &CacheId,
        status: &CacheStatus,
    ) -> Result<(), WriteFailure> {
        self.write(self.inner.write_status(cache, status)).await
    }

    async fn remove_annotation(
        &self,
        cache: &CacheId,
        annotation: Annotation,
    ) -> Result<(), WriteFailure> {
        self.write(self.inner.remove_annotation(cache, annotation))
            .await
    }

    async fn set_finalizer(&self, cache: &CacheId, present: bool) -> Result<(), WriteFailure> {
        self.write(self.inner.set_finalizer(cache, present)).await
    }

    async fn record_event(&self, cache: &CacheId, event: &CacheEvent) -> Result<(), WriteFailure> {
        self.write(self.inner.record_event(cache, event)).await
    }
}

/// Runs the story with a controller that dies at write number `last`, and then a successor. Returns whether the first
/// controller died before the story was over.
async fn live_and_die(world: &World, last: usize, death: Death) -> bool {
    let options = WorldOptions::by(world.way());
    let dead = CancellationToken::new();
    let driver = world.driver();
    let mut inner = KubeCluster::new(world.cluster().client());
    inner.driver = Arc::clone(&driver);
    let mortal = Arc::new(Mortal {
        inner: inner.clone(),
        writes: AtomicUsize::new(0),
        last,
        death,
        dead: dead.clone(),
    });
    let controllers = async {
        let planner = || Planner::new(options.planner.clone(), 1);
        let clock = || Arc::new(TokioClock::new());
        // One write at a time, so that the number identifies the write.
        let one = std::num::NonZeroUsize::MIN;
        let mut first = ClusterLoop::new(planner(), mortal, clock(), 1).with_max_writes(one);
        tokio::select! {
            biased;
            _ = driver.run(CancellationToken::new()) => panic!("the driver ended"),
            _ = first.run(std::future::pending()) => {}
            () = dead.cancelled() => {}
        }
        drop(first);
        let mut second = ClusterLoop::new(planner(), Arc::new(inner), clock(), 2);
        tokio::select! {
            biased;
            _ = driver.run(CancellationToken::new()) => panic!("the driver ended"),
            _ = second.run(std::future::pending()) => {}
        }
    };
    tokio::select! {
        () = controllers => panic!("the watches ended"),
        () = story(world) => {}
    }
    dead.is_cancelled()
}

/// Changes a cache as a user does, and asserts the result of each step.
async fn story(world: &World) {
    world.publish(&[APP, DB, MOVING]);
    let a = world.node("a").await;
    let spec =
        |images: &[&str]| json!({ "cacheSpec": [{ "images": images }], "deletionPolicy": "Purge" });
    world.apply_spec("web", spec(&[APP, MOVING])).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    a.holds_exactly(&[APP, MOVING]).await;
    world.apply_spec("web", spec(&[DB, MOVING])).await;
    world.ended("web", "ImageCacheUpdate", "Succeeded").await;
    a.holds_exactly(&[DB, MOVING]).await;
    world.annotate("web", PURGE_ANNOTATION).await;
    world.ended("web", "ImageCachePurge", "Succeeded").await;
    a.holds_exactly(&[]).await;
    world.registry().publish(MOVING, "moved");
    world.annotate("web", REFRESH_ANNOTATION).await;
    let status = world.ended("web", "ImageCacheRefresh", "Succeeded").await;
    assert_eq!(status.cached.as_deref(), Some("2/2"));
    a.holds_exactly(&[DB, MOVING]).await;
    assert_eq!(a.runtime.content(MOVING).as_deref(), Some("moved"));
    world.delete("web").await;
    world.gone("web").await;
    a.holds_exactly(&[]).await;
}

async fn a_successor_finishes_after_a_death_at_any_write(way: Way) {
    /// An upper bound of the writes of a story, asserted below.
    const MOST: usize = 120;
    // Each story has its own API server, except on a real cluster, which serves one story at a time.
    let first = World::without_controller(WorldOptions::by(way)).await;
    let at_once = match first.cluster().kind() {
        ServerKind::Embedded => 12,
        ServerKind::Assets => 2,
        ServerKind::Cluster => 1,
    };
    drop(first);
    for death in [Death::Before, Death::After] {
        let stories = (1..=MOST).map(async |last| {
            let world = World::without_controller(WorldOptions::by(way)).await;
            live_and_die(&world, last, death).await
        });
        let mut stories = stream::iter(stories).buffered(at_once);
        let mut deaths = 0;
        while let Some(true) = stories.next().await {
            deaths += 1;
        }
        assert!((15..MOST).contains(&deaths), "{deaths} writes");
    }
}
