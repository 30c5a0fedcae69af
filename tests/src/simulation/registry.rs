//! The registries of a simulation: what each reference names, and how requests fail.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{Digest, ImageRef};
use fledged_core::port::{ImageId, PullRequest, RegistryAuth};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

/// What a reference names.
#[derive(Debug, Clone)]
pub(super) struct Published {
    /// References with equal content name the same image.
    pub(super) content: String,
    pub(super) bytes: u64,
    /// Whether a pull needs credentials.
    pub(super) private: bool,
    /// Whether pulls never end.
    pub(super) stalled: bool,
    /// Until when the registry does not have it.
    missing_until: Option<Instant>,
}

impl Published {
    /// A public image.
    pub(super) fn new(content: impl Into<String>, bytes: u64) -> Self {
        Self {
            content: content.into(),
            bytes,
            private: false,
            stalled: false,
            missing_until: None,
        }
    }

    /// The digest of the content.
    pub(super) fn digest(&self) -> Digest {
        digest_of(&self.content)
    }

    /// The identifier in a runtime.
    pub(super) fn id(&self) -> ImageId {
        ImageId(self.content.clone())
    }
}

pub(super) fn digest_of(content: &str) -> Digest {
    let hash = Sha256::digest(content.as_bytes());
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    Digest::parse(&format!("sha256:{hex}")).unwrap()
}

/// The user names that may pull private images. Each namespace has its own.
pub(super) fn login_of(namespace: &str) -> String {
    format!("user-of-{namespace}")
}

/// The namespace whose login has this user name.
pub(super) fn namespace_of(user: &str) -> Option<&str> {
    user.strip_prefix("user-of-")
}

/// All registries. Clones share their state.
#[derive(Clone, Default)]
pub(super) struct Registries(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    images: BTreeMap<ImageRef, Published>,
    /// Hosts that fail every request.
    failing: BTreeMap<String, (Instant, Reason)>,
    /// Hosts that throttle a user, or anonymous requests.
    throttling: BTreeMap<(String, Option<String>), Instant>,
    versions: u64,
}

impl Registries {
    pub(super) fn publish(&self, image: ImageRef, published: Published) {
        self.state().images.insert(image, published);
    }

    /// Makes a mutable tag name a new image.
    pub(super) fn republish(&self, image: &ImageRef) {
        let mut state = self.state();
        state.versions += 1;
        let version = state.versions;
        if let Some(published) = state.images.get_mut(image) {
            published.content = format!("{}@v{version}", image.as_str());
        }
    }

    /// Makes a registry answer as if it did not have the image.
    pub(super) fn lose(&self, image: &ImageRef, until: Instant) {
        if let Some(published) = self.state().images.get_mut(image) {
            published.missing_until = Some(until);
        }
    }

    /// Makes every request to a host fail.
    pub(super) fn fail(&self, host: &str, until: Instant, reason: Reason) {
        let failing = (until, reason);
        self.state().failing.insert(host.to_owned(), failing);
    }

    /// Makes a host throttle the requests of one user, or anonymous ones.
    pub(super) fn throttle(&self, host: &str, user: Option<String>, until: Instant) {
        let throttled = (host.to_owned(), user);
        self.state().throttling.insert(throttled, until);
    }

    /// Ends all faults; pulls that never end stay so.
    pub(super) fn heal(&self) {
        let mut state = self.state();
        state.failing.clear();
        state.throttling.clear();
        for published in state.images.values_mut() {
            published.missing_until = None;
        }
    }

    /// The image that a pull gets.
    pub(super) fn resolve(&self, request: &PullRequest) -> Result<Published, Failure> {
        let (state, now) = (self.state(), Instant::now());
        let host = request.image.registry();
        if let Some((until, reason)) = state.failing.get(host)
            && now < *until
        {
            return Err(Failure::new(*reason, format!("{host}: {reason}")));
        }
        let user = match &request.auth {
            Some(RegistryAuth::Basic { username, .. }) => Some(username.clone()),
            _ => None,
        };
        if let Some(until) = state.throttling.get(&(host.to_owned(), user.clone()))
            && now < *until
        {
            let left = (*until - now).min(Duration::from_secs(300));
            let failure = Failure::new(Reason::TooManyRequests, "429 Too Many Requests");
            return Err(failure.with_retry_after(Some(left)));
        }
        let found = state.images.get(&request.image);
        let found = found.filter(|found| found.missing_until.is_none_or(|until| now >= until));
        let Some(found) = found else {
            return Err(Failure::new(Reason::ImageNotFound, "manifest unknown"));
        };
        let known = user.is_some_and(|user| namespace_of(&user).is_some());
        if found.private && !known {
            return Err(Failure::new(Reason::Unauthorized, "401 Unauthorized"));
        }
        Ok(found.clone())
    }

    /// The content of a reference.
    pub(super) fn get(&self, image: &ImageRef) -> Option<Published> {
        self.state().images.get(image).cloned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
