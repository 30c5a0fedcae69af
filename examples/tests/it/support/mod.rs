//! Runs an example.
use std::process::{Child, Command, ExitStatus};
use std::sync::Mutex;

use fledged_tests::kube::{TestCluster, eventually};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::{NamedTempFile, TempPath};

/// A running example, killed when dropped; prints its output and log if the test fails.
pub(crate) struct Example {
    child: Child,
    log: TempPath,
    output: TempPath,
}

impl Example {
    /// Starts an example on the test's API server.
    pub(crate) fn start(program: &str, args: &[&str], cluster: &TestCluster) -> Self {
        let mut command = Command::new(program);
        command.args(args).env("KUBECONFIG", cluster.kubeconfig());
        Self::spawn(command)
    }

    /// Starts an example with an embedded cluster.
    pub(crate) fn start_embedded(program: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        command
            .args(args)
            .arg("--embedded")
            .env("KUBECONFIG", "/dev/null");
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let (errors, log) = NamedTempFile::new().unwrap().into_parts();
        let (printed, output) = NamedTempFile::new().unwrap().into_parts();
        let child = command.stderr(errors).stdout(printed).spawn().unwrap();
        Self { child, log, output }
    }

    /// Waits until the example has printed a line with this text; returns the rest of the line.
    pub(crate) async fn printed(&self, text: &str) -> String {
        rest_of_line(&self.output, text).await
    }

    /// Waits until the example has logged a line with this text; returns the rest of the line.
    pub(crate) async fn logged(&self, text: &str) -> String {
        rest_of_line(&self.log, text).await
    }

    /// Sends SIGTERM and returns the exit status.
    pub(crate) async fn stop(self) -> ExitStatus {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        self.ended().await
    }

    /// Waits for the end of the example and returns the exit status.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        let child = Mutex::new(&mut self.child);
        eventually("the example to end", || async {
            let ended = child.lock().unwrap().try_wait().unwrap();
            ended.ok_or_else(|| "still running".to_owned())
        })
        .await
    }
}

async fn rest_of_line(file: &TempPath, text: &str) -> String {
    eventually(&format!("{text:?}"), || async {
        let all = std::fs::read_to_string(file).unwrap();
        // An unterminated line may be incomplete.
        let mut lines = all
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'));
        let found = lines.find_map(|line| line.split_once(text));
        found
            .map(|(_, rest)| rest.trim_end().to_owned())
            .ok_or_else(|| all.clone())
    })
    .await
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            for file in [&self.output, &self.log] {
                eprintln!("{}", std::fs::read_to_string(file).unwrap_or_default());
            }
        }
    }
}
