//! The calls of CRI v1 over one Unix socket.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::ImageRef;
use fledged_core::port::RegistryAuth;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::grpc_status::{failure_of_status, is_unserved, unavailable};
use super::images::{ImageUser, sandbox_images};
use super::proto::image_service_client::ImageServiceClient;
use super::proto::runtime_service_client::RuntimeServiceClient;
use super::proto::{
    AuthConfig, Container, ContainerStatusRequest, FilesystemUsage, Image, ImageFsInfoRequest,
    ImageSpec, ImageStatusRequest, ListContainersRequest, ListImagesRequest, PullImageRequest,
    RemoveImageRequest, StatusRequest, StreamImagesRequest, VersionRequest, VersionResponse,
};

/// Largest message in either direction: 16 MiB, as in the kubelet and, by default, in containerd.
/// gRPC's default of 4 MiB is too small for the lists of a busy node.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;
/// Limit on connecting. A local socket accepts at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Limit on every call but a pull: the kubelet's `runtimeRequestTimeout`.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// The version of CRI, as in its package name.
pub(super) const CRI_VERSION: &str = "v1";
/// gRPC needs an authority; runtimes ignore it, and Go's server refuses a path.
const AUTHORITY: &str = "http://localhost";

#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    timeout: Duration,
    channel: OnceLock<Channel>,
    /// Set when the runtime does not serve `StreamImages`.
    no_stream: AtomicBool,
    /// What the image volumes of each container mount, by its ID. It never changes.
    volumes: Mutex<BTreeMap<String, Vec<String>>>,
}

