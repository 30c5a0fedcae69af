//! The API server of a test: the embedded one, or a real one.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use fledged_kube::crd::{ImageCache, NodeImageCache, install};
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use rustix::fs::{FlockOperation, flock};

use super::envtest::EnvTest;
use super::wait::eventually;
use crate::leftovers::TemporaryFolder;

/// The kind of API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// The API server in this process.
    Embedded,
    /// etcd and kube-apiserver from `KUBEBUILDER_ASSETS`, without Kubernetes' controllers.
    Assets,
    /// A whole cluster, from `TEST_KUBECONFIG`.
    Cluster,
}

enum Server {
    Embedded(Box<fledged_apiserver::Server>),
    Assets(Box<EnvTest>),
    /// Used by one test at a time, because a cluster has one controller.
    Cluster(#[expect(dead_code, reason = "held for its lock")] Option<std::fs::File>),
}

/// An API server with the definitions and a namespace for this test, without objects of other tests.
pub struct TestCluster {
    client: Client,
    kubeconfig: PathBuf,
    namespace: String,
    /// A label value that only this test's nodes have, and a part of their names.
    tag: String,
    server: Server,
    _folder: Option<TemporaryFolder>,
}

impl TestCluster {
    /// Starts the embedded server, or a real one if `TEST_KUBECONFIG` or `KUBEBUILDER_ASSETS` is set.
    pub async fn start() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(path) = variable("TEST_KUBECONFIG") {
            Self::start_on(path.as_ref()).await
        } else if let Some(assets) = variable("KUBEBUILDER_ASSETS") {
            Self::start_assets(assets.as_ref()).await
        } else {
            Self::start_embedded().await
        }
    }

    /// Starts etcd and kube-apiserver from a folder.
    pub async fn start_assets(folder: &Path) -> Self {
        let folder = folder.to_owned();
        let start = move || EnvTest::start(&folder);
        let server = tokio::task::spawn_blocking(start).await.unwrap();
        let kubeconfig = server.kubeconfig().to_owned();
        Self::of(Server::Assets(Box::new(server)), kubeconfig, None).await
    }

    /// Starts the embedded server.
    pub async fn start_embedded() -> Self {
        let folder = TemporaryFolder::create("apiserver-");
        let server = fledged_apiserver::Server::builder().start().await.unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, server.kubeconfig()).unwrap();
        Self::of(Server::Embedded(Box::new(server)), kubeconfig, Some(folder)).await
    }

    /// Uses the cluster of a kubeconfig, once no other test uses it.
    pub async fn start_on(kubeconfig: &Path) -> Self {
        let lock = tokio::task::spawn_blocking(lock_cluster).await.unwrap();
        Self::of(Server::Cluster(Some(lock)), kubeconfig.to_owned(), None).await
    }

    /// Uses the cluster of a kubeconfig without a lock: the caller must be its only user.
    pub async fn start_alone_on(kubeconfig: &Path) -> Self {
        Self::of(Server::Cluster(None), kubeconfig.to_owned(), None).await
    }

    async fn of(server: Server, kubeconfig: PathBuf, folder: Option<TemporaryFolder>) -> Self {
        fledged_cri::registry::ensure_tls_provider();
        let cluster = Self {
            client: client_of(&kubeconfig).await,
            kubeconfig,
            namespace: unique("fledged-test"),
            tag: unique("n"),
            server,
            _folder: folder,
        };
        cluster.prepare().await;
        cluster
    }

    async fn prepare(&self) {
        install(&self.client).await.unwrap();
        if self.kind() == ServerKind::Cluster {
            sweep(&self.client).await;
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = serde_json::json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": self.namespace },
        });
        let namespace = serde_json::from_value(namespace).unwrap();
        namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .unwrap();
    }

    /// Replaces the client.
    #[must_use]
    pub fn with_client(mut self, client: Client) -> Self {
        self.client = client;
        self
    }

    /// A client with all rights.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// A kubeconfig file with all rights.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The namespace of this test.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The value of the label `fledged-test` of this test's nodes, and the prefix of their names.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The kind of API server.
    #[must_use]
    pub fn kind(&self) -> ServerKind {
        match self.server {
            Server::Embedded(_) => ServerKind::Embedded,
            Server::Assets(_) => ServerKind::Assets,
            Server::Cluster(_) => ServerKind::Cluster,
        }
    }

    /// Stops the API server and keeps its objects.
    ///
    /// # Panics
    ///
    /// On a permanent cluster, which a test cannot stop.
    pub async fn stop_server(&mut self) {
        match &mut self.server {
            Server::Embedded(server) => server.down(),
            Server::Assets(server) => tokio::task::block_in_place(|| server.stop()),
            Server::Cluster(_) => panic!("the API server of a cluster can't be stopped"),
        }
    }

    /// Starts the API server again at the same address.
    pub async fn start_server(&mut self) {
        match &mut self.server {
            // On a loaded machine the listener of before may still be open.
            Server::Embedded(server) => {
                eventually("the address to be free", || async {
                    server.up().await.map_err(|error| error.to_string())
                })
                .await
            }
            Server::Assets(server) => tokio::task::block_in_place(|| server.start_again()),
            Server::Cluster(_) => {}
        }
    }

    /// Deletes the history of the API server and cuts the watches of the embedded one. A watch from an earlier version
    /// gets 410.
    ///
    /// # Panics
    ///
    /// On a permanent cluster, whose history a test must not delete.
    pub(crate) fn compact(&self) {
        match &self.server {
            Server::Embedded(server) => {
                server.compact();
                server.cut_watches();
            }
            Server::Assets(server) => server.compact(),
            Server::Cluster(_) => panic!("the history of a cluster can't be deleted"),
        }
    }

    /// Sends SIGSTOP or SIGCONT to kube-apiserver; `false` for other servers, which are no process of this test.
    pub(crate) fn signal_server(&self, pause: bool) -> bool {
        let Server::Assets(server) = &self.server else {
            return false;
        };
        if pause {
            server.apiserver().pause();
        } else {
            server.apiserver().resume();
        }
        true
    }

    /// Returns the embedded server, the only one that can inject failures; nothing for a real one.
    #[must_use]
    pub fn embedded(&self) -> Option<&fledged_apiserver::Server> {
        match &self.server {
            Server::Embedded(server) => Some(server),
            _ => None,
        }
    }
}

