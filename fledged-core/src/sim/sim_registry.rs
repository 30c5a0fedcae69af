//! A simulated registry and its images.

use std::collections::BTreeMap;

use crate::model::{ByteSize, Digest, ImageRef};

/// An image in a simulated registry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SimImage {
    /// The identifier of the image. References with equal identifiers name the same image.
    pub id: String,
    /// Its layers: name and compressed size. Layers of the same name are the same blob.
    pub layers: Vec<(String, ByteSize)>,
    /// Whether a pull needs credentials.
    pub private: bool,
    /// The digest that a runtime stores it under as well, next to the pulled reference.
    pub digest: Option<Digest>,
}

impl SimImage {
    /// A public image with these layers.
    #[must_use]
    pub fn new(id: &str, layers: &[(&str, ByteSize)]) -> Self {
        Self {
            id: id.to_owned(),
            layers: layers
                .iter()
                .map(|(name, size)| ((*name).to_owned(), *size))
                .collect(),
            private: false,
            digest: None,
        }
    }

    /// With the digest of its manifest, under which a runtime keeps it when the reference moves.
    #[must_use]
    pub fn with_digest(mut self, digest: impl Into<Option<Digest>>) -> Self {
        self.digest = digest.into();
        self
    }

    /// The same image as a private one, which only pulls with credentials may fetch.
    #[must_use]
    pub fn private(mut self) -> Self {
        self.private = true;
        self
    }
}

/// A registry: references and the images they name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SimRegistry {
    images: BTreeMap<ImageRef, SimImage>,
}

impl SimRegistry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more image. An invalid reference is ignored.
    #[must_use]
    pub fn with(mut self, reference: &str, image: SimImage) -> Self {
        if let Ok(reference) = ImageRef::parse(reference) {
            self.push(reference, image);
        }
        self
    }

    /// Adds an image, or moves the reference to another one.
    pub fn push(&mut self, reference: ImageRef, image: SimImage) {
        self.images.insert(reference, image);
    }

    /// The image that this reference names.
    #[must_use]
    pub fn get(&self, reference: &ImageRef) -> Option<&SimImage> {
        self.images.get(reference)
    }
}
