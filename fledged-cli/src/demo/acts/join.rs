//! 3. A node joins.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fledged_core::model::{ImageRef, NodeName};
use fledged_operator::crd::ReadNodeCache;
use kube::Api;
use kube::runtime::wait::await_condition;

use super::Tally;
use super::args::about;
use crate::cluster::{CacheOverview, is_warm};
use crate::demo::DemoError;
use crate::demo::caches::ServedCache;
use crate::demo::node::DemoNode;
use crate::demo::stage::Stage;
use crate::output::pluralised;

const ACT: &str = "the warming of a node that joined";
/// Between two looks at a part of this process.
const INTERVAL: Duration = Duration::from_millis(10);

/// One more node, of which nobody said anything before.
pub(in crate::demo) async fn join(stage: &mut Stage, tally: &mut Tally) -> Result<(), DemoError> {
    let facts = stage.facts(stage.nodes.len())?;
    let (name, images) = (facts.name.clone(), stage.images_for(&facts));
    stage.screen.act(&format!("3. A node joins: {name}."))?;
    stage.add_node().await?;
    let Some(node) = stage.nodes.last() else {
        return Ok(());
    };
    let agent = async {
        while node.agent_ready().is_err() {
            tokio::time::sleep(INTERVAL).await;
        }
        Ok(())
    };
    stage.within("the start of an agent", agent).await?;
    let start = Instant::now();
    node.turn_ready().await?;
    if images.is_empty() {
        return stage
            .screen
            .say("No entry of the ImageCaches means it: it stays empty.");
    }
    let warmed = stage
        .screen
        .while_drawing(|| stage.matrices(), filled(node, &images));
    stage.within(ACT, warmed).await?;
    let took = start.elapsed();
    tally.joined = true;
    stage.screen.say(format_args!(
        "{name} was warm {} ms after it turned Ready: it holds {} that no pod has asked for yet.",
        took.as_millis(),
        pluralised(images.len(), "image")
    ))?;
    // The ImageCaches tell of it once its agent has told, and the controller has heard.
    let told = async {
        warm(stage, &name, &images).await?;
        counted(stage).await
    };
    stage.within("the news of a node that joined", told).await?;
    for cache in &stage.caches {
        stage.screen.fledged(&about("get", &cache.id)).await?;
    }
    Ok(())
}

/// Waits until the layout of a node itself holds these images.
async fn filled(node: &DemoNode, images: &[ImageRef]) -> Result<(), DemoError> {
    for image in images {
        while !node.holds(image).await? {
            tokio::time::sleep(INTERVAL).await;
        }
    }
    Ok(())
}

/// Waits until the agent of a node has reported that these images are there.
pub(super) async fn warm(
    stage: &Stage,
    name: &NodeName,
    images: &[ImageRef],
) -> Result<(), DemoError> {
    let api: Api<ReadNodeCache> = Api::all(stage.client.clone());
    let warm = |record: Option<&ReadNodeCache>| record.is_some_and(|r| is_warm(r, images));
    let waited = await_condition(api, name.as_str(), warm).await;
    waited.map(drop).map_err(|error| DemoError::Failed {
        act: "watching a node",
        seen: format!("NodeImageCache {name}: {error}"),
    })
}

/// Waits until every cache counts all that is to be.
async fn counted(stage: &Stage) -> Result<(), DemoError> {
    loop {
        let read = stage.ours().await?;
        let counted = |cache: &ServedCache| {
            let nodes = stage.nodes.iter();
            let images = nodes.map(|node| {
                let images: BTreeSet<&ImageRef> = cache.images_for(&node.facts).collect();
                images.len()
            });
            let desired: usize = images.sum();
            let mut read = read.iter().filter(|read| cache.is(read));
            read.any(|read| CacheOverview::new(read).counts.cached == desired as u64)
        };
        if stage.caches.iter().all(counted) {
            return Ok(());
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
