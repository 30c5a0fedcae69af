//! One pull through CRI, for which fledged fetches the layers.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as SyncMutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ByteSize, Digest, PulledVia};
use fledged_core::port::{PullRequest, SharedPullLimit};
use serde::Deserialize;
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;

use super::content::Content;
use super::layers::{self, Outcome};
use super::lease::Collect;
use super::priority::{OwnLayers, OwnPull, let_others_first};
use super::registry_settings;
use super::settings::Settings;
use crate::PullSlowdowns;
use crate::classify::redact;
use crate::cri::Client;
use crate::registry::{
    Blob, CONTAINERD_CONFIG_DIR, ConnectionLimit, Connections, Downloads, Fetched, Manifest, Meter,
    PART, Platform, PressureLimits, PullRate, RateOptions, Registry, RegistryOptions, Session,
    read_config, resolve, sha256,
};

/// The default of [`FetcherOptions::threshold`]: a download this small gains nothing from several connections.
const THRESHOLD: ByteSize = ByteSize::new(16 * 1024 * 1024);
/// The default of [`FetcherOptions::fast_enough`]: decompressing a layer is slower.
const FAST_ENOUGH: ByteSize = ByteSize::new(100 * 1024 * 1024);
/// Images with more missing layers are left to the runtime. Each is an open file and a stream of containerd until
/// it is complete; images that Docker builds have at most 127.
const MAX_LAYERS: usize = 256;
/// The default of [`FetcherOptions::keep_unfinished`]: a pull of the next day continues.
const KEEP_UNFINISHED: Duration = Duration::from_secs(24 * 3_600);
/// Why the runtime pulls everything.
const NO_CONTENT_STORE: &str = "the runtime has no content store";
/// How long fledged tries to read the manifests of an image before the runtime pulls it.
const PLAN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a registry that could not be reached is left to the runtime.
const UNREACHABLE: Duration = Duration::from_secs(300);
/// Time without progress of a layer after which a request is repeated, and finally the layer left to the runtime.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How layers are fetched for a runtime with containerd's content store.
///
/// See [`CriRuntime::with_fetcher`](crate::CriRuntime::with_fetcher).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FetcherOptions {
    /// How registries are reached.
    pub registry: RegistryOptions,
    /// Folders with the settings of containerd, whose settings of registries replace
    /// [`hosts_dirs`](RegistryOptions::hosts_dirs). containerd 2 is expected to have its `config.toml` in the first one.
    /// Everything is left to the runtime if some of its settings cannot be read. Empty: `hosts_dirs` apply. Default:
    /// `/etc/containerd`.
    pub config_dirs: Vec<PathBuf>,
    /// Whether this process runs in a container that sees only `config_dirs` of the machine, under the same paths.
    pub in_container: bool,
    /// How many connections fetch layers, of all images together. Each holds at most 8 MiB in memory.
    pub max_connections: ConnectionLimit,
    /// Images with fewer missing bytes in layers of more than 8 MiB, compressed, are left to the runtime, and smaller layers
    /// of all images. Zero: no image and no layer. With [`max_pull_rate`](Self::max_pull_rate) or a
    /// [limit of the pull](PullRequest::limit), none are. Default: 16 MiB.
    pub threshold: ByteSize,
    /// If one connection receives that many bytes a second, layers are left to the runtime: unpacking takes longer than its
    /// download. `None`, or with a limit as above: they never are. Default: 100 MiB.
    pub fast_enough: Option<ByteSize>,
    /// Bytes of layers that are received in a second, at most, by all pulls together. What the
    /// runtime pulls itself is not limited. Default: no limit.
    pub max_pull_rate: Option<PullRate>,
    /// The pressure on the machine above which layers are received slower. What the runtime pulls itself is not.
    pub pressure: PressureLimits,
    /// Counts what slows the pulls down.
    pub slowdowns: PullSlowdowns,
    /// How long containerd keeps what a pull that ended early has fetched. A pull renews that time when a 24th of it has
    /// passed. Default: a day.
    pub keep_unfinished: Duration,
}

