//! Whether an image can be pulled, as far as its registry alone can say.

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ByteSize, Digest, ImageRef};
use fledged_core::port::RegistryAuth;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::client::{Registry, failure_of_transport, read_at_most};
use super::digest::Digester;
use super::manifest::{ImageManifest, MANIFEST_MAX, config_platform, no_platform, resolve};
use super::platform::Platform;
use super::session::Session;

/// Concurrent `HEAD` requests for blobs: enough to hide the round trips of a usual image, few enough
/// not to trip a registry's abuse detection.
const PARALLEL_HEADS: usize = 4;

/// What a registry serves under a reference.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// Digest of the manifest, or of the index if the image has several platforms.
    pub digest: Digest,
    /// Bytes that a node without any of the content fetches: configuration and layers, compressed.
    pub size: ByteSize,
    /// The image's platforms. Empty if it names none.
    pub platforms: Vec<Platform>,
}

impl Registry {
    /// Checks whether the image can be pulled for that platform with those credentials.
    ///
    /// Reads the index and the platform's manifest, and the configuration if no index names the
    /// platform. Every layer is requested with `HEAD`, or its first byte if that is refused.
    ///
    /// # Errors
    ///
    /// The failure that a pull would end with:
    /// [`Unauthorized`](Reason::Unauthorized), [`ImageNotFound`](Reason::ImageNotFound) (also if
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
        let session = &Session::new(self.clone(), image, auth);
        let root = session.manifest().await?;
        let digest = root.digest.clone();
        let resolved = resolve(root, platform, |digest| async move {
            session.manifest_by_digest(&digest).await
        })
        .await?;
        let mut platforms = resolved.platforms;
        let config = &resolved.image.config;
        if !resolved.platform_is_named
            && let Some(bytes) = read_config(session, &resolved.image).await?
            && let Some(only) = config_platform(&bytes)
        {
            platforms.push(only.clone());
            if platform.rank_of(&only).is_none() {
                return Err(no_platform(platform, &platforms));
            }
        }
        let blobs = resolved.image.blobs();
        stream::iter(&blobs)
            // Where no index names the platform, the configuration was already read above.
            .filter(|blob| {
                std::future::ready(resolved.platform_is_named || blob.digest != config.digest)
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

/// The configuration, verified, or `None` if it is too long for a container image's.
pub(crate) async fn read_config(
    session: &Session,
    image: &ImageManifest,
) -> Result<Option<Vec<u8>>, Failure> {
    let config = &image.config;
    let Some(size) = usize::try_from(config.size)
        .ok()
        .filter(|size| *size <= MANIFEST_MAX)
    else {
        session.has_blob(config).await?;
        return Ok(None);
    };
    let response = session.blob(config).await?;
    let body = read_at_most(response, size)
        .await
        .map_err(|error| failure_of_transport("reading the configuration failed", error))?;
    let actual = Digester::of(&config.digest, &body);
    if actual != config.digest.as_str() {
        return Err(Failure::new(
            Reason::DigestMismatch,
            format!(
                "the configuration {} has the digest {actual}",
                config.digest
            ),
        ));
    }
    Ok(Some(body))
}
