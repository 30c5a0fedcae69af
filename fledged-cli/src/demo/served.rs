//! Under which names the demo's registry serves the images of a manifest.

use std::collections::{BTreeMap, BTreeSet};

use fledged_core::model::{ImageRef, ParseImageRefError};

use super::images::DemoImage;

/// Digits of a digest that stand in a tag: enough to tell images apart.
const DIGITS: usize = 12;

/// What is served for each image.
///
/// It keeps its repository and tag. Of two images that differ in their registries alone, the later has its
/// registry in front of its repository. An image that is named by digest alone has that for a tag: what is
/// generated can't have the same digest.
#[derive(Debug, Default)]
pub(super) struct Served {
    by_image: BTreeMap<ImageRef, DemoImage>,
    taken: BTreeSet<DemoImage>,
}

impl Served {
    pub(super) fn new<'a>(images: impl IntoIterator<Item = &'a ImageRef>) -> Self {
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

    /// Everything that is served, each once.
    pub(super) fn images(&self) -> Vec<DemoImage> {
        self.taken.iter().cloned().collect()
    }

    /// The image at that registry, `host:port`.
    pub(super) fn at(&self, host: &str, image: &ImageRef) -> Result<ImageRef, ParseImageRefError> {
        match self.by_image.get(image) {
            Some(DemoImage { repository, tag }) => {
                ImageRef::parse(&format!("{host}/{repository}:{tag}"))
            }
            None => Ok(image.clone()),
        }
    }
}

/// A registry's host and port as a part of a repository's name (OCI distribution specification, `<name>`).
fn component(registry: &str) -> String {
    let allowed = |c: char| match c {
        'a'..='z' | '0'..='9' | '.' => c,
        'A'..='Z' => c.to_ascii_lowercase(),
        _ => '-',
    };
    let name: String = registry.chars().map(allowed).collect();
    name.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let served = Served::new(&images);
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
