//! One pull: from a reference to an entry of the index with everything behind it.

use std::sync::Arc;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{Digest, ImageRef};
use fledged_core::port::{PullRequest, RuntimeImage};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use super::blobs::fetch;
use super::collect::{GRACE_OF_OTHERS, collect};
use super::index::{Index, Target};
use super::inventory;
use super::lock::Writer;
use super::meter::Meter;
use super::pins::PinSet;
use super::store::Store;
use crate::registry::probe::{no_platform, resolve};
use crate::registry::{Blob, Fetched, ImageManifest, MANIFEST_MAX, Session, config_platform};

/// What the parts of one pull share.
struct Pull {
    inner: Arc<Store>,
    image: ImageRef,
    session: Session,
    meter: Meter,
    pins: PinSet,
    writer: Arc<Writer>,
    slots: Semaphore,
    threads: TaskTracker,
}

/// Pulls one image. Dropping the future leaves the layout valid, and finished blobs for the next
/// attempt.
pub(crate) async fn pull(inner: Arc<Store>, request: PullRequest) -> Result<RuntimeImage, Failure> {
    let writer = inner.lock.acquire().await?;
    let pull = Arc::new(Pull {
        session: inner.registry.session(&request.image, request.auth),
        meter: Meter::new(request.progress),
        pins: inner.pins.hold(),
        slots: Semaphore::new(inner.parallel_layers.get()),
        threads: TaskTracker::new(),
        image: request.image,
        inner,
        writer,
    });
    let result = Arc::clone(&pull).run().await;
    if let Err(failure) = &result
        && failure.reason == Reason::DiskFull
    {
        pull.make_room().await;
    }
    result
}

impl Pull {
    async fn run(self: Arc<Self>) -> Result<RuntimeImage, Failure> {
        let root = self.root().await?;
        let resolved = resolve(root, &self.inner.platform, |digest| self.manifest(digest)).await?;
        if resolved.chain.len() == 1 {
            self.check_platform(&resolved.image).await?;
        }
        self.fetch_all(&resolved.image).await?;
        self.commit(resolved.chain).await
    }

    /// The manifest of the reference. What is here already is not read again when the registry
    /// says that it is still the one.
    async fn root(&self) -> Result<Fetched, Failure> {
        let (image, inner) = (self.image.clone(), Arc::clone(&self.inner));
        let held = blocking(move || {
            let target = Index::load(&inner.layout)?.get(&image);
            let (digest, media_type) = match (&target, image.digest()) {
                (Some(target), _) => (&target.digest, Some(target.media_type.as_str())),
                (None, Some(digest)) => (digest, None),
                (None, None) => return Ok(None),
            };
            Ok(inventory::manifest(&inner.layout, digest, media_type)?)
        })
        .await?;
        if let Some(held) = held {
            match self.session.head_manifest().await {
                Ok(Some(digest)) if digest == held.digest => {
                    self.pins.add(&held.digest);
                    return Ok(held);
                }
                Ok(_) => {}
                Err(failure)
                    if matches!(
                        failure.reason,
                        Reason::Unauthorized | Reason::TooManyRequests | Reason::ConnectionFailed
                    ) =>
                {
                    return Err(failure);
                }
                // Some registries know no HEAD; reading decides.
                Err(failure) => {
                    tracing::debug!(image = %self.image, %failure, "HEAD refused");
                }
            }
        }
        let root = self.session.manifest().await?;
        self.pins.add(&root.digest);
        Ok(root)
    }

    async fn manifest(&self, digest: Digest) -> Result<Fetched, Failure> {
        self.pins.add(&digest);
        let (inner, wanted) = (Arc::clone(&self.inner), digest.clone());
        let held = blocking(move || Ok(inventory::manifest(&inner.layout, &wanted, None)?)).await?;
        match held {
            Some(held) => Ok(held),
            None => self.session.manifest_by_digest(&digest).await,
        }
    }

    /// An image without an index says in its configuration what it is for.
    async fn check_platform(self: &Arc<Self>, image: &ImageManifest) -> Result<(), Failure> {
        let config = &image.config;
        if config.size > MANIFEST_MAX as u64 {
            return Ok(());
        }
        self.fetch_one(config).await?;
        let (inner, digest) = (Arc::clone(&self.inner), config.digest.clone());
        let bytes = blocking(move || Ok(inner.layout.read(&digest, MANIFEST_MAX)?)).await?;
        match bytes.as_deref().and_then(config_platform) {
            Some(only) if self.inner.platform.rank_of(&only).is_none() => {
                Err(no_platform(&self.inner.platform, &[only]))
            }
            _ => Ok(()),
        }
    }

