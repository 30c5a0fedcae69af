//! Many caches: some for every node, each of the others for one node.

use futures_util::stream::{self, StreamExt};
use serde_json::json;

use crate::args::Args;
use crate::bench::{AT_ONCE, Bench, NODE_LABEL, image};
use crate::phase::Outcome;

/// The name of a cache.
pub(super) fn name(cache: usize) -> String {
    format!("cache-{cache:05}")
}

/// Creates the caches, each with the images of the arguments, and waits until every node holds its images.
pub(super) async fn create(bench: &Bench, args: &Args) -> Result<Outcome, String> {
    let (caches, images) = (args.caches(), args.images());
    let everywhere = args.everywhere();
    let all: Vec<usize> = (0..caches).collect();
    stream::iter(all)
        .for_each_concurrent(AT_ONCE, async |cache| {
            let images: Vec<String> = (0..images).map(|n| image(cache * images + n)).collect();
            let names: Vec<&str> = images.iter().map(String::as_str).collect();
            bench.world.publish(&names);
            let group = match cache < everywhere {
                true => json!({ "images": images }),
                false => {
                    let node = (cache % bench.nodes.len()).to_string();
                    json!({ "images": images, "nodeSelector": { NODE_LABEL: node } })
                }
            };
            let spec = json!({ "cacheSpec": [group] });
            bench.world.apply_spec(&name(cache), spec).await;
        })
        .await;
    bench.all_succeed(caches).await?;
    for (number, node) in bench.nodes.iter().enumerate() {
        let own = (everywhere..caches).filter(|cache| cache % bench.nodes.len() == number);
        for cache in (0..everywhere).chain(own) {
            let image = image(cache * images);
            if !node.runtime.holds(&image) {
                let node = node.name();
                return Err(format!(
                    "by the status all images are cached, but {node} lacks {image}"
                ));
            }
        }
    }
    let own = (caches - everywhere).div_ceil(bench.nodes.len());
    Ok(Outcome {
        floor: Some(args.pulls_alone((everywhere + own) * images)),
        ..Outcome::default()
    })
}
