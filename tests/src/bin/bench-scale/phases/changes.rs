//! Phases that change nodes or caches after the rollout.

use std::time::Instant;

use fledged_kube::crd::{PURGE_ANNOTATION, REFRESH_ANNOTATION};
use fledged_tests::kube::TestNode;
use serde_json::json;

use super::CACHE;
use crate::args::Args;
use crate::bench::{Bench, NODE_LABEL, image, lock};
use crate::phase::Outcome;
use crate::report::percentile;

/// Time limit for the first pull of a new node.
const FIRST_PULL: std::time::Duration = std::time::Duration::from_secs(60);

/// Nodes turn Ready one by one; measures the time until the first pull of each.
pub(super) async fn join(bench: &Bench, args: &Args) -> Result<Outcome, String> {
    let mut waits = Vec::with_capacity(args.joins);
    for n in 0..args.joins {
        let (node, wait) = join_one(bench, &format!("joins-{n:05}")).await?;
        waits.push(wait);
        lock(&bench.joined).push(node);
    }
    let pairs = bench.images.len() * bench.served();
    bench.cached(CACHE, pairs).await?;
    bench.check(&bench.image_names(), true)?;
    Ok(Outcome {
        nodes: Some(args.joins),
        figures: [
            ("readyToFirstPullP50", percentile(&waits, 0.5)),
            ("readyToFirstPullP99", percentile(&waits, 0.99)),
            ("readyToFirstPullMax", percentile(&waits, 1.0)),
        ]
        .into(),
        ..Outcome::default()
    })
}

/// Registers a node with a running agent and sets it Ready. Returns the node and the seconds until its first pull.
async fn join_one(bench: &Bench, name: &str) -> Result<(TestNode, f64), String> {
    let mut node = bench.world.unresponsive_node(name, &[]).await;
    node.object.describe().await;
    node.start_agent();
    let ready = Instant::now();
    node.object.set_ready(true).await;
    let runtime = node.runtime.clone();
    bench
        .eventually("the first pull", FIRST_PULL, || {
            runtime.first_pull().is_some()
        })
        .await?;
    let pulled = runtime.first_pull().ok_or("no pull")?;
    let wait = pulled.saturating_duration_since(ready).as_secs_f64();
    Ok((node, wait))
}

/// Adds one image for all nodes.
pub(super) async fn edit(bench: &Bench, args: &Args) -> Result<Outcome, String> {
    let more = image(bench.images.len());
    let mut images = bench.image_names();
    images.push(&more);
    bench.world.publish(&[&more]);
    bench.world.apply(CACHE, &images).await;
    bench.ended(CACHE, "ImageCacheUpdate", "Succeeded").await?;
    bench.check(&images, true)?;
    Ok(Outcome {
        floor: Some(args.pulls_alone(1)),
        ..Outcome::default()
    })
}

/// Creates a cache for one node.
pub(super) async fn one(bench: &Bench, args: &Args) -> Result<Outcome, String> {
    let node = bench.nodes.first().ok_or("there is no node")?;
    let more = image(bench.images.len() + 1);
    bench.world.publish(&[&more]);
    // Its label is older than the cache: else the controller could see the cache first, and find no node for it.
    let group = json!({ "images": [more], "nodeSelector": { NODE_LABEL: "0" } });
    let spec = json!({ "cacheSpec": [group] });
    bench.world.apply_spec("one", spec).await;
    bench.ended("one", "ImageCacheCreate", "Succeeded").await?;
    if !node.runtime.holds(&more) {
        return Err(format!(
            "by the status {more} is cached, but the node does not hold it"
        ));
    }
    Ok(Outcome {
        nodes: Some(1),
        floor: Some(args.pulls_alone(1)),
        ..Outcome::default()
    })
}

/// Requests a refresh of images with fixed tags.
pub(super) async fn refresh(bench: &Bench) -> Result<Outcome, String> {
    bench.world.annotate(CACHE, REFRESH_ANNOTATION).await;
    bench.ended(CACHE, "ImageCacheRefresh", "Succeeded").await?;
    bench.check(&bench.image_names(), true)?;
    Ok(Outcome::default())
}

/// Purges both caches.
pub(super) async fn purge(bench: &Bench) -> Result<Outcome, String> {
    let one = bench.world.caches().get_opt("one").await;
    if one.map_err(|error| error.to_string())?.is_some() {
        bench.world.annotate("one", PURGE_ANNOTATION).await;
        bench.ended("one", "ImageCachePurge", "Succeeded").await?;
    }
    bench.world.annotate(CACHE, PURGE_ANNOTATION).await;
    bench.ended(CACHE, "ImageCachePurge", "Succeeded").await?;
    bench.check(&bench.image_names(), false)?;
    Ok(Outcome::default())
}
