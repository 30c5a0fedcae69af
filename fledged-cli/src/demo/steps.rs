//! The steps of the demo, in order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fledged_core::model::{ByteSize, CacheId, ImageRef, NodeName};
use fledged_core::port::Removal;
use fledged_kube::crd::{ReadCache, ReadNodeCache};
use fledged_kube::lease::LeaseName;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;

use super::DemoError;
use super::demo_caches::{ServedCache, label_list};
use super::demo_cluster::DemoCluster;
use super::demo_node::{DemoNode, INVENTORY_INTERVAL};
use super::demo_registry::BASE_LAYER;
use crate::output::pluralised;
use crate::remote::{CacheOverview, get_until, is_cached, is_empty, is_failed, is_warm, missing};

/// Field manager of `kubectl apply --server-side`.
const FIELD_MANAGER: &str = "kubectl";
/// Longest manifest that is shown, in lines.
const MANIFEST_LINES_MAX: usize = 40;
/// Most nodes that are named for one set of labels.
const NAMES_MAX: usize = 6;
/// Interval between reads of state inside this process.
const POLL: Duration = Duration::from_millis(10);
/// Interval between reads of the API server.
const API_POLL: Duration = Duration::from_millis(20);

/// Counts for the last line of the demo.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// Distinct images of the rollout.
    pub(super) images: usize,
    /// Whether the node that joined got images; its labels may match no entry.
    pub(super) joined: bool,
    /// Images that were lost and pulled again.
    pub(super) repaired: usize,
    /// Nodes that are empty after the purge.
    pub(super) purged: usize,
}

/// Step 1: starts the controller and the nodes.
pub(super) async fn start(cluster: &mut DemoCluster, nodes: usize) -> Result<(), DemoError> {
    let start = Instant::now();
    let facts: Result<Vec<_>, DemoError> = (0..nodes).map(|node| cluster.facts(node)).collect();
    // Fails before anything is printed if no entry selects a node.
    let unmatched = cluster.written.unmatched(&facts?)?;
    cluster
        .screen
        .first_step("1. A cluster in this process: nothing is installed or downloaded.")?;
    let images = cluster.written.images();
    cluster.screen.note(format_args!(
        "API server   {}\nkubeconfig   {}\nregistry     {} with {}, {}",
        cluster.url(),
        cluster.kubeconfig.display(),
        cluster.registry.host(),
        pluralised(images.len(), "generated image"),
        cluster.stored,
    ))?;
    create_namespaces(cluster).await?;
    let lease = cluster.start_controller().await?;
    let holder = cluster
        .within("the leader election", lease_holder(cluster, &lease))
        .await?;
    cluster.screen.note(format_args!(
        "controller   {holder:?} holds the Lease {lease}"
    ))?;
    for _ in 0..nodes {
        cluster.add_node().await?;
    }
    cluster
        .within("the start of the agents", agents_ready(&cluster.nodes))
        .await?;
    for node in &cluster.nodes {
        node.set_ready().await?;
    }
    cluster.screen.note(format_args!(
        "nodes        {} Ready, each with an agent and an OCI image layout",
        cluster.nodes.len()
    ))?;
    for (labels, nodes) in names_by_labels(&cluster.nodes) {
        cluster
            .screen
            .note(format_args!("             {labels}: {nodes}"))?;
    }
    for entry in unmatched {
        cluster.screen.terminal.warn(entry);
    }
    cluster.screen.note(format_args!(
        "Ready after {:.1} s. To use kubectl or fledged on it meanwhile:\n  export KUBECONFIG={}",
        start.elapsed().as_secs_f64(),
        cluster.kubeconfig.display()
    ))
}

/// Creates the namespaces of the controller and of the ImageCaches; `default` exists.
async fn create_namespaces(cluster: &DemoCluster) -> Result<(), DemoError> {
    let api: Api<Namespace> = Api::all(cluster.client.clone());
    let names = cluster
        .caches
        .iter()
        .map(|cache| cache.id.namespace.as_str());
    for name in names.chain(["kube-fledged"]) {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.to_owned());
        match api.create(&PostParams::default(), &namespace).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => {
                return Err(DemoError::refused(format!("create the namespace {name}"))(
                    error,
                ));
            }
        }
    }
    Ok(())
}

