//! 5. The ImageCaches are purged.

use std::time::Instant;

use fledged_core::model::ByteSize;

use super::Tally;
use super::args::about;
use crate::demo::DemoError;
use crate::demo::stage::Stage;
use crate::output::pluralised;

/// Purges every ImageCache, and looks into the layouts themselves.
pub(in crate::demo) async fn purge(stage: &Stage, tally: &mut Tally) -> Result<(), DemoError> {
    stage
        .screen
        .act("5. Purge: the images leave the nodes, the ImageCache stays.")?;
    let before = bytes(stage).await?;
    let start = Instant::now();
    let purging = async {
        for cache in &stage.caches {
            let mut args = about("purge", &cache.id);
            args.push("--wait");
            stage.screen.fledged(&args).await?;
        }
        Ok(())
    };
    stage.within("the purge", purging).await?;
    let took = start.elapsed();
    for node in &stage.nodes {
        let left = node.images().await?;
        if left > 0 {
            return Err(DemoError::Failed {
                act: "the purge",
                seen: format!(
                    "{} still holds {}: {}",
                    node.name(),
                    pluralised(left, "image"),
                    node.folder().display()
                ),
            });
        }
    }
    tally.emptied = stage.nodes.len();
    stage.screen.say(format_args!(
        "After {} ms no layout of the {} holds an image: of {before} on disk, {} are left.",
        took.as_millis(),
        pluralised(stage.nodes.len(), "node"),
        bytes(stage).await?
    ))
}

/// Bytes of all layouts.
async fn bytes(stage: &Stage) -> Result<ByteSize, DemoError> {
    let mut sizes = Vec::new();
    for node in &stage.nodes {
        sizes.push(node.bytes().await?);
    }
    Ok(sizes.into_iter().sum())
}
