//! The inventory of a runtime, searchable by reference.

use std::collections::BTreeMap;

use crate::model::ImageRef;
use crate::port::{ImageId, ImageUse, RemovalScope, RuntimeImage};

/// One reading of a runtime: its images and which of them containers use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    images: Vec<RuntimeImage>,
    places: BTreeMap<ImageRef, usize>,
    /// Further images with a name that another image has; a consistent runtime has none.
    doubles: BTreeMap<ImageRef, Vec<usize>>,
    in_use: BTreeMap<ImageId, String>,
    removal: RemovalScope,
    disk_used: Option<u8>,
}

impl Inventory {
    /// Indexes what a runtime listed.
    pub fn new(
        images: Vec<RuntimeImage>,
        in_use: impl IntoIterator<Item = ImageUse>,
        removal: RemovalScope,
    ) -> Self {
        let mut places = BTreeMap::new();
        let mut doubles = BTreeMap::new();
        for (place, image) in images.iter().enumerate() {
            for reference in &image.references {
                let first = *places.entry(reference.clone()).or_insert(place);
                if first != place {
                    let more: &mut Vec<usize> = doubles.entry(reference.clone()).or_default();
                    more.push(place);
                }
            }
        }
        Self {
            images,
            places,
            doubles,
            in_use: in_use
                .into_iter()
                .map(|used| (used.image, used.by))
                .collect(),
            removal,
            disk_used: None,
        }
    }

    /// With the used share of the fullest image file system in percent, if it is known.
    #[must_use]
    pub fn with_disk_used(mut self, percent: Option<u8>) -> Self {
        self.disk_used = percent;
        self
    }

    /// The used share of the fullest image file system in percent, if it is known.
    #[must_use]
    pub fn disk_used(&self) -> Option<u8> {
        self.disk_used
    }

    /// The image that this reference names, exactly.
    #[must_use]
    pub fn find(&self, image: &ImageRef) -> Option<&RuntimeImage> {
        self.images.get(*self.places.get(image)?)
    }

    /// This name was removed. Other names that went with it stay until the next reading.
    pub(super) fn remove(&mut self, image: &ImageRef) {
        let place = self.places.remove(image);
        if let Some(found) = place.and_then(|place| self.images.get_mut(place)) {
            found.references.retain(|name| name != image);
        }
    }

    /// Every image with this reference: one, unless the runtime is inconsistent.
    pub(super) fn find_all(&self, image: &ImageRef) -> impl Iterator<Item = &RuntimeImage> {
        let more = self.doubles.get(image).into_iter().flatten();
        let places = self.places.get(image).into_iter().chain(more);
        places.filter_map(|place| self.images.get(*place))
    }

    /// Whether a container uses that image.
    #[must_use]
    pub fn is_in_use(&self, image: &RuntimeImage) -> bool {
        self.in_use.contains_key(&image.id)
    }

    /// The containers that use that image, as a phrase.
    #[must_use]
    pub fn users_of(&self, image: &RuntimeImage) -> Option<&str> {
        self.in_use.get(&image.id).map(String::as_str)
    }

    /// The scope of removals.
    #[must_use]
    pub fn removal(&self) -> RemovalScope {
        self.removal
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ByteSize;

    fn mk_image(id: &str, names: &[&str]) -> RuntimeImage {
        RuntimeImage {
            id: ImageId(id.to_owned()),
            references: names.iter().map(|n| ImageRef::parse(n).unwrap()).collect(),
            digest: None,
            size: ByteSize::ZERO,
            pinned: false,
            via: None,
        }
    }

    #[test]
    fn images_are_found_by_every_spelling_of_their_names() {
        let images = vec![
            mk_image("1", &["nginx", "nginx:1"]),
            mk_image("2", &["redis:7"]),
        ];
        let inventory = Inventory::new(
            images,
            [ImageId("2".to_owned()).into()],
            RemovalScope::Image,
        );
        let id = |name: &str| {
            let found = inventory.find(&ImageRef::parse(name).unwrap());
            found.map(|image| image.id.0.as_str())
        };
        assert_eq!(id("docker.io/library/nginx:latest"), Some("1"));
        assert_eq!(id("nginx:1"), Some("1"));
        assert_eq!(id("redis:7"), Some("2"));
        assert_eq!(id("redis"), None);
        let used: Vec<_> = inventory
            .images
            .iter()
            .map(|i| inventory.is_in_use(i))
            .collect();
        assert_eq!(used, [false, true]);
        assert_eq!(inventory.removal(), RemovalScope::Image);
    }
}
