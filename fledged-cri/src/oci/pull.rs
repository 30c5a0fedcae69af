//! One pull: from a reference to an entry of the index and all its blobs.

use std::sync::Arc;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{Digest, ImageRef};
use fledged_core::port::{PullRequest, RuntimeImage};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use super::collect::{GRACE_OF_OTHERS, PinSet, collect};
use super::download::fetch;
use super::index::{Index, Target};
use super::inventory;
use super::lock::Writer;
use super::store::{Store, blocking};
use crate::registry::{
    Blob, Downloads, Fetched, ImageManifest, MANIFEST_MAX, Meter, Session, config_platform,
    no_platform, resolve,
};

/// The state of one pull.
struct Pull {
    store: Arc<Store>,
    image: ImageRef,
    downloads: Downloads,
    pins: PinSet,
    writer: Arc<Writer>,
    slots: Semaphore,
    threads: TaskTracker,
}

/// Pulls one image. Dropping the future leaves the layout valid; what was downloaded stays for the next
/// attempt.
pub(crate) async fn pull(store: Arc<Store>, request: PullRequest) -> Result<RuntimeImage, Failure> {
    let writer = store.lock.acquire().await?;
    let pull = Arc::new(Pull {
        downloads: Downloads {
            session: Arc::new(Session::new(
                store.registry.clone(),
                &request.image,
                request.auth,
            )),
            connections: store.connections.clone(),
            meter: Arc::new(Meter::new(request.progress)),
            limit: request.limit,
        },
        pins: store.pins.hold(),
        slots: Semaphore::new(store.parallel_layers.get()),
        threads: TaskTracker::new(),
        image: request.image,
        store,
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
        let resolved = resolve(root, &self.store.platform, |digest| self.manifest(digest)).await?;
        if !resolved.platform_is_named {
            self.check_platform(&resolved.image).await?;
        }
        self.fetch_all(&resolved.image).await?;
        self.commit(resolved.chain).await
    }

    /// The manifest of the reference. A manifest on disk is not fetched again if the registry states
    /// the same digest.
    async fn root(&self) -> Result<Fetched, Failure> {
        let (image, store) = (self.image.clone(), Arc::clone(&self.store));
        let held = blocking(move || {
            let target = Index::load(&store.layout)?.get(&image);
            let (digest, media_type) = match (&target, image.digest()) {
                (Some(target), _) => (&target.digest, Some(target.media_type.as_str())),
                (None, Some(digest)) => (digest, None),
                (None, None) => return Ok(None),
            };
            Ok(inventory::manifest(&store.layout, digest, media_type)?)
        })
        .await?;
        if let Some(held) = held {
            match self.downloads.session.head_manifest().await {
                Ok(Some(digest)) if digest == held.digest => {
                    self.pins.add(&held.digest);
                    return Ok(held);
                }
                Ok(_) => {}
                Err(failure)
                    if matches!(
                        failure.reason,
                        Reason::TooManyRequests
                            | Reason::ConnectionFailed
                            | Reason::RegistryMisconfigured
                    ) =>
                {
                    return Err(failure);
                }
                // Some registries do not serve HEAD; a GET decides.
                Err(failure) => {
                    tracing::debug!(image = %self.image, %failure, "manifest HEAD refused");
                }
            }
        }
        let root = self.downloads.session.manifest().await?;
        self.pins.add(&root.digest);
        Ok(root)
    }

    async fn manifest(&self, digest: Digest) -> Result<Fetched, Failure> {
        self.pins.add(&digest);
        let (store, wanted) = (Arc::clone(&self.store), digest.clone());
        let held = blocking(move || Ok(inventory::manifest(&store.layout, &wanted, None)?)).await?;
        match held {
            Some(held) => Ok(held),
            None => self.downloads.session.manifest_by_digest(&digest).await,
        }
    }

    /// Where no index does, the configuration names the platform.
    async fn check_platform(self: &Arc<Self>, image: &ImageManifest) -> Result<(), Failure> {
        let config = &image.config;
        if config.size > MANIFEST_MAX as u64 {
            return Ok(());
        }
        self.fetch_one(config).await?;
        let (store, digest) = (Arc::clone(&self.store), config.digest.clone());
        let bytes = blocking(move || Ok(store.layout.read(&digest, MANIFEST_MAX)?)).await?;
        match bytes.as_deref().and_then(config_platform) {
            Some(only) if self.store.platform.rank_of(&only).is_none() => {
                Err(no_platform(&self.store.platform, &[only]))
            }
            _ => Ok(()),
        }
    }

    /// Fetches every missing blob of the image. The first failure aborts the others.
    async fn fetch_all(self: &Arc<Self>, image: &ImageManifest) -> Result<(), Failure> {
        let mut blobs: Vec<Blob> = image.blobs().into_iter().cloned().collect();
        // The largest first, so that no long download remains alone at the end.
        blobs.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.digest.cmp(&b.digest)));
        // Aborts the downloads when it is dropped.
        let mut downloads = JoinSet::new();
        for blob in blobs {
            let pull = Arc::clone(self);
            downloads.spawn(async move { pull.fetch_one(&blob).await });
        }
        while let Some(ended) = downloads.join_next().await {
            let ended =
                ended.unwrap_or_else(|error| Err(Failure::new(Reason::Unknown, error.to_string())));
            if let Err(failure) = ended {
                // Waits, so that no part of a failed pull still runs after it returns.
                downloads.shutdown().await;
                self.threads.close();
                self.threads.wait().await;
                return Err(failure);
            }
        }
        Ok(())
    }

    async fn fetch_one(&self, blob: &Blob) -> Result<(), Failure> {
        let store = &self.store;
        self.pins.add(&blob.digest);
        if store.layout.has(&blob.digest, blob.size)? {
            return Ok(());
        }
        self.downloads.meter.expect(blob.size);
        let _slot = self
            .slots
            .acquire()
            .await
            .map_err(|error| Failure::new(Reason::Unknown, error.to_string()))?;
        fetch(
            &store.layout,
            &store.flights,
            &self.downloads,
            blob,
            &self.writer,
            &self.threads,
        )
        .await
    }

    /// Writes the manifests and, last of all, the entry.
    async fn commit(self: Arc<Self>, chain: Vec<Fetched>) -> Result<RuntimeImage, Failure> {
        blocking(move || {
            let (store, image) = (&self.store, &self.image);
            let layout = &store.layout;
            for fetched in &chain {
                if layout.read(&fetched.digest, MANIFEST_MAX)?.is_none() {
                    self.writer.written.add(&fetched.digest);
                    layout.replace_blob(&fetched.digest, &fetched.bytes)?;
                }
            }
            let Some(root) = chain.first() else {
                return Err(Failure::new(Reason::Unknown, "the image has no manifest"));
            };
            let target = Target {
                digest: root.digest.clone(),
                media_type: root.media_type.clone(),
                size: root.bytes.len() as u64,
            };
            {
                let _gate = store.index_gate();
                let mut index = Index::load(layout)?;
                // Also if the entry does not change: lost blobs may have been fetched again.
                layout.sync_blobs()?;
                if index.get(image).as_ref() != Some(&target) {
                    let before = index.set(image, &target);
                    index.store(layout)?;
                    if let Some(before) = before {
                        store.collect_after(&index, before.digest);
                    }
                }
                let blobs = self.pins.digests();
                self.writer.written.forget(&blobs);
            }
            inventory::lookup(layout, &store.platform, image)?
                .ok_or_else(|| Failure::new(Reason::Evicted, "a blob was deleted during the pull"))
        })
        .await
    }

    /// Deletes the blobs of failed pulls, this one included, to free a full disk. Recent blobs that
    /// this process did not write stay; another tool may be copying them.
    async fn make_room(self: Arc<Self>) {
        let made = blocking(move || {
            let store = &self.store;
            self.pins.release();
            let _gate = store.index_gate();
            let index = Index::load(&store.layout)?;
            let ours = self.writer.written.all();
            collect(&store.layout, &index, &store.pins, &ours, GRACE_OF_OTHERS)?;
            for blob in &ours {
                if store.layout.size_of(blob)?.is_none() {
                    self.writer.written.forget([blob]);
                }
            }
            Ok(())
        })
        .await;
        if let Err(failure) = made {
            tracing::warn!(%failure, "disk full, unused blobs not deleted");
        }
    }
}
