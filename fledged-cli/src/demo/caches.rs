//! Which ImageCaches the demo shows.

use std::collections::BTreeSet;

use fledged_core::model::{
    CacheId, CacheSpecImages, DeletionPolicy, ImageCache, ImageCacheSpec, ImageRef, NodeFacts,
};
use fledged_operator::crd::ReadCache;
use serde_json::{Value, json};

use super::DemoError;
use super::images::DemoImage;
use super::labels::{Dealer, Labels, written};
use super::served::Served;
use crate::commands::{CommandError, warn_unread};
use crate::manifest::{self, Source};
use crate::output::Terminal;

/// The one that is shown without `-f`.
const BUILT_IN: &str = "
apiVersion: kubefledged.io/v1alpha2
kind: ImageCache
metadata: {name: storefront}
spec:
  cacheSpec:
  - images: [demo/web:v1, demo/api:v1]
  - images: [demo/batch:v1]
    nodeSelector: {tier: backend}
  rollout: {maxConcurrentNodes: 40%}
";

/// The ImageCaches as they were written.
#[derive(Debug)]
pub(super) struct DemoCaches {
    caches: Vec<ImageCache>,
    served: Served,
    dealer: Dealer,
    /// Whether they are the built-in ones.
    pub(super) built_in: bool,
}

/// One as it is applied.
#[derive(Debug, Clone)]
pub(super) struct ServedCache {
    /// Its namespace and name.
    pub(super) id: CacheId,
    /// The manifest.
    pub(super) manifest: Value,
    /// What the manifest says.
    pub(super) cache: ImageCache,
}

impl ServedCache {
    /// Whether that is it, as it is in the cluster.
    pub(super) fn is(&self, read: &ReadCache) -> bool {
        let id = read.id();
        (&id.namespace, &id.name) == (&self.id.namespace, &self.id.name)
    }

    /// The images that a node is to hold for it.
    pub(super) fn images_for<'a>(
        &'a self,
        node: &'a NodeFacts,
    ) -> impl Iterator<Item = &'a ImageRef> {
        let groups = self.cache.groups.iter();
        let meant = groups.filter(|group| group.matches(node));
        meant.flat_map(|group| &group.images)
    }
}

impl DemoCaches {
    /// Those of these files, or the built-in one where there is none; says what the demo leaves out.
    pub(super) async fn read(files: Vec<Source>, terminal: &Terminal) -> Result<Self, DemoError> {
        let built_in = files.is_empty();
        let reading = tokio::task::spawn_blocking(move || match built_in {
            true => manifest::parse(&[("built-in".to_owned(), BUILT_IN.to_owned())]),
            false => manifest::read(&files),
        });
        let manifests = reading.await.map_err(CommandError::from)?;
        let manifests = manifests.map_err(CommandError::from)?;
        warn_unread(&manifests, terminal);
        let caches = manifests.caches;
        for cache in &caches {
            if !cache.pull_secrets.is_empty() || cache.service_account.is_some() {
                terminal.warn(format_args!(
                    "{}: ImageCache {}: spec.imagePullSecrets and spec.serviceAccountName are left out: the demo's registry asks for no credentials",
                    cache.id.uid, cache.id
                ));
            }
        }
        let groups = caches.iter().flat_map(|cache| &cache.groups);
        Ok(Self {
            served: Served::new(groups.flat_map(|group| &group.images)),
            dealer: Dealer::new(&caches),
            caches,
            built_in,
        })
    }

    /// What the registry is to serve.
    pub(super) fn images(&self) -> Vec<DemoImage> {
        self.served.images()
    }

    /// The labels of a node, counted from 0.
    pub(super) fn labels(&self, node: usize) -> Labels {
        self.dealer.labels(node)
    }

