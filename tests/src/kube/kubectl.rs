//! Runs the real kubectl.

use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::cluster::TestCluster;
use crate::require::find;

/// The result of a call of kubectl.
#[derive(Debug, Clone)]
pub struct KubectlOutput {
    /// Whether the exit code was 0.
    pub success: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl KubectlOutput {
    /// Returns the standard output of a call that must succeed.
    ///
    /// # Panics
    ///
    /// When the call failed.
    #[must_use]
    pub fn ok(self) -> String {
        assert!(self.success, "{}\n{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// kubectl as an administrator of a cluster, in the test's namespace.
#[derive(Debug, Clone)]
pub struct Kubectl {
    kubeconfig: std::path::PathBuf,
    namespace: String,
}

impl Kubectl {
    /// Returns kubectl for the test's namespace of a cluster.
    #[must_use]
    pub fn new(cluster: &TestCluster) -> Self {
        Self {
            kubeconfig: cluster.kubeconfig().to_owned(),
            namespace: cluster.namespace().to_owned(),
        }
    }

    /// Returns kubectl for another namespace of a cluster.
    #[must_use]
    pub fn in_namespace(cluster: &TestCluster, namespace: &str) -> Self {
        Self {
            kubeconfig: cluster.kubeconfig().to_owned(),
            namespace: namespace.to_owned(),
        }
    }

    /// Runs kubectl with these arguments.
    pub async fn run(&self, args: &[&str]) -> KubectlOutput {
        self.run_with(args, "", &[]).await
    }

    /// Runs kubectl with these arguments, standard input and environment variables.
    pub async fn run_with(
        &self,
        args: &[&str],
        input: &str,
        variables: &[(&str, &str)],
    ) -> KubectlOutput {
        let program = find("kubectl").expect("kubectl is not installed");
        let home = tempfile::tempdir().unwrap();
        let mut child = Command::new(program)
            .args(["--namespace", &self.namespace])
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            // kubectl caches API discovery in $HOME; another server may reuse the address.
            .env("HOME", home.path())
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let output = child.wait_with_output();
        let output = tokio::time::timeout(crate::poll::SOON, output).await;
        let output = output
            .unwrap_or_else(|_| panic!("kubectl {args:?} does not end"))
            .unwrap();
        KubectlOutput {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
