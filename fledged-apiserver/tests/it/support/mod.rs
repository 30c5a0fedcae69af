//! The API server under test: one in the process, or a real one.
//!
//! The same behaviours are checked on both. The real one is started if `KUBEBUILDER_ASSETS` names a folder with
//! `etcd` and `kube-apiserver`, as for any other tests with them.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod calls;
mod kubectl;
mod real;

use std::time::Duration;

use fledged_apiserver::{Server, Service};
use serde_json::{Value, json};

pub use calls::{Answer, Lines};
pub use kubectl::has_kubectl;
pub use real::RealServer;

/// Deadline of polled conditions.
pub const SOON: Duration = Duration::from_secs(30);

/// Pause between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Content types of patches.
pub const MERGE: &str = "application/merge-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const JSON_PATCH: &str = "application/json-patch+json";
pub const APPLY: &str = "application/apply-patch+yaml";

enum Backend {
    /// In the process, behind a socket.
    Socket(Server),
    /// In the process, without a socket.
    Service(Service),
    Real(RealServer),
}

/// A cluster that consists of an API server.
pub struct Cluster {
    backend: Backend,
    pub client: kube::Client,
}

impl Cluster {
    pub async fn embedded() -> Self {
        Self::of(Server::builder().start().await.unwrap())
    }

    pub fn of(server: Server) -> Self {
        let mut config = server.client_config().unwrap();
        // Tests check refusals; a client must not retry them.
        config.default_retry = false;
        let client = kube::Client::try_from(config).unwrap();
        Self {
            backend: Backend::Socket(server),
            client,
        }
    }

    pub fn service() -> Self {
        let service = Server::builder().service().unwrap();
        Self {
            client: service.client(),
            backend: Backend::Service(service),
        }
    }

    /// A real API server, if there is one.
    pub async fn real() -> Option<Self> {
        let server = RealServer::start().await?;
        let client = server.client().await;
        Some(Self {
            backend: Backend::Real(server),
            client,
        })
    }

    /// The server in the process, for its controls.
    pub fn server(&self) -> &Server {
        match &self.backend {
            Backend::Socket(server) => server,
            _ => panic!("not a server in the process"),
        }
    }

    pub fn is_real(&self) -> bool {
        matches!(self.backend, Backend::Real(_))
    }

    fn kubeconfig(&self) -> String {
        match &self.backend {
            Backend::Socket(server) => server.kubeconfig(),
            Backend::Service(_) => panic!("kubectl needs a socket"),
            Backend::Real(server) => server.kubeconfig(),
        }
    }

    /// Creates a namespace for one test.
    pub async fn namespace(&self, name: &str) -> String {
        let namespace = json!({"metadata": {"generateName": format!("{name}-")}});
        let made = self.post("/api/v1/namespaces", namespace).await.ok();
        made["metadata"]["name"].as_str().unwrap().to_owned()
    }

    /// Creates the CRD of widgets in a group for one test, and waits until it is served.
    pub async fn widgets(&self, group: &str) -> String {
        let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        self.post(crds, widget_crd(group)).await.ok();
        let path = format!("{crds}/widgets.{group}");
        self.until(&path, |crd| {
            let conditions = crd["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            conditions
                .iter()
                .any(|c| c["type"] == "Established" && c["status"] == "True")
        })
        .await;
        let root = format!("/apis/{group}/v1");
        let deadline = tokio::time::Instant::now() + SOON;
        // A real server serves a resource shortly after it reports the definition as established.
        while self.get(&format!("{root}/widgets")).await.code != 200 {
            assert!(
                tokio::time::Instant::now() < deadline,
                "widgets are not served"
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        root
    }

    /// Waits until an object meets a condition.
    pub async fn until(&self, path: &str, test: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let answer = self.get(path).await;
            if answer.code == 200 && test(&answer.body) {
                return answer.body;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{path}: {}",
                answer.body
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until a path is not found.
    pub async fn until_gone(&self, path: &str) {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let answer = self.get(path).await;
            if answer.code == 404 {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{path}: {}",
                answer.body
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// A CRD that uses most features of schemas, in YAML.
pub fn widget_yaml(group: &str) -> String {
    include_str!("widgets.yaml").replace("GROUP", group)
}

/// The definition as an object.
pub fn widget_crd(group: &str) -> Value {
    serde_saphyr::from_str(&widget_yaml(group)).unwrap()
}

/// Checks behaviours on a server in the process, each in a test of its own: on a socket, and as a service on paused
/// time (unless they are listed after `on sockets:`). All of them are checked on a real API server, if there is one.
macro_rules! behaviours {
    (on sockets: $($name:ident),+ $(,)?) => {
        mod on_a_socket {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(&$crate::support::Cluster::embedded().await).await;
                }
            )+
        }

        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn on_a_real_server() {
            let Some(cluster) = $crate::support::Cluster::real().await else { return };
            $(
                eprintln!("{}", stringify!($name));
                $name(&cluster).await;
            )+
        }
    };
    ($($name:ident),+ $(,)?) => {
        mod as_a_service {
            $(
                #[tokio::test(start_paused = true)]
                async fn $name() {
                    super::$name(&$crate::support::Cluster::service()).await;
                }
            )+
        }

        behaviours![on sockets: $($name),+];
    };
}