    /// The entries that mean none of these nodes, in words.
    ///
    /// # Errors
    ///
    /// [`DemoError::NothingMeant`] when no entry means any.
    pub(super) fn unmet(&self, nodes: &[NodeFacts]) -> Result<Vec<String>, DemoError> {
        let (mut unmet, mut entries) = (Vec::new(), 0);
        for cache in &self.caches {
            for (i, group) in cache.groups.iter().enumerate() {
                entries += 1;
                if nodes.iter().any(|node| group.matches(node)) {
                    continue;
                }
                let mut wants = Vec::new();
                if !group.node_selector.is_empty() {
                    wants.push(format!("nodeSelector {}", written(&group.node_selector)));
                }
                if group.node_affinity != Default::default() {
                    wants.push("its nodeAffinity".to_owned());
                }
                unmet.push(format!(
                    "{}: ImageCache {}: spec.cacheSpec[{i}]: {} matches none of the demo's nodes",
                    // Where it was read from.
                    cache.id.uid,
                    cache.id,
                    wants.join(" with ")
                ));
            }
        }
        match unmet.len() < entries {
            true => Ok(unmet),
            false => Err(DemoError::NothingMeant { unmet }),
        }
    }

    /// Each image as it is written, and as the registry at that host serves it.
    pub(super) fn mapping(&self, host: &str) -> Result<Vec<(String, ImageRef)>, DemoError> {
        let mut known = BTreeSet::new();
        let mut mapping = Vec::new();
        for cache in &self.caches {
            for image in cache.groups.iter().flat_map(|group| &group.images) {
                if known.insert(image) {
                    let served = self.serve(cache, host, image)?;
                    mapping.push((image.original().to_owned(), served));
                }
            }
        }
        Ok(mapping)
    }

    /// The ImageCaches with the images of the registry at that host.
    pub(super) fn on(&self, host: &str) -> Result<Vec<ServedCache>, DemoError> {
        let caches = self.caches.iter();
        caches.map(|cache| self.serve_cache(cache, host)).collect()
    }

    fn serve_cache(&self, cache: &ImageCache, host: &str) -> Result<ServedCache, DemoError> {
        let mut served = cache.clone();
        served.pull_secrets.clear();
        served.service_account = None;
        for group in &mut served.groups {
            let mut known = BTreeSet::new();
            let mut images = Vec::new();
            for image in &group.images {
                let image = self.serve(cache, host, image)?;
                if known.insert(image.clone()) {
                    images.push(image);
                }
            }
            group.images = images;
        }
        let id = &served.id;
        let manifest = json!({
            "apiVersion": "kubefledged.io/v1alpha2",
            "kind": "ImageCache",
            "metadata": { "name": id.name, "namespace": id.namespace },
            "spec": spec(&served),
        });
        Ok(ServedCache {
            id: id.clone(),
            manifest,
            cache: served,
        })
    }

    fn serve(
        &self,
        cache: &ImageCache,
        host: &str,
        image: &ImageRef,
    ) -> Result<ImageRef, DemoError> {
        let served = self.served.at(host, image);
        served.map_err(|source| DemoError::Unserved {
            cache: format!("{}: ImageCache {}", cache.id.uid, cache.id),
            image: image.original().to_owned(),
            source,
        })
    }
}

/// The spec that says the same.
fn spec(cache: &ImageCache) -> ImageCacheSpec {
    let groups = cache.groups.iter();
    let entries = groups.map(|group| {
        let images = group.images.iter().map(ImageRef::original);
        let mut entry = CacheSpecImages::new(images);
        if !group.node_selector.is_empty() {
            entry.node_selector = Some(group.node_selector.clone());
        }
        if group.node_affinity != Default::default() {
            entry.node_affinity = Some(group.node_affinity.clone());
        }
        entry.image_pull_policy = group.pull_policy;
        entry.tolerations = group.tolerations.clone();
        entry
    });
    let mut spec = ImageCacheSpec::new(entries);
    if cache.deletion_policy != DeletionPolicy::default() {
        spec.deletion_policy = Some(cache.deletion_policy);
    }
    if cache.rollout != Default::default() {
        spec.rollout = Some(cache.rollout.clone());
    }
    spec
}
