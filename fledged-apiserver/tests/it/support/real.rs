//! A real API server with its etcd.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// `etcd` and `kube-apiserver` in a temporary folder, stopped when dropped.
pub struct RealServer {
    processes: Vec<Child>,
    folder: TempDir,
    port: u16,
}

impl Drop for RealServer {
    fn drop(&mut self) {
        for process in self.processes.iter_mut().rev() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn assets() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("KUBEBUILDER_ASSETS")?);
    ["etcd", "kube-apiserver"]
        .iter()
        .all(|program| folder.join(program).exists())
        .then_some(folder)
}

impl RealServer {
    /// Starts a real API server, if `KUBEBUILDER_ASSETS` is set.
    pub async fn start() -> Option<Self> {
        let Some(assets) = assets() else {
            let _ = writeln!(
                std::io::stderr(),
                "skipped: KUBEBUILDER_ASSETS names no kube-apiserver"
            );
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let log =
            |name: &str| Stdio::from(std::fs::File::create(folder.path().join(name)).unwrap());
        let made = Command::new("openssl")
            .args(["genrsa", "-out", &path("key"), "2048"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        std::fs::write(path("tokens"), "token,admin,admin,system:masters\n").unwrap();
        let (store, peers, port) = (free_port(), free_port(), free_port());
        let (store, peers) = (
            format!("http://127.0.0.1:{store}"),
            format!("http://127.0.0.1:{peers}"),
        );
        let etcd = Command::new(assets.join("etcd"))
            .args([
                "--data-dir",
                &path("etcd"),
                "--unsafe-no-fsync",
                "--log-level",
                "warn",
            ])
            .args([
                "--listen-client-urls",
                &store,
                "--advertise-client-urls",
                &store,
            ])
            .args([
                "--listen-peer-urls",
                &peers,
                "--initial-advertise-peer-urls",
                &peers,
            ])
            .args(["--initial-cluster", &format!("default={peers}")])
            .stdout(log("etcd.log"))
            .stderr(log("etcd.err"))
            .spawn()
            .unwrap();
        let server = Command::new(assets.join("kube-apiserver"))
            .args([
                "--etcd-servers",
                &store,
                "--bind-address",
                "127.0.0.1",
                "--advertise-address",
                "127.0.0.1",
            ])
            .args([
                "--secure-port",
                &port.to_string(),
                "--cert-dir",
                &path("certs"),
            ])
            .args(["--service-account-issuer", "https://kubernetes.default.svc"])
            .args([
                "--service-account-key-file",
                &path("key"),
                "--service-account-signing-key-file",
                &path("key"),
            ])
            .args([
                "--authorization-mode",
                "RBAC",
                "--token-auth-file",
                &path("tokens"),
            ])
            .args(["--service-cluster-ip-range", "10.0.0.0/24"])
            .stdout(log("server.log"))
            .stderr(log("server.err"))
            .spawn()
            .unwrap();
        let server = Self {
            processes: vec![etcd, server],
            folder,
            port,
        };
        server.wait().await;
        Some(server)
    }

    async fn wait(&self) {
        let deadline = tokio::time::Instant::now() + 2 * super::SOON;
        loop {
            // The certificate is made on the first start.
            if self.folder.path().join("certs/apiserver.crt").exists() {
                let ready = http::Request::get("/readyz").body(Vec::new()).unwrap();
                let namespace = http::Request::get("/api/v1/namespaces/default")
                    .body(Vec::new())
                    .unwrap();
                let client = self.client().await;
                let ready = client.request_text(ready).await.is_ok()
                    && client.request_text(namespace).await.is_ok();
                if ready {
                    return;
                }
            }
            let log = || {
                std::fs::read_to_string(self.folder.path().join("server.err")).unwrap_or_default()
            };
            assert!(
                tokio::time::Instant::now() < deadline,
                "the API server is not ready: {}",
                log()
            );
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    pub fn kubeconfig(&self) -> String {
        let authority = self.folder.path().join("certs/apiserver.crt");
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: real\n  cluster:\n    server: https://127.0.0.1:{}\n    certificate-authority: {}\nusers:\n- name: real\n  user:\n    token: token\ncontexts:\n- name: real\n  context: {{cluster: real, user: real}}\ncurrent-context: real\n",
            self.port,
            authority.display()
        )
    }

    pub async fn client(&self) -> kube::Client {
        let kubeconfig = kube::config::Kubeconfig::from_yaml(&self.kubeconfig()).unwrap();
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default())
            .await
            .unwrap();
        config.default_retry = false;
        kube::Client::try_from(config).unwrap()
    }
}
