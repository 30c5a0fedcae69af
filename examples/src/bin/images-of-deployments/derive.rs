//! Derives the spec of an ImageCache from Deployments.

use std::collections::{BTreeMap, BTreeSet};

use fledged_core::model::{
    CacheSpecImages, IMAGES_MAX, ImageCacheSpec, ImageRef, ParseImageRefError,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::PodSpec;
use kube::ResourceExt;

/// The result for the Deployments of a namespace.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Derived {
    /// The spec of the cache; `None` if there is nothing to cache.
    pub(crate) spec: Option<ImageCacheSpec>,
    /// The images that are left out.
    pub(crate) invalid: Vec<InvalidImage>,
}

/// An image that no node can pull.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("deployment {deployment}: container {container}: {source}")]
pub(crate) struct InvalidImage {
    /// Name of the Deployment.
    pub(crate) deployment: String,
    /// Name of the container in it.
    pub(crate) container: String,
    /// The problem with the image.
    pub(crate) source: ParseImageRefError,
}

/// Derives the cache: the images of all containers and init containers, on the nodes that match the pods' node
/// selectors, with the pull secrets of all pods. Deployments without replicas count as well, because they are
/// the ones that may be scaled up.
///
/// The result does not depend on the order of the Deployments.
pub(crate) fn derive(deployments: &[Deployment]) -> Derived {
    let mut groups: BTreeMap<BTreeMap<String, String>, BTreeSet<ImageRef>> = BTreeMap::new();
    let mut secrets = BTreeSet::new();
    let mut invalid = Vec::new();
    for deployment in deployments {
        let Some(pod) = pod_of(deployment) else {
            continue;
        };
        let group = groups
            .entry(pod.node_selector.clone().unwrap_or_default())
            .or_default();
        for container in pod.init_containers.iter().flatten().chain(&pod.containers) {
            match ImageRef::parse(container.image.as_deref().unwrap_or_default()) {
                Ok(image) => drop(group.insert(image)),
                Err(source) => invalid.push(InvalidImage {
                    deployment: deployment.name_any(),
                    container: container.name.clone(),
                    source,
                }),
            }
        }
        let named = pod.image_pull_secrets.iter().flatten();
        secrets.extend(named.map(|secret| secret.name.clone()));
    }
    // Kubernetes accepts an empty name here.
    secrets.remove("");
    let groups = groups.into_iter();
    let cache_spec: Vec<_> = groups
        .flat_map(|(on, images)| entries(&on, images))
        .collect();
    let spec = (!cache_spec.is_empty())
        .then(|| ImageCacheSpec::new(cache_spec).with_image_pull_secrets(secrets));
    Derived { spec, invalid }
}

/// Returns the pod spec of a Deployment that is not being deleted.
fn pod_of(deployment: &Deployment) -> Option<&PodSpec> {
    if deployment.metadata.deletion_timestamp.is_some() {
        return None;
    }
    deployment.spec.as_ref()?.template.spec.as_ref()
}