impl Default for FetcherOptions {
    /// [`RegistryOptions::default`] with 30 s without progress, eight connections, 16 MiB, a day.
    fn default() -> Self {
        Self {
            registry: RegistryOptions::default().with_read_timeout(READ_TIMEOUT),
            config_dirs: vec![CONTAINERD_CONFIG_DIR.into()],
            in_container: false,
            max_connections: ConnectionLimit::default(),
            threshold: THRESHOLD,
            fast_enough: Some(FAST_ENOUGH),
            max_pull_rate: None,
            pressure: PressureLimits::default(),
            slowdowns: PullSlowdowns::default(),
            keep_unfinished: KEEP_UNFINISHED,
        }
    }
}

/// Fetches layers for the pulls of one runtime.
#[derive(Debug)]
pub(crate) struct Fetcher {
    options: FetcherOptions,
    connections: Connections,
    own_layers: OwnLayers,
    /// The registry client, and the settings that it is for.
    registry: Mutex<Option<(Settings, Registry)>>,
    /// Set when the runtime has no content store that can be written to.
    unsupported: AtomicBool,
    /// Until when the runtime pulls all images of a registry that this process could not reach.
    unreachable: SyncMutex<HashMap<String, Instant>>,
}

/// What is fetched for one pull.
struct Work {
    downloads: Downloads,
    layers: Vec<Blob>,
    _own: OwnPull,
}

/// What is done for one pull.
enum Plan {
    Fetch(Work),
    /// The runtime fetches the layers, for this reason. With the layers, if they are known.
    Leave(String, Option<OwnPull>),
    /// The image is up to date, or has no missing layer.
    Nothing,
}

impl Fetcher {
    pub(crate) fn new(options: FetcherOptions) -> Self {
        let rate = RateOptions {
            limit: options.max_pull_rate,
            pressure: options.pressure.clone(),
            slowdowns: options.slowdowns.clone(),
        };
        Self {
            connections: Connections::new(options.max_connections, rate),
            options,
            own_layers: OwnLayers::default(),
            registry: Mutex::default(),
            unsupported: AtomicBool::new(false),
            unreachable: SyncMutex::default(),
        }
    }

    /// Pulls an image, and returns what fetched its layers; `None` if none was missing. `present` is the digest under that
    /// name, if the runtime has one.
    ///
    /// The runtime pulls what the fetcher does not support.
    ///
    /// # Errors
    ///
    /// The failure of the runtime's pull, or [`Reason::TooManyRequests`] of the registry: another request
    /// would come too early.
    pub(crate) async fn pull(
        &self,
        client: &Client,
        present: Option<&Digest>,
        request: &PullRequest,
    ) -> Result<Option<PulledVia>, Failure> {
        let image = &request.image;
        let pull = client.pull(image.as_str(), request.auth.as_ref());
        let (content, access) = match self.open(client, request).await {
            Ok(opened) => opened,
            Err(failure) => {
                let why = self.left(request, &failure);
                let _own = self.own_layers.add_unknown();
                return pull.await.map(|()| Some(request.via_runtime(why)));
            }
        };
        let plan = match self.plan(&content, access, present, request).await {
            Ok(plan) => plan,
            Err(failure) if failure.reason == Reason::TooManyRequests => {
                log_kept(content.release_own().await);
                return Err(failure);
            }
            Err(failure) => Plan::Leave(self.left(request, &failure), None),
        };
        let outcome = Outcome::default();
        let carried_out = self.carry_out(&plan, &content, pull, &outcome);
        let pulled = tokio::select! {
            never = content.keep() => match never {},
            pulled = carried_out => pulled,
        };
        match &pulled {
            Ok(()) => log_kept(content.release_all(Collect::Later).await),
            // Unfinished layers of a pull that may never be repeated would fill the disk.
            Err(failure) if failure.reason == Reason::DiskFull => {
                log_kept(content.release_all(Collect::Now).await);
            }
            // The next attempt continues the layers that the lease keeps.
            Err(_) if matches!(plan, Plan::Fetch(_)) => {}
            // No layers were written.
            Err(_) => log_kept(content.release_own().await),
        }
        pulled?;
        Ok(match plan {
            Plan::Fetch(_) => Some(match outcome.via() {
                PulledVia::Runtime(why) => request.via_runtime(why),
                via => via,
            }),
            Plan::Leave(why, _) => Some(request.via_runtime(why)),
            Plan::Nothing => None,
        })
    }