    /// Makes sure that every blob of the image is there. The first failure ends the others.
    async fn fetch_all(self: &Arc<Self>, image: &ImageManifest) -> Result<(), Failure> {
        let mut blobs: Vec<Blob> = image.blobs().into_iter().cloned().collect();
        // The largest first: a long download must not be left for the end, alone.
        blobs.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.digest.cmp(&b.digest)));
        // Aborts what still runs when it is dropped.
        let mut downloads = JoinSet::new();
        for blob in blobs {
            let pull = Arc::clone(self);
            downloads.spawn(async move { pull.fetch_one(&blob).await });
        }
        while let Some(ended) = downloads.join_next().await {
            let ended =
                ended.unwrap_or_else(|error| Err(Failure::new(Reason::Unknown, error.to_string())));
            if let Err(failure) = ended {
                // Waits, so that nothing of this pull is at work any more when it has failed.
                downloads.shutdown().await;
                self.threads.close();
                self.threads.wait().await;
                return Err(failure);
            }
        }
        Ok(())
    }

    async fn fetch_one(&self, blob: &Blob) -> Result<(), Failure> {
        let inner = &self.inner;
        self.pins.add(&blob.digest);
        if inner.layout.has(&blob.digest, blob.size)? {
            return Ok(());
        }
        self.meter.expect(blob.size);
        let _slot = self
            .slots
            .acquire()
            .await
            .map_err(|error| Failure::new(Reason::Unknown, error.to_string()))?;
        fetch(
            &inner.layout,
            &inner.flights,
            &self.session,
            blob,
            &self.meter,
            &self.writer,
            &self.threads,
        )
        .await
    }

    /// Writes the manifests and, after everything else, the entry.
    async fn commit(self: Arc<Self>, chain: Vec<Fetched>) -> Result<RuntimeImage, Failure> {
        blocking(move || {
            let (inner, image) = (&self.inner, &self.image);
            let layout = &inner.layout;
            for fetched in &chain {
                if layout.read(&fetched.digest, MANIFEST_MAX)?.is_none() {
                    self.writer.written.add(&fetched.digest);
                    layout.replace(&layout.blob(&fetched.digest), &fetched.bytes)?;
                }
            }
            let Some(root) = chain.first() else {
                return Err(Failure::new(Reason::Unknown, "nothing was resolved"));
            };
            let target = Target {
                digest: root.digest.clone(),
                media_type: root.media_type.clone(),
                size: root.bytes.len() as u64,
            };
            {
                let _gate = inner.index_gate();
                let mut index = Index::load(layout)?;
                // Also when the entry stays as it is: blobs may have been lost and fetched again.
                layout.sync_blobs()?;
                if index.get(image).as_ref() != Some(&target) {
                    let before = index.set(image, &target);
                    index.store(layout)?;
                    if let Some(before) = before {
                        inner.collect_after(&index, before.digest);
                    }
                }
                let blobs = self.pins.digests();
                self.writer.written.forget(&blobs);
            }
            inventory::lookup(layout, &inner.platform, image)?
                .ok_or_else(|| Failure::new(Reason::Evicted, "a blob was deleted during the pull"))
        })
        .await
    }

    /// Deletes what failed pulls left, this one included: on a full disk others need the room more.
    /// Young blobs that this process did not write may be of a copy that another tool makes.
    async fn make_room(self: Arc<Self>) {
        let made = blocking(move || {
            let inner = &self.inner;
            self.pins.release();
            let _gate = inner.index_gate();
            let index = Index::load(&inner.layout)?;
            let ours = self.writer.written.all();
            collect(&inner.layout, &index, &inner.pins, &ours, GRACE_OF_OTHERS)?;
            let gone = ours.iter().filter(|blob| !inner.layout.blob(blob).exists());
            self.writer.written.forget(gone);
            Ok(())
        })
        .await;
        if let Err(failure) = made {
            tracing::warn!(%failure, "cannot make room on a full disk");
        }
    }
}

/// Runs file-system work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::new(Reason::Unknown, error.to_string()))?
}
