//! The port [`ImageRuntime`] over CRI.

use std::collections::BTreeMap;
#[cfg(feature = "oci")]
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ByteSize, ImageRef, PulledVia};
use fledged_core::port::{
    FilesystemUsage, ImageRuntime, ImageUse, PullRequest, Removal, RemovalScope, RuntimeImage,
    RuntimeInfo,
};

use super::client::{CRI_VERSION, Client};
use super::images::{image_named, images_in_use, runtime_image};
#[cfg(feature = "oci")]
use crate::containerd::{Fetcher, FetcherOptions};
use crate::disk::usage_of;

/// Why the limit of a pull is not kept without a fetcher.
const PULLS_ITSELF: &str = "fledged does not fetch layers for this runtime";

/// An image runtime behind a CRI v1 socket: containerd, CRI-O, cri-dockerd.
///
/// It connects on the first call, and again after the runtime was unavailable. Calls in between fail
/// with [`Reason::RuntimeUnavailable`]. Pulls report no progress, because CRI has none, unless fledged fetches
/// the layers itself ([`with_fetcher`](Self::with_fetcher)).
///
/// An image counts as in use if a container runs it or mounts it as a volume (KEP-4639), or if it is the
/// image of pod sandboxes.
#[derive(Debug)]
pub struct CriRuntime {
    client: Client,
    #[cfg(feature = "oci")]
    fetcher: Option<Fetcher>,
}

impl CriRuntime {
    /// The runtime behind that socket. The first call connects and must be made within a tokio
    /// runtime.
    #[must_use]
    pub fn connect(socket: impl Into<PathBuf>) -> Self {
        Self {
            client: Client::new(socket.into()),
            #[cfg(feature = "oci")]
            fetcher: None,
        }
    }

    /// Fetches missing layers over several connections into containerd's content store, from which containerd
    /// unpacks them; an interrupted pull goes on where it ended. What that cannot do is left to the runtime's
    /// own pull, and so is everything on a runtime without containerd's services.
    ///
    /// The program needs access to the network and to the `hosts.toml` files as the runtime has it. A registry
    /// that answers 429 fails the pull, with its delay.
    #[cfg(feature = "oci")]
    #[must_use]
    pub fn with_fetcher(mut self, options: FetcherOptions) -> Self {
        self.fetcher = Some(Fetcher::new(options));
        self
    }

    /// Sets the time limit of every call but a pull. Default: two minutes, the kubelet's
    /// `runtimeRequestTimeout`. A pull has no limit; its caller drops the future.
    #[must_use]
    pub fn with_request_timeout(mut self, timeout: Duration) -> Self {
        self.client.set_timeout(timeout);
        self
    }

    /// Whether the server behind the socket serves CRI, also a version that is too old to use. containerd
    /// has no CRI when its configuration disables that plugin, as the packages of Docker do.
    pub(crate) async fn serves_cri(&self) -> Result<bool, Failure> {
        self.client.serves_cri().await
    }

    /// What the runtime's status has of its configuration and state.
    #[cfg(feature = "oci")]
    pub(crate) async fn verbose_status(&self) -> Result<HashMap<String, String>, Failure> {
        self.client.verbose_status().await
    }