impl Client {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            timeout: REQUEST_TIMEOUT,
            channel: OnceLock::new(),
            no_stream: AtomicBool::new(false),
            volumes: Mutex::default(),
        }
    }

    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) async fn version(&self) -> Result<VersionResponse, Failure> {
        let request = VersionRequest {
            version: CRI_VERSION.to_owned(),
        };
        let mut runtime = self.runtime();
        self.within(runtime.version(request)).await
    }

    /// Whether the server behind the socket serves CRI, of any version.
    pub(super) async fn serves_cri(&self) -> Result<bool, Failure> {
        let request = VersionRequest {
            version: CRI_VERSION.to_owned(),
        };
        let mut runtime = self.runtime();
        match self.limited(runtime.version(request)).await? {
            Ok(_) => Ok(true),
            Err(status) if is_unserved(&status) => {
                Ok(self.limited(self.version_v1alpha2()).await?.is_ok())
            }
            Err(status) => Err(failure_of_status(&status, &self.socket, &[])),
        }
    }

    /// The containers with the images that they mount as volumes, which a list of containers leaves out. Each
    /// container is asked for once.
    pub(super) async fn image_users(&self) -> Result<Vec<ImageUser>, Failure> {
        let mut runtime = self.runtime();
        let list = runtime.list_containers(ListContainersRequest {});
        let containers = self.within(list).await?.containers;
        let known = std::mem::take(&mut *self.known_volumes());
        let mut users = Vec::with_capacity(containers.len());
        for container in containers {
            let volumes = match known.get(&container.id) {
                Some(volumes) => volumes.clone(),
                None => self.image_volumes(&container).await?,
            };
            users.push(ImageUser { container, volumes });
        }
        *self.known_volumes() = users
            .iter()
            .map(|user| (user.container.id.clone(), user.volumes.clone()))
            .collect();
        Ok(users)
    }

    fn known_volumes(&self) -> MutexGuard<'_, BTreeMap<String, Vec<String>>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The images that the container mounts as volumes.
    async fn image_volumes(&self, container: &Container) -> Result<Vec<String>, Failure> {
        let request = ContainerStatusRequest {
            container_id: container.id.clone(),
        };
        let mut runtime = self.runtime();
        let status = match self.limited(runtime.container_status(request)).await? {
            Ok(response) => response.into_inner().status.unwrap_or_default(),
            // The container has been removed since it was listed.
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(Vec::new()),
            Err(status) => return Err(self.failure(status, &[]).await),
        };
        let images = status.mounts.into_iter().filter_map(|mount| mount.image);
        let images = images.map(|spec| spec.image);
        Ok(images.filter(|image| !image.is_empty()).collect())
    }

    /// The images of the runtime's pod sandboxes, as far as its status names them.
    pub(super) async fn sandbox_images(&self) -> Result<Vec<ImageRef>, Failure> {
        Ok(sandbox_images(&self.verbose_status().await?))
    }

    /// What the runtime says of its configuration and state, if anything.
    pub(crate) async fn verbose_status(&self) -> Result<HashMap<String, String>, Failure> {
        let mut runtime = self.runtime();
        let status = runtime.status(StatusRequest { verbose: true });
        match self.limited(status).await? {
            Ok(response) => Ok(response.into_inner().info),
            Err(status) if is_unserved(&status) => Ok(HashMap::new()),
            Err(status) => Err(self.failure(status, &[]).await),
        }
    }

    /// Every image. Uses `StreamImages` where the runtime serves it, because a whole list may be too
    /// large for one message.
    pub(super) async fn images(&self) -> Result<Vec<Image>, Failure> {
        if !self.no_stream.load(Ordering::Relaxed) {
            match self.limited(self.streamed_images()).await? {
                Ok(images) => return Ok(images),
                Err(status) if is_unserved(&status) => {
                    self.no_stream.store(true, Ordering::Relaxed);
                }
                Err(status) => return Err(self.failure(status, &[]).await),
            }
        }
        let mut images = self.image_service();
        let list = images.list_images(ListImagesRequest {});
        Ok(self.within(list).await?.images)
    }

    async fn streamed_images(&self) -> Result<Vec<Image>, Status> {
        let mut service = self.image_service();
        let mut parts = service
            .stream_images(StreamImagesRequest {})
            .await?
            .into_inner();
        let mut images = Vec::new();
        while let Some(part) = parts.message().await? {
            images.extend(part.images);
        }
        Ok(images)
    }

    pub(super) async fn image(&self, name: &str) -> Result<Option<Image>, Failure> {
        let request = ImageStatusRequest {
            image: Some(spec(name)),
        };
        let mut images = self.image_service();
        match self.limited(images.image_status(request)).await? {
            Ok(response) => Ok(response.into_inner().image),
            // CRI specifies an empty answer here; some runtimes answer with an error.
            Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(status) => Err(self.failure(status, &[]).await),
        }
    }

    /// Pulls without a time limit. Dropping the future resets the stream, which cancels the pull in
    /// the runtime.
    pub(crate) async fn pull(
        &self,
        name: &str,
        auth: Option<&RegistryAuth>,
    ) -> Result<(), Failure> {
        let auth = auth.map(auth_config);
        let secrets = auth.clone().map(secrets_of).unwrap_or_default();
        let request = PullImageRequest {
            image: Some(spec(name)),
            auth,
        };
        match self.image_service().pull_image(request).await {
            Ok(_) => Ok(()),
            Err(status) => {
                let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
                Err(self.failure(status, &secrets).await)
            }
        }
    }

    pub(super) async fn remove(&self, id: &str) -> Result<(), Failure> {
        let request = RemoveImageRequest {
            image: Some(spec(id)),
        };
        let mut images = self.image_service();
        match self.limited(images.remove_image(request)).await? {
            Ok(_) => Ok(()),
            // Already removed.
            Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
            Err(status) => Err(self.failure(status, &[]).await),
        }
    }

    pub(super) async fn image_filesystems(&self) -> Result<Vec<FilesystemUsage>, Failure> {
        let mut images = self.image_service();
        let info = images.image_fs_info(ImageFsInfoRequest {});
        Ok(self.within(info).await?.image_filesystems)
    }

    async fn within<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        match self.limited(call).await? {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(self.failure(status, &[]).await),
        }
    }

    async fn limited<T>(&self, call: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::time::timeout(self.timeout, call).await.map_err(|_| {
            let cause = format!("timed out after {} s", self.timeout.as_secs_f64());
            unavailable(&self.socket, &cause)
        })
    }

    async fn failure(&self, status: Status, secrets: &[&str]) -> Failure {
        if is_unserved(&status) {
            return self.unsupported().await;
        }
        failure_of_status(&status, &self.socket, secrets)
    }

    /// The failure for a runtime that does not serve CRI v1; CRI v1alpha2 is asked for its name.
    async fn unsupported(&self) -> Failure {
        let socket = self.socket.display();
        let old = tokio::time::timeout(self.timeout, self.version_v1alpha2()).await;
        let message = match old {
            Ok(Ok(version)) => format!(
                "{} {} at {socket} serves only CRI v1alpha2; CRI v1 is needed (containerd 1.6 or \
                 CRI-O 1.20 at least)",
                version.runtime_name, version.runtime_version,
            ),
            _ => format!(
                "the server at {socket} does not serve CRI v1; if it is containerd, remove \"cri\" \
                 from disabled_plugins in /etc/containerd/config.toml and restart it, or name \
                 another socket"
            ),
        };
        Failure::new(Reason::RuntimeUnsupported, message)
    }

    /// `Version` of CRI v1alpha2, whose messages have the same fields.
    async fn version_v1alpha2(&self) -> Result<VersionResponse, Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel());
        grpc.ready()
            .await
            .map_err(|error| Status::from_error(error.into()))?;
        let request = Request::new(VersionRequest {
            version: "v1alpha2".to_owned(),
        });
        let path = PathAndQuery::from_static("/runtime.v1alpha2.RuntimeService/Version");
        let codec = tonic_prost::ProstCodec::default();
        Ok(grpc.unary(request, path, codec).await?.into_inner())
    }

    fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX)
    }

    fn image_service(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX)
    }

    /// The channel. It connects on first use, and again after the connection is lost.
    ///
    /// It sends no keep-alive pings: Go's gRPC servers close connections that ping more often than
    /// every five minutes, and the kernel reports a closed local peer at once.
    pub(crate) fn channel(&self) -> Channel {
        let connect = || {
            let socket = self.socket.clone();
            let connector = tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            });
            Endpoint::from_static(AUTHORITY)
                .connect_timeout(CONNECT_TIMEOUT)
                .connect_with_connector_lazy(connector)
        };
        self.channel.get_or_init(connect).clone()
    }
}

