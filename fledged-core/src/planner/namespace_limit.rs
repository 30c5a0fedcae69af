//! The limit of images of a namespace: its oldest caches keep theirs.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::caches::Caches;
use crate::model::{CacheId, ImageCache, InvalidField, InvalidSpec};

/// The images that a cache lists, counted once an entry.
pub(super) fn listed_images(spec: &ImageCache) -> usize {
    spec.groups.iter().map(|group| group.images.len()).sum()
}

/// The caches of a namespace whose images exceed its limit, each with its problem. The caches are counted in the order of
/// their creation, then of their names. One that does not fit is left out, and later ones may fit.
pub(super) fn caches_above(
    caches: &Caches,
    namespace: &str,
    most: usize,
) -> BTreeMap<Arc<CacheId>, InvalidSpec> {
    let counted = caches.of_namespace(namespace);
    let counted = counted.filter_map(|(id, cache)| Some((cache.counted_images()?, id)));
    let mut counted: Vec<_> = counted.collect();
    counted.sort_by_key(|((_, created_at), id)| (*created_at, *id));
    let mut used: usize = 0;
    let mut above = BTreeMap::new();
    for ((images, _), id) in counted {
        if used.saturating_add(images) <= most {
            used += images;
            continue;
        }
        let problem = format!(
            "lists {images} images, older image caches of the namespace list {used}, the limit of a namespace is {most}"
        );
        let field = InvalidField::new("spec.cacheSpec", images.to_string(), problem);
        above.insert(Arc::clone(id), InvalidSpec::new([field]));
    }
    above
}
