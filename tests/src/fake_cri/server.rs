//! The gRPC services of a fake runtime.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::stream::{self, Iter};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::{Request, Response, Status};

use super::state::{CriRequest, Interface, SentAuth, State};
use crate::cri_proto::image_service_server::ImageService;
use crate::cri_proto::runtime_service_server::RuntimeService;
use crate::cri_proto::{
    AuthConfig, ContainerStatusRequest, ContainerStatusResponse, FilesystemIdentifier,
    FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse, ImageSpec, ImageStatusRequest,
    ImageStatusResponse, ListContainersRequest, ListContainersResponse, ListImagesRequest,
    ListImagesResponse, PullImageRequest, PullImageResponse, RemoveImageRequest,
    RemoveImageResponse, StatusRequest, StatusResponse, StreamImagesRequest, StreamImagesResponse,
    UInt64Value, VersionRequest, VersionResponse,
};

/// Images in one part of a streamed list.
const PART: usize = 100;

#[derive(Clone)]
pub(super) struct Services {
    state: Arc<Mutex<State>>,
    /// Whether pulls wait.
    held: watch::Receiver<bool>,
}

impl Services {
    pub(super) fn new(state: Arc<Mutex<State>>, held: watch::Receiver<bool>) -> Self {
        Self { state, held }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the request; an unresponsive runtime never answers it.
    async fn receive(&self, request: CriRequest) {
        let unresponsive = {
            let mut state = self.state();
            state.requests.push(request);
            state.unresponsive
        };
        if unresponsive {
            std::future::pending::<()>().await;
        }
    }
}

/// A running pull; a pull that is dropped before its end counts as cancelled.
struct Pull<'a> {
    services: &'a Services,
    ended: bool,
}

impl<'a> Pull<'a> {
    fn begin(services: &'a Services) -> Self {
        services.state().pulls_running += 1;
        Self {
            services,
            ended: false,
        }
    }
}

impl Drop for Pull<'_> {
    fn drop(&mut self) {
        let mut state = self.services.state();
        state.pulls_running -= 1;
        if !self.ended {
            state.pulls_cancelled += 1;
        }
    }
}

