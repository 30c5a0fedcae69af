//! CRI images: as the port describes them, and which of them containers use.
//!
//! Runtimes name a container's image in three fields and differ in what they put there: an ID, a digest
//! reference, a tag. The image list maps all of them to image IDs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use fledged_core::model::{ByteSize, Digest, ImageRef};
use fledged_core::port::RuntimeImage;
use serde_json::Value;

use super::proto::{Container, Image};

/// Prefixes that Docker's CRI shims put before a reference.
const SCHEMES: [&str; 2] = ["docker-pullable://", "docker://"];

/// The image with every name that parses, which `<none>:<none>` does not.
pub(super) fn runtime_image(image: &Image) -> RuntimeImage {
    let references = references(image);
    let digest = references.iter().find_map(|r| r.digest().cloned());
    RuntimeImage::new(image.id.clone(), references)
        .with_digest(digest)
        .with_size(ByteSize::new(image.size))
        .with_pinned(image.pinned)
}

/// The image under one reference, or `None` if that is not one of its names.
///
/// The digest is that of the reference's repository. Runtimes also resolve prefixes of IDs and short
/// names; a pod cannot rely on those.
pub(super) fn image_named(image: &Image, wanted: &ImageRef) -> Option<RuntimeImage> {
    let mut found = runtime_image(image);
    if !found.references.contains(wanted) {
        return None;
    }
    found.digest = found.digest_of(wanted).cloned();
    Some(found)
}

fn references(image: &Image) -> Vec<ImageRef> {
    let mut references: Vec<ImageRef> = Vec::new();
    for text in image.repo_tags.iter().chain(&image.repo_digests) {
        if let Ok(reference) = ImageRef::parse(text)
            && !references.contains(&reference)
        {
            references.push(reference);
        }
    }
    references
}

/// Image IDs by every name, digest and ID of an image.
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
            // CRI-O's IDs have no algorithm; containers name images with or without one.
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

    /// The ID of the image that a container uses, or `None` if none of its fields is known.
    ///
    /// `image_id` comes first, then `image_ref`. The name that the container was created from
    /// (`image.image`) comes last, because its tag may point at another image now.
    pub(super) fn image_of(&self, container: &Container) -> Option<String> {
        let fields = [
            Some(container.image_id.as_str()),
            Some(container.image_ref.as_str()),
            container.image.as_ref().map(|spec| spec.image.as_str()),
        ];
        let texts: Vec<&str> = fields
            .into_iter()
            .flatten()
            .map(without_scheme)
            .filter(|text| !text.is_empty())
            .collect();
        let known = texts.iter().find_map(|text| self.resolve(text));
        // An ID that is not in the list is still an ID.
        let id = known.or_else(|| texts.iter().copied().find(|text| is_id(text)));
        id.map(str::to_owned)
    }

    /// The ID of the image that a volume mounts: named by an ID, a digest reference or a tag.
    fn image_named(&self, text: &str) -> Option<String> {
        let text = without_scheme(text);
        let known = self.resolve(text).map(str::to_owned);
        known.or_else(|| is_id(text).then(|| text.to_owned()))
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

/// A container, and what its image volumes mount (KEP-4639).
#[derive(Debug, Clone, Default)]
pub(super) struct ImageUser {
    pub(super) container: Container,
    pub(super) volumes: Vec<String>,
}

/// The images that containers use, run or mounted as a volume, by ID, each with its containers as a phrase.
pub(super) fn images_in_use(images: &[Image], users: &[ImageUser]) -> BTreeMap<String, String> {
    let index = ImageIndex::new(images);
    let mut in_use: BTreeMap<String, Vec<&Container>> = BTreeMap::new();
    for user in users {
        let volumes = user
            .volumes
            .iter()
            .filter_map(|text| index.image_named(text));
        let used = index.image_of(&user.container).into_iter().chain(volumes);
        for id in used.collect::<BTreeSet<String>>() {
            in_use.entry(id).or_default().push(&user.container);
        }
    }
    let in_use = in_use.into_iter();
    in_use.map(|(id, users)| (id, named(&users))).collect()
}

/// These containers as a phrase: some by name, the rest counted.
fn named(users: &[&Container]) -> String {
    const NAMED: usize = 3;
    let named: Vec<String> = users.iter().take(NAMED).map(|c| describe(c)).collect();
    match users.len() {
        1 => format!("container {}", named.join(", ")),
        n if n <= NAMED => format!("containers {}", named.join(", ")),
        n => format!("containers {} and {} more", named.join(", "), n - NAMED),
    }
}

/// The names of sandbox images in a runtime's verbose status: containerd's and CRI-O's `sandboxImage`, or
/// containerd's `pinnedImages`, at any depth. Values that are not JSON say nothing.
pub(super) fn sandbox_images(info: &HashMap<String, String>) -> Vec<ImageRef> {
    let mut found = Vec::new();
    for text in info.values() {
        if let Ok(value) = serde_json::from_str(text) {
            collect_sandbox_images(&value, &mut found);
        }
    }
    let images = found.iter().filter_map(|text| ImageRef::parse(text).ok());
    images.collect()
}

fn collect_sandbox_images(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = name.replace('_', "").to_lowercase();
                match (name.as_str(), value) {
                    ("sandboximage" | "pauseimage", Value::String(image)) => {
                        found.push(image.clone());
                    }
                    ("pinnedimages", Value::Object(images)) => {
                        let images = images.values().filter_map(Value::as_str);
                        found.extend(images.map(str::to_owned));
                    }
                    _ => collect_sandbox_images(value, found),
                }
            }
        }
        Value::Array(values) => {
            for value in values {
                collect_sandbox_images(value, found);
            }
        }
        _ => {}
    }
}

