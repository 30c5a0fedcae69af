//! Whether an image may be removed.

use super::inventory::Inventory;
use crate::error::Reason;
use crate::model::ImageRef;
use crate::port::{RemovalScope, RuntimeImage};

/// Why `target` may not be removed from `image` now, if so: in use, pinned, or the runtime could only
/// remove it together with a name that is wanted, or that nobody asked to remove.
///
/// `is_doomed` tells which references are to be absent.
pub(super) fn obstacle(
    inventory: &Inventory,
    target: &ImageRef,
    image: &RuntimeImage,
    is_desired: impl Fn(&ImageRef) -> bool,
    is_doomed: impl Fn(&ImageRef) -> bool,
) -> Option<(Reason, String)> {
    let scope = inventory.removal();
    if image.pinned {
        return Some((Reason::Pinned, "the runtime has it pinned".to_owned()));
    }
    let shared = |how: &str, name: &ImageRef| {
        let message =
            format!("the same image is {how} {name}, which the runtime would remove with it");
        Some((Reason::SharedImage, message))
    };
    if let Some(wanted) = scope
        .takes_along(target, image)
        .find(|name| is_desired(name))
    {
        return shared("wanted as", wanted);
    }
    // The digest form of a doomed name is no stranger: it came with the tag.
    let came_along = |name: &ImageRef| {
        let doomed = |other: &&ImageRef| is_doomed(other) && other.name() == name.name();
        name.digest().is_some() && image.references.iter().any(|other| doomed(&other))
    };
    let mut taken = scope.takes_along(target, image);
    if let Some(stranger) = taken.find(|name| !is_doomed(name) && !came_along(name)) {
        return shared("also named", stranger);
    }
    // Where a removal takes one name only, it is the runtime that knows whether it is the last.
    if scope == RemovalScope::Image && inventory.is_in_use(image) {
        return Some((Reason::InUse, "a container uses it".to_owned()));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ByteSize;
    use crate::port::ImageId;

    fn mk_image(names: &[&str]) -> RuntimeImage {
        RuntimeImage {
            id: ImageId("id".to_owned()),
            references: names.iter().map(|n| ImageRef::parse(n).unwrap()).collect(),
            digest: None,
            size: ByteSize::ZERO,
            pinned: false,
        }
    }

    /// What keeps that image where `app:1` is to be absent and `wanted` present.
    fn found(
        image: &RuntimeImage,
        used: bool,
        scope: RemovalScope,
        wanted: &[&str],
    ) -> Option<Reason> {
        let used = used.then(|| image.id.clone());
        let target = ImageRef::parse("app:1").unwrap();
        let inventory = Inventory::new(vec![image.clone()], used, scope);
        let is = |names: &[&str], r: &ImageRef| names.iter().any(|n| r.original() == *n);
        let obstacle = obstacle(
            &inventory,
            &target,
            image,
            |r| is(wanted, r),
            |r| is(&["app:1"], r),
        );
        obstacle.map(|(reason, _)| reason)
    }

    #[test]
    fn nothing_keeps_an_unused_image_of_one_name() {
        for scope in [RemovalScope::Image, RemovalScope::Reference] {
            assert_eq!(found(&mk_image(&["app:1"]), false, scope, &[]), None);
        }
    }

    #[test]
    fn only_whole_images_are_kept_for_their_other_names_and_users() {
        use RemovalScope::{Image, Reference};
        let two = mk_image(&["app:1", "app:2"]);
        assert_eq!(found(&two, false, Image, &[]), Some(Reason::SharedImage));
        assert_eq!(
            found(&two, false, Image, &["app:2"]),
            Some(Reason::SharedImage)
        );
        assert_eq!(found(&two, false, Reference, &["app:2"]), None);
        let one = mk_image(&["app:1"]);
        assert_eq!(found(&one, true, Image, &[]), Some(Reason::InUse));
        assert_eq!(found(&one, true, Reference, &[]), None);
    }

    #[test]
    fn a_pin_keeps_whatever_the_scope() {
        for scope in [RemovalScope::Image, RemovalScope::Reference] {
            let pinned = RuntimeImage {
                pinned: true,
                ..mk_image(&["app:1"])
            };
            assert_eq!(found(&pinned, true, scope, &[]), Some(Reason::Pinned));
        }
    }

    #[test]
    fn the_last_tag_takes_its_digests_along_where_the_runtime_does_so() {
        let scope = RemovalScope::ReferenceAndDigests;
        let digest = format!("app@sha256:{}", "0".repeat(64));
        let foreign = format!("mirror.example/{digest}");
        let wanted = [digest.as_str(), foreign.as_str()];
        let last = mk_image(&["app:1", &digest, &foreign]);
        assert_eq!(found(&last, true, scope, &[]), None);
        assert_eq!(
            found(&last, false, scope, &wanted),
            Some(Reason::SharedImage)
        );
        assert_eq!(found(&last, false, scope, &wanted[1..]), None);
        let not_the_last = mk_image(&["app:1", "app:2", &digest]);
        assert_eq!(found(&not_the_last, false, scope, &wanted), None);
    }

    #[test]
    fn a_digest_is_only_known_by_its_repository() {
        let hex = "0".repeat(64);
        let own = format!("app@sha256:{hex}");
        let other = format!("mirror.example/app@sha256:{hex}");
        let image = mk_image(&["app:1", &own]);
        assert_eq!(found(&image, false, RemovalScope::Image, &[]), None);
        // Somebody wants exactly that digest.
        let wanted = [own.as_str()];
        let kept = found(&image, false, RemovalScope::Image, &wanted);
        assert_eq!(kept, Some(Reason::SharedImage));
        let image = mk_image(&["app:1", &other]);
        let kept = found(&image, false, RemovalScope::Image, &[]);
        assert_eq!(kept, Some(Reason::SharedImage));
    }
}
