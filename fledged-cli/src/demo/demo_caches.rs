//! The ImageCaches of the demo: the names of their images in the demo's registry, and the labels that their
//! nodeSelectors require.

use std::collections::{BTreeMap, BTreeSet};

use fledged_core::model::{
    CacheId, CacheSpecImages, DeletionPolicy, ImageCache, ImageCacheSpec, ImageRef, NodeFacts,
    ParseImageRefError,
};
use fledged_kube::crd::ReadCache;
use serde_json::{Value, json};

use super::DemoError;
use super::demo_registry::DemoImage;
use crate::command_result::CommandError;
use crate::manifest::{self, Source};
use crate::output::Terminal;

/// The ImageCache without `-f`.
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

/// The ImageCaches as written in the manifests.
#[derive(Debug)]
pub(super) struct DemoCaches {
    caches: Vec<ImageCache>,
    names: ServedNames,
    rotation: LabelRotation,
    /// Whether `-f` was not given.
    pub(super) built_in: bool,
}

/// An ImageCache as applied, with images of the demo's registry.
#[derive(Debug, Clone)]
pub(super) struct ServedCache {
    pub(super) id: CacheId,
    pub(super) manifest: Value,
    cache: ImageCache,
}

impl ServedCache {
    /// Whether an object of the cluster is this ImageCache.
    pub(super) fn is(&self, read: &ReadCache) -> bool {
        let id = read.id();
        (&id.namespace, &id.name) == (&self.id.namespace, &self.id.name)
    }

    /// The images that the ImageCache selects for a node.
    pub(super) fn images_for<'a>(
        &'a self,
        node: &'a NodeFacts,
    ) -> impl Iterator<Item = &'a ImageRef> {
        self.cache
            .groups
            .iter()
            .filter(|group| group.matches(node))
            .flat_map(|group| &group.images)
    }
}

impl DemoCaches {
    /// Reads the files; without files, the built-in ImageCache. Warns about fields that the demo ignores.
    pub(super) async fn read(files: Vec<Source>, terminal: &Terminal) -> Result<Self, DemoError> {
        let built_in = files.is_empty();
        let manifests = tokio::task::spawn_blocking(move || {
            if built_in {
                manifest::parse(&[("built-in".to_owned(), BUILT_IN.to_owned())])
            } else {
                manifest::read(&files)
            }
        })
        .await
        .map_err(CommandError::from)?
        .map_err(CommandError::from)?;
        manifest::report_unused(&manifests, terminal);
        let caches = manifests.caches;
        for cache in &caches {
            if !cache.pull_secrets.is_empty() || cache.service_account.is_some() {
                terminal.warn(format_args!(
                    "{}: ImageCache {}: spec.imagePullSecrets and spec.serviceAccountName are ignored: the demo's registry needs no credentials",
                    cache.id.uid, cache.id
                ));
            }
        }
        let groups = caches.iter().flat_map(|cache| &cache.groups);
        Ok(Self {
            names: ServedNames::new(groups.flat_map(|group| &group.images)),
            rotation: LabelRotation::new(&caches),
            caches,
            built_in,
        })
    }

    /// The images that the registry has to serve.
    pub(super) fn images(&self) -> Vec<DemoImage> {
        self.names.images()
    }

    /// The labels of a node, counted from 0.
    pub(super) fn labels(&self, node: usize) -> Labels {
        self.rotation.labels(node)
    }

    /// The entries that select none of these nodes, in words.
    ///
    /// # Errors
    ///
    /// [`DemoError::NothingSelected`] if no entry selects a node.
    pub(super) fn unmatched(&self, nodes: &[NodeFacts]) -> Result<Vec<String>, DemoError> {
        let (mut unmatched, mut entries) = (Vec::new(), 0);
        for cache in &self.caches {
            for (i, group) in cache.groups.iter().enumerate() {
                entries += 1;
                if nodes.iter().any(|node| group.matches(node)) {
                    continue;
                }
                let mut selectors = Vec::new();
                if !group.node_selector.is_empty() {
                    selectors.push(format!("nodeSelector {}", label_list(&group.node_selector)));
                }
                if group.node_affinity != Default::default() {
                    selectors.push("its nodeAffinity".to_owned());
                }
                unmatched.push(format!(
                    "{}: ImageCache {}: spec.cacheSpec[{i}]: {} matches no node of the demo",
                    // The parser stores the file here.
                    cache.id.uid,
                    cache.id,
                    selectors.join(" with ")
                ));
            }
        }
        if unmatched.len() < entries {
            Ok(unmatched)
        } else {
            Err(DemoError::NothingSelected { unmatched })
        }
    }

    /// Each image as written, and its name in the registry at that host.
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

    /// The ImageCaches with images of the registry at that host.
    pub(super) fn served_by(&self, host: &str) -> Result<Vec<ServedCache>, DemoError> {
        self.caches
            .iter()
            .map(|cache| self.serve_cache(cache, host))
            .collect()
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
        self.names
            .at(host, image)
            .map_err(|source| DemoError::Unserved {
                cache: format!("{}: ImageCache {}", cache.id.uid, cache.id),
                image: image.original().to_owned(),
                source,
            })
    }
}

