//! A runtime in memory.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::state::{RuntimeState, Stored};
use super::{Fault, Faults, SimClock, SimImage, SimRegistry, TraceEntry, TraceEvent};
use crate::error::{Failure, Reason};
use crate::model::{ByteSize, ImageRef};
use crate::port::{
    Clock, FilesystemUsage, ImageId, ImageRuntime, ImageUse, PullProgress, PullRequest, Removal,
    RemovalScope, RuntimeImage, RuntimeInfo,
};

/// Steps in which a layer is fetched; each takes its share of the bandwidth at that time.
const STEPS: u64 = 8;

/// An [`ImageRuntime`] in memory, on a [`SimClock`]. Clones share their state.
///
/// It removes whole images, as CRI does, unless configured otherwise.
#[derive(Debug, Clone)]
pub struct SimRuntime {
    clock: SimClock,
    state: Arc<Mutex<RuntimeState>>,
}

impl SimRuntime {
    /// An empty runtime that pulls from `registry`.
    #[must_use]
    pub fn new(clock: SimClock, registry: SimRegistry, seed: u64) -> Self {
        Self {
            clock,
            state: Arc::new(Mutex::new(RuntimeState {
                registry,
                images: Default::default(),
                layers: Default::default(),
                in_use: BTreeSet::new(),
                rng: fastrand::Rng::with_seed(seed),
                faults: Faults::default(),
                bandwidth: None,
                capacity: None,
                removal: RemovalScope::Image,
                pulls: Default::default(),
                last_pull: 0,
                trace: Vec::new(),
            })),
        }
    }

    /// Sets the bandwidth in bytes per second, which concurrent pulls share. By default bytes take no time.
    #[must_use]
    pub fn with_bandwidth(self, bytes_per_second: u64) -> Self {
        self.state().bandwidth = Some(bytes_per_second.max(1));
        self
    }

    /// Sets the size of the disk.
    #[must_use]
    pub fn with_capacity(self, capacity: ByteSize) -> Self {
        self.state().capacity = Some(capacity);
        self
    }

    /// Sets what a removal removes.
    #[must_use]
    pub fn with_removal(self, removal: RemovalScope) -> Self {
        self.state().removal = removal;
        self
    }

    /// With injected faults.
    #[must_use]
    pub fn with_faults(self, faults: Faults) -> Self {
        self.state().faults = faults;
        self
    }

