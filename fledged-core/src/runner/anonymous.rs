//! Delays that registries asked for of requests without credentials.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::error::{Failure, Reason};
use crate::model::ImageRef;
use crate::port::Clock;
use crate::time::{after, between};

/// Until when registries want no requests without credentials from this node.
///
/// A pull whose credentials can't be read for now is tried without any, and its image is soon due again. The delay
/// that a registry then asks for concerns only requests without credentials: it must not keep the image waiting once
/// its credentials can be read, and must not be forgotten while they can't.
#[derive(Debug, Default)]
pub(super) struct AnonymousDelays(Mutex<BTreeMap<String, Timestamp>>);

impl AnonymousDelays {
    /// Makes a request without credentials, unless the registry of the image still wants none.
    ///
    /// # Errors
    ///
    /// That of the request, or [`Reason::TooManyRequests`] with the time that is left.
    pub(super) async fn keep<T>(
        &self,
        image: &ImageRef,
        clock: &dyn Clock,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let registry = image.registry();
        let now = clock.now();
        let until = self.delays().get(registry).copied();
        if let Some(until) = until.filter(|until| *until > now) {
            let left = between(now, until);
            let message = format!(
                "not started: registry {registry} asked for {} s more without anonymous requests",
                left.as_secs()
            );
            let failure = Failure::new(Reason::TooManyRequests, message);
            return Err(failure.with_retry_after(Some(left)));
        }
        let result = request.await;
        if let Err(failure) = &result
            && failure.reason == Reason::TooManyRequests
            && let Some(asked) = failure.retry_after
        {
            let now = clock.now();
            let mut delays = self.delays();
            delays.retain(|_, until| *until > now);
            delays.insert(registry.to_owned(), after(now, asked));
        }
        result
    }

    fn delays(&self) -> MutexGuard<'_, BTreeMap<String, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
