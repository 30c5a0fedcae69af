//! Docker images as the port describes them.

use bollard::models::{ImageInspect, ImageSummary};
use fledged_core::model::{ByteSize, ImageRef};
use fledged_core::port::RuntimeImage;

/// An image as `GET /images/json` lists it.
pub(super) fn from_summary(summary: &ImageSummary) -> RuntimeImage {
    image(
        &summary.id,
        summary.repo_tags.iter().chain(&summary.repo_digests),
        summary.size,
    )
}

/// An image as `GET /images/NAME/json` shows it; `None` for one without an ID.
pub(super) fn from_inspect(inspect: &ImageInspect) -> Option<RuntimeImage> {
    let names = [&inspect.repo_tags, &inspect.repo_digests];
    Some(image(
        inspect.id.as_deref()?,
        names.into_iter().flatten().flatten(),
        inspect.size.unwrap_or_default(),
    ))
}

fn image<'a>(id: &str, names: impl Iterator<Item = &'a String>, size: i64) -> RuntimeImage {
    // The name of an untagged image, `<none>:<none>`, is not a reference.
    let references: Vec<ImageRef> = names.filter_map(|name| name.parse().ok()).collect();
    let digest = references.iter().find_map(|r| r.digest().cloned());
    RuntimeImage::new(id, references)
        .with_digest(digest)
        .with_size(ByteSize::new(u64::try_from(size).unwrap_or_default()))
}

/// Whether an image has no name left after the removal of this one.
///
/// With the last tag of a repository the Engine also removes the digests of that repository.
pub(super) fn is_last_name(found: &RuntimeImage, image: &ImageRef) -> bool {
    let others = || found.references.iter().filter(|r| *r != image);
    let tag_stays = others().any(|r| r.name() == image.name() && r.digest().is_none());
    let goes_along = |r: &ImageRef| {
        image.digest().is_none() && !tag_stays && r.name() == image.name() && r.digest().is_some()
    };
    others().all(goes_along)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(tags: &[&str], digests: &[&str]) -> ImageSummary {
        let text = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        ImageSummary {
            id: "sha256:1234".to_owned(),
            repo_tags: text(tags),
            repo_digests: text(digests),
            size: 42,
            ..ImageSummary::default()
        }
    }

    fn digest(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    #[test]
    fn names_of_untagged_images_are_left_out() {
        let dangling = from_summary(&summary(&["<none>:<none>"], &["<none>@<none>"]));
        assert_eq!(dangling.references, []);
        assert_eq!(dangling.digest, None);
        let by_digest = format!("app@{}", digest('a'));
        let named = from_summary(&summary(&["app:1"], &[&by_digest]));
        assert_eq!(named.references.len(), 2);
        assert_eq!(named.references[0].as_str(), "docker.io/library/app:1");
        assert_eq!(named.size.bytes(), 42);
    }

    #[test]
    fn the_digest_is_that_of_the_same_repository() {
        let digests = [
            format!("other@{}", digest('a')),
            format!("app@{}", digest('b')),
        ];
        let found = from_summary(&summary(&["app:1", "other:1"], &[&digests[0], &digests[1]]));
        let image = "app:1".parse().unwrap();
        let chosen = found.digest_of(&image);
        assert_eq!(chosen.unwrap().as_str(), digest('b'));
    }

    #[test]
    fn the_last_name_counts_digests_as_the_engine_does() {
        let app = format!("app@{}", digest('a'));
        let other = format!("other@{}", digest('a'));
        let last = |tags: &[&str], digests: &[&str], image: &str| {
            is_last_name(
                &from_summary(&summary(tags, digests)),
                &image.parse().unwrap(),
            )
        };
        assert!(last(&["app:1"], &[&app], "app:1"));
        assert!(last(&[], &[&app], &app));
        assert!(!last(&["app:1", "app:2"], &[&app], "app:1"));
        assert!(!last(&["app:1"], &[&app, &other], "app:1"));
        assert!(!last(&["app:1"], &[&app], &app));
    }
}
