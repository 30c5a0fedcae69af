//! What a runtime holds, searchable by reference.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::ImageRef;
use crate::ports::{ImageId, RemovalScope, RuntimeImage};

/// One reading of a runtime: its images and which of them containers use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    images: Vec<RuntimeImage>,
    places: BTreeMap<ImageRef, usize>,
    in_use: BTreeSet<ImageId>,
    removal: RemovalScope,
}

impl Inventory {
    /// Indexes what a runtime listed.
    pub fn new(
        images: Vec<RuntimeImage>,
        in_use: impl IntoIterator<Item = ImageId>,
        removal: RemovalScope,
    ) -> Self {
        let mut places = BTreeMap::new();
        for (place, image) in images.iter().enumerate() {
            for reference in &image.references {
                places.insert(reference.clone(), place);
            }
        }
        Self {
            images,
            places,
            in_use: in_use.into_iter().collect(),
            removal,
        }
    }

    /// The image that this reference names, exactly.
    #[must_use]
    pub fn find(&self, image: &ImageRef) -> Option<&RuntimeImage> {
        self.images.get(*self.places.get(image)?)
    }

    /// Every image.
    #[must_use]
    pub fn images(&self) -> &[RuntimeImage] {
        &self.images
    }

    /// Whether a container uses that image.
    #[must_use]
    pub fn is_in_use(&self, image: &RuntimeImage) -> bool {
        self.in_use.contains(&image.id)
    }

    /// What a removal takes away.
    #[must_use]
    pub fn removal(&self) -> RemovalScope {
        self.removal
    }
}