    fn state(&self) -> MutexGuard<'_, RuntimeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, state: &mut RuntimeState, event: TraceEvent) {
        state.trace.push(TraceEntry {
            at: self.clock.elapsed(),
            event,
        });
    }

    /// Stores an image without a pull.
    pub fn preload(&self, image: &ImageRef) {
        let mut state = self.state();
        if let Some(found) = state.registry.get(image).cloned() {
            store(&mut state, image, &found);
        }
    }

    /// Removes an image as the kubelet's garbage collection does.
    pub fn evict(&self, image: &ImageRef) {
        let mut state = self.state();
        if !state.unname(image, RemovalScope::Image).is_empty() {
            self.record(&mut state, TraceEvent::Evicted(image.clone()));
        }
    }

    /// Sets whether a container uses an image that is stored.
    pub fn set_in_use(&self, image: &ImageRef, used: bool) {
        let mut state = self.state();
        if let Some(id) = state.find(image).map(|(id, _)| id.clone()) {
            if used {
                state.in_use.insert(id);
            } else {
                state.in_use.remove(&id);
            }
        }
    }

    /// Pins an image that is stored.
    pub fn pin(&self, image: &ImageRef) {
        let mut state = self.state();
        if let Some(id) = state.find(image).map(|(id, _)| id.clone())
            && let Some(stored) = state.images.get_mut(&id)
        {
            stored.pinned = true;
        }
    }

    /// Moves a reference in the registry, or adds it.
    pub fn publish(&self, reference: ImageRef, image: SimImage) {
        self.state().registry.push(reference, image);
    }

    /// Whether the runtime holds an image with this reference.
    #[must_use]
    pub fn holds(&self, image: &ImageRef) -> bool {
        self.state().find(image).is_some()
    }

    /// All events so far.
    #[must_use]
    pub fn trace(&self) -> Vec<TraceEntry> {
        self.state().trace.clone()
    }

    /// Takes the time of a call, and fails if the call has a fault.
    async fn call_fault(&self) -> Result<(), Failure> {
        let elapsed = self.clock.elapsed();
        let fault = {
            let state = &mut *self.state();
            state.faults.draw_call(elapsed, &mut state.rng)
        };
        match fault {
            Some(Fault::Fail(failure) | Fault::FailMidway(failure)) => Err(failure),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Slow(delay)) => {
                self.clock.sleep(delay).await;
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn try_pull(&self, pull: u64, request: &PullRequest) -> Result<RuntimeImage, Failure> {
        let elapsed = self.clock.elapsed();
        let (fault, found) = {
            let state = &mut *self.state();
            let fault = state.faults.draw_pull(elapsed, &mut state.rng);
            (fault, state.registry.get(&request.image).cloned())
        };
        // A failed request takes time as well, so that no loop can retry forever without advancing the clock.
        self.clock.sleep(Duration::from_millis(10)).await;
        let mut midway = None;
        match fault {
            Some(Fault::Fail(failure)) => return Err(failure),
            Some(Fault::FailMidway(failure)) => midway = Some(failure),
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Slow(delay)) => self.clock.sleep(delay).await,
            None => {}
        }
        let Some(found) = found else {
            return Err(Failure::new(
                Reason::ImageNotFound,
                format!("{}: not found", request.image.as_str()),
            ));
        };
        if found.private && request.auth.is_none() {
            return Err(Failure::new(Reason::Unauthorized, "401 unauthorized"));
        }
        let total: ByteSize = {
            let state = self.state();
            let missing = found
                .layers
                .iter()
                .filter(|(name, _)| !state.layers.contains_key(name));
            missing.map(|(_, size)| *size).sum()
        };
        let mut done = ByteSize::ZERO;
        for (name, size) in &found.layers {
            if self.state().layers.contains_key(name) {
                continue;
            }
            let before = done;
            self.fetch(pull, *size, |fetched| {
                done = before + fetched;
                let progress = PullProgress::new(done, total);
                request.progress.report(progress);
            })
            .await?;
            if let Some(failure) = midway.take() {
                return Err(failure);
            }
            let mut state = self.state();
            state.room_for(*size)?;
            state.layers.insert(name.clone(), *size);
        }
        if let Some(failure) = midway {
            return Err(failure);
        }
        Ok(store(&mut self.state(), &request.image, &found))
    }

    /// Waits for the time that fetching `size` takes, and reports the fetched bytes after each step.
    async fn fetch(
        &self,
        pull: u64,
        size: ByteSize,
        mut fetched: impl FnMut(ByteSize),
    ) -> Result<(), Failure> {
        for step in 1..=STEPS {
            let pause = {
                let state = self.state();
                state.room_for(size)?;
                state.rate_of(pull).map(|rate| {
                    let part = size.bytes().div_ceil(STEPS);
                    Duration::from_millis(part.saturating_mul(1000).div_ceil(rate))
                })
            };
            if let Some(pause) = pause {
                self.clock.sleep(pause).await;
            }
            let whole = u128::from(size.bytes());
            let part = whole * u128::from(step) / u128::from(STEPS);
            fetched(ByteSize::new(u64::try_from(part).unwrap_or(u64::MAX)));
        }
        Ok(())
    }
}

