//! Whether an image may be removed.

use super::inventory::Inventory;
use crate::error::Reason;
use crate::model::ImageRef;
use crate::ports::{RemovalScope, RuntimeImage};

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
