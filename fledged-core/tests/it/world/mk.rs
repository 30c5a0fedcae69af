//! Constructors of test objects.

use fledged_core::model::{
    CacheId, CacheSpecImages, CountOrPercent, ImageCacheSpec, ImageRef, NodeFacts, NodeName,
    Rollout,
};
use fledged_core::planner::CacheFacts;

pub(crate) fn mk_ref(text: &str) -> ImageRef {
    text.parse().unwrap()
}

pub(crate) fn mk_id(name: &str) -> CacheId {
    CacheId::new("default", name, format!("uid-{name}"))
}

pub(crate) fn mk_name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

/// A Ready Linux node with labels `key=value`.
pub(crate) fn mk_node(name: &str, labels: &[&str]) -> NodeFacts {
    let labels = labels.iter().map(|label| {
        let (key, value) = label.split_once('=').unwrap();
        (key.to_owned(), value.to_owned())
    });
    NodeFacts::new(mk_name(name)).with_labels(labels)
}

/// A spec with one list of images, for nodes with these labels.
pub(crate) fn mk_spec(images: &[&str], labels: &[&str]) -> ImageCacheSpec {
    let facts = mk_node("any", labels);
    let entry = CacheSpecImages::new(images.iter().copied()).with_node_selector(facts.labels);
    ImageCacheSpec::new([entry])
}

pub(crate) fn mk_limited(images: &[&str], limit: u32) -> ImageCacheSpec {
    let limit = CountOrPercent::Count(limit);
    mk_spec(images, &[]).with_rollout(Rollout::default().with_max_concurrent_nodes(limit))
}

pub(crate) fn mk_facts(name: &str, spec: &ImageCacheSpec) -> CacheFacts {
    CacheFacts::of_spec(mk_id(name), 1, spec)
}