    /// Fetches what is planned, and lets the runtime pull.
    async fn carry_out(
        &self,
        plan: &Plan,
        content: &Content,
        pull: impl Future<Output = Result<(), Failure>>,
        outcome: &Outcome,
    ) -> Result<(), Failure> {
        match plan {
            Plan::Fetch(work) => {
                let (first, first_ended) = oneshot::channel();
                let fetching = self.fetch(work, content, first, outcome);
                let pulling = async {
                    // Always an error: the sender is dropped without a message.
                    let _ = first_ended.await;
                    pull.await
                };
                let yielding = let_others_first(content, &self.own_layers, &self.connections);
                tokio::pin!(fetching, pulling);
                tokio::select! {
                    never = yielding => match never {},
                    ended = &mut fetching => match ended {
                        Ok(()) => pulling.await,
                        Err(failure) => Err(failure),
                    },
                    pulled = &mut pulling => pulled,
                }
            }
            Plan::Leave(_, Some(_)) => pull.await,
            Plan::Nothing | Plan::Leave(_, None) => {
                let _own = self.own_layers.add_unknown();
                pull.await
            }
        }
    }

    async fn fetch(
        &self,
        work: &Work,
        content: &Content,
        first_ended: oneshot::Sender<()>,
        outcome: &Outcome,
    ) -> Result<(), Failure> {
        let target = layers::Target {
            content,
            own: &self.own_layers,
            outcome,
            fast_enough: self
                .options
                .fast_enough
                .filter(|_| self.lowest_rate(&work.downloads.limit).is_none()),
        };
        layers::fetch(&work.downloads, &target, &work.layers, first_ended).await
    }

    /// Logs why the runtime pulls an image by itself, and returns it without what others have written: it becomes part of
    /// a status.
    fn left(&self, request: &PullRequest, failure: &Failure) -> String {
        self.log_left(request, &redact(&failure.message, &[]));
        match failure.reason {
            // The text is fledged's own.
            Reason::RuntimeUnsupported => failure.message.clone(),
            reason => format!("{reason}: the log has the details"),
        }
    }

    /// Logs why the runtime pulls an image by itself.
    fn log_left(&self, request: &PullRequest, why: &str) {
        let image = &request.image;
        match self.lowest_rate(&request.limit) {
            Some(limit) => {
                tracing::warn!(%image, %limit, why, "image left to the runtime, without limit");
            }
            None => tracing::debug!(%image, why, "image left to the runtime"),
        }
    }

    /// The rate of a pull with that limit: its own, or that of all pulls.
    fn lowest_rate(&self, limit: &SharedPullLimit) -> Option<PullRate> {
        let own = limit.get().map(|limit| limit.rate);
        self.options.max_pull_rate.into_iter().chain(own).min()
    }