fn describe(container: &Container) -> String {
    // As many digits as crictl prints.
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

    fn one_image() -> Image {
        Image {
            id: digest('1'),
            repo_tags: vec![
                "quay.io/team/app:1.21".to_owned(),
                "<none>:<none>".to_owned(),
                "nginx:1".to_owned(),
            ],
            repo_digests: vec![
                format!("quay.io/team/app@{}", digest('a')),
                format!("nginx@{}", digest('b')),
            ],
            size: 42,
            spec: None,
            pinned: true,
        }
    }

    fn reference(text: &str) -> ImageRef {
        ImageRef::parse(text).unwrap()
    }

    #[test]
    fn names_that_do_not_parse_are_left_out() {
        let image = runtime_image(&one_image());
        let names: Vec<_> = image.references.iter().map(ImageRef::as_str).collect();
        assert_eq!(names.len(), 4);
        assert_eq!(names[0], "quay.io/team/app:1.21");
        assert_eq!(names[1], "docker.io/library/nginx:1");
        assert_eq!(image.size, ByteSize::new(42));
        assert!(image.pinned);
    }

    #[test]
    fn only_exact_names_are_found() {
        assert!(image_named(&one_image(), &reference("quay.io/team/app:1.21")).is_some());
        assert!(image_named(&one_image(), &reference("quay.io/team/app:1.2")).is_none());
        let other = format!("nginx@{}", digest('a'));
        assert!(image_named(&one_image(), &reference(&other)).is_none());
    }

    #[test]
    fn the_digest_is_that_of_the_references_repository() {
        let found = image_named(&one_image(), &reference("nginx:1")).unwrap();
        assert_eq!(found.digest.unwrap().as_str(), digest('b'));
        let by_digest = format!("quay.io/team/app@{}", digest('a'));
        let found = image_named(&one_image(), &reference(&by_digest)).unwrap();
        assert_eq!(found.digest.unwrap().as_str(), digest('a'));
    }

    fn two_images() -> Vec<Image> {
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

    fn user(container: Container) -> ImageUser {
        ImageUser {
            container,
            volumes: Vec::new(),
        }
    }

    fn used(container: Container) -> Vec<String> {
        let in_use = images_in_use(&two_images(), &[user(container)]);
        in_use.into_keys().collect()
    }

    #[test]
    fn images_of_volumes_are_in_use() {
        let by_digest = format!("docker.io/library/app@{}", digest('a'));
        for volume in [&*digest('1'), &by_digest, "app:old"] {
            let user = ImageUser {
                container: container("", &digest('2'), ""),
                volumes: vec![volume.to_owned(), "gone:1".to_owned()],
            };
            let in_use = images_in_use(&two_images(), &[user]);
            let in_use: Vec<_> = in_use.into_keys().collect();
            assert_eq!(in_use, [digest('1'), digest('2')], "{volume}");
        }
    }

    #[test]
    fn sandbox_images_are_found_in_every_shape() {
        let nested = r#"{"containerd":{"runtimes":{}},"sandboxImage":"registry.k8s.io/pause:3.9"}"#;
        let pinned = r#"{"a":[{"pinned_images":{"sandbox":"registry.k8s.io/pause:3.9"}}]}"#;
        for (text, expected) in [
            (nested, 1),
            (pinned, 1),
            (
                r#"{"pinnedImages":{"sandbox":"registry.k8s.io/pause:3.9","n":1}}"#,
                1,
            ),
            (r#"{"sandboxImage":""}"#, 0),
            (r#"{"sandboxImage":["a"]}"#, 0),
            (r#"{"pinnedImages":"pause"}"#, 0),
            ("null", 0),
            ("sandbox_image = \"pause\"", 0),
            ("", 0),
        ] {
            let info = HashMap::from([("config".to_owned(), text.to_owned())]);
            assert_eq!(sandbox_images(&info).len(), expected, "{text}");
        }
    }

    #[test]
    fn every_form_of_a_name_resolves_to_the_id() {
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
    fn resolved_fields_precede_the_original_name() {
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
        let one = user(container("", &digest('1'), ""));
        let in_use = images_in_use(&two_images(), std::slice::from_ref(&one));
        let expected = [(digest('1'), "container web (ccccccccccccc)".to_owned())];
        assert_eq!(in_use.into_iter().collect::<Vec<_>>(), expected);
        let in_use = images_in_use(&two_images(), &vec![one; 5]);
        let text = &in_use[&digest('1')];
        assert!(text.ends_with("and 2 more"), "{text}");
    }
}
