//! One pull through CRI, for which fledged fetches the layers.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ByteSize, Digest, ImageRef, PulledVia};
use fledged_core::port::PullRequest;
use serde::Deserialize;
use tokio::sync::{Mutex, oneshot};

use super::content::Content;
use super::layers::{self, Outcome};
use super::priority::{OwnLayers, OwnPull, let_others_first};
use super::settings::Settings;
use crate::cri::Client;
use crate::registry::{
    Blob, CONTAINERD_CONFIG_DIR, Connections, Downloads, Fetched, MAX_CONNECTIONS, Manifest, Meter,
    Platform, PullRate, Registry, RegistryOptions, Session, configured_hosts_dirs,
    has_old_registry_settings, read_config, resolve, sha256,
};

/// The default of [`FetcherOptions::threshold`]: a download this small gains nothing from several connections.
const THRESHOLD: ByteSize = ByteSize::new(16 * 1024 * 1024);
/// Images with more missing layers are left to the runtime. Each is an open file and a stream of containerd until
/// it is complete; images that Docker builds have at most 127.
const MAX_LAYERS: usize = 256;
/// Where containerd looks for `hosts.toml` files after the folder of its configuration.
const DOCKER_HOSTS_DIR: &str = "/etc/docker/certs.d";
/// Why the runtime pulls everything.
const NO_CONTENT_STORE: &str = "the runtime has no content store";
/// Why the runtime pulls an image that is present.
const UP_TO_DATE: &str = "the registry has the digest that is present";

/// How layers are fetched for a runtime with containerd's content store.
///
/// See [`CriRuntime::with_fetcher`](crate::CriRuntime::with_fetcher).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FetcherOptions {
    /// How registries are reached.
    pub registry: RegistryOptions,
    /// The folder of containerd's configuration, whose settings of registries replace
    /// [`hosts_dirs`](RegistryOptions::hosts_dirs). If it or a folder that it names is not visible to this process,
    /// everything is left to the runtime. `None`: `hosts_dirs` apply. Default: `/etc/containerd`.
    pub config_dir: Option<PathBuf>,
    /// How many connections fetch layers, of all images together. Each holds at most 8 MiB in memory.
    pub max_connections: NonZeroUsize,
    /// Images with fewer missing bytes, compressed, are left to the runtime. Zero: none. With
    /// [`max_pull_rate`](Self::max_pull_rate), none are.
    pub threshold: ByteSize,
    /// Bytes of layers that are received in a second, at most, by all pulls together. What the
    /// runtime pulls itself is not limited. Default: no limit.
    pub max_pull_rate: Option<PullRate>,
}

