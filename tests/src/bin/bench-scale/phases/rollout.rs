//! A cache gets onto all nodes.

use std::time::Instant;

use fledged_tests::kube::TestNode;
use futures_util::stream::{self, StreamExt};

use super::CACHE;
use crate::args::Args;
use crate::bench::{AT_ONCE, Bench, lock};
use crate::phase::Outcome;

/// From the application of a cache to `Succeeded`.
pub(super) async fn rollout(bench: &Bench, args: &Args) -> Result<Outcome, String> {
    let images = bench.image_names();
    bench.world.apply(CACHE, &images).await;
    bench.ended(CACHE, "ImageCacheCreate", "Succeeded").await?;
    Ok(Outcome {
        floor: Some(args.pulls_alone(images.len())),
        done: Some(all_pulled(bench, images.len())?),
        ..Outcome::default()
    })
}

/// The same images for all nodes again, once they are gone from them.
pub(super) async fn again(bench: &Bench, args: &Args) -> Result<Outcome, String> {
    let images = bench.image_names();
    bench.world.apply("again", &images).await;
    bench.cached("again", images.len() * bench.served()).await?;
    Ok(Outcome {
        floor: Some(args.pulls_alone(images.len())),
        done: Some(all_pulled(bench, images.len())?),
        ..Outcome::default()
    })
}

/// Nodes that are not Ready, and as many that are and have no agent; the first cache goes.
pub(super) async fn register_troubled(bench: &Bench, args: &Args) {
    let names = (0..2 * args.troubled()).map(|n| (n % 2 == 0, format!("troubled-{n:05}")));
    let _: Vec<()> = stream::iter(names)
        .map(async |(ready, name)| {
            let node = bench.world.silent_node(&name, &[]).await;
            node.object.describe().await;
            node.object.set_ready(ready).await;
        })
        .buffered(AT_ONCE)
        .collect()
        .await;
    bench.world.delete(CACHE).await;
    bench.world.gone(CACHE).await;
}

/// When the last pull was done; no status is believed before every runtime holds every image.
fn all_pulled(bench: &Bench, images: usize) -> Result<Instant, String> {
    let process = &bench.agent.runtime;
    if let Some(image) = bench.images.iter().find(|image| !process.holds(image)) {
        return Err(format!(
            "the status says that all is cached, and one agent's runtime has no {image}"
        ));
    }
    let joined = lock(&bench.joined);
    let nodes = bench.nodes.iter().chain(joined.iter());
    let last = nodes.map(|node| {
        let held = node.runtime.held().len();
        match (held, node.runtime.last_pulled()) {
            (held, Some(at)) if held == images => Ok(at),
            _ => Err(untrue(node, held, images)),
        }
    });
    let last: Vec<Instant> = last.collect::<Result<_, String>>()?;
    last.into_iter().max().ok_or("there is no node".to_owned())
}

fn untrue(node: &TestNode, held: usize, images: usize) -> String {
    let name = node.name();
    format!("the status says that all is cached, and {name} holds {held} images of {images}")
}

/// Size of one NodeImageCache with its status, as an API server sends it.
pub(super) async fn record_bytes(bench: &Bench) -> Result<usize, String> {
    let node = bench.nodes.first().ok_or("there is no node")?;
    let record = bench.world.records().get(node.name()).await;
    let record = record.map_err(|e| format!("the record of {}: {e}", node.name()))?;
    let text = serde_json::to_vec(&record);
    text.map(|text| text.len()).map_err(|e| e.to_string())
}