    /// The runtime's content store, with a lease, and how its registries are reached.
    async fn open(
        &self,
        client: &Client,
        request: &PullRequest,
    ) -> Result<(Content, (Settings, Registry)), Failure> {
        let unsupported = |problem: &str| Failure::new(Reason::RuntimeUnsupported, problem);
        if self.unsupported.load(Ordering::Relaxed) {
            return Err(unsupported(NO_CONTENT_STORE));
        }
        let settings = Settings::read(&client.verbose_status().await?).map_err(unsupported)?;
        let Self { options, .. } = self;
        let settings = match options.config_dirs.as_slice() {
            [] => Settings {
                hosts_dirs: Some(options.registry.hosts_dirs.clone()),
                ..settings
            },
            dirs => registry_settings::complete(settings, dirs, options.in_container)
                .map_err(|problem| unsupported(&problem))?,
        };
        let registry = self.registry(&settings).await?;
        let keep = options.keep_unfinished;
        match Content::open_for(client, &request.image, keep).await {
            Ok(content) => Ok((content, (settings, registry))),
            Err(failure) if failure.reason == Reason::RuntimeUnsupported => {
                self.unsupported.store(true, Ordering::Relaxed);
                Err(unsupported(NO_CONTENT_STORE))
            }
            Err(failure) => Err(failure),
        }
    }

    /// The registry client for these settings, which all pulls share.
    async fn registry(&self, settings: &Settings) -> Result<Registry, Failure> {
        let mut known = self.registry.lock().await;
        if let Some((_, registry)) = known.as_ref().filter(|(known, _)| known == settings) {
            return Ok(registry.clone());
        }
        let mut options = self.options.registry.clone();
        options.hosts_dirs = settings.hosts_dirs.clone().unwrap_or_default();
        let registry = Registry::new(options)?;
        *known = Some((settings.clone(), registry.clone()));
        Ok(registry)
    }

    /// Finds out what to fetch, within a limited time: the runtime may reach a registry that this process does not.
    async fn plan(
        &self,
        content: &Content,
        access: (Settings, Registry),
        present: Option<&Digest>,
        request: &PullRequest,
    ) -> Result<Plan, Failure> {
        let registry = request.image.registry();
        if self.is_unreachable(registry) {
            let text = format!("{registry} could not be reached a moment ago");
            return Err(Failure::new(Reason::ConnectionFailed, text));
        }
        let prepared = self.prepare(content, access, present, request);
        let planned = tokio::time::timeout(PLAN_TIMEOUT, prepared).await;
        let planned = planned.unwrap_or_else(|_| {
            let text = format!(
                "{registry} did not answer within {} s",
                PLAN_TIMEOUT.as_secs()
            );
            Err(Failure::new(Reason::ConnectionFailed, text))
        });
        if let Err(failure) = &planned
            && failure.reason == Reason::ConnectionFailed
        {
            let until = Instant::now() + UNREACHABLE;
            self.unreachable().insert(registry.to_owned(), until);
        }
        planned
    }

    fn is_unreachable(&self, registry: &str) -> bool {
        let mut unreachable = self.unreachable();
        unreachable.retain(|_, until| *until > Instant::now());
        unreachable.contains_key(registry)
    }

