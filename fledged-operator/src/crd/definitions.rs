//! The CustomResourceDefinitions, as they are applied to a cluster.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use super::image_cache::ImageCache;
use super::node_image_cache::NodeImageCache;
use super::schema::{refine_image_cache, refine_node_image_cache, refine_numbers, refine_status};

/// The definitions of [`ImageCache`] and [`NodeImageCache`], in this order, with everything that the
/// API server checks by itself.
#[must_use]
pub fn definitions() -> [CustomResourceDefinition; 2] {
    let mut caches = ImageCache::crd();
    refine_image_cache(&mut caches);
    let mut nodes = NodeImageCache::crd();
    refine_node_image_cache(&mut nodes);
    for definition in [&mut caches, &mut nodes] {
        refine_status(definition);
        refine_numbers(definition);
        let labels = definition.metadata.labels.get_or_insert_default();
        labels.insert("app".to_owned(), "kubefledged".to_owned());
    }
    [caches, nodes]
}

/// The same as YAML documents.
///
/// # Errors
///
/// A definition that can't be written as YAML.
pub fn definitions_yaml() -> Result<String, serde_saphyr::ser::Error> {
    let mut text = String::new();
    for definition in definitions() {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(&definition)?);
    }
    Ok(text)
}
