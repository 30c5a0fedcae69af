//! An image runtime in memory, in real time, and a registry that several runtimes share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ByteSize, Digest, ImageRef};
use fledged_core::port::{
    FilesystemUsage, ImageId, ImageRuntime, ImageUse, PullProgress, PullRequest, RegistryAuth,
    Removal, RemovalScope, RuntimeImage, RuntimeInfo,
};
use secrecy::ExposeSecret;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

#[derive(Debug, Clone)]
struct Published {
    content: String,
    /// User and password of a private image.
    private: Option<(String, String)>,
    failure: Option<Failure>,
    /// Whether pulls never end.
    stalled: bool,
}

/// The images that can be pulled. Clones share their state.
#[derive(Debug, Clone, Default)]
pub struct MemoryRegistry(Arc<Mutex<BTreeMap<ImageRef, Published>>>);

impl MemoryRegistry {
    /// Publishes content under a reference, or moves the reference to it.
    pub fn publish(&self, reference: &str, content: &str) {
        self.put(reference, |published| {
            content.clone_into(&mut published.content)
        });
    }

    /// Makes an image private: only this user can pull it.
    pub fn protect(&self, reference: &str, user: &str, password: &str) {
        let login = (user.to_owned(), password.to_owned());
        self.put(reference, |published| published.private = Some(login));
    }

    /// Makes pulls of an image fail with this reason.
    pub fn fail(&self, reference: &str, reason: Reason) {
        let failure = Failure::new(reason, format!("injected: {reason}"));
        self.put(reference, |published| published.failure = Some(failure));
    }

    /// Makes pulls of an image succeed again.
    pub fn mend(&self, reference: &str) {
        self.put(reference, |published| published.failure = None);
    }

    /// Makes pulls of an image never end; publishes it if it is new.
    pub fn stall(&self, reference: &str) {
        self.put(reference, |published| published.stalled = true);
    }

    fn put(&self, reference: &str, change: impl FnOnce(&mut Published)) {
        let mut all = self.0.lock().unwrap();
        let published = all.entry(parse(reference)).or_insert_with(|| Published {
            content: reference.to_owned(),
            private: None,
            failure: None,
            stalled: false,
        });
        change(published);
    }