/// Returns entries for images of the same nodes, each with at most [`IMAGES_MAX`] images.
fn entries(nodes: &BTreeMap<String, String>, images: BTreeSet<ImageRef>) -> Vec<CacheSpecImages> {
    let images: Vec<ImageRef> = images.into_iter().collect();
    let lists = images.chunks(IMAGES_MAX).map(|images| {
        // Normalised, because the spelling in the Deployments would depend on their order.
        let entry = CacheSpecImages::new(images.iter().map(ImageRef::as_str));
        match nodes.is_empty() {
            true => entry,
            false => entry.with_node_selector(nodes.clone()),
        }
    });
    lists.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mk_deployment(name: &str, pod: Value) -> Deployment {
        let object = json!({
            "metadata": { "name": name, "namespace": "shop" },
            "spec": { "selector": {}, "template": { "spec": pod } },
        });
        serde_json::from_value(object).unwrap()
    }

    fn mk_pod(images: &[&str]) -> Value {
        let containers = images.iter().enumerate();
        let containers =
            containers.map(|(n, image)| json!({ "name": format!("c{n}"), "image": image }));
        json!({ "containers": containers.collect::<Vec<_>>() })
    }

    fn spec_of(deployments: &[Deployment]) -> Value {
        serde_json::to_value(derive(deployments).spec).unwrap()
    }

    #[test]
    fn images_are_listed_once_and_normalised() {
        let mut web = mk_pod(&["nginx", "quay.io/team/app:2"]);
        web["initContainers"] = json!([{ "name": "init", "image": "quay.io/team/init:1" }]);
        let deployments = [
            mk_deployment("web", web),
            mk_deployment("proxy", mk_pod(&["docker.io/library/nginx:latest"])),
        ];
        let spec = spec_of(&deployments);
        let images = [
            "docker.io/library/nginx:latest",
            "quay.io/team/app:2",
            "quay.io/team/init:1",
        ];
        assert_eq!(spec, json!({ "cacheSpec": [{ "images": images }] }));
        let [web, proxy] = deployments;
        assert_eq!(spec_of(&[proxy, web]), spec);
    }

    #[test]
    fn images_are_grouped_by_node_selector() {
        let mut gpu = mk_pod(&["quay.io/team/model:1", "quay.io/team/app:1"]);
        gpu["nodeSelector"] = json!({ "tier": "gpu" });
        let deployments = [
            mk_deployment("model", gpu),
            mk_deployment("web", mk_pod(&["quay.io/team/app:1"])),
        ];
        let groups = json!([
            { "images": ["quay.io/team/app:1"] },
            {
                "images": ["quay.io/team/app:1", "quay.io/team/model:1"],
                "nodeSelector": { "tier": "gpu" },
            },
        ]);
        assert_eq!(spec_of(&deployments), json!({ "cacheSpec": groups }));
    }

    #[test]
    fn pull_secrets_are_merged() {
        let mut pod = mk_pod(&["quay.io/team/app:1"]);
        pod["imagePullSecrets"] = json!([{ "name": "b" }, { "name": "a" }, {}]);
        let deployments = [mk_deployment("x", pod.clone()), mk_deployment("y", pod)];
        let secrets = json!([{ "name": "a" }, { "name": "b" }]);
        assert_eq!(spec_of(&deployments)["imagePullSecrets"], secrets);
    }

    #[test]
    fn invalid_images_are_skipped_and_named() {
        let deployments = [mk_deployment(
            "web",
            mk_pod(&["quay.io/team/app:1", "Not An Image"]),
        )];
        let derived = derive(&deployments);
        let spec = derived.spec.unwrap();
        assert_eq!(spec.cache_spec[0].images, ["quay.io/team/app:1"]);
        let error = derived.invalid[0].to_string();
        assert!(error.contains("web") && error.contains("c1"), "{error}");
        assert!(error.contains("Not An Image"), "{error}");
    }

    #[test]
    fn no_cache_is_derived_without_images() {
        assert_eq!(derive(&[]), Derived::default());
        let mut going = mk_deployment("web", mk_pod(&["quay.io/team/app:1"]));
        going.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).ok();
        assert_eq!(derive(&[going]), Derived::default());
        assert_eq!(derive(&[mk_deployment("web", mk_pod(&["?"]))]).spec, None);
    }

    #[test]
    fn long_lists_are_split() {
        let images: Vec<String> = (0..=IMAGES_MAX)
            .map(|n| format!("quay.io/team/app:{n}"))
            .collect();
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        let spec = derive(&[mk_deployment("web", mk_pod(&images))])
            .spec
            .unwrap();
        let lengths: Vec<usize> = spec.cache_spec.iter().map(|e| e.images.len()).collect();
        assert_eq!(lengths, [IMAGES_MAX, 1]);
    }
}
