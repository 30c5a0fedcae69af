//! A runtime in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ByteSize, ImageRef};
use fledged_core::port::{
    Clock, FilesystemUsage, ImageRuntime, ImageUse, PullRequest, RegistryAuth, Removal,
    RemovalScope, RuntimeImage, RuntimeInfo,
};

#[derive(Default)]
struct State {
    held: BTreeSet<ImageRef>,
    pulls: Vec<ImageRef>,
    users: BTreeMap<ImageRef, String>,
    failing: BTreeMap<ImageRef, Failure>,
    pull_time: Duration,
    unreadable: bool,
    panics: bool,
}

/// A runtime in memory. Clones share their state.
#[derive(Clone)]
pub(crate) struct FakeRuntime {
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<State>>,
}

impl FakeRuntime {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            state: Arc::default(),
        }
    }

    /// Sets the duration of a pull.
    pub(crate) fn set_pull_time(&self, time: Duration) {
        self.state.lock().unwrap().pull_time = time;
    }

    pub(crate) fn hold(&self, image: &ImageRef) {
        self.state.lock().unwrap().held.insert(image.clone());
    }

    pub(crate) fn lose(&self, image: &ImageRef) {
        self.state.lock().unwrap().held.remove(image);
    }

    pub(crate) fn holds(&self, image: &ImageRef) -> bool {
        self.state.lock().unwrap().held.contains(image)
    }

    /// Makes pulls of an image fail.
    pub(crate) fn fail(&self, image: &ImageRef, reason: Reason, message: &str) {
        let failure = Failure::new(reason, message);
        self.state
            .lock()
            .unwrap()
            .failing
            .insert(image.clone(), failure);
    }

    /// Sets whether reading the inventory fails.
    pub(crate) fn set_unreadable(&self, unreadable: bool) {
        self.state.lock().unwrap().unreadable = unreadable;
    }

    /// Makes the next reading of the inventory panic.
    pub(crate) fn panic(&self) {
        self.state.lock().unwrap().panics = true;
    }

    /// The user of the last pull; nothing for an anonymous pull.
    pub(crate) fn user_of(&self, image: &ImageRef) -> Option<String> {
        self.state.lock().unwrap().users.get(image).cloned()
    }

    /// The started pulls.
    pub(crate) fn pulls(&self) -> Vec<ImageRef> {
        self.state.lock().unwrap().pulls.clone()
    }
}

fn described(image: &ImageRef) -> RuntimeImage {
    RuntimeImage::new(image.as_str(), [image.clone()]).with_size(ByteSize::new(50_000_000))
}

#[async_trait]
impl ImageRuntime for FakeRuntime {
    async fn info(&self) -> Result<RuntimeInfo, Failure> {
        Ok(RuntimeInfo::new("fake", "1", RemovalScope::Reference).with_api_version("v1"))
    }

    async fn list(&self) -> Result<Vec<RuntimeImage>, Failure> {
        let (panics, unreadable, held) = {
            let state = self.state.lock().unwrap();
            (state.panics, state.unreadable, state.held.clone())
        };
        assert!(!panics, "the fake runtime broke");
        if unreadable {
            let failure = Failure::new(Reason::RuntimeUnavailable, "socket gone");
            return Err(failure);
        }
        Ok(held.iter().map(described).collect())
    }

    async fn lookup(&self, image: &ImageRef) -> Result<Option<RuntimeImage>, Failure> {
        Ok(self.holds(image).then(|| described(image)))
    }

    async fn in_use(&self) -> Result<Vec<ImageUse>, Failure> {
        Ok(Vec::new())
    }

    async fn pull(&self, request: PullRequest) -> Result<RuntimeImage, Failure> {
        let image = request.image;
        let (time, failure) = {
            let mut state = self.state.lock().unwrap();
            state.pulls.push(image.clone());
            if let Some(RegistryAuth::Basic { username, .. }) = request.auth {
                state.users.insert(image.clone(), username);
            }
            (state.pull_time, state.failing.get(&image).cloned())
        };
        self.clock.sleep(time).await;
        if let Some(failure) = failure {
            return Err(failure);
        }
        self.hold(&image);
        Ok(described(&image))
    }

    async fn remove(&self, image: &ImageRef) -> Result<Removal, Failure> {
        self.lose(image);
        Ok(Removal::Removed)
    }

    async fn filesystems(&self) -> Result<Vec<FilesystemUsage>, Failure> {
        Ok(Vec::new())
    }
}
