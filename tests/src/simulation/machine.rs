//! The machine of a node: an image runtime in memory, on paused time, with containers, other users and faults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ByteSize, Digest, ImageRef};
use fledged_core::port::{
    FilesystemUsage, ImageId, ImageRuntime, ImageUse, PullRequest, Removal, RemovalScope,
    RuntimeImage, RuntimeInfo,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::faults::Connection;
use super::ledger::LIST_MAX;
use super::ledger::Ledger;
use super::registry::{Published, Registries, digest_of};
use super::trace::Trace;

/// The size of a disk that never fills.
const LARGE: u64 = 1 << 40;
/// How often a pull that takes long looks at the state of the runtime.
const CHUNK: Duration = Duration::from_secs(20);
/// Most names of an image that a kubelet lists.
const NAMES_MAX: usize = 5;

#[derive(Debug, Clone)]
struct Stored {
    references: BTreeSet<ImageRef>,
    bytes: u64,
}

struct State {
    images: BTreeMap<ImageId, Stored>,
    /// Images that containers use.
    used: BTreeSet<ImageId>,
    pulling: usize,
    scope: RemovalScope,
    /// Bytes a second of each pull.
    speed: u64,
    disk: u64,
    /// Counts restarts of the runtime, which end its pulls.
    restarts: u64,
    down_until: Instant,
    failing: Option<(Instant, Reason)>,
    slow: Option<(Instant, u32)>,
    lying_until: Instant,
}

/// A machine. Its images outlive its agent.
pub(super) struct Machine {
    name: String,
    registries: Registries,
    ledger: Ledger,
    trace: Trace,
    state: Mutex<State>,
}

impl Machine {
    /// A machine with an empty runtime.
    pub(super) fn new(
        name: &str,
        scope: RemovalScope,
        registries: Registries,
        ledger: Ledger,
        trace: Trace,
    ) -> Arc<Self> {
        ledger.replaced(name);
        Arc::new(Self {
            name: name.to_owned(),
            registries,
            ledger,
            trace,
            state: Mutex::new(State {
                images: BTreeMap::new(),
                used: BTreeSet::new(),
                pulling: 0,
                scope,
                speed: 20_000_000,
                disk: LARGE,
                restarts: 0,
                down_until: Instant::now(),
                failing: None,
                slow: None,
                lying_until: Instant::now(),
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Restarts the runtime, which ends its pulls. It is away for this time.
    pub(super) fn restart(&self, away: Duration) {
        let mut state = self.state();
        state.restarts += 1;
        state.down_until = Instant::now() + away;
    }

    /// Makes pulls fail for this reason.
    pub(super) fn fail(&self, reason: Reason, lasting: Duration) {
        self.state().failing = Some((Instant::now() + lasting, reason));
    }

    /// Makes every call and every pull take this many times as long.
    pub(super) fn slow_down(&self, factor: u32, lasting: Duration) {
        self.state().slow = Some((Instant::now() + lasting, factor));
    }

    /// Makes pulls succeed without an image.
    pub(super) fn lie(&self, lasting: Duration) {
        self.state().lying_until = Instant::now() + lasting;
    }

    /// Sets the size of the disk; none: it never fills.
    pub(super) fn set_disk(&self, bytes: Option<u64>) {
        self.state().disk = bytes.unwrap_or(LARGE);
    }

    /// Ends all faults.
    pub(super) fn heal(&self) {
        let mut state = self.state();
        state.down_until = Instant::now();
        state.lying_until = Instant::now();
        (state.failing, state.slow, state.disk) = (None, None, LARGE);
    }

    /// A pod starts a container of the image; the kubelet pulls it if it is missing.
    pub(super) fn start_container(&self, image: &ImageRef) {
        self.pull_by_others(image);
        let mut state = self.state();
        if let Some(id) = state.find(image) {
            state.used.insert(id);
        }
    }

    /// The last container of the image ends.
    pub(super) fn stop_containers(&self, image: &ImageRef) {
        let mut state = self.state();
        if let Some(id) = state.find(image) {
            state.used.remove(&id);
        }
    }

    /// A program other than fledged pulls an image.
    pub(super) fn pull_by_others(&self, image: &ImageRef) {
        let mut state = self.state();
        if state.find(image).is_none()
            && let Some(published) = self.registries.get(image)
            && !published.stalled
        {
            self.store(&mut state, image, &published, false);
        }
    }

    /// An image is removed by another program than fledged, such as the kubelet.
    pub(super) fn evict(&self, image: &ImageRef) {
        let mut state = self.state();
        let Some(id) = state.find(image).filter(|id| !state.used.contains(id)) else {
            return;
        };
        let gone = state.images.remove(&id);
        self.ledger.lost(
            &self.name,
            gone.iter().flat_map(|stored| &stored.references),
        );
        self.trace
            .step(format_args!("{} evicts {image}", self.name));
    }

    /// The digest of an image that the runtime holds.
    pub(super) fn digest(&self, image: &ImageRef) -> Option<Digest> {
        Some(digest_of(&self.state().find(image)?.0))
    }

    /// The images that a kubelet reports: the largest ones, each with its digests before its tags. None while the
    /// runtime is away.
    pub(super) fn listed(&self) -> Option<Value> {
        let state = self.state();
        if Instant::now() < state.down_until {
            return None;
        }
        let mut images: Vec<&Stored> = state.images.values().collect();
        images.sort_by_key(|stored| std::cmp::Reverse(stored.bytes));
        let images = images.into_iter().take(LIST_MAX).map(|stored| {
            let names = stored.references.iter();
            let (digests, tags): (Vec<_>, Vec<_>) = names.partition(|name| name.digest().is_some());
            let names = digests.into_iter().chain(tags).take(NAMES_MAX);
            let names: Vec<&str> = names.map(ImageRef::as_str).collect();
            json!({ "names": names, "sizeBytes": stored.bytes })
        });
        Some(images.collect())
    }

    /// The kubelet's garbage collection: every image that no container uses is removed.
    pub(super) fn collect_garbage(&self) {
        let unused: Vec<ImageRef> = {
            let state = self.state();
            let unused = state
                .images
                .iter()
                .filter(|(id, _)| !state.used.contains(id));
            let firsts = unused.filter_map(|(_, stored)| stored.references.first().cloned());
            firsts.collect()
        };
        for image in unused {
            self.evict(&image);
        }
    }

    /// Whether it holds what the registry has under this name.
    pub(super) fn is_current(&self, image: &ImageRef) -> bool {
        let held = self.state().find(image);
        let published = self.registries.get(image);
        held.is_some() && held == published.map(|published| published.id())
    }

    /// The result of a pull after which the runtime does not hold the image.
    fn claim(&self, image: &ImageRef, published: &Published) -> RuntimeImage {
        self.ledger.lost(&self.name, [image]);
        let stored = Stored {
            references: BTreeSet::from([image.clone()]),
            bytes: published.bytes,
        };
        described(&published.id(), &stored)
    }

    fn store(
        &self,
        state: &mut State,
        image: &ImageRef,
        published: &Published,
        ours: bool,
    ) -> RuntimeImage {
        let id = published.id();
        // A mutable tag no longer names the old image, which stays with its digest.
        if let Some(old) = state.find(image).filter(|old| *old != id)
            && let Some(stored) = state.images.get_mut(&old)
        {
            stored.references.remove(image);
            if stored.references.is_empty() {
                state.images.remove(&old);
            }
        }
        let digest = format!("{}@{}", image.name(), published.digest());
        let names = [image.clone(), digest.parse().unwrap()];
        self.ledger.gained(&self.name, &names, ours);
        let stored = state.images.entry(id.clone()).or_insert_with(|| Stored {
            references: BTreeSet::new(),
            bytes: published.bytes,
        });
        stored.references.extend(names);
        described(&id, stored)
    }
}

impl State {
    fn find(&self, image: &ImageRef) -> Option<ImageId> {
        let mut images = self.images.iter();
        let found = images.find(|(_, stored)| stored.references.contains(image));
        found.map(|(id, _)| id.clone())
    }

    fn bytes_used(&self) -> u64 {
        self.images.values().map(|stored| stored.bytes).sum()
    }
}

fn described(id: &ImageId, stored: &Stored) -> RuntimeImage {
    RuntimeImage::new(id.clone(), stored.references.iter().cloned())
        .with_digest(digest_of(&id.0))
        .with_size(ByteSize::new(stored.bytes))
}

/// A machine as one incarnation of its agent uses it.
pub(super) struct AgentRuntime {
    machine: Arc<Machine>,
    connection: Connection,
    incarnation: u32,
    /// Whether its pulls are fledged's.
    ours: bool,
    /// What the last reading showed in use.
    seen_used: Mutex<BTreeSet<ImageId>>,
    /// When a reading began that first asked for what is in use.
    reading_since: Mutex<Option<Duration>>,
}

impl AgentRuntime {
    pub(super) fn new(machine: Arc<Machine>, connection: Connection, incarnation: u32) -> Self {
        Self {
            machine,
            connection,
            incarnation,
            ours: true,
            seen_used: Mutex::default(),
            reading_since: Mutex::default(),
        }
    }

    /// Sets whether its pulls are fledged's.
    pub(super) fn owned(mut self, ours: bool) -> Self {
        self.ours = ours;
        self
    }

    fn seen_used(&self) -> MutexGuard<'_, BTreeSet<ImageId>> {
        self.seen_used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn reading_since(&self) -> MutexGuard<'_, Option<Duration>> {
        self.reading_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the time of a call; fails while the runtime is away.
    async fn call(&self) -> Result<(), Failure> {
        let factor = {
            let (state, now) = (self.machine.state(), Instant::now());
            if now < state.down_until {
                let text = "connection refused: containerd.sock";
                return Err(Failure::new(Reason::RuntimeUnavailable, text));
            }
            let slow = state.slow.filter(|(until, _)| now < *until);
            slow.map_or(1, |(_, factor)| factor)
        };
        sleep(Duration::from_millis(20) * factor).await;
        Ok(())
    }

    async fn try_pull(&self, request: &PullRequest) -> Result<RuntimeImage, Failure> {
        let machine = &self.machine;
        let restarts = machine.state().restarts;
        self.call().await?;
        if let Some((until, reason)) = machine.state().failing
            && Instant::now() < until
        {
            // Runtimes repeat themselves, and pass on what registries send.
            let text = format!("injected: {reason} \u{1b}[31m\n").repeat(100);
            return Err(Failure::new(reason, text));
        }
        let published = machine.registries.resolve(request)?;
        let began = Instant::now();
        loop {
            let left = {
                let (state, now) = (machine.state(), Instant::now());
                if state.restarts > restarts {
                    let text = "the connection to containerd was closed";
                    return Err(Failure::new(Reason::RuntimeUnavailable, text));
                }
                if state.bytes_used() + published.bytes > state.disk {
                    let text = "no space left on device";
                    return Err(Failure::new(Reason::DiskFull, text));
                }
                let slow = state.slow.filter(|(until, _)| now < *until);
                let factor = slow.map_or(1, |(_, factor)| factor);
                let time = Duration::from_millis(published.bytes / (state.speed / 1_000));
                (time * factor).saturating_sub(now - began)
            };
            if left.is_zero() && !published.stalled {
                break;
            }
            let pause = if published.stalled {
                CHUNK
            } else {
                left.min(CHUNK)
            };
            sleep(pause).await;
        }
        let mut state = machine.state();
        if Instant::now() < state.lying_until && state.find(&request.image).is_none() {
            return Ok(machine.claim(&request.image, &published));
        }
        Ok(machine.store(&mut state, &request.image, &published, self.ours))
    }
}

/// A running pull, until it ends or is dropped.
struct UnderWay<'a>(&'a Machine, &'a ImageRef, Option<String>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let Self(machine, image, result) = self;
        machine.state().pulling -= 1;
        let word = result.as_deref().unwrap_or("abandoned");
        let name = &machine.name;
        machine
            .trace
            .step(format_args!("{name} pulled {image}: {word}"));
    }
}

#[async_trait]
impl ImageRuntime for AgentRuntime {
    async fn info(&self) -> Result<RuntimeInfo, Failure> {
        self.call().await?;
        let scope = self.machine.state().scope;
        Ok(RuntimeInfo::new("simulated", "1", scope).with_api_version("v1"))
    }

    async fn list(&self) -> Result<Vec<RuntimeImage>, Failure> {
        let now = self.machine.trace.now();
        // A pull that ended since then is newer than the reading, as far as the agent can know.
        let began = self.reading_since().take().unwrap_or(now);
        self.call().await?;
        let images = {
            let state = self.machine.state();
            let images = state.images.iter();
            images.map(|(id, stored)| described(id, stored)).collect()
        };
        let name = &self.machine.name;
        self.machine
            .ledger
            .read_images(name, self.incarnation, began);
        Ok(images)
    }

    async fn in_use(&self) -> Result<Vec<ImageUse>, Failure> {
        let began = self.machine.trace.now();
        self.call().await?;
        *self.reading_since() = Some(began);
        let used = self.machine.state().used.clone();
        self.seen_used().clone_from(&used);
        Ok(used.into_iter().map(ImageUse::from).collect())
    }

    async fn pull(&self, request: PullRequest) -> Result<RuntimeImage, Failure> {
        let machine = &self.machine;
        let pulls = {
            let mut state = machine.state();
            state.pulling += 1;
            state.pulling
        };
        let mut under_way = UnderWay(machine, &request.image, None);
        machine.ledger.pulling(&machine.name, pulls);
        let (name, image) = (&machine.name, &request.image);
        machine.trace.step(format_args!("{name} pulls {image}"));
        let informed = self.connection.sender(&["nodeimagecaches"]).informed;
        machine
            .ledger
            .asking(name, self.incarnation, informed, &request);
        let result = self.try_pull(&request).await;
        if let Err(failure) = &result
            && let Some(delay) = failure.retry_after
        {
            machine
                .ledger
                .throttled(name, self.incarnation, &request, delay);
        }
        under_way.2 = Some(match &result {
            Ok(_) => "ok".to_owned(),
            Err(failure) => failure.reason.to_string(),
        });
        result
    }

    async fn remove(&self, image: &ImageRef) -> Result<Removal, Failure> {
        let machine = &self.machine;
        let taken = |state: &State| -> Option<(ImageId, Vec<ImageRef>)> {
            let id = state.find(image)?;
            let found = described(&id, state.images.get(&id)?);
            let mut names: Vec<ImageRef> = vec![image.clone()];
            names.extend(state.scope.takes_along(image, &found).cloned());
            Some((id, names))
        };
        let found = taken(&machine.state());
        if let Some((id, names)) = &found {
            let informed = self.connection.sender(&["nodeimagecaches"]).informed;
            machine.ledger.removing(&machine.name, informed, names);
            let whole = machine.state().scope == RemovalScope::Image;
            if whole && self.seen_used().contains(id) {
                machine.ledger.removing_used(&machine.name, image);
            }
        }
        self.call().await?;
        let mut state = machine.state();
        let Some((id, names)) = taken(&state) else {
            return Ok(Removal::Absent);
        };
        let stored = state.images.get(&id).unwrap();
        let last = stored.references.iter().all(|name| names.contains(name));
        if last && state.used.contains(&id) {
            return Ok(Removal::InUse("container web (4f1c)".to_owned()));
        }
        let stored = state.images.get_mut(&id).unwrap();
        stored.references.retain(|name| !names.contains(name));
        if stored.references.is_empty() {
            state.images.remove(&id);
        }
        machine.ledger.lost(&machine.name, &names);
        machine
            .trace
            .step(format_args!("{} removes {image}", machine.name));
        Ok(Removal::Removed)
    }

    async fn filesystems(&self) -> Result<Vec<FilesystemUsage>, Failure> {
        self.call().await?;
        let state = self.machine.state();
        let used = state.bytes_used();
        let free = ByteSize::new(state.disk.saturating_sub(used));
        let usage = FilesystemUsage::new("/var/lib/containerd", ByteSize::new(used));
        Ok(vec![usage.with_available(free)])
    }
}