/// Label of every node that a test makes.
pub(super) const LABEL: &str = "fledged-test";

/// Removes objects of tests from a permanent cluster.
async fn sweep(client: &Client) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let caches: Api<ImageCache> = Api::all(client.clone());
    // Only the metadata: some tests store malformed specs.
    let left = caches.list_metadata(&ListParams::default()).await.unwrap();
    for cache in left {
        let namespace = cache.metadata.namespace.clone().unwrap_or_default();
        let name = cache.metadata.name.clone().unwrap_or_default();
        let caches: Api<ImageCache> = Api::namespaced(client.clone(), &namespace);
        let free = serde_json::json!({ "metadata": { "finalizers": null } });
        let _ = caches
            .patch(&name, &PatchParams::default(), &Patch::Merge(free))
            .await;
        let _ = caches.delete(&name, &DeleteParams::default()).await;
    }
    for namespace in namespaces.list(&ListParams::default()).await.unwrap() {
        let name = namespace.metadata.name.unwrap_or_default();
        if name.starts_with("fledged-test-") {
            let _ = namespaces.delete(&name, &DeleteParams::default()).await;
        }
    }
    let nodes: Api<Node> = Api::all(client.clone());
    let ours = ListParams::default().labels(LABEL);
    let _ = nodes
        .delete_collection(&DeleteParams::default(), &ours)
        .await;
    let records: Api<NodeImageCache> = Api::all(client.clone());
    let all = ListParams::default();
    let _ = records
        .delete_collection(&DeleteParams::default(), &all)
        .await;
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if self.kind() != ServerKind::Cluster {
            return;
        }
        let kubeconfig = self.kubeconfig.clone();
        // On a separate runtime, because the test's runtime may be shutting down.
        let swept = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build();
            runtime.map(|runtime| {
                runtime.block_on(async { sweep(&client_of(&kubeconfig).await).await })
            })
        });
        let _ = swept.join();
    }
}

pub(crate) async fn client_of(kubeconfig: &Path) -> Client {
    let file = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(file, &options)
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

fn unique(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{}-{count}", std::process::id())
}

fn lock_cluster() -> std::fs::File {
    let path = std::env::temp_dir().join("fledged-tests-cluster.lock");
    let file = std::fs::File::create(path).unwrap();
    flock(&file, FlockOperation::LockExclusive).unwrap();
    file
}