/// Stores a complete image.
fn store(state: &mut RuntimeState, reference: &ImageRef, found: &SimImage) -> RuntimeImage {
    let id = ImageId(found.id.clone());
    let by_digest = found
        .digest
        .as_ref()
        .map(|digest| reference.at_digest(digest));
    for name in by_digest.iter().chain([reference]) {
        // A moved reference no longer names the old image.
        if state.find(name).is_some_and(|(old, _)| *old != id) {
            state.unname(name, RemovalScope::Reference);
        }
    }
    state.layers.extend(found.layers.iter().cloned());
    let stored = state.images.entry(id.clone()).or_insert_with(|| Stored {
        references: BTreeSet::new(),
        layers: found.layers.clone(),
        pinned: false,
    });
    stored.references.insert(reference.clone());
    stored.references.extend(by_digest);
    stored.described(&id).with_digest(found.digest.clone())
}

/// A running pull, which counts until it ends or is dropped.
struct Under<'a> {
    runtime: &'a SimRuntime,
    number: u64,
    image: &'a ImageRef,
    pulled: bool,
}

impl Drop for Under<'_> {
    fn drop(&mut self) {
        let mut state = self.runtime.state();
        state.pulls.remove(&self.number);
        let event = if self.pulled {
            TraceEvent::Pulled(self.image.clone())
        } else {
            TraceEvent::PullFailed(self.image.clone())
        };
        self.runtime.record(&mut state, event);
    }
}

#[async_trait]
impl ImageRuntime for SimRuntime {
    async fn info(&self) -> Result<RuntimeInfo, Failure> {
        self.call_fault().await?;
        Ok(RuntimeInfo {
            name: "sim".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api_version: "v1".to_owned(),
            removal: self.state().removal,
        })
    }

    async fn list(&self) -> Result<Vec<RuntimeImage>, Failure> {
        self.call_fault().await?;
        let mut state = self.state();
        self.record(&mut state, TraceEvent::Listed);
        Ok(state
            .images
            .iter()
            .map(|(id, stored)| stored.described(id))
            .collect())
    }

    async fn lookup(&self, image: &ImageRef) -> Result<Option<RuntimeImage>, Failure> {
        self.call_fault().await?;
        Ok(self
            .state()
            .find(image)
            .map(|(id, stored)| stored.described(id)))
    }

    async fn in_use(&self) -> Result<Vec<ImageUse>, Failure> {
        self.call_fault().await?;
        let state = self.state();
        Ok(state.in_use.iter().cloned().map(ImageUse::from).collect())
    }

    async fn pull(&self, request: PullRequest) -> Result<RuntimeImage, Failure> {
        let number = {
            let mut state = self.state();
            state.last_pull += 1;
            let number = state.last_pull;
            state.pulls.insert(number, request.limit.clone());
            let event = TraceEvent::PullBegan(request.image.clone(), state.pulls.len());
            self.record(&mut state, event);
            number
        };
        let mut under = Under {
            runtime: self,
            number,
            image: &request.image,
            pulled: false,
        };
        let result = self.try_pull(number, &request).await;
        under.pulled = result.is_ok();
        result
    }

    async fn remove(&self, image: &ImageRef) -> Result<Removal, Failure> {
        self.record(&mut self.state(), TraceEvent::RemovalBegan(image.clone()));
        self.call_fault().await?;
        let mut state = self.state();
        let scope = state.removal;
        let Some((id, stored)) = state.find(image) else {
            return Ok(Removal::Absent);
        };
        let last = scope == RemovalScope::Image || stored.references.len() == 1;
        if last && (state.in_use.contains(id) || stored.pinned) {
            return Ok(Removal::InUse("a simulated container uses it".to_owned()));
        }
        let gone = state.unname(image, scope);
        self.record(&mut state, TraceEvent::Removed(image.clone(), gone));
        Ok(Removal::Removed)
    }

    async fn filesystems(&self) -> Result<Vec<FilesystemUsage>, Failure> {
        self.call_fault().await?;
        let state = self.state();
        let used = state.used();
        let available = state.capacity.map(|capacity| capacity.saturating_sub(used));
        let usage = FilesystemUsage::new("sim", used).with_available(available);
        Ok(vec![usage.with_capacity(state.capacity)])
    }
}
