//! Which images containers use.
//!
//! Runtimes name a container's image in three fields, and differ in what they put there: an ID, a
//! digest reference, a tag. All of them are brought back to image IDs through the image list.

use std::collections::{BTreeMap, BTreeSet};

use fledged_core::model::{Digest, ImageRef};

use super::proto::{Container, Image};

/// Prefixes that Docker's CRI shims put before a reference.
const SCHEMES: [&str; 2] = ["docker-pullable://", "docker://"];

/// Image IDs by everything that an image can be called.
#[derive(Debug, Default)]
pub(super) struct ImageIndex {
    ids: BTreeMap<String, String>,
    names: BTreeMap<ImageRef, String>,
    digests: BTreeMap<Digest, String>,
}

impl ImageIndex {
    pub(super) fn new(images: &[Image]) -> Self {
        let mut index = Self::default();
        for image in images {
            index.ids.insert(image.id.clone(), image.id.clone());
            // CRI-O's IDs have no algorithm; a container may be given with or without one.
            let bare = bare_id(&image.id).to_owned();
            index.ids.entry(bare).or_insert_with(|| image.id.clone());
            for text in image.repo_tags.iter().chain(&image.repo_digests) {
                let Ok(name) = ImageRef::parse(text) else {
                    continue;
                };
                if let Some(digest) = name.digest() {
                    index.digests.insert(digest.clone(), image.id.clone());
                }
                index.names.insert(name, image.id.clone());
            }
        }
        index
    }

    /// The ID of the image that a container uses; `None` when nothing that it says is still known.
    ///
    /// `image_id` first, then `image_ref`: a tag may have moved on since the container was created,
    /// so the name it was created from (`image.image`) comes last.
    pub(super) fn image_of(&self, container: &Container) -> Option<String> {
        let spoken = [
            Some(container.image_id.as_str()),
            Some(container.image_ref.as_str()),
            container.image.as_ref().map(|spec| spec.image.as_str()),
        ];
        let spoken: Vec<&str> = spoken
            .into_iter()
            .flatten()
            .map(without_scheme)
            .filter(|text| !text.is_empty())
            .collect();
        let known = spoken.iter().find_map(|text| self.resolve(text));
        // An ID that the list does not have (any more) is an ID all the same.
        let id = known.or_else(|| spoken.iter().copied().find(|text| is_id(text)));
        id.map(str::to_owned)
    }

    fn resolve(&self, text: &str) -> Option<&str> {
        if let Some(id) = self.ids.get(text).or_else(|| self.ids.get(bare_id(text))) {
            return Some(id);
        }
        if let Ok(digest) = Digest::parse(text) {
            return self.digests.get(&digest).map(String::as_str);
        }
        let name = ImageRef::parse(text).ok()?;
        let by_digest = || self.digests.get(name.digest()?);
        self.names.get(&name).or_else(by_digest).map(String::as_str)
    }
}

/// The IDs of the images that the containers use, each once.
pub(super) fn images_in_use(images: &[Image], containers: &[Container]) -> BTreeSet<String> {
    let index = ImageIndex::new(images);
    containers
        .iter()
        .filter_map(|container| index.image_of(container))
        .collect()
}

/// The containers that use one image, for people to read; `None` when none does.
pub(super) fn users_of(id: &str, images: &[Image], containers: &[Container]) -> Option<String> {
    /// How many are named; the others are counted.
    const NAMED: usize = 3;
    let index = ImageIndex::new(images);
    let users: Vec<&Container> = containers
        .iter()
        .filter(|container| index.image_of(container).as_deref() == Some(id))
        .collect();
    let named: Vec<String> = users.iter().take(NAMED).map(|c| describe(c)).collect();
    match users.len() {
        0 => None,
        1 => Some(format!("container {}", named.join(", "))),
        n if n <= NAMED => Some(format!("containers {}", named.join(", "))),
        n => Some(format!(
            "containers {} and {} more",
            named.join(", "),
            n - NAMED
        )),
    }
}

