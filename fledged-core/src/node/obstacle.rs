//! Whether an image may be removed.

use super::inventory::Inventory;
use crate::error::Reason;
use crate::model::ImageRef;
use crate::ports::{RemovalScope, RuntimeImage};

/// Why it may not be removed now, if so: in use, pinned, or the runtime could only remove it
/// together with a name that nobody asked to remove.
///
/// `is_doomed` tells which references are to be absent.
pub(super) fn obstacle(
    inventory: &Inventory,
    image: &RuntimeImage,
    is_desired: impl Fn(&ImageRef) -> bool,
    is_doomed: impl Fn(&ImageRef) -> bool,
) -> Option<(Reason, String)> {
    if image.pinned {
        return Some((Reason::Pinned, "the runtime has it pinned".to_owned()));
    }
    let by_image = inventory.removal() == RemovalScope::Image;
    if by_image && let Some(wanted) = image.references.iter().find(|r| is_desired(r)) {
        return Some((
            Reason::SharedImage,
            format!(
                "the same image is wanted as {wanted}, and the runtime removes all its names at once"
            ),
        ));
    }
    if by_image && let Some(other) = stranger(image, &is_doomed) {
        return Some((
            Reason::SharedImage,
            format!(
                "the same image is also named {other}, and the runtime removes all its names at once"
            ),
        ));
    }
    // Where a removal takes one name only, it is the runtime that knows whether it is the last.
    if by_image && inventory.is_in_use(image) {
        return Some((Reason::InUse, "a container uses it".to_owned()));
    }
    None
}

/// A name that nobody asked to remove. The digest form of a doomed name is no stranger: it came
/// with the tag.
fn stranger<'a>(
    image: &'a RuntimeImage,
    is_doomed: &impl Fn(&ImageRef) -> bool,
) -> Option<&'a ImageRef> {
    let doomed_names: Vec<&str> = image
        .references
        .iter()
        .filter(|r| is_doomed(r))
        .map(ImageRef::name)
        .collect();
    image.references.iter().find(|r| {
        let came_along = r.digest().is_some() && doomed_names.contains(&r.name());
        !is_doomed(r) && !came_along
    })
}
