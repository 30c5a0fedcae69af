//! Calls of containerd's services.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::cri::{Client, failure_of_status};

/// The namespace of the images of the CRI plugin.
const NAMESPACE: &str = "k8s.io";
/// Limit on each call that reads or changes only metadata.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The connection to containerd, in the namespace of the images of the CRI plugin.
#[derive(Debug, Clone)]
pub(super) struct Calls {
    channel: Channel,
    socket: PathBuf,
}

impl Calls {
    pub(super) fn new(client: &Client) -> Self {
        Self {
            channel: client.channel(),
            socket: client.socket().to_owned(),
        }
    }

    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// A request, under no lease.
    pub(super) fn request<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        let namespace = MetadataValue::from_static(NAMESPACE);
        request
            .metadata_mut()
            .insert("containerd-namespace", namespace);
        request
    }

    /// A request under that lease, which keeps what the call stores.
    pub(super) fn request_under<T>(lease: MetadataValue<Ascii>, message: T) -> Request<T> {
        let mut request = Self::request(message);
        request.metadata_mut().insert("containerd-lease", lease);
        request
    }

    /// Waits for the answer of a call.
    ///
    /// # Errors
    ///
    /// [`Reason::ImageNotFound`] for anything that is not found; [`Reason::RuntimeUnsupported`] if the server is not
    /// containerd.
    pub(super) async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        match within(call).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) if status.code() == Code::NotFound => {
                Err(Failure::new(Reason::ImageNotFound, status.message()))
            }
            Err(status) => Err(self.failure(&status)),
        }
    }

    /// Waits for the answer of a call, and returns whether the object was found.
    pub(super) async fn found<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<bool, Failure> {
        match within(call).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(self.failure(&status)),
        }
    }

    /// Waits for the answer of a call, and returns whether it was the one that created the object.
    pub(super) async fn created<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<bool, Failure> {
        match within(call).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == Code::AlreadyExists => Ok(false),
            Err(status) => Err(self.failure(&status)),
        }
    }

    pub(super) fn failure(&self, status: &Status) -> Failure {
        failure_of_status(status, &self.socket, &[])
    }
}

/// Limits the time of a call.
pub(super) async fn within<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let limited = tokio::time::timeout(CALL_TIMEOUT, call).await;
    limited.unwrap_or_else(|_| {
        Err(Status::deadline_exceeded(
            "containerd did not answer in time",
        ))
    })
}
