//! Which images are completely present.

use std::collections::BTreeMap;

use fledged_core::model::{ByteSize, Digest, ImageRef};
use fledged_core::port::RuntimeImage;

use super::index::{Index, Target};
use super::layout::Layout;
use super::layout_error::LayoutError;
use crate::registry::{
    Fetched, ImageManifest, IndexEntry, MANIFEST_MAX, Manifest, Platform, config_platform,
};

/// Every image with a reference whose content for that platform is complete.
pub(crate) fn list(layout: &Layout, platform: &Platform) -> Result<Vec<RuntimeImage>, LayoutError> {
    let mut by_digest: BTreeMap<Digest, (Target, Vec<ImageRef>)> = BTreeMap::new();
    for (name, target) in Index::load(layout)?.entries() {
        if let Some(name) = name {
            by_digest
                .entry(target.digest.clone())
                .or_insert_with(|| (target, Vec::new()))
                .1
                .push(name);
        }
    }
    let mut images = Vec::with_capacity(by_digest.len());
    for (target, references) in by_digest.into_values() {
        if let Some(size) = complete(layout, &target, platform)? {
            images.push(runtime_image(&target, references, size));
        }
    }
    Ok(images)
}

/// One image with all its names, or `None` if any of its content is missing.
pub(crate) fn lookup(
    layout: &Layout,
    platform: &Platform,
    image: &ImageRef,
) -> Result<Option<RuntimeImage>, LayoutError> {
    let index = Index::load(layout)?;
    let Some(target) = index.get(image) else {
        return Ok(None);
    };
    let Some(size) = complete(layout, &target, platform)? else {
        return Ok(None);
    };
    let references = index
        .entries()
        .filter(|(_, other)| other.digest == target.digest)
        .filter_map(|(name, _)| name)
        .collect();
    Ok(Some(runtime_image(&target, references, size)))
}

fn runtime_image(target: &Target, references: Vec<ImageRef>, size: ByteSize) -> RuntimeImage {
    // The digest of the entry is the ID: two indexes that share a platform's image are two images.
    RuntimeImage::new(target.digest.to_string(), references)
        .with_digest(target.digest.clone())
        .with_size(size)
}

/// The bytes of an image, manifests included, or `None` if any of its content is missing.
fn complete(
    layout: &Layout,
    target: &Target,
    platform: &Platform,
) -> Result<Option<ByteSize>, LayoutError> {
    let mut size = ByteSize::ZERO;
    let mut digest = target.digest.clone();
    // Terminates, because a manifest cannot contain its own digest.
    loop {
        let Some(bytes) = layout.read(&digest, MANIFEST_MAX)? else {
            return Ok(None);
        };
        size += ByteSize::new(bytes.len() as u64);
        // The entry's media type counts only if the manifest states none.
        let media_type = (digest == target.digest).then_some(target.media_type.as_str());
        let Ok((manifest, _)) = Manifest::parse(&bytes, media_type) else {
            return Ok(None);
        };
        match manifest {
            Manifest::Index(index) => match selected(layout, &index.candidates(platform))? {
                Some(entry) => digest = entry,
                None => return Ok(None),
            },
            Manifest::Image(image) if image.artifact.is_some() => return Ok(None),
            Manifest::Image(image) => {
                for blob in image.blobs() {
                    if !layout.has(&blob.digest, blob.size)? {
                        return Ok(None);
                    }
                    size += ByteSize::new(blob.size);
                }
                // Without an index, the configuration names the platform.
                let alone = digest == target.digest;
                if alone && !runs_on(layout, &image, platform)? {
                    return Ok(None);
                }
                return Ok(Some(size));
            }
        }
    }
}

/// The manifest that a pull selects from the candidates of an index.
fn selected(layout: &Layout, candidates: &[&IndexEntry]) -> Result<Option<Digest>, LayoutError> {
    for entry in candidates {
        let fetched = manifest(layout, &entry.digest, None)?;
        if entry.platform.is_some() || !fetched.is_some_and(|fetched| fetched.is_artifact()) {
            return Ok(Some(entry.digest.clone()));
        }
    }
    Ok(None)
}

/// Whether an image without an index is for that platform or names none.
fn runs_on(
    layout: &Layout,
    image: &ImageManifest,
    platform: &Platform,
) -> Result<bool, LayoutError> {
    if image.config.size > MANIFEST_MAX as u64 {
        return Ok(true);
    }
    let bytes = layout.read(&image.config.digest, MANIFEST_MAX)?;
    let only = bytes.as_deref().and_then(config_platform);
    Ok(only.is_none_or(|only| platform.rank_of(&only).is_some()))
}

/// A manifest on disk, verified, or `None` if it has to be fetched.
pub(crate) fn manifest(
    layout: &Layout,
    digest: &Digest,
    media_type: Option<&str>,
) -> Result<Option<Fetched>, LayoutError> {
    Ok(layout
        .read(digest, MANIFEST_MAX)?
        .and_then(|bytes| Fetched::verified(digest.clone(), bytes.into(), media_type).ok()))
}
