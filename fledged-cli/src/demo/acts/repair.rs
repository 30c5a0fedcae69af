//! 4. An image gets lost.

use std::time::{Duration, Instant};

use fledged_core::model::{ByteSize, ImageRef};
use fledged_core::port::Removal;

use super::Tally;
use super::args::about;
use super::join::warm;
use crate::demo::DemoError;
use crate::demo::caches::ServedCache;
use crate::demo::node::{DemoNode, INVENTORY_INTERVAL};
use crate::demo::stage::Stage;

const ACT: &str = "the repair of an image";
/// Between two looks at a layout.
const INTERVAL: Duration = Duration::from_millis(10);

/// Removes an image behind an agent's back, and ends when it is back.
pub(in crate::demo) async fn repair(stage: &Stage, tally: &mut Tally) -> Result<(), DemoError> {
    let Some((node, cache, image)) = victim(stage) else {
        return Ok(());
    };
    let name = node.name();
    stage.screen.act(&format!(
        "4. An image gets lost: {} is removed from {name} behind its agent's back.",
        image.original()
    ))?;
    let before = stage.registry.traffic();
    let lost = node.size(&image).await?;
    match node.lose(&image).await? {
        Removal::Removed => {}
        other => {
            return Err(DemoError::Failed {
                act: ACT,
                seen: format!("{image} could not be removed from {name}: {other:?}"),
            });
        }
    }
    let start = Instant::now();
    let requests = before.requests;
    let (noticed, back) = stage
        .within(ACT, watched(stage, node, &image, requests))
        .await?;
    let fetched = ByteSize::new(stage.registry.traffic().bytes - before.bytes);
    stage.screen.say(format_args!(
        "Noticed after {} ms: the agent reads here what its runtime holds every {} s (every 60 s by default).\nBack after {} ms; {} fetched{}.",
        noticed.duration_since(start).as_millis(),
        INVENTORY_INTERVAL.as_secs(),
        back.duration_since(start).as_millis(),
        fetched,
        match fetched < lost {
            true => ", the layers that it shares were still there",
            false => "",
        }
    ))?;
    let images = stage.images_for(&node.facts);
    stage
        .within("the news of a repair", warm(stage, name, &images))
        .await?;
    tally.repaired += 1;
    let mut args = about("why", &cache.id);
    // NAME NODE IMAGE, before the options.
    args.splice(2..2, [name.as_str(), image.original()]);
    stage.screen.fledged(&args).await
}

/// The last image of the first node that holds any.
fn victim(stage: &Stage) -> Option<(&DemoNode, &ServedCache, ImageRef)> {
    stage.nodes.iter().find_map(|node| {
        let caches = stage.caches.iter().rev();
        let mut last = caches.filter_map(|cache| {
            let image = cache.images_for(&node.facts).last()?;
            Some((node, cache, image.clone()))
        });
        last.next()
    })
}

/// When the registry had more requests than that, which nobody but this agent makes now, and when the layout itself held it again.
async fn watched(
    stage: &Stage,
    node: &DemoNode,
    image: &ImageRef,
    requests: u64,
) -> Result<(Instant, Instant), DemoError> {
    while stage.registry.traffic().requests == requests {
        tokio::time::sleep(INTERVAL).await;
    }
    let noticed = Instant::now();
    while !node.holds(image).await? {
        tokio::time::sleep(INTERVAL).await;
    }
    Ok((noticed, Instant::now()))
}