    fn find(&self, request: &PullRequest) -> Result<Published, Failure> {
        let found = self.0.lock().unwrap().get(&request.image).cloned();
        let Some(published) = found else {
            return Err(Failure::new(Reason::ImageNotFound, "manifest unknown"));
        };
        if let Some(failure) = published.failure {
            return Err(failure);
        }
        let login = match &request.auth {
            Some(RegistryAuth::Basic { username, password }) => {
                Some((username.clone(), password.expose_secret().to_owned()))
            }
            _ => None,
        };
        match &published.private {
            Some(wanted) if login.as_ref() != Some(wanted) => Err(Failure::new(
                Reason::Unauthorized,
                "authentication required",
            )),
            _ => Ok(published),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    images: BTreeMap<ImageRef, String>,
    in_use: BTreeSet<ImageRef>,
    pulls: Vec<ImageRef>,
    readings: usize,
    first_pull: Option<Instant>,
    last_pulled: Option<Instant>,
}

/// An [`ImageRuntime`] in memory. Clones share their state.
#[derive(Debug, Clone)]
pub struct MemoryRuntime {
    registry: MemoryRegistry,
    state: Arc<Mutex<State>>,
    pull: Duration,
    open: Arc<watch::Sender<bool>>,
    progress: Arc<watch::Sender<Option<PullProgress>>>,
}

impl MemoryRuntime {
    /// Returns an empty runtime whose pulls take `pull`.
    #[must_use]
    pub fn new(registry: MemoryRegistry, pull: Duration) -> Self {
        Self {
            registry,
            state: Arc::default(),
            pull,
            open: Arc::new(watch::Sender::new(true)),
            progress: Arc::new(watch::Sender::new(None)),
        }
    }

    /// Whether the runtime holds an image.
    #[must_use]
    pub fn holds(&self, reference: &str) -> bool {
        self.state().images.contains_key(&parse(reference))
    }

    /// The references of all images, sorted.
    #[must_use]
    pub fn held(&self) -> Vec<String> {
        let state = self.state();
        state
            .images
            .keys()
            .map(|image| image.as_str().to_owned())
            .collect()
    }

    /// The content of an image it holds.
    #[must_use]
    pub fn content(&self, reference: &str) -> Option<String> {
        self.state().images.get(&parse(reference)).cloned()
    }

    /// The first `count` images, as the runtime lists them.
    #[must_use]
    pub fn first(&self, count: usize) -> Vec<RuntimeImage> {
        let mut state = self.state();
        state.readings += 1;
        let firsts: Vec<ImageRef> = state.images.keys().take(count).cloned().collect();
        let images = firsts.iter().filter_map(|image| Self::image(&state, image));
        images.collect()
    }

    /// The digest of an image it holds.
    #[must_use]
    pub fn digest(&self, reference: &str) -> Option<Digest> {
        Self::image(&self.state(), &parse(reference))?.digest
    }

    /// The number of started pulls of an image.
    #[must_use]
    pub fn pulls(&self, reference: &str) -> usize {
        let image = parse(reference);
        self.state().pulls.iter().filter(|p| **p == image).count()
    }

    /// Start of the first pull.
    #[must_use]
    pub fn first_pull(&self) -> Option<Instant> {
        self.state().first_pull
    }

    /// End of the last successful pull.
    #[must_use]
    pub fn last_pulled(&self) -> Option<Instant> {
        self.state().last_pulled
    }

    /// The number of calls of `list`.
    #[must_use]
    pub fn readings(&self) -> usize {
        self.state().readings
    }

    /// Adds an image without a pull.
    pub fn preload(&self, reference: &str, content: &str) {
        self.state()
            .images
            .insert(parse(reference), content.to_owned());
    }

    /// Removes an image as the kubelet's garbage collection does.
    pub fn evict(&self, reference: &str) {
        self.state().images.remove(&parse(reference));
    }

    /// Sets whether a container uses an image.
    pub fn set_in_use(&self, reference: &str, used: bool) {
        let mut state = self.state();
        match used {
            true => state.in_use.insert(parse(reference)),
            false => state.in_use.remove(&parse(reference)),
        };
    }

    /// Holds pulls, or resumes them.
    pub fn hold_pulls(&self, hold: bool) {
        self.open.send_replace(!hold);
    }

    /// Reports this progress of pulls that are [held](Self::hold_pulls), in bytes.
    pub fn report_progress(&self, done: u64, total: u64) {
        let progress = PullProgress::new(ByteSize::new(done), ByteSize::new(total));
        self.progress.send_replace(Some(progress));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn image(state: &State, reference: &ImageRef) -> Option<RuntimeImage> {
        let content = state.images.get(reference)?;
        let same = state.images.iter().filter(|(_, other)| *other == content);
        let hash: String = Sha256::digest(content.as_bytes())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Some(
            RuntimeImage::new(
                content.clone(),
                same.map(|(reference, _)| reference.clone()),
            )
            .with_digest(Digest::parse(&format!("sha256:{hash}")).ok())
            .with_size(ByteSize::new(10_000_000)),
        )
    }
}

#[async_trait]
impl ImageRuntime for MemoryRuntime {
    async fn info(&self) -> Result<RuntimeInfo, Failure> {
        Ok(RuntimeInfo::new("memory", "1", RemovalScope::Image).with_api_version("1"))
    }

    async fn list(&self) -> Result<Vec<RuntimeImage>, Failure> {
        let mut state = self.state();
        state.readings += 1;
        let mut known = BTreeSet::new();
        let first = |(reference, content): (&ImageRef, &String)| {
            known.insert(content.clone()).then(|| reference.clone())
        };
        let firsts: Vec<ImageRef> = state.images.iter().filter_map(first).collect();
        Ok(firsts
            .iter()
            .filter_map(|reference| Self::image(&state, reference))
            .collect())
    }

    async fn lookup(&self, image: &ImageRef) -> Result<Option<RuntimeImage>, Failure> {
        Ok(Self::image(&self.state(), image))
    }

    async fn in_use(&self) -> Result<Vec<ImageUse>, Failure> {
        let state = self.state();
        let contents = state
            .in_use
            .iter()
            .filter_map(|image| state.images.get(image));
        Ok(contents.cloned().map(|id| ImageId(id).into()).collect())
    }

    async fn pull(&self, request: PullRequest) -> Result<RuntimeImage, Failure> {
        let image = request.image.clone();
        {
            let mut state = self.state();
            state.first_pull.get_or_insert_with(Instant::now);
            state.pulls.push(image.clone());
        }
        let mut open = self.open.subscribe();
        let mut progress = self.progress.subscribe();
        progress.mark_changed();
        loop {
            tokio::select! {
                _ = open.wait_for(|open| *open) => break,
                _ = progress.changed() => {
                    if let Some(progress) = *progress.borrow_and_update() {
                        request.progress.report(progress);
                    }
                }
            }
        }
        if !self.pull.is_zero() {
            tokio::time::sleep(self.pull).await;
        }
        let published = self.registry.find(&request)?;
        if published.stalled {
            std::future::pending::<()>().await;
        }
        let mut state = self.state();
        state.images.insert(image.clone(), published.content);
        state.last_pulled = Some(Instant::now());
        Ok(Self::image(&state, &image).unwrap())
    }

    async fn remove(&self, image: &ImageRef) -> Result<Removal, Failure> {
        let mut state = self.state();
        let Some(content) = state.images.get(image).cloned() else {
            return Ok(Removal::Absent);
        };
        let used = state
            .in_use
            .iter()
            .any(|used| state.images.get(used) == Some(&content));
        if used {
            return Ok(Removal::InUse("a container".to_owned()));
        }
        state.images.retain(|_, other| *other != content);
        Ok(Removal::Removed)
    }

    async fn filesystems(&self) -> Result<Vec<FilesystemUsage>, Failure> {
        Ok(Vec::new())
    }
}

fn parse(reference: &str) -> ImageRef {
    reference.parse().unwrap_or_else(|error| panic!("{error}"))
}
