//! A response body that is counted and can be cut.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use tower::BoxError;

use crate::meter::Shared;

/// A response body that is counted and can be cut.
pub(crate) struct MeteredBody<B> {
    inner: Pin<Box<B>>,
    shared: Arc<Shared>,
    cut: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_cut: bool,
    is_watch: bool,
}

impl<B> fmt::Debug for MeteredBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MeteredBody")
            .field("is_watch", &self.is_watch)
            .finish_non_exhaustive()
    }
}

impl<B> MeteredBody<B> {
    pub(crate) fn new(
        inner: B,
        shared: Arc<Shared>,
        mut cuts: watch::Receiver<u64>,
        is_watch: bool,
    ) -> Self {
        if is_watch {
            shared.watches.fetch_add(1, Ordering::Relaxed);
        }
        Self {
            inner: Box::pin(inner),
            shared,
            cut: Box::pin(async move {
                let _ = cuts.changed().await;
            }),
            is_cut: false,
            is_watch,
        }
    }
}

impl<B> Drop for MeteredBody<B> {
    fn drop(&mut self) {
        if self.is_watch {
            self.shared.watches.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl<B> Body for MeteredBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.is_cut {
            return Poll::Ready(None);
        }
        if self.is_watch && self.cut.as_mut().poll(context).is_ready() {
            self.is_cut = true;
            // The client may keep the body for a while, but the watch is no longer open.
            self.is_watch = false;
            self.shared.watches.fetch_sub(1, Ordering::Relaxed);
            let error = io::Error::from(io::ErrorKind::ConnectionReset);
            return Poll::Ready(Some(Err(error.into())));
        }
        let frame = ready!(self.inner.as_mut().poll_frame(context));
        let Some(frame) = frame else {
            return Poll::Ready(None);
        };
        if let Ok(frame) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            self.shared
                .received
                .fetch_add(bytes as u64, Ordering::Relaxed);
        }
        Poll::Ready(Some(frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
