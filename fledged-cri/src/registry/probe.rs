//! Whether an image can be pulled, asking nobody but the registry.

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ByteSize, Digest, ImageRef};
use fledged_core::port::RegistryAuth;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    Fetched, ImageManifest, MANIFEST_MAX, Manifest, Platform, Registry, Session, config_platform,
    failure,
};

/// How many blobs are asked after at once: enough to hide the round trips of a usual image, too
/// few to look like an attack.
const PARALLEL_HEADS: usize = 4;
/// How deep indexes may nest; registries and builders write one level.
const INDEX_DEPTH_MAX: usize = 3;

/// What a registry has under a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// Digest of the manifest, or of the index where the image has several platforms.
    pub digest: Digest,
    /// Bytes that a node without any of it would fetch: configuration and layers, compressed.
    pub size: ByteSize,
    /// Platforms there is an image for; empty where the image names none.
    pub platforms: Vec<Platform>,
}

/// The way from a reference to the image of one platform.
pub(crate) struct Resolved {
    /// Manifest or index of the reference, then what is inside, the image manifest last.
    pub(crate) chain: Vec<Fetched>,
    pub(crate) image: ImageManifest,
    /// Platforms of the index; empty without one.
    pub(crate) platforms: Vec<Platform>,
}

/// Follows indexes from `root` down to the image for `platform`; `next` finds a manifest by digest.
pub(crate) async fn resolve<F>(
    root: Fetched,
    platform: &Platform,
    next: impl Fn(Digest) -> F,
) -> Result<Resolved, Failure>
where
    F: Future<Output = Result<Fetched, Failure>>,
{
    let mut platforms = Vec::new();
    let mut chain = Vec::new();
    let mut current = root;
    for _ in 0..=INDEX_DEPTH_MAX {
        let selected = match &current.manifest {
            Manifest::Image(image) => {
                let image = image.clone();
                chain.push(current);
                return Ok(Resolved {
                    chain,
                    image,
                    platforms,
                });
            }
            Manifest::Index(index) => {
                if chain.is_empty() {
                    platforms = index.platforms();
                }
                index
                    .select(platform)
                    .map(|entry| entry.digest.clone())
                    .ok_or_else(|| no_platform(platform, &platforms))?
            }
        };
        chain.push(current);
        current = next(selected).await?;
    }
    Err(Failure::new(
        Reason::InvalidImage,
        format!("indexes are nested more than {INDEX_DEPTH_MAX} deep"),
    ))
}

/// The failure for an image that exists, but only for `available`.
pub(crate) fn no_platform(platform: &Platform, available: &[Platform]) -> Failure {
    let list: Vec<String> = available.iter().map(ToString::to_string).collect();
    Failure::new(
        Reason::PlatformNotFound,
        format!(
            "there is no image for {platform}, only for {}",
            list.join(", ")
        ),
    )
}

impl Registry {
    /// Asks the registry whether the image can be pulled for that platform with those credentials.
    ///
    /// Reads the manifest, down to the platform's, and the configuration of an image that comes
    /// without an index; every layer is asked after without being read.
    ///
    /// # Errors
    ///
    /// The failure a pull would end with:
    /// [`Unauthorized`](Reason::Unauthorized), [`ImageNotFound`](Reason::ImageNotFound) (also where
    /// a layer is missing), [`PlatformNotFound`](Reason::PlatformNotFound),
    /// [`TooManyRequests`](Reason::TooManyRequests) with the registry's delay,
    /// [`InvalidImage`](Reason::InvalidImage), [`RegistryError`](Reason::RegistryError) or
    /// [`ConnectionFailed`](Reason::ConnectionFailed).
    pub async fn probe(
        &self,
        image: &ImageRef,
        auth: Option<RegistryAuth>,
        platform: &Platform,
    ) -> Result<Probe, Failure> {
        let session = &self.session(image, auth);
        let root = session.manifest().await?;
        let digest = root.digest.clone();
        let resolved = resolve(root, platform, |digest| async move {
            session.manifest_by_digest(&digest).await
        })
        .await?;
        let mut platforms = resolved.platforms;
        let config = &resolved.image.config;
        if resolved.chain.len() == 1
            && let Some(bytes) = read_config(session, &resolved.image).await?
            && let Some(only) = config_platform(&bytes)
        {
            platforms = vec![only.clone()];
            if platform.rank_of(&only).is_none() {
                return Err(no_platform(platform, &platforms));
            }
        }
        let blobs = resolved.image.blobs();
        stream::iter(&blobs)
            // The configuration was read whole above where there is no index.
            .filter(|blob| {
                std::future::ready(resolved.chain.len() > 1 || blob.digest != config.digest)
            })
            .map(|blob| session.has_blob(blob))
            .buffer_unordered(PARALLEL_HEADS)
            .try_collect::<Vec<()>>()
            .await?;
        Ok(Probe {
            digest,
            size: blobs.iter().map(|blob| ByteSize::new(blob.size)).sum(),
            platforms,
        })
    }
}

/// The configuration, verified; `None` where it is too long to be one of a container image.
async fn read_config(session: &Session, image: &ImageManifest) -> Result<Option<Vec<u8>>, Failure> {
    let config = &image.config;
    if config.size > MANIFEST_MAX as u64 {
        session.has_blob(config).await?;
        return Ok(None);
    }
    let mut response = session.blob(config).await?;
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| failure::of_transport("reading the configuration broke off", error))?
    {
        body.extend_from_slice(&chunk);
        if body.len() as u64 > config.size {
            break;
        }
    }
    let actual = super::Digester::of(&config.digest, &body);
    if actual != config.digest.as_str() {
        return Err(Failure::new(
            Reason::DigestMismatch,
            format!(
                "the configuration {} came with digest {actual}",
                config.digest
            ),
        ));
    }
    Ok(Some(body))
}