/// Waits until the Lease is held, and returns the holder.
async fn lease_holder(cluster: &DemoCluster, lease: &LeaseName) -> Result<String, DemoError> {
    let api: Api<Lease> = Api::namespaced(cluster.client.clone(), &lease.namespace);
    let is_held = |lease: Option<&Lease>| holder(lease).is_some();
    match await_condition(api, &lease.name, is_held).await {
        Ok(lease) => Ok(holder(lease.as_ref()).unwrap_or_default()),
        Err(error) => Err(DemoError::Failed {
            step: "the leader election",
            problem: format!("cannot watch the Lease {lease}: {error}"),
        }),
    }
}

fn holder(lease: Option<&Lease>) -> Option<String> {
    let holder = lease?.spec.as_ref()?.holder_identity.clone();
    holder.filter(|name| !name.is_empty())
}

/// Waits until every agent has read its assignment and its inventory.
async fn agents_ready(nodes: &[DemoNode]) -> Result<(), DemoError> {
    while nodes.iter().any(|node| node.agent_ready().is_err()) {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Node names by labels, without the labels of the kubelet.
fn names_by_labels(nodes: &[DemoNode]) -> BTreeMap<String, String> {
    let mut by_labels: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for node in nodes {
        let mut labels = node.facts.labels.clone();
        labels.retain(|key, _| !key.starts_with("kubernetes.io/"));
        if !labels.is_empty() {
            let names = by_labels.entry(label_list(&labels)).or_default();
            names.push(node.name().as_str());
        }
    }
    by_labels
        .into_iter()
        .map(|(labels, names)| {
            let mut text = names
                .iter()
                .take(NAMES_MAX)
                .copied()
                .collect::<Vec<_>>()
                .join(", ");
            if names.len() > NAMES_MAX {
                text.push_str(&format!(" and {} more", names.len() - NAMES_MAX));
            }
            (labels, text)
        })
        .collect()
}

/// Step 2: applies the ImageCaches and shows the rollout.
pub(super) async fn rollout(cluster: &DemoCluster, summary: &mut Summary) -> Result<(), DemoError> {
    cluster.screen.step(if cluster.caches.len() > 1 {
        "2. Rollout: the ImageCaches are applied."
    } else {
        "2. Rollout: an ImageCache is applied."
    })?;
    if !cluster.written.built_in {
        show_mapping(cluster)?;
    }
    let text = manifests(cluster)?;
    let path = cluster.file("images.yaml", text.clone()).await?;
    if text.lines().count() <= MANIFEST_LINES_MAX {
        cluster
            .screen
            .prompt(format_args!("cat {}", path.display()))?;
        cluster.screen.result(&text)?;
    }
    let before = cluster.registry.traffic();
    cluster.screen.prompt(format_args!(
        "kubectl apply --server-side -f {}",
        path.display()
    ))?;
    let start = Instant::now();
    apply(cluster).await?;
    cluster
        .within("the rollout", watch_rollout(cluster))
        .await?;
    let took = start.elapsed();
    for cache in &cluster.caches {
        cluster
            .screen
            .fledged(&cache_command("status", &cache.id))
            .await?;
    }
    let after = cluster.registry.traffic();
    let by_node: Vec<Vec<ImageRef>> = cluster
        .nodes
        .iter()
        .map(|node| cluster.images_for(&node.facts))
        .collect();
    let pairs: usize = by_node.iter().map(Vec::len).sum();
    let distinct: BTreeSet<&ImageRef> = by_node.iter().flatten().collect();
    summary.images = distinct.len();
    let requests = usize::try_from(after.requests - before.requests).unwrap_or(usize::MAX);
    cluster.screen.note(format_args!(
        "{} on {} ({}) after {:.1} s;\n{} downloaded in {}: each layer once per node.",
        pluralised(summary.images, "image"),
        pluralised(cluster.nodes.len(), "node"),
        pluralised(pairs, "pull"),
        took.as_secs_f64(),
        ByteSize::new(after.bytes - before.bytes),
        pluralised(requests, "request"),
    ))
}

/// Prints the name of each image in the demo's registry.
fn show_mapping(cluster: &DemoCluster) -> Result<(), DemoError> {
    let mapping = cluster.written.mapping(&cluster.registry.host())?;
    cluster
        .screen
        .note("The registry serves generated images with the repositories and tags of the file:")?;
    for (written, served) in mapping {
        cluster
            .screen
            .note(format_args!("  {written} -> {served}"))?;
    }
    Ok(())
}

fn manifests(cluster: &DemoCluster) -> Result<String, DemoError> {
    let texts: Result<Vec<String>, DemoError> = cluster
        .caches
        .iter()
        .map(|cache| {
            serde_saphyr::to_string(&cache.manifest).map_err(|error| DemoError::Failed {
                step: "writing the manifest",
                problem: error.to_string(),
            })
        })
        .collect();
    Ok(texts?.join("---\n"))
}

/// Applies the ImageCaches as `kubectl apply --server-side` does.
pub(super) async fn apply(cluster: &DemoCluster) -> Result<(), DemoError> {
    for cache in &cluster.caches {
        let id = &cache.id;
        let api: Api<ReadCache> = Api::namespaced(cluster.client.clone(), &id.namespace);
        let params = PatchParams::apply(FIELD_MANAGER);
        api.patch(&id.name, &params, &Patch::Apply(&cache.manifest))
            .await
            .map_err(DemoError::refused(format!("apply the ImageCache {id}")))?;
        cluster.screen.result(&format!(
            "imagecache.kubefledged.io/{} serverside-applied",
            id.name
        ))?;
    }
    Ok(())
}

/// Shows the rollout until it has completed: as a matrix on a terminal, otherwise as the lines of `get -w`.
async fn watch_rollout(cluster: &DemoCluster) -> Result<(), DemoError> {
    if cluster.screen.is_live() {
        return cluster
            .screen
            .while_drawing(|| cluster.matrices(), all_cached(cluster))
            .await;
    }
    let all = !cluster.is_default_namespace();
    cluster.screen.prompt(if all {
        "fledged get -A -w"
    } else {
        "fledged get -w"
    })?;
    let mut pending: Vec<&ServedCache> = cluster.caches.iter().collect();
    let mut failed = None;
    let terminal = &cluster.screen.terminal;
    get_until(&cluster.connection, all, terminal, |cache| {
        match is_rolled_out(cache) {
            Ok(true) => pending.retain(|served| !served.is(cache)),
            Ok(false) => {}
            Err(error) => failed = Some(error),
        }
        pending.is_empty() || failed.is_some()
    })
    .await?;
    failed.map_or(Ok(()), Err)
}

/// Waits until every ImageCache is rolled out.
async fn all_cached(cluster: &DemoCluster) -> Result<(), DemoError> {
    loop {
        let mut all = true;
        for cache in &cluster.read_caches().await? {
            all &= is_rolled_out(cache)?;
        }
        if all {
            return Ok(());
        }
        tokio::time::sleep(API_POLL).await;
    }
}

/// Whether the ImageCache is cached on all nodes that it selects.
///
/// # Errors
///
/// [`DemoError::Failed`] if its action has failed.
fn is_rolled_out(cache: &ReadCache) -> Result<bool, DemoError> {
    if is_failed(cache) {
        return Err(DemoError::Failed {
            step: "the rollout",
            problem: format!("ImageCache {}: {}", cache.id(), missing(cache)),
        });
    }
    Ok(is_cached(cache) || is_empty(cache))
}

/// Step 3: adds a node.
pub(super) async fn join(
    cluster: &mut DemoCluster,
    summary: &mut Summary,
) -> Result<(), DemoError> {
    let facts = cluster.facts(cluster.nodes.len())?;
    let (name, images) = (facts.name.clone(), cluster.images_for(&facts));
    cluster
        .screen
        .step(&format!("3. New node: {name} joins the cluster."))?;
    cluster.add_node().await?;
    let Some(node) = cluster.nodes.last() else {
        return Ok(());
    };
    let agent = agents_ready(std::slice::from_ref(node));
    cluster.within("the start of an agent", agent).await?;
    let start = Instant::now();
    node.set_ready().await?;
    if images.is_empty() {
        return cluster
            .screen
            .note("No entry of the ImageCaches selects it, so nothing is pulled.");
    }
    let warmed = cluster
        .screen
        .while_drawing(|| cluster.matrices(), store_contains(node, &images));
    cluster.within("the pulls of a new node", warmed).await?;
    let took = start.elapsed();
    summary.joined = true;
    cluster.screen.note(format_args!(
        "{name} has {} {} ms after it became Ready, before any pod needs them.",
        pluralised(images.len(), "image"),
        took.as_millis(),
    ))?;
    let reported = async {
        agent_reported(cluster, &name, &images).await?;
        status_counts_all(cluster).await
    };
    cluster.within("the status of a new node", reported).await?;
    for cache in &cluster.caches {
        cluster
            .screen
            .fledged(&cache_command("get", &cache.id))
            .await?;
    }
    Ok(())
}

/// Waits until the node's image store contains these images.
async fn store_contains(node: &DemoNode, images: &[ImageRef]) -> Result<(), DemoError> {
    for image in images {
        while !node.contains(image).await? {
            tokio::time::sleep(POLL).await;
        }
    }
    Ok(())
}

/// Waits until the node's agent has reported these images as present.
async fn agent_reported(
    cluster: &DemoCluster,
    name: &NodeName,
    images: &[ImageRef],
) -> Result<(), DemoError> {
    let api: Api<ReadNodeCache> = Api::all(cluster.client.clone());
    let is_reported = |record: Option<&ReadNodeCache>| record.is_some_and(|r| is_warm(r, images));
    await_condition(api, name.as_str(), is_reported)
        .await
        .map(drop)
        .map_err(|error| DemoError::Failed {
            step: "watching a node",
            problem: format!("NodeImageCache {name}: {error}"),
        })
}

/// Waits until the status of every ImageCache counts all its images on all nodes as cached.
async fn status_counts_all(cluster: &DemoCluster) -> Result<(), DemoError> {
    loop {
        let read = cluster.read_caches().await?;
        let is_counted = |cache: &ServedCache| {
            let desired: usize = cluster
                .nodes
                .iter()
                .map(|node| {
                    let images: BTreeSet<&ImageRef> = cache.images_for(&node.facts).collect();
                    images.len()
                })
                .sum();
            read.iter()
                .filter(|read| cache.is(read))
                .any(|read| CacheOverview::new(read).counts.cached == desired as u64)
        };
        if cluster.caches.iter().all(is_counted) {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Step 4: deletes an image behind an agent's back.
pub(super) async fn repair(cluster: &DemoCluster, summary: &mut Summary) -> Result<(), DemoError> {
    const STEP: &str = "the repair of an image";
    let Some((node, cache, image)) = image_to_lose(cluster) else {
        return Ok(());
    };
    let name = node.name();
    cluster.screen.step(&format!(
        "4. Repair: {} is deleted from {name} behind the agent's back.",
        image.original()
    ))?;
    let before = cluster.registry.traffic();
    let size = node.image_size(&image).await?;
    match node.remove_behind_agent(&image).await? {
        Removal::Removed => {}
        other => {
            return Err(DemoError::Failed {
                step: STEP,
                problem: format!("cannot remove {image} from {name}: {other:?}"),
            });
        }
    }
    let start = Instant::now();
    let repairing = watch_repair(cluster, node, &image, before.requests);
    let (noticed, repaired) = cluster.within(STEP, repairing).await?;
    let downloaded = ByteSize::new(cluster.registry.traffic().bytes - before.bytes);
    // All images share the base layer. The size includes the manifest, which does not count as downloaded.
    let shared = if size.saturating_sub(downloaded) >= ByteSize::new(BASE_LAYER as u64) {
        "; shared layers were still present"
    } else {
        ""
    };
    cluster.screen.note(format_args!(
        "Noticed after {} ms: this agent checks its runtime every {} s (default 60 s).\nPulled again after {} ms; {downloaded} downloaded{shared}.",
        noticed.duration_since(start).as_millis(),
        INVENTORY_INTERVAL.as_secs(),
        repaired.duration_since(start).as_millis(),
    ))?;
    let images = cluster.images_for(&node.facts);
    cluster
        .within(
            "the report of a repair",
            agent_reported(cluster, name, &images),
        )
        .await?;
    summary.repaired += 1;
    let mut args = cache_command("why", &cache.id);
    // The node and the image follow the name of the ImageCache.
    args.splice(2..2, [name.as_str(), image.original()]);
    cluster.screen.fledged(&args).await
}

/// The last image of the first node that has images.
fn image_to_lose(cluster: &DemoCluster) -> Option<(&DemoNode, &ServedCache, ImageRef)> {
    cluster.nodes.iter().find_map(|node| {
        cluster.caches.iter().rev().find_map(|cache| {
            let image = cache.images_for(&node.facts).last()?;
            Some((node, cache, image.clone()))
        })
    })
}

/// The times of the first request to the registry, which only this node's agent sends now, and of the image's
/// return to the image store.
async fn watch_repair(
    cluster: &DemoCluster,
    node: &DemoNode,
    image: &ImageRef,
    requests: u64,
) -> Result<(Instant, Instant), DemoError> {
    while cluster.registry.traffic().requests == requests {
        tokio::time::sleep(POLL).await;
    }
    let noticed = Instant::now();
    while !node.contains(image).await? {
        tokio::time::sleep(POLL).await;
    }
    Ok((noticed, Instant::now()))
}

/// Step 5: purges every ImageCache and checks the image stores.
pub(super) async fn purge(cluster: &DemoCluster, summary: &mut Summary) -> Result<(), DemoError> {
    const STEP: &str = "the purge";
    cluster
        .screen
        .step("5. Purge: the images are removed, the ImageCache remains.")?;
    let before = total_disk_usage(cluster).await?;
    let start = Instant::now();
    let purging = run_on_each_cache(cluster, "purge");
    cluster.within(STEP, purging).await?;
    let took = start.elapsed();
    for node in &cluster.nodes {
        let left = node.image_count().await?;
        if left > 0 {
            return Err(DemoError::Failed {
                step: STEP,
                problem: format!(
                    "{} still has {}: {}",
                    node.name(),
                    pluralised(left, "image"),
                    node.folder().display()
                ),
            });
        }
    }
    summary.purged = cluster.nodes.len();
    cluster.screen.note(format_args!(
        "{} empty after {} ms: {before} on disk before, {} now.",
        pluralised(cluster.nodes.len(), "node"),
        took.as_millis(),
        total_disk_usage(cluster).await?
    ))
}

/// Size of all image stores.
async fn total_disk_usage(cluster: &DemoCluster) -> Result<ByteSize, DemoError> {
    let mut sizes = Vec::new();
    for node in &cluster.nodes {
        sizes.push(node.disk_usage().await?);
    }
    Ok(sizes.into_iter().sum())
}

/// After the last step: pulls the images again and prints how to use the cluster.
pub(super) async fn restore(cluster: &DemoCluster, ends_on_enter: bool) -> Result<(), DemoError> {
    cluster.screen.step("The images are pulled again.")?;
    let refreshing = run_on_each_cache(cluster, "refresh");
    cluster.within("the refresh", refreshing).await?;
    cluster.screen.step(if ends_on_enter {
        "The cluster stays up until Enter or Ctrl-C. To use it from another terminal:"
    } else {
        "The cluster stays up until SIGINT or SIGTERM. To use it meanwhile:"
    })?;
    cluster.screen.note(format_args!(
        "export KUBECONFIG={}\nkubectl get nodes\nkubectl get imagecaches,nodeimagecaches -A",
        cluster.kubeconfig.display()
    ))?;
    if let Some(cache) = cluster.caches.first() {
        let status = cache_command("status", &cache.id).join(" ");
        cluster.screen.note(format_args!("fledged {status}"))?;
    }
    Ok(())
}

/// Runs `fledged purge` or `fledged refresh` on every ImageCache and waits for it.
async fn run_on_each_cache(cluster: &DemoCluster, command: &str) -> Result<(), DemoError> {
    for cache in &cluster.caches {
        let mut args = cache_command(command, &cache.id);
        args.push("--wait");
        cluster.screen.fledged(&args).await?;
    }
    Ok(())
}

/// The arguments of a command about an ImageCache; the namespace `default` is left out.
fn cache_command<'a>(command: &'a str, id: &'a CacheId) -> Vec<&'a str> {
    let mut args = vec![command, &id.name];
    if id.namespace != "default" {
        args.extend(["-n", &id.namespace]);
    }
    args
}
