//! Small things to build scenes of.

use fledged_core::cluster::CacheFacts;
use fledged_core::model::{
    CacheId, CacheSpecImages, CountOrPercent, ImageCacheSpec, ImageRef, NodeFacts, NodeName,
    Rollout,
};

pub fn mk_ref(text: &str) -> ImageRef {
    text.parse().unwrap()
}

pub fn mk_id(name: &str) -> CacheId {
    CacheId::new("default", name, format!("uid-{name}"))
}

pub fn mk_name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

/// A Ready Linux node with labels `key=value`.
pub fn mk_node(name: &str, labels: &[&str]) -> NodeFacts {
    let labels = labels.iter().map(|label| {
        let (key, value) = label.split_once('=').unwrap();
        (key.to_owned(), value.to_owned())
    });
    NodeFacts::new(mk_name(name), labels.collect())
}

/// A spec with one list of images, for nodes with these labels.
pub fn mk_spec(images: &[&str], labels: &[&str]) -> ImageCacheSpec {
    let facts = mk_node("any", labels);
    ImageCacheSpec {
        cache_spec: vec![CacheSpecImages {
            images: images.iter().map(|image| (*image).to_owned()).collect(),
            node_selector: Some(facts.labels),
            ..CacheSpecImages::default()
        }],
        ..ImageCacheSpec::default()
    }
}

pub fn mk_limited(images: &[&str], limit: u32) -> ImageCacheSpec {
    ImageCacheSpec {
        rollout: Some(Rollout {
            max_concurrent_nodes: Some(CountOrPercent::Count(limit)),
        }),
        ..mk_spec(images, &[])
    }
}

pub fn mk_facts(name: &str, spec: &ImageCacheSpec) -> CacheFacts {
    CacheFacts {
        id: mk_id(name),
        generation: 1,
        spec: spec.validate(mk_id(name)),
        refresh_requested: false,
        purge_requested: false,
        deleting: false,
        finalizer: false,
        status: None,
    }
}