impl Default for FetcherOptions {
    /// [`RegistryOptions::default`], eight connections, 16 MiB.
    fn default() -> Self {
        Self {
            registry: RegistryOptions::default(),
            config_dir: Some(CONTAINERD_CONFIG_DIR.into()),
            max_connections: MAX_CONNECTIONS,
            threshold: THRESHOLD,
            max_pull_rate: None,
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
}

/// What is fetched for one pull.
struct Work {
    downloads: Downloads,
    /// Empty: the layers are left to the runtime.
    layers: Vec<Blob>,
    /// Why they are.
    left: String,
    _own: OwnPull,
}

impl Fetcher {
    pub(crate) fn new(options: FetcherOptions) -> Self {
        Self {
            connections: Connections::new(options.max_connections, options.max_pull_rate),
            options,
            own_layers: OwnLayers::default(),
            registry: Mutex::default(),
            unsupported: AtomicBool::new(false),
        }
    }

    /// Pulls an image, and returns what fetched its layers. `present` is the digest under that name, if the runtime has
    /// one.
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
    ) -> Result<PulledVia, Failure> {
        let image = &request.image;
        let pull = client.pull(image.as_str(), request.auth.as_ref());
        let (content, access) = match self.open(client, request).await {
            Ok(opened) => opened,
            Err(failure) => {
                let why = failure.to_string();
                self.log_left(image, &why);
                let _own = self.own_layers.add_unknown();
                return pull.await.map(|()| PulledVia::Runtime(why));
            }
        };
        let (work, left) = match self.prepare(&content, access, present, request).await {
            Ok(Some(work)) => {
                let left = work.left.clone();
                (Some(work), left)
            }
            Ok(None) => (None, UP_TO_DATE.to_owned()),
            Err(failure) if failure.reason == Reason::TooManyRequests => {
                log_kept(content.release_own().await);
                return Err(failure);
            }
            Err(failure) => {
                let why = failure.to_string();
                self.log_left(image, &why);
                (None, why)
            }
        };
        let fetched = work.as_ref().filter(|work| !work.layers.is_empty());
        let outcome = Outcome::default();
        let pulled = match fetched {
            None => {
                let _own = work.is_none().then(|| self.own_layers.add_unknown());
                pull.await
            }
            Some(Work {
                downloads, layers, ..
            }) => {
                let (first, first_ended) = oneshot::channel();
                let fetching = layers::fetch(downloads, &content, layers, first, &outcome);
                let pulling = async {
                    // Always an error: the sender is dropped without a message.
                    let _ = first_ended.await;
                    pull.await
                };
                let yielding = let_others_first(&content, &self.own_layers, &self.connections);
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
        };
        match &pulled {
            Ok(()) => log_kept(content.release_all().await),
            // Unfinished layers of a pull that may never be repeated would fill the disk for a day.
            Err(failure) if failure.reason == Reason::DiskFull => {
                log_kept(content.release_all().await);
            }
            // No layers were written. The leases of earlier attempts keep theirs.
            Err(_) if fetched.is_none() => log_kept(content.release_own().await),
            // The next attempt continues the layers that the lease keeps.
            Err(_) => {}
        }
        pulled?;
        Ok(match fetched {
            Some(_) => outcome.via(),
            None => PulledVia::Runtime(left),
        })
    }

    /// Logs why the runtime pulls an image by itself.
    fn log_left(&self, image: &ImageRef, why: &str) {
        match self.options.max_pull_rate {
            Some(limit) => {
                tracing::warn!(%image, %limit, why, "image left to the runtime, without limit");
            }
            None => tracing::debug!(%image, why, "image left to the runtime"),
        }
    }

    /// Deletes what failed pulls of the image have fetched.
    pub(crate) async fn forget(&self, client: &Client, image: &ImageRef) {
        if self.unsupported.load(Ordering::Relaxed) {
            return;
        }
        match Content::new(client.channel(), client.socket(), image) {
            Ok(content) => log_kept(content.release_all().await),
            Err(failure) => log_kept(Err(failure)),
        }
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
        let mut settings = Settings::read(&client.verbose_status().await?).map_err(unsupported)?;
        if let Some(config_dir) = &self.options.config_dir {
            let found = settings.hosts_dirs.take();
            let dirs = hosts_dirs(found, config_dir).map_err(|problem| unsupported(&problem))?;
            settings.hosts_dirs = Some(dirs);
        }
        let registry = self.registry(&settings).await?;
        let content = Content::new(client.channel(), client.socket(), &request.image)?;
        match content.lease().await {
            Ok(()) => Ok((content, (settings, registry))),
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
        if let Some(dirs) = &settings.hosts_dirs
            && self.options.config_dir.is_some()
        {
            options.hosts_dirs.clone_from(dirs);
        }
        let registry = Registry::new(options)?;
        *known = Some((settings.clone(), registry.clone()));
        Ok(registry)
    }

    /// Stores the manifests and finds the missing layers; `None` if the image is up to date.
    async fn prepare(
        &self,
        content: &Content,
        (settings, registry): (Settings, Registry),
        present: Option<&Digest>,
        request: &PullRequest,
    ) -> Result<Option<Work>, Failure> {
        let session = Session::new(registry, &request.image, request.auth.clone());
        let session = session.needing_every_host();
        if present.is_some() && session.head_manifest().await?.as_ref() == present {
            return Ok(None);
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
        let missing: ByteSize = layers.iter().map(|layer| ByteSize::new(layer.size)).sum();
        let threshold = match self.options.max_pull_rate {
            Some(_) => ByteSize::ZERO,
            None => self.options.threshold,
        };
        let mut left = String::new();
        if layers.is_empty() {
            left = "no layer is missing".to_owned();
        } else if missing < threshold {
            left = format!("{missing} are missing, less than {threshold}");
            tracing::debug!(image = %request.image, why = left, "image left to the runtime");
            layers.clear();
        } else if layers.len() > MAX_LAYERS {
            let count = layers.len();
            left = format!("{count} layers are missing, more than {MAX_LAYERS}");
            self.log_left(&request.image, &left);
            layers.clear();
        }
        let downloads = Downloads {
            session: Arc::new(session),
            connections: self.connections.clone(),
            meter: Arc::new(Meter::new(request.progress.clone())),
        };
        Ok(Some(Work {
            downloads,
            layers,
            left,
            _own: own,
        }))
    }
}

/// The folders of `hosts.toml` files: those of the runtime's status, else those of its configuration.
///
/// # Errors
///
/// This process does not see them, or the configuration has settings that only the runtime follows.
fn hosts_dirs(found: Option<Vec<PathBuf>>, config_dir: &Path) -> Result<Vec<PathBuf>, String> {
    let visible = |folder: &Path| match folder.exists() {
        true => Ok(()),
        false => Err(format!(
            "{} with the runtime's settings of registries is not visible to this process",
            folder.display()
        )),
    };
    if found.is_none() {
        visible(config_dir)?;
        if has_old_registry_settings(config_dir) {
            return Err("containerd has registry settings of an old form".to_owned());
        }
    }
    let Some(dirs) = found.or_else(|| configured_hosts_dirs(config_dir)) else {
        // containerd's default.
        return Ok(vec![config_dir.join("certs.d"), DOCKER_HOSTS_DIR.into()]);
    };
    // The folders themselves need not exist.
    for folder in dirs.iter().filter_map(|dir| dir.parent()) {
        visible(folder)?;
    }
    Ok(dirs)
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
    fn settings_of_registries_have_to_be_visible() {
        let folder = tempfile::tempdir().unwrap();
        let config_dir = folder.path();
        let hidden = Path::new("/no-such-folder");
        let message = "/no-such-folder with the runtime's settings of registries is not visible to this process";
        let certs = config_dir.join("certs.d");
        let in_status = |dirs: &[&Path]| Some(dirs.iter().map(|dir| dir.to_path_buf()).collect());
        let refused = |found| hosts_dirs(found, config_dir).unwrap_err();

        assert_eq!(hosts_dirs(in_status(&[]), hidden), Ok(Vec::new()));
        assert_eq!(
            hosts_dirs(in_status(&[&certs]), hidden),
            Ok(vec![certs.clone()])
        );
        assert_eq!(
            refused(in_status(&[&certs, &hidden.join("certs.d")])),
            message
        );

        // containerd 2 does not have them in its status.
        assert_eq!(hosts_dirs(None, hidden).unwrap_err(), message);
        let default = vec![certs.clone(), PathBuf::from("/etc/docker/certs.d")];
        assert_eq!(hosts_dirs(None, config_dir), Ok(default));
        let configure = |registry: &str| {
            let text = format!("[plugins.\"io.containerd.cri.v1.images\".registry]\n{registry}\n");
            std::fs::write(config_dir.join("config.toml"), text).unwrap();
        };
        configure(&format!("config_path = \"{}\"", certs.display()));
        assert_eq!(hosts_dirs(None, config_dir), Ok(vec![certs]));
        configure("config_path = \"/no-such-folder/certs.d\"");
        assert_eq!(refused(None), message);
        configure("mirrors.\"docker.io\".endpoint = [\"https://m.test\"]");
        assert!(refused(None).contains("old form"));
    }

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