    /// The socket of the runtime.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.client.socket()
    }

    async fn find(&self, image: &ImageRef) -> Result<Option<RuntimeImage>, Failure> {
        let found = self.client.image(image.as_str()).await?;
        Ok(found.and_then(|found| image_named(&found, image)))
    }

    /// The images in use by ID, each with what uses it as a phrase. The image of pod sandboxes is one of them:
    /// containerd before 2.0 and cri-dockerd neither list sandboxes as containers nor pin the image.
    async fn users(&self) -> Result<BTreeMap<String, String>, Failure> {
        let images = self.client.images().await?;
        let sandboxes = self.client.sandbox_images().await?;
        let containers = self.client.image_users().await?;
        let mut users = images_in_use(&images, &containers);
        for image in images.iter().map(runtime_image) {
            if image.references.iter().any(|name| sandboxes.contains(name)) {
                users
                    .entry(image.id.0)
                    .or_insert_with(|| "pod sandboxes".to_owned());
            }
        }
        Ok(users)
    }

    async fn pull_image(&self, request: &PullRequest) -> Result<RuntimeImage, Failure> {
        let image = &request.image;
        let is_limited = request.limit.get().is_some() && !self.has_fetcher();
        let before = if is_limited {
            self.find(image).await?
        } else {
            None
        };
        let via = self.pull_content(request).await?;
        let found = self.find(image).await?;
        let found = found.map(|found| {
            let via = via.or_else(|| {
                let fetched = before.is_none_or(|before| before.digest != found.digest);
                (is_limited && fetched).then(|| request.via_runtime(PULLS_ITSELF))
            });
            found.with_via(via)
        });
        found.ok_or_else(|| {
            // Garbage-collected at once, or stored under another name.
            let message = format!(
                "the runtime reports success but does not hold {}",
                image.as_str()
            );
            Failure::new(Reason::Unknown, message)
        })
    }

    #[cfg(feature = "oci")]
    fn has_fetcher(&self) -> bool {
        self.fetcher.is_some()
    }

    #[cfg(not(feature = "oci"))]
    #[allow(clippy::unused_self)]
    fn has_fetcher(&self) -> bool {
        false
    }

    /// Pulls an image. Returns what fetched the layers, with a fetcher.
    async fn pull_content(&self, request: &PullRequest) -> Result<Option<PulledVia>, Failure> {
        let image = &request.image;
        #[cfg(feature = "oci")]
        if let Some(fetcher) = &self.fetcher {
            let present = self.find(image).await?.and_then(|found| found.digest);
            return fetcher.pull(&self.client, present.as_ref(), request).await;
        }
        let auth = request.auth.as_ref();
        self.client.pull(image.as_str(), auth).await?;
        Ok(None)
    }

    async fn remove_image(&self, image: &ImageRef) -> Result<Removal, Failure> {
        let Some(found) = self.find(image).await? else {
            return Ok(Removal::Absent);
        };
        if found.pinned {
            let message = "the image is pinned in the runtime";
            return Err(Failure::new(Reason::Pinned, message));
        }
        // Containers are listed last, right before the removal, because containerd removes an image
        // in use without an error. A container that starts in between is not noticed.
        if let Some(users) = self.users().await?.remove(&found.id.0) {
            return Ok(Removal::InUse(users));
        }
        // By ID, as the kubelet does: it removes the image that was checked, and CRI-O would remove
        // only the name otherwise.
        match self.client.remove(&found.id.0).await {
            Ok(()) => Ok(Removal::Removed),
            Err(failure) if is_in_use_refusal(&failure.message) => {
                Ok(Removal::InUse(failure.message))
            }
            Err(failure) => Err(failure),
        }
    }
}

/// Whether a runtime (CRI-O, cri-dockerd) refused a removal because the image is in use.
fn is_in_use_refusal(message: &str) -> bool {
    let text = message.to_lowercase();
    ["in use by", "being used by", "image used by", "is using"]
        .iter()
        .any(|words| text.contains(words))
}

#[async_trait]
impl ImageRuntime for CriRuntime {
    async fn info(&self) -> Result<RuntimeInfo, Failure> {
        let version = self.client.version().await?;
        Ok(RuntimeInfo::new(
            version.runtime_name,
            version.runtime_version,
            RemovalScope::Image,
        )
        .with_api_version(CRI_VERSION))
    }

    async fn list(&self) -> Result<Vec<RuntimeImage>, Failure> {
        let images = self.client.images().await?;
        Ok(images.iter().map(runtime_image).collect())
    }

    async fn lookup(&self, image: &ImageRef) -> Result<Option<RuntimeImage>, Failure> {
        self.find(image).await
    }

    async fn in_use(&self) -> Result<Vec<ImageUse>, Failure> {
        let used = self.users().await?.into_iter();
        Ok(used.map(|(id, by)| ImageUse::new(id, by)).collect())
    }

    async fn pull(&self, request: PullRequest) -> Result<RuntimeImage, Failure> {
        self.pull_image(&request).await
    }

    async fn remove(&self, image: &ImageRef) -> Result<Removal, Failure> {
        self.remove_image(image).await
    }

    #[cfg(feature = "oci")]
    async fn discard_unfinished(&self, image: &ImageRef) -> Result<(), Failure> {
        crate::containerd::discard_unfinished(&self.client, image).await
    }

    async fn filesystems(&self) -> Result<Vec<FilesystemUsage>, Failure> {
        let mut filesystems = Vec::new();
        for usage in self.client.image_filesystems().await? {
            let path = usage.fs_id.map(|id| id.mountpoint).unwrap_or_default();
            let used = ByteSize::new(usage.used_bytes.map_or(0, |bytes| bytes.value));
            filesystems.push(usage_of(path, used).await);
        }
        Ok(filesystems)
    }
}