    fn unreachable(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        let unreachable = self.unreachable.lock();
        unreachable.unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores the manifests and finds the missing layers.
    async fn prepare(
        &self,
        content: &Content,
        (settings, registry): (Settings, Registry),
        present: Option<&Digest>,
        request: &PullRequest,
    ) -> Result<Plan, Failure> {
        let session = Session::new(registry, &request.image, request.auth.clone());
        let session = session.needing_every_host();
        if present.is_some() && session.head_manifest().await?.as_ref() == present {
            return Ok(Plan::Nothing);
        }
        let root = session.manifest().await?;
        let next = |digest: Digest| {
            let session = &session;
            async move { session.manifest_by_digest(&digest).await }
        };
        let resolved = resolve(root, &Platform::host(), next).await?;
        for Fetched {
            digest,
            bytes,
            manifest,
            ..
        } in &resolved.chain
        {
            let kind = match manifest {
                Manifest::Index(_) => "index",
                Manifest::Image(_) => "manifest",
            };
            content.put(kind, digest, bytes.clone()).await?;
        }
        let image = &resolved.image;
        let config = read_config(&session, image).await?.unwrap_or_default();
        let chain_ids = chain_ids(&config);
        if !config.is_empty() {
            let digest = &image.config.digest;
            content.put("config", digest, Bytes::from(config)).await?;
        }
        let own = self
            .own_layers
            .add(image.layers.iter().map(|layer| &layer.digest));
        let mut layers: Vec<Blob> = Vec::new();
        let mut unpacked = true;
        for (number, layer) in image.layers.iter().enumerate() {
            // containerd does not fetch a layer that is unpacked with all layers below it.
            unpacked = unpacked
                && match chain_ids.get(number) {
                    Some(id) => content.has_snapshot(&settings.snapshotter, id).await?,
                    None => false,
                };
            if !unpacked && !layers.contains(layer) && !content.has(&layer.digest).await? {
                layers.push(layer.clone());
            }
        }
        if layers.is_empty() {
            return Ok(Plan::Nothing);
        }
        let threshold = self.options.threshold;
        if threshold > ByteSize::ZERO && self.lowest_rate(&request.limit).is_none() {
            // A smaller layer comes over one connection in either case, and containerd waits a second or two for each layer
            // that it finds being written.
            layers.retain(|layer| layer.size > PART);
            let missing: ByteSize = layers.iter().map(|layer| ByteSize::new(layer.size)).sum();
            if missing < threshold {
                let part = ByteSize::new(PART);
                let why = format!(
                    "{missing} are missing in layers of more than {part}, less than {threshold}"
                );
                tracing::debug!(image = %request.image, why, "image left to the runtime");
                return Ok(Plan::Leave(why, Some(own)));
            }
        }
        if layers.len() > MAX_LAYERS {
            let why = format!(
                "{} layers are missing, more than {MAX_LAYERS}",
                layers.len()
            );
            self.log_left(request, &why);
            return Ok(Plan::Leave(why, Some(own)));
        }
        let downloads = Downloads {
            session: Arc::new(session),
            connections: self.connections.clone(),
            meter: Arc::new(Meter::new(request.progress.clone())),
            limit: request.limit.clone(),
        };
        Ok(Plan::Fetch(Work {
            downloads,
            layers,
            _own: own,
        }))
    }
}

fn log_kept(released: Result<(), Failure>) {
    if let Err(failure) = released {
        tracing::debug!(%failure, "lease not deleted; it expires");
    }
}

/// The chain IDs of an image's layers, the lowest first (OCI image specification, "Layer ChainID"), by which
/// snapshotters name unpacked layers.
fn chain_ids(config: &[u8]) -> Vec<String> {
    #[derive(Deserialize, Default)]
    struct Config {
        #[serde(default)]
        rootfs: RootFs,
    }
    #[derive(Deserialize, Default)]
    struct RootFs {
        #[serde(default)]
        diff_ids: Vec<String>,
    }
    let config: Config = serde_json::from_slice(config).unwrap_or_default();
    let mut chain: Option<String> = None;
    let ids = config.rootfs.diff_ids.into_iter().map(|diff_id| {
        let id = match chain.take() {
            None => diff_id,
            Some(parent) => sha256(format!("{parent} {diff_id}").as_bytes()),
        };
        chain = Some(id.clone());
        id
    });
    ids.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_name_a_layer_with_those_below() {
        let ids = chain_ids(
            br#"{"rootfs":{"type":"layers","diff_ids":["sha256:a","sha256:b","sha256:c"]}}"#,
        );
        let second = sha256(b"sha256:a sha256:b");
        let third = sha256(format!("{second} sha256:c").as_bytes());
        assert_eq!(ids, ["sha256:a".to_owned(), second, third]);
        assert!(chain_ids(b"{}").is_empty());
        assert!(chain_ids(b"").is_empty());
    }
}