fn describe(container: &Container) -> String {
    // As many digits as crictl and docker print.
    let id: String = container.id.chars().take(13).collect();
    match &container.metadata {
        Some(metadata) if !metadata.name.is_empty() => format!("{} ({id})", metadata.name),
        _ => id,
    }
}

fn without_scheme(text: &str) -> &str {
    SCHEMES
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme))
        .unwrap_or(text)
}

fn bare_id(id: &str) -> &str {
    id.strip_prefix("sha256:").unwrap_or(id)
}

fn is_id(text: &str) -> bool {
    let bare = bare_id(text);
    bare.len() == 64 && bare.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::super::proto::{ContainerMetadata, ImageSpec};
    use super::*;

    fn digest(c: char) -> String {
        format!("sha256:{}", c.to_string().repeat(64))
    }

    fn images() -> Vec<Image> {
        let image = |id: char, tag: &str, manifest: char| Image {
            id: digest(id),
            repo_tags: vec![format!("docker.io/library/{tag}")],
            repo_digests: vec![format!("docker.io/library/app@{}", digest(manifest))],
            ..Image::default()
        };
        vec![image('1', "app:old", 'a'), image('2', "app:new", 'b')]
    }

    fn container(image: &str, image_ref: &str, image_id: &str) -> Container {
        Container {
            id: "c".repeat(64),
            metadata: Some(ContainerMetadata {
                name: "web".to_owned(),
            }),
            image: Some(ImageSpec {
                image: image.to_owned(),
                ..ImageSpec::default()
            }),
            image_ref: image_ref.to_owned(),
            image_id: image_id.to_owned(),
        }
    }

    fn used(container: Container) -> Vec<String> {
        images_in_use(&images(), &[container]).into_iter().collect()
    }

    #[test]
    fn every_way_to_name_an_image_leads_to_its_id() {
        let by_digest = format!("docker.io/library/app@{}", digest('a'));
        let unlisted_repository = format!("mirror.local/app@{}", digest('a'));
        let pullable = format!("docker-pullable://app@{}", digest('a'));
        for (image, image_ref, image_id) in [
            ("", "", &*digest('1')),
            ("", &*digest('1'), ""),
            ("", &*"1".repeat(64), ""),
            ("", &*digest('a'), ""),
            ("", &*by_digest, ""),
            ("", &*unlisted_repository, ""),
            ("", &*pullable, ""),
            ("app:old", "", ""),
            (&*digest('1'), "", ""),
        ] {
            assert_eq!(
                used(container(image, image_ref, image_id)),
                [digest('1')],
                "{image} {image_ref} {image_id}"
            );
        }
    }

    #[test]
    fn what_the_runtime_resolved_wins_over_the_name_it_was_created_from() {
        assert_eq!(used(container("app:new", &digest('1'), "")), [digest('1')]);
        let by_digest = format!("docker.io/library/app@{}", digest('a'));
        assert_eq!(used(container("app:new", &by_digest, "")), [digest('1')]);
    }

    #[test]
    fn an_unlisted_id_is_reported_and_an_unknown_name_is_not() {
        assert_eq!(used(container("", &digest('9'), "")), [digest('9')]);
        assert!(used(container("gone:1", "", "")).is_empty());
    }

    #[test]
    fn users_are_named_and_counted() {
        let one = container("", &digest('1'), "");
        assert_eq!(
            users_of(&digest('1'), &images(), std::slice::from_ref(&one)),
            Some("container web (ccccccccccccc)".to_owned())
        );
        assert_eq!(
            users_of(&digest('2'), &images(), std::slice::from_ref(&one)),
            None
        );
        let five = vec![one; 5];
        let text = users_of(&digest('1'), &images(), &five).unwrap();
        assert!(text.ends_with("and 2 more"), "{text}");
    }
}
