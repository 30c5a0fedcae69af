//! A real etcd and kube-apiserver from `KUBEBUILDER_ASSETS`, in a temporary folder.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

use crate::leftovers::TemporaryFolder;
use crate::process::Process;

const TOKEN: &str = "test-admin-token";

/// The processes of etcd and kube-apiserver, stopped when dropped.
#[derive(Debug)]
pub(super) struct EnvTest {
    kubeconfig: PathBuf,
    program: PathBuf,
    args: Vec<String>,
    /// `127.0.0.1:PORT` of etcd.
    etcd_addr: String,
    // Dropped first, because an API server without its etcd does not end in time.
    apiserver: Process,
    _etcd: Process,
    folder: TemporaryFolder,
}

impl EnvTest {
    /// Starts both; blocks until the API server is ready.
    pub(super) fn start(assets: &Path) -> Self {
        let folder = TemporaryFolder::create("envtest-");
        let root = folder.path();
        let [client, peer, secure] = free_ports();
        let etcd_url = format!("http://127.0.0.1:{client}");
        let peer_url = format!("http://127.0.0.1:{peer}");
        let etcd = Process::start(
            assets.join("etcd").to_str().unwrap(),
            &[
                format!("--data-dir={}", root.join("etcd").display()),
                format!("--listen-client-urls={etcd_url}"),
                format!("--advertise-client-urls={etcd_url}"),
                format!("--listen-peer-urls={peer_url}"),
                format!("--initial-advertise-peer-urls={peer_url}"),
                format!("--initial-cluster=default={peer_url}"),
                "--unsafe-no-fsync".to_owned(),
                "--log-level=warn".to_owned(),
            ],
            root,
        );
        let (private, public) = (root.join("sa.key"), root.join("sa.pub"));
        let (private_text, public_text) = signing_key();
        fs::write(&private, private_text).unwrap();
        fs::write(&public, public_text).unwrap();
        let tokens = root.join("tokens.csv");
        fs::write(&tokens, format!("{TOKEN},admin,admin,\"system:masters\"\n")).unwrap();
        let program = assets.join("kube-apiserver");
        let args = vec![
            format!("--etcd-servers={etcd_url}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={secure}"),
            format!("--cert-dir={}", root.join("certs").display()),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", public.display()),
            format!("--service-account-signing-key-file={}", private.display()),
            "--authorization-mode=RBAC".to_owned(),
            format!("--token-auth-file={}", tokens.display()),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            // There is no controller manager that creates default ServiceAccounts for pods.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
        ];
        let kubeconfig = root.join("kubeconfig");
        let certificate = root.join("certs/apiserver.crt");
        fs::write(&kubeconfig, kubeconfig_text(secure, &certificate)).unwrap();
        let apiserver = launch(&program, &args, root, &kubeconfig);
        Self {
            kubeconfig,
            program,
            args,
            etcd_addr: format!("127.0.0.1:{client}"),
            apiserver,
            _etcd: etcd,
            folder,
        }
    }

    /// Stops the API server; etcd keeps the objects.
    pub(super) fn stop(&mut self) {
        self.apiserver.kill9();
    }

    /// Starts the API server again, with the same address and certificate.
    pub(super) fn start_again(&mut self) {
        let folder = self.folder.path();
        self.apiserver = launch(&self.program, &self.args, folder, &self.kubeconfig);
    }

    /// The process of the API server.
    pub(super) fn apiserver(&self) -> &Process {
        &self.apiserver
    }

    /// Deletes the history in etcd. A watch from an earlier version gets 410.
    pub(super) fn compact(&self) {
        let ask = |path: &str, body: serde_json::Value| {
            let body = body.to_string().into();
            let answer =
                crate::http::send(&self.etcd_addr, hyper::Method::POST, path, &[], None, body);
            let answer = answer.unwrap();
            assert!(answer.status.is_success(), "{path}: {answer:?}");
            serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap()
        };
        // "AA==" is a key that does not exist: only the revision is read.
        let read = ask("/v3/kv/range", serde_json::json!({ "key": "AA==" }));
        let revision = read["header"]["revision"].clone();
        let compact = serde_json::json!({ "revision": revision, "physical": true });
        ask("/v3/kv/compaction", compact);
    }

    pub(super) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

/// Starts an API server and waits until it is ready.
fn launch(program: &Path, args: &[String], folder: &Path, kubeconfig: &Path) -> Process {
    let mut apiserver = Process::start(program.to_str().unwrap(), args, folder);
    apiserver.wait_ready(|_| {
        let ready = std::process::Command::new("kubectl")
            .args(["get", "--raw", "/readyz", "--kubeconfig"])
            .arg(kubeconfig)
            .output()
            .unwrap();
        ready.status.success().then_some(())
    });
    apiserver
}

/// A new key for ServiceAccount tokens, private and public, in PEM.
fn signing_key() -> (String, String) {
    /// The bytes before the point in a SubjectPublicKeyInfo on P-256 (RFC 5480).
    const POINT_INFO: [u8; 26] = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08,
        0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
    ];
    let random = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap();
    let public = [POINT_INFO.as_slice(), pair.public_key().as_ref()].concat();
    (pem("PRIVATE KEY", key.as_ref()), pem("PUBLIC KEY", &public))
}

fn pem(label: &str, content: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(content);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn kubeconfig_text(port: u16, certificate: &Path) -> String {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "test", "cluster": {
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority": certificate,
        } }],
        "users": [{ "name": "admin", "user": { "token": TOKEN } }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "admin" } }],
        "current-context": "test",
    })
    .to_string()
}
