//! Entry point for fuzzing: an image layout in a folder.

use std::path::Path;

use fledged_core::model::ImageRef;

use super::{inventory, layout::Layout};
use crate::registry::Platform;

/// Lists the layout and looks one image up.
pub fn inventory(folder: &Path) {
    let (layout, platform) = (Layout::new(folder), Platform::host());
    let _ = (layout.state(), inventory::list(&layout, &platform));
    if let Ok(image) = ImageRef::parse("app:1") {
        let _ = inventory::lookup(&layout, &platform, &image);
    }
}
