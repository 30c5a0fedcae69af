//! Rollouts of a cache to all nodes.

use std::time::Instant;

use futures_util::stream::{self, StreamExt};

use super::CACHE;
use crate::args::Args;
use crate::bench::{AT_ONCE, Bench, image, lock};
use crate::phase::Outcome;
use crate::report::percentile;

/// Index of the first image of the second rollout.
const MORE: usize = 5000;

/// Measures from the creation of a cache to `Succeeded`.
pub(super) async fn rollout(bench: &Bench, args: &Args) -> Result<Outcome, String> {
    let images = bench.image_names();
    let began = Instant::now();
    bench.world.apply(CACHE, &images).await;
    bench.ended(CACHE, "ImageCacheCreate", "Succeeded").await?;
    outcome(bench, args, &images, began)
}

/// Rolls out the same number of other images.
pub(super) async fn again(bench: &Bench, args: &Args) -> Result<Outcome, String> {
    let images: Vec<String> = (0..bench.images.len()).map(|n| image(MORE + n)).collect();
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    bench.world.publish(&images);
    let began = Instant::now();
    bench.world.apply("again", &images).await;
    bench.cached("again", images.len() * bench.served()).await?;
    outcome(bench, args, &images, began)
}

/// Checks that every runtime holds every image, and returns the outcome.
fn outcome(bench: &Bench, args: &Args, images: &[&str], began: Instant) -> Result<Outcome, String> {
    bench.check(images, true)?;
    let joined = lock(&bench.joined);
    let nodes = bench.nodes.iter().chain(joined.iter());
    let done: Vec<Instant> = nodes.filter_map(|n| n.runtime.last_pulled()).collect();
    let since = |at: &Instant| at.saturating_duration_since(began).as_secs_f64();
    let waits: Vec<f64> = done.iter().map(since).collect();
    Ok(Outcome {
        floor: Some(args.pulls_alone(images.len())),
        done: done.into_iter().max(),
        figures: [
            ("applyToNodeDoneP50", percentile(&waits, 0.5)),
            ("applyToNodeDoneP99", percentile(&waits, 0.99)),
        ]
        .into(),
        ..Outcome::default()
    })
}

/// Registers NotReady nodes and as many Ready nodes without an agent, and deletes the first cache.
pub(super) async fn register_troubled(bench: &Bench, args: &Args) {
    let names = (0..2 * args.troubled()).map(|n| (n % 2 == 0, format!("troubled-{n:05}")));
    let _: Vec<()> = stream::iter(names)
        .map(async |(ready, name)| {
            let node = bench.world.unresponsive_node(&name, &[]).await;
            node.object.describe().await;
            node.object.set_ready(ready).await;
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    bench.world.delete(CACHE).await;
    bench.world.gone(CACHE).await;
}

/// Returns the size of one NodeImageCache with its status, as sent by an API server.
pub(crate) async fn record_bytes(bench: &Bench) -> Result<usize, String> {
    let node = bench.nodes.first().ok_or("there is no node")?;
    let record = bench.world.records().get(node.name()).await;
    let record = record.map_err(|e| format!("the record of {}: {e}", node.name()))?;
    let text = serde_json::to_vec(&record);
    text.map(|text| text.len()).map_err(|e| e.to_string())
}
