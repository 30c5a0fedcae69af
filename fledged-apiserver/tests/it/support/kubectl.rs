//! The real `kubectl`.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use super::Cluster;

/// The result of a `kubectl` command.
#[derive(Debug)]
pub struct KubectlOutput {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

impl KubectlOutput {
    /// The standard output of a success.
    pub fn ok(self) -> String {
        assert!(self.ok, "{self:?}");
        self.out
    }

    /// The standard error of a failure.
    pub fn refused(self) -> String {
        assert!(!self.ok, "{self:?}");
        self.err
    }
}

/// Returns whether `kubectl` is installed; with `CI=true` it must be.
pub fn has_kubectl() -> bool {
    let found = Command::new("kubectl")
        .args(["version", "--client"])
        .stdout(Stdio::null())
        .status();
    if found.is_ok_and(|status| status.success()) {
        return true;
    }
    assert_ne!(
        std::env::var("CI").as_deref(),
        Ok("true"),
        "kubectl is not installed"
    );
    let _ = writeln!(std::io::stderr(), "skipped: kubectl is not installed");
    false
}

impl Cluster {
    /// Runs `kubectl` with some input.
    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> KubectlOutput {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, self.kubeconfig()).unwrap();
        let mut command = Command::new("kubectl");
        // A separate cache, because kubectl caches API discovery for minutes.
        command
            .args(arguments)
            .env("KUBECONFIG", &kubeconfig)
            .env("KUBECACHEDIR", folder.path().join("cache"));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let input = input.to_owned();
        let run = move || -> Output {
            let mut child = command.spawn().unwrap();
            child
                .stdin
                .take()
                .unwrap()
                .write_all(input.as_bytes())
                .unwrap();
            child.wait_with_output().unwrap()
        };
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        drop(folder);
        KubectlOutput {
            ok: output.status.success(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
