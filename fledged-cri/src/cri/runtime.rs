//! The port [`ImageRuntime`] over CRI.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ByteSize, ImageRef};
use fledged_core::port::{
    FilesystemUsage, ImageId, ImageRuntime, PullRequest, Removal, RemovalScope, RuntimeImage,
    RuntimeInfo,
};

use super::auth::auth_config;
use super::client::{CRI_VERSION, Client};
use super::image::{image_named, runtime_image};
use super::usage::{images_in_use, users_of};

/// An image runtime behind a CRI v1 socket: containerd, CRI-O, cri-dockerd.
///
/// Connects when first used, and again whenever the runtime was gone: calls made meanwhile fail with
/// [`Reason::RuntimeUnavailable`], later ones work. Pulls report no progress, because CRI has none.
///
/// An image volume of a pod (KEP-4639) is not in the list of containers; CRI does not tell of it.
#[derive(Debug)]
pub struct CriRuntime {
    client: Client,
}

impl CriRuntime {
    /// The runtime behind that socket. Nothing is opened before the first call, which must be made
    /// within a tokio runtime.
    #[must_use]
    pub fn connect(socket: impl Into<PathBuf>) -> Self {
        Self {
            client: Client::new(socket.into()),
        }
    }

    /// With another limit on everything but pulls than two minutes (the kubelet's
    /// `runtimeRequestTimeout`). A pull takes as long as its caller keeps the future.
    #[must_use]
    pub fn with_request_timeout(mut self, timeout: Duration) -> Self {
        self.client.set_timeout(timeout);
        self
    }

    /// The socket it speaks to.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.client.socket()
    }

    async fn find(&self, image: &ImageRef) -> Result<Option<RuntimeImage>, Failure> {
        let found = self.client.image(image.as_str()).await?;
        Ok(found.and_then(|found| image_named(&found, image)))
    }

    async fn pull_image(&self, request: &PullRequest) -> Result<RuntimeImage, Failure> {
        let image = &request.image;
        let auth = request.auth.as_ref().map(auth_config);
        self.client.pull(image.as_str(), auth).await?;
        self.find(image).await?.ok_or_else(|| {
            // Collected at once by somebody else, or kept under another name.
            let message = format!(
                "the runtime reports success but does not hold {}",
                image.as_str()
            );
            Failure::new(Reason::Unknown, message)
        })
    }

    async fn remove_image(&self, image: &ImageRef) -> Result<Removal, Failure> {
        let Some(found) = self.find(image).await? else {
            return Ok(Removal::Absent);
        };
        if found.pinned {
            let message = "the runtime has pinned the image";
            return Err(Failure::new(Reason::Pinned, message));
        }
        // The containers last, right before the removal: containerd removes an image in use without
        // a word, so that whatever starts in between is beyond our reach.
        let images = self.client.images().await?;
        let containers = self.client.containers().await?;
        if let Some(users) = users_of(&found.id.0, &images, &containers) {
            return Ok(Removal::InUse(users));
        }
        // By ID, as the kubelet does: what goes is what was looked at, and CRI-O takes a name for a
        // request to take off that name only.
        match self.client.remove(&found.id.0).await {
            Ok(()) => Ok(Removal::Removed),
            Err(failure) if says_in_use(&failure.message) => Ok(Removal::InUse(failure.message)),
            Err(failure) => Err(failure),
        }
    }
}

/// CRI-O and Docker refuse to remove what is in use, in these words.
fn says_in_use(message: &str) -> bool {
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

    async fn in_use(&self) -> Result<Vec<ImageId>, Failure> {
        let images = self.client.images().await?;
        let containers = self.client.containers().await?;
        let used = images_in_use(&images, &containers);
        Ok(used.into_iter().map(ImageId).collect())
    }

    async fn pull(&self, request: PullRequest) -> Result<RuntimeImage, Failure> {
        self.pull_image(&request).await
    }

    async fn remove(&self, image: &ImageRef) -> Result<Removal, Failure> {
        self.remove_image(image).await
    }

    async fn filesystems(&self) -> Result<Vec<FilesystemUsage>, Failure> {
        let mut filesystems = Vec::new();
        for usage in self.client.image_filesystems().await? {
            let path = usage.fs_id.map(|id| id.mountpoint).unwrap_or_default();
            let available = available_at(path.clone()).await;
            filesystems.push(
                FilesystemUsage::new(
                    path,
                    ByteSize::new(usage.used_bytes.map_or(0, |bytes| bytes.value)),
                )
                .with_available(available),
            );
        }
        Ok(filesystems)
    }
}

/// What can still be written there; `None` when this process does not see the path, as in a
/// container that has only the socket mounted.
async fn available_at(path: String) -> Option<ByteSize> {
    // A file system that hangs must not hang the caller's thread.
    let asked = tokio::task::spawn_blocking(move || rustix::fs::statvfs(path));
    let stat = asked.await.ok()?.ok()?;
    Some(ByteSize::new(stat.f_bavail.saturating_mul(stat.f_frsize)))
}