fn spec(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.to_owned(),
        ..ImageSpec::default()
    }
}

/// Every secret in the credentials, also in the form of an HTTP header.
fn secrets_of(auth: AuthConfig) -> [String; 5] {
    let header = STANDARD.encode(format!("{}:{}", auth.username, auth.password));
    [
        auth.password,
        auth.auth,
        auth.identity_token,
        auth.registry_token,
        header,
    ]
}

/// The credentials in CRI's form.
///
/// `server_address` stays empty, as in the kubelet: containerd drops credentials whose address is not
/// literally the host it connects to, and for Docker Hub and mirrors it is not.
fn auth_config(auth: &RegistryAuth) -> AuthConfig {
    match auth {
        RegistryAuth::Basic { username, password } => AuthConfig {
            username: username.clone(),
            password: password.expose_secret().to_owned(),
            ..AuthConfig::default()
        },
        RegistryAuth::IdentityToken(token) => AuthConfig {
            identity_token: token.expose_secret().to_owned(),
            ..AuthConfig::default()
        },
        RegistryAuth::RegistryToken(token) => AuthConfig {
            registry_token: token.expose_secret().to_owned(),
            ..AuthConfig::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_credentials_has_its_field() {
        let basic = auth_config(&RegistryAuth::Basic {
            username: "ann".to_owned(),
            password: "hush".into(),
        });
        assert_eq!((&*basic.username, &*basic.password), ("ann", "hush"));
        assert_eq!(basic.auth, "");

        let identity = auth_config(&RegistryAuth::IdentityToken("refresh".into()));
        assert_eq!(identity.identity_token, "refresh");
        let registry = auth_config(&RegistryAuth::RegistryToken("bearer".into()));
        assert_eq!(registry.registry_token, "bearer");
    }

    #[test]
    fn debug_shows_no_secret() {
        let auth = auth_config(&RegistryAuth::Basic {
            username: "ann".to_owned(),
            password: "hush".into(),
        });
        let request = super::super::proto::PullImageRequest {
            image: None,
            auth: Some(auth),
        };
        assert!(!format!("{request:?}").contains("hush"));
    }
}
