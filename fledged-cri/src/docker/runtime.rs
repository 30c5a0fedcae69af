//! The port [`ImageRuntime`] for Docker Engine.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use bollard::models::ContainerSummary;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptions, RemoveImageOptions,
};
use fledged_core::error::{Failure, Reason};
use fledged_core::model::ImageRef;
use fledged_core::port::{
    FilesystemUsage, ImageRuntime, ImageUse, PullRequest, Removal, RemovalScope, RuntimeImage,
    RuntimeInfo,
};
use futures_util::StreamExt;

use super::connection::{Connection, credentials, secret};
use super::failure;
use super::images::{from_inspect, from_summary, is_last_name};
use super::progress::PullEvents;
use crate::disk::usage_of;

/// Docker Engine behind its Unix socket.
///
/// It connects on the first call, and again after the Engine was unavailable. Pulls report their
/// progress; dropping a pull's future makes the Engine abandon the pull.
///
/// A removal removes one name. With the last tag of a repository, the Engine also removes the digest
/// references of that repository.
#[derive(Debug)]
pub struct DockerRuntime {
    connection: Connection,
}

impl DockerRuntime {
    /// The Engine that listens on this socket, for example `/var/run/docker.sock`.
    #[must_use]
    pub fn new(socket: impl AsRef<Path>) -> Self {
        Self {
            connection: Connection::new(socket.as_ref()),
        }
    }

    /// The socket of the Engine.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.connection.socket()
    }

    /// The image with exactly this name.
    async fn find(&self, image: &ImageRef) -> Result<Option<RuntimeImage>, Failure> {
        let client = self.connection.client().await?;
        let inspect = match client.inspect_image(image.as_str()).await {
            Ok(inspect) => inspect,
            Err(error) if failure::status(&error) == 404 => return Ok(None),
            Err(error) => return Err(self.connection.failure(&error).await),
        };
        // The Engine also resolves short names and prefixes of IDs.
        let found = from_inspect(&inspect).filter(|found| found.references.contains(image));
        Ok(found.map(|mut found| {
            found.digest = found.digest_of(image).cloned();
            found
        }))
    }

    async fn containers(&self) -> Result<Vec<ContainerSummary>, Failure> {
        let client = self.connection.client().await?;
        let all = ListContainersOptionsBuilder::new().all(true).build();
        match client.list_containers(Some(all)).await {
            Ok(containers) => Ok(containers),
            Err(error) => Err(self.connection.failure(&error).await),
        }
    }

    async fn fetch(&self, request: &PullRequest) -> Result<RuntimeImage, Failure> {
        let image = &request.image;
        let client = self.connection.pull_client().await?;
        let what = match (image.digest(), image.tag()) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            // Without a tag the Engine pulls every tag of the repository.
            (None, None) => "latest",
        };
        let options = CreateImageOptionsBuilder::new()
            .from_image(image.name())
            .tag(what)
            .build();
        let auth = request.auth.as_ref().map(|auth| credentials(auth, image));
        let mut stream = std::pin::pin!(client.create_image(Some(options), None, auth));
        let mut events = PullEvents::default();
        let is_limited = request.limit.get().is_some();
        let before = if is_limited {
            self.find(image).await?
        } else {
            None
        };
        while let Some(event) = stream.next().await {
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    let secret = request.auth.as_ref().map(secret);
                    return Err(self.connection.failure_with(&error, secret).await);
                }
            };
            if let Some(progress) = events.fold(&event) {
                request.progress.report(progress);
            }
        }
        let mut found = self.find(image).await?.ok_or_else(|| {
            // Another client removed it in the meantime.
            let text = format!(
                "the Engine reports success but does not hold {}",
                image.as_str()
            );
            Failure::new(Reason::Evicted, text)
        })?;
        if let Some(digest) = events.digest() {
            found.digest = Some(digest.clone());
        }
        if is_limited && before.is_none_or(|before| before.id != found.id) {
            found.via = Some(request.via_runtime("Docker Engine pulls by itself"));
        }
        Ok(found)
    }

    async fn untag(&self, image: &ImageRef) -> Result<Removal, Failure> {
        let Some(found) = self.find(image).await? else {
            return Ok(Removal::Absent);
        };
        if is_last_name(&found, image) {
            let containers = self.containers().await?;
            let user = containers
                .iter()
                .find(|c| c.image_id.as_deref() == Some(&found.id.0));
            if let Some(user) = user {
                return Ok(Removal::InUse(format!("container {}", name(user))));
            }
        }
        let client = self.connection.client().await?;
        let options = None::<RemoveImageOptions>;
        match client.remove_image(image.as_str(), options, None).await {
            Ok(_) => Ok(Removal::Removed),
            Err(error) => match failure::status(&error) {
                404 => Ok(Removal::Absent),
                409 => Ok(Removal::InUse(
                    self.connection.failure(&error).await.message,
                )),
                _ => Err(self.connection.failure(&error).await),
            },
        }
    }

    async fn usage(&self) -> Result<Vec<FilesystemUsage>, Failure> {
        let client = self.connection.client().await?;
        let info = match client.info().await {
            Ok(info) => info,
            Err(error) => return Err(self.connection.failure(&error).await),
        };
        let path = info.docker_root_dir.unwrap_or_default();
        let used = self.connection.image_bytes().await?;
        Ok(vec![usage_of(path, used).await])
    }
}

/// A container's name, or else its ID.
fn name(container: &ContainerSummary) -> &str {
    let given = container.names.iter().flatten().next();
    given
        .map(|name| name.trim_start_matches('/'))
        .or(container.id.as_deref())
        .unwrap_or_default()
}

#[async_trait]
impl ImageRuntime for DockerRuntime {
    async fn info(&self) -> Result<RuntimeInfo, Failure> {
        let client = self.connection.client().await?;
        let version = match client.version().await {
            Ok(version) => version,
            Err(error) => return Err(self.connection.failure(&error).await),
        };
        Ok(RuntimeInfo::new(
            "docker",
            version.version.unwrap_or_default(),
            RemovalScope::ReferenceAndDigests,
        )
        .with_api_version(client.client_version().to_string()))
    }

    async fn list(&self) -> Result<Vec<RuntimeImage>, Failure> {
        let client = self.connection.client().await?;
        match client.list_images(None::<ListImagesOptions>).await {
            Ok(images) => Ok(images.iter().map(from_summary).collect()),
            Err(error) => Err(self.connection.failure(&error).await),
        }
    }

    async fn lookup(&self, image: &ImageRef) -> Result<Option<RuntimeImage>, Failure> {
        self.find(image).await
    }

    async fn in_use(&self) -> Result<Vec<ImageUse>, Failure> {
        let containers = self.containers().await?;
        let mut users: BTreeMap<&str, &str> = BTreeMap::new();
        for container in &containers {
            if let Some(image) = &container.image_id {
                users.entry(image).or_insert_with(|| name(container));
            }
        }
        let users = users.into_iter();
        Ok(users
            .map(|(image, name)| ImageUse::new(image, format!("container {name}")))
            .collect())
    }

    async fn pull(&self, request: PullRequest) -> Result<RuntimeImage, Failure> {
        self.fetch(&request).await
    }

    async fn remove(&self, image: &ImageRef) -> Result<Removal, Failure> {
        self.untag(image).await
    }

    async fn filesystems(&self) -> Result<Vec<FilesystemUsage>, Failure> {
        self.usage().await
    }
}