/// The spec of an ImageCache.
fn spec(cache: &ImageCache) -> ImageCacheSpec {
    let entries = cache.groups.iter().map(|group| {
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

/// Digits of a digest that are used as a tag.
const DIGITS: usize = 12;

/// The names of images in the demo's registry.
///
/// An image keeps its repository and tag. If two images differ only in the registry, the later one gets its
/// registry as a prefix of the repository. An image with a digest and no tag gets the start of the digest as
/// a tag, since a generated image cannot have that digest.
#[derive(Debug, Default)]
struct ServedNames {
    by_image: BTreeMap<ImageRef, DemoImage>,
    taken: BTreeSet<DemoImage>,
}

impl ServedNames {
    fn new<'a>(images: impl IntoIterator<Item = &'a ImageRef>) -> Self {
        let mut served = Self::default();
        for image in images {
            served.add(image);
        }
        served
    }

    fn add(&mut self, image: &ImageRef) {
        if self.by_image.contains_key(image) {
            return;
        }
        let tag = match (image.tag(), image.digest()) {
            (Some(tag), _) => tag.to_owned(),
            (None, Some(digest)) => {
                let hex: String = digest.hex().chars().take(DIGITS).collect();
                format!("{}-{hex}", digest.algorithm())
            }
            (None, None) => "latest".to_owned(),
        };
        let mut served = DemoImage::new(image.repository(), tag);
        if self.taken.contains(&served) {
            served.repository = format!("{}/{}", component(image.registry()), served.repository);
        }
        self.taken.insert(served.clone());
        self.by_image.insert(image.clone(), served);
    }

    /// All names.
    fn images(&self) -> Vec<DemoImage> {
        self.taken.iter().cloned().collect()
    }

    /// The reference of an image in the registry at `host:port`.
    fn at(&self, host: &str, image: &ImageRef) -> Result<ImageRef, ParseImageRefError> {
        match self.by_image.get(image) {
            Some(DemoImage { repository, tag }) => {
                ImageRef::parse(&format!("{host}/{repository}:{tag}"))
            }
            None => Ok(image.clone()),
        }
    }
}

/// A registry's host and port as a component of a repository (OCI distribution specification, `<name>`).
fn component(registry: &str) -> String {
    let allowed = |c: char| match c {
        'a'..='z' | '0'..='9' | '.' => c,
        'A'..='Z' => c.to_ascii_lowercase(),
        _ => '-',
    };
    let name: String = registry.chars().map(allowed).collect();
    name.trim_matches('-').to_owned()
}

/// Labels of a node or of a selector.
pub(super) type Labels = BTreeMap<String, String>;

/// Gives nodes, in turn, the labels of the first node selector, of the second, ..., and no labels.
#[derive(Debug)]
struct LabelRotation {
    selectors: Vec<Labels>,
}

impl LabelRotation {
    fn new(caches: &[ImageCache]) -> Self {
        let mut selectors: Vec<Labels> = Vec::new();
        for group in caches.iter().flat_map(|cache| &cache.groups) {
            let selector = settable(&group.node_selector);
            if !selector.is_empty() && !selectors.contains(&selector) {
                selectors.push(selector);
            }
        }
        Self { selectors }
    }

    /// The labels of a node, counted from 0.
    fn labels(&self, node: usize) -> Labels {
        let turn = node % (self.selectors.len() + 1);
        self.selectors.get(turn).cloned().unwrap_or_default()
    }
}

/// Labels that only the kubelet sets.
const KUBELET_LABELS: [&str; 3] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
];

fn settable(selector: &Labels) -> Labels {
    let mut labels = selector.clone();
    labels.retain(|key, _| !KUBELET_LABELS.contains(&key.as_str()));
    labels
}

/// `key=value,key=value`, the notation of kubectl.
pub(super) fn label_list(labels: &Labels) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::parse;

    #[test]
    fn nodes_get_the_labels_of_the_selectors_in_turn() {
        let text = "
apiVersion: kubefledged.io/v1alpha2
kind: ImageCache
metadata: {name: shop}
spec:
  cacheSpec:
  - images: [web:1]
  - images: [db:1]
    nodeSelector: {tier: db, kubernetes.io/os: linux}
  - images: [gpu:1]
    nodeSelector: {gpu: 'yes'}
  - images: [db:2]
    nodeSelector: {tier: db}
";
        let caches = parse(&[("f".to_owned(), text.to_owned())]).unwrap().caches;
        let rotation = LabelRotation::new(&caches);
        let labels: Vec<String> = (0..4).map(|n| label_list(&rotation.labels(n))).collect();
        assert_eq!(labels, ["tier=db", "gpu=yes", "", "tier=db"]);
    }

    #[test]
    fn images_keep_repository_and_tag() {
        let digest = format!("app@sha256:{}", "ab".repeat(32));
        let both = format!("app:2@sha256:{}", "cd".repeat(32));
        let images: Vec<ImageRef> = [
            "nginx:1.27",
            "redis",
            "quay.io/org/app:1",
            "registry.local:5000/org/app:1",
            &digest,
            &both,
            "docker.io/library/nginx:1.27",
        ]
        .map(|text| text.parse().unwrap())
        .into();
        let served = ServedNames::new(&images);
        let at = |image: &ImageRef| served.at("127.0.0.1:5000", image).unwrap();
        let names: Vec<ImageRef> = images.iter().map(at).collect();
        let names: Vec<&str> = names.iter().map(ImageRef::original).collect();
        assert_eq!(
            names,
            [
                "127.0.0.1:5000/library/nginx:1.27",
                "127.0.0.1:5000/library/redis:latest",
                "127.0.0.1:5000/org/app:1",
                "127.0.0.1:5000/registry.local-5000/org/app:1",
                "127.0.0.1:5000/library/app:sha256-abababababab",
                "127.0.0.1:5000/library/app:2",
                "127.0.0.1:5000/library/nginx:1.27",
            ]
        );
        assert_eq!(served.images().len(), 6);
    }
}
