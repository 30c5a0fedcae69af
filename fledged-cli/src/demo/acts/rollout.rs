//! 2. An ImageCache is applied.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fledged_core::model::{ByteSize, ImageRef};
use fledged_operator::crd::ReadCache;
use kube::Api;
use kube::api::{Patch, PatchParams};

use super::Tally;
use super::args::about;
use crate::cluster::{get_until, is_cached, is_empty, is_failed, missing};
use crate::demo::DemoError;
use crate::demo::caches::ServedCache;
use crate::demo::stage::Stage;
use crate::output::pluralised;

/// Who applies the manifests; kubectl's name for itself.
const FIELD_MANAGER: &str = "kubectl";
/// Lines of a manifest that are shown.
const LINES_MAX: usize = 40;
/// Between two looks while what is seen is drawn.
const INTERVAL: Duration = Duration::from_millis(20);

/// Applies the ImageCaches and shows how they go out.
pub(in crate::demo) async fn rollout(stage: &Stage, tally: &mut Tally) -> Result<(), DemoError> {
    let many = stage.caches.len() > 1;
    stage.screen.act(match many {
        true => "2. The ImageCaches are applied.",
        false => "2. An ImageCache is applied.",
    })?;
    if !stage.written.built_in {
        let mapping = stage.written.mapping(&stage.registry.host())?;
        stage.screen.say(
            "The registry serves generated images in place of those in the file, of the same repositories and tags:",
        )?;
        for (written, served) in mapping {
            stage.screen.say(format_args!("  {written} is {served}"))?;
        }
    }
    let text = manifests(stage)?;
    let path = stage.file("images.yaml", text.clone()).await?;
    if text.lines().count() <= LINES_MAX {
        stage
            .screen
            .prompt(format_args!("cat {}", path.display()))?;
        stage.screen.result(&text)?;
    }
    let before = stage.registry.traffic();
    stage.screen.prompt(format_args!(
        "kubectl apply --server-side -f {}",
        path.display()
    ))?;
    let start = Instant::now();
    apply(stage).await?;
    stage.within("the rollout", watched(stage)).await?;
    let took = start.elapsed();
    for cache in &stage.caches {
        stage.screen.fledged(&about("status", &cache.id)).await?;
    }
    let after = stage.registry.traffic();
    let pairs: usize = {
        let nodes = stage.nodes.iter();
        let images = nodes.map(|node| stage.images_for(&node.facts).len());
        images.sum()
    };
    tally.images = distinct(stage).len();
    stage.screen.say(format_args!(
        "{}, {} in all, cached {:.1} s after the ImageCache was applied;\n{} fetched in {} to the registry: each layer once a node.",
        on(tally.images, stage.nodes.len()),
        match pairs {
            1 => "once".to_owned(),
            pairs => format!("{pairs} times"),
        },
        took.as_secs_f64(),
        ByteSize::new(after.bytes - before.bytes),
        pluralised(
            usize::try_from(after.requests - before.requests).unwrap_or(usize::MAX),
            "request"
        ),
    ))
}

fn on(images: usize, nodes: usize) -> String {
    format!(
        "{} on {}",
        pluralised(images, "image"),
        pluralised(nodes, "node")
    )
}

/// The images that any node is to hold.
fn distinct(stage: &Stage) -> BTreeSet<ImageRef> {
    let nodes = stage.nodes.iter();
    nodes
        .flat_map(|node| stage.images_for(&node.facts))
        .collect()
}

fn manifests(stage: &Stage) -> Result<String, DemoError> {
    let mut texts = Vec::new();
    for cache in &stage.caches {
        let text = serde_saphyr::to_string(&cache.manifest);
        texts.push(text.map_err(|error| DemoError::Failed {
            act: "writing the manifest",
            seen: error.to_string(),
        })?);
    }
    Ok(texts.join("---\n"))
}

/// As `kubectl apply --server-side` does.
pub(in crate::demo) async fn apply(stage: &Stage) -> Result<(), DemoError> {
    for cache in &stage.caches {
        let id = &cache.id;
        let api: Api<ReadCache> = Api::namespaced(stage.client.clone(), &id.namespace);
        let params = PatchParams::apply(FIELD_MANAGER);
        let applied = api
            .patch(&id.name, &params, &Patch::Apply(&cache.manifest))
            .await;
        applied.map_err(DemoError::refused(format!("apply the ImageCache {id}")))?;
        stage.screen.result(&format!(
            "imagecache.kubefledged.io/{} serverside-applied",
            id.name
        ))?;
    }
    Ok(())
}

/// Shows the rollout until it has ended: a matrix on a terminal, otherwise the lines of `get -w`.
async fn watched(stage: &Stage) -> Result<(), DemoError> {
    if stage.screen.is_live() {
        return stage
            .screen
            .while_drawing(|| stage.matrices(), settled(stage))
            .await;
    }
    let all = !stage.is_plain();
    stage.screen.prompt(match all {
        true => "fledged get -A -w",
        false => "fledged get -w",
    })?;
    let mut rest: Vec<&ServedCache> = stage.caches.iter().collect();
    let mut failed = None;
    let terminal = &stage.screen.terminal;
    get_until(&stage.connection, all, terminal, |cache| {
        match judged(cache) {
            Ok(true) => rest.retain(|served| !served.is(cache)),
            Ok(false) => {}
            Err(error) => failed = Some(error),
        }
        rest.is_empty() || failed.is_some()
    })
    .await?;
    failed.map_or(Ok(()), Err)
}

/// Waits until every cache is cached.
async fn settled(stage: &Stage) -> Result<(), DemoError> {
    loop {
        let caches = stage.ours().await?;
        let mut all = true;
        for cache in &caches {
            all &= judged(cache)?;
        }
        if all {
            return Ok(());
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Whether it is as it is to be; an error where it has ended otherwise.
fn judged(cache: &ReadCache) -> Result<bool, DemoError> {
    if is_failed(cache) {
        return Err(DemoError::Failed {
            act: "the rollout",
            seen: format!("ImageCache {}: {}", cache.id(), missing(cache)),
        });
    }
    // One that means no node has nothing to do.
    Ok(is_cached(cache) || is_empty(cache))
}