#[tonic::async_trait]
impl RuntimeService for Services {
    async fn version(
        &self,
        _request: Request<VersionRequest>,
    ) -> Result<Response<VersionResponse>, Status> {
        self.receive(CriRequest::Version).await;
        let version = match self.state().interface {
            Interface::V1Alpha2 => "v1alpha2",
            _ => "v1",
        };
        let (runtime_name, runtime_version) = self.state().runtime.clone();
        Ok(Response::new(VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name,
            runtime_version,
            runtime_api_version: version.to_owned(),
        }))
    }

    async fn list_containers(
        &self,
        _request: Request<ListContainersRequest>,
    ) -> Result<Response<ListContainersResponse>, Status> {
        self.receive(CriRequest::ListContainers).await;
        let containers = self
            .state()
            .containers
            .iter()
            .map(|c| c.to_proto())
            .collect();
        Ok(Response::new(ListContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Result<Response<ContainerStatusResponse>, Status> {
        let id = request.into_inner().container_id;
        self.receive(CriRequest::ContainerStatus(id.clone())).await;
        let state = self.state();
        let container = state.containers.iter().find(|c| c.id == id);
        let status = container.map(|container| container.status());
        match status {
            Some(status) => Ok(Response::new(ContainerStatusResponse {
                status: Some(status),
            })),
            None => Err(Status::not_found(id)),
        }
    }

    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        self.receive(CriRequest::Status).await;
        let config = self.state().config.clone();
        let info = config.map(|config| ("config".to_owned(), config));
        Ok(Response::new(StatusResponse {
            info: info.into_iter().collect(),
        }))
    }
}

#[tonic::async_trait]
impl ImageService for Services {
    type StreamImagesStream = Iter<std::vec::IntoIter<Result<StreamImagesResponse, Status>>>;

    async fn list_images(
        &self,
        _request: Request<ListImagesRequest>,
    ) -> Result<Response<ListImagesResponse>, Status> {
        self.receive(CriRequest::ListImages).await;
        let images = self.state().images.iter().map(|i| i.to_proto()).collect();
        Ok(Response::new(ListImagesResponse { images }))
    }

    async fn stream_images(
        &self,
        _request: Request<StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        self.receive(CriRequest::StreamImages).await;
        let parts: Vec<_> = self
            .state()
            .images
            .chunks(PART)
            .map(|part| {
                let images = part.iter().map(|i| i.to_proto()).collect();
                Ok(StreamImagesResponse { images })
            })
            .collect();
        Ok(Response::new(stream::iter(parts)))
    }

    async fn image_status(
        &self,
        request: Request<ImageStatusRequest>,
    ) -> Result<Response<ImageStatusResponse>, Status> {
        let name = name_of(request.into_inner().image);
        self.receive(CriRequest::ImageStatus(name.clone())).await;
        let image = self.state().find(&name).map(|image| image.to_proto());
        Ok(Response::new(ImageStatusResponse { image }))
    }

    async fn pull_image(
        &self,
        request: Request<PullImageRequest>,
    ) -> Result<Response<PullImageResponse>, Status> {
        let request = request.into_inner();
        let image = name_of(request.image);
        let received = CriRequest::PullImage {
            image: image.clone(),
            auth: request.auth.map(sent),
        };
        let mut pull = Pull::begin(self);
        self.receive(received).await;
        // An error means that the fake was dropped, which cuts off the held pull.
        let _ = self.held.clone().wait_for(|held| !held).await;
        let answer = {
            let mut state = self.state();
            match state.pull_failures.pop_front() {
                Some((code, text)) => Err(Status::new(code, text)),
                None => Ok(state.pulled(&image)),
            }
        };
        pull.ended = true;
        answer.map(|image_ref| Response::new(PullImageResponse { image_ref }))
    }

    async fn remove_image(
        &self,
        request: Request<RemoveImageRequest>,
    ) -> Result<Response<RemoveImageResponse>, Status> {
        let name = name_of(request.into_inner().image);
        self.receive(CriRequest::RemoveImage(name.clone())).await;
        self.state().remove(&name)?;
        Ok(Response::new(RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _request: Request<ImageFsInfoRequest>,
    ) -> Result<Response<ImageFsInfoResponse>, Status> {
        self.receive(CriRequest::ImageFsInfo).await;
        let usage = |(mountpoint, used): &(String, u64)| FilesystemUsage {
            fs_id: Some(FilesystemIdentifier {
                mountpoint: mountpoint.clone(),
            }),
            used_bytes: Some(UInt64Value { value: *used }),
        };
        let image_filesystems = self.state().filesystems.iter().map(usage).collect();
        Ok(Response::new(ImageFsInfoResponse { image_filesystems }))
    }
}

fn name_of(spec: Option<ImageSpec>) -> String {
    spec.map(|spec| spec.image).unwrap_or_default()
}

fn sent(auth: AuthConfig) -> SentAuth {
    SentAuth {
        username: auth.username,
        password: auth.password,
        server_address: auth.server_address,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    }
}

/// Shows a client only the interface version that the fake serves.
#[derive(Clone)]
pub(super) struct Shown<S> {
    inner: S,
    state: Arc<Mutex<State>>,
}

impl<S> Shown<S> {
    pub(super) fn new(inner: S, state: Arc<Mutex<State>>) -> Self {
        Self { inner, state }
    }
}

type Answer<R, E> = Pin<Box<dyn Future<Output = Result<R, E>> + Send>>;

impl<S> tower::Service<http::Request<Body>> for Shown<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answer<S::Response, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let interface = self
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .interface;
        match inner_path(interface, request.uri().path()) {
            Ok(path) => {
                *request.uri_mut() = path.parse().expect("a path of its own proto");
                Box::pin(self.inner.call(request))
            }
            Err(status) => Box::pin(async move { Ok(status.into_http()) }),
        }
    }
}

/// Returns the path of a request within the fake, or the error that Go's gRPC servers return.
fn inner_path(interface: Interface, path: &str) -> Result<String, Status> {
    let (service, method) = path
        .trim_start_matches('/')
        .split_once('/')
        .unwrap_or((path, ""));
    let unknown = || Err(Status::unimplemented(format!("unknown service {service}")));
    match (interface, service.strip_prefix("runtime.")) {
        (Interface::V1, Some("v1.ImageService")) if method == "StreamImages" => Err(
            Status::unimplemented(format!("unknown method {method} for service {service}")),
        ),
        (Interface::V1 | Interface::V1Streaming, Some(name)) if name.starts_with("v1.") => {
            Ok(path.to_owned())
        }
        // The messages of both versions have the same fields.
        (Interface::V1Alpha2, Some(name)) if name.starts_with("v1alpha2.") => {
            Ok(path.replace(".v1alpha2.", ".v1."))
        }
        _ => unknown(),
    }
}
