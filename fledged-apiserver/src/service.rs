//! The API server as a service: requests are function calls, without a socket.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::api::{Api, Request, refusal, serve};
use crate::control::Control;
use crate::error::{ApiError, StartError};
use crate::garbage_collector::collect;
use crate::object_store::FollowUp;

/// The largest body of a request, in bytes.
const BODY_LIMIT: usize = 3 * 1024 * 1024;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The body of a response: whole, or a stream of events.
pub type ResponseBody = UnsyncBoxBody<Bytes, Infallible>;

/// A Kubernetes API server as a [`tower::Service`], without a socket.
///
/// [`kube::Client::new`] takes it. The service waits for nothing but tokio timers, except with `pods/proxy`, so it works on
/// paused time (`#[tokio::test(start_paused = true)]`): when every task waits, time advances at once.
///
/// Clones serve the same objects. The garbage collector ends when the last clone is dropped.
#[derive(Clone)]
pub struct Service {
    control: Control,
    reachable: Arc<AtomicBool>,
    _collector: Arc<DropGuard>,
}

impl Service {
    /// Serves an API, and starts its garbage collector.
    pub(crate) fn start(
        api: Arc<Api>,
        follow_ups: mpsc::UnboundedReceiver<FollowUp>,
    ) -> Result<Self, StartError> {
        let runtime = Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let end = CancellationToken::new();
        let (collecting, ending) = (Arc::clone(&api), end.clone());
        runtime.spawn(async move {
            ending
                .run_until_cancelled(collect(collecting, follow_ups))
                .await;
        });
        Ok(Self {
            control: Control { api },
            reachable: Arc::new(AtomicBool::new(true)),
            _collector: Arc::new(end.drop_guard()),
        })
    }

    /// A client of the service, with `default` as its namespace.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.clone(), "default")
    }

    /// Makes the service unreachable: watches end, and requests fail with "connection refused". Objects stay.
    pub fn down(&self) {
        self.reachable.store(false, Ordering::SeqCst);
        self.cut_watches();
    }

    /// Makes the service reachable again.
    pub fn up(&self) {
        self.reachable.store(true, Ordering::SeqCst);
    }

    /// Responds to a request, once its whole body is read.
    pub(crate) async fn respond<B>(
        control: Control,
        request: http::Request<B>,
    ) -> http::Response<ResponseBody>
    where
        B: hyper::body::Body<Error: Into<Error>>,
    {
        let (parts, body) = request.into_parts();
        match Limited::new(body, BODY_LIMIT).collect().await {
            Ok(body) => serve(&control.api, &Request::new(parts, body.to_bytes())).await,
            Err(error) if error.is::<LengthLimitError>() => {
                refusal(&ApiError::too_large_body(BODY_LIMIT))
            }
            Err(error) => refusal(&ApiError::bad_request(format!(
                "the body cannot be read: {error}"
            ))),
        }
    }
}

impl Deref for Service {
    type Target = Control;

    fn deref(&self) -> &Control {
        &self.control
    }
}

impl<B> tower::Service<http::Request<B>> for Service
where
    B: hyper::body::Body<Data: Send, Error: Into<Error>> + Send + 'static,
{
    type Response = http::Response<ResponseBody>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let (control, reachable) = (self.control.clone(), Arc::clone(&self.reachable));
        Box::pin(async move {
            if !reachable.load(Ordering::SeqCst) {
                let message = "the API server is down";
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, message));
            }
            Ok(Self::respond(control, request).await)
        })
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}
