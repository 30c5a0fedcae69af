//! A CRI image as the port describes it.

use fledged_core::model::{ByteSize, Digest, ImageRef};
use fledged_core::port::RuntimeImage;

use super::proto::Image;

/// The image with every name that parses; `<none>:<none>` and the like are left out.
pub(super) fn runtime_image(image: &Image) -> RuntimeImage {
    let references = references(image);
    let digest = references.iter().find_map(|r| r.digest().cloned());
    RuntimeImage::new(image.id.clone(), references)
        .with_digest(digest)
        .with_size(ByteSize::new(image.size))
        .with_pinned(image.pinned)
}

/// The image as it answers to one reference, or `None` when that is not one of its names.
///
/// The digest is the one that the reference's own repository has for it. Runtimes resolve
/// generously (by a prefix of the ID, by short name); an image that does not carry the name cannot
/// be started by it with certainty.
pub(super) fn image_named(image: &Image, wanted: &ImageRef) -> Option<RuntimeImage> {
    let mut found = runtime_image(image);
    if !found.references.contains(wanted) {
        return None;
    }
    if let Some(digest) = digest_in(&found.references, wanted) {
        found.digest = Some(digest);
    }
    Some(found)
}

fn digest_in(references: &[ImageRef], wanted: &ImageRef) -> Option<Digest> {
    wanted.digest().cloned().or_else(|| {
        references
            .iter()
            .filter(|r| r.name() == wanted.name())
            .find_map(|r| r.digest().cloned())
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(c: char) -> String {
        format!("sha256:{}", c.to_string().repeat(64))
    }

    fn image() -> Image {
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
        let image = runtime_image(&image());
        let names: Vec<_> = image.references.iter().map(ImageRef::as_str).collect();
        assert_eq!(names.len(), 4);
        assert_eq!(names[0], "quay.io/team/app:1.21");
        assert_eq!(names[1], "docker.io/library/nginx:1");
        assert_eq!(image.size, ByteSize::new(42));
        assert!(image.pinned);
    }

    #[test]
    fn only_its_own_names_are_found() {
        assert!(image_named(&image(), &reference("quay.io/team/app:1.21")).is_some());
        assert!(image_named(&image(), &reference("quay.io/team/app:1.2")).is_none());
        let other = format!("nginx@{}", digest('a'));
        assert!(image_named(&image(), &reference(&other)).is_none());
    }

    #[test]
    fn the_digest_is_that_of_the_repository_asked_for() {
        let found = image_named(&image(), &reference("nginx:1")).unwrap();
        assert_eq!(found.digest.unwrap().as_str(), digest('b'));
        let by_digest = format!("quay.io/team/app@{}", digest('a'));
        let found = image_named(&image(), &reference(&by_digest)).unwrap();
        assert_eq!(found.digest.unwrap().as_str(), digest('a'));
    }
}
