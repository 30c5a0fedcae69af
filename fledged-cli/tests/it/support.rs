//! Runs the built program, with a registry to pull from.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::demo_registry::{DemoImage, DemoRegistry, generate};

/// Longest wait for any condition.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// Returns the program with these arguments, without the settings of this machine.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fledged"));
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FLEDGED_") {
            command.env_remove(name);
        }
    }
    command.env("DOCKER_CONFIG", "/nonexistent");
    command
}

/// A finished run.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Run {
    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout:\n{}\nstderr:\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Asserts that stderr contains every part.
    #[track_caller]
    pub(crate) fn expect_stderr(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "{part:?} is not in:\n{}",
                self.stderr
            );
        }
        self
    }

    /// All of stdout, parsed as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}:\n{}\n{}", self.stdout, self.stderr))
    }
}

/// Runs the program to its end.
pub(crate) fn fledged(args: &[&str]) -> Run {
    command(args).output().unwrap().into()
}

/// Runs the program to its end with this text on stdin.
pub(crate) fn fledged_with_stdin(args: &[&str], stdin: &str) -> Run {
    let mut child = command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(stdin.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap().into()
}

/// Returns an ImageCache with these images on all nodes.
pub(crate) fn manifest(images: &[String]) -> String {
    format!(
        "apiVersion: kubefledged.io/v1alpha2\nkind: ImageCache\nmetadata: {{name: test}}\nspec:\n  cacheSpec:\n  - images: {images:?}\n"
    )
}

/// A directory, and a registry with generated images.
pub(crate) struct TestBed {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) registry: DemoRegistry,
    pub(crate) images: Vec<String>,
    _runtime: tokio::runtime::Runtime,
}

impl TestBed {
    pub(crate) fn new() -> Self {
        Self::paced(Duration::from_millis(5))
    }

    /// With a registry that pauses after every 64 KiB.
    pub(crate) fn paced(pause: Duration) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let images = ["demo/web", "demo/api", "demo/batch"].map(|name| DemoImage::new(name, "v1"));
        let content = generate(&images, "linux", "amd64");
        let registry = runtime
            .block_on(DemoRegistry::start(content, pause))
            .unwrap();
        let images = images
            .iter()
            .map(|image| format!("{}/{}:{}", registry.host(), image.repository, image.tag))
            .collect();
        Self {
            folder: tempfile::tempdir().unwrap(),
            registry,
            images,
            _runtime: runtime,
        }
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        text_of(&path)
    }

    /// The URI of a store that does not exist yet.
    pub(crate) fn store(&self) -> String {
        format!("oci:{}", self.store_path().display())
    }

    pub(crate) fn store_path(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// The references in the store; none if it does not exist.
    pub(crate) fn stored(&self) -> Vec<String> {
        if !self.store_path().exists() {
            return Vec::new();
        }
        let listing = fledged(&["node", "list", "--runtime", &self.store(), "-o", "json"])
            .expect_code(0)
            .json();
        let mut stored: Vec<String> = listing["images"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|image| image["references"].as_array().unwrap().clone())
            .map(|reference| reference.as_str().unwrap().to_owned())
            .filter(|reference| !reference.contains('@'))
            .collect();
        stored.sort();
        stored
    }
}

pub(crate) fn text_of(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Waits until a condition is met.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_met: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_met() {
        assert!(start.elapsed() < TIMEOUT, "timed out: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A running process, killed when dropped. Its output goes to a file.
pub(crate) struct RunningProgram {
    child: Child,
    log: PathBuf,
}

impl RunningProgram {
    /// Starts the program.
    pub(crate) fn start(args: &[&str], log: PathBuf) -> Self {
        Self::spawn(&mut command(args), log)
    }

    /// Starts a prepared command.
    pub(crate) fn spawn(command: &mut Command, log: PathBuf) -> Self {
        let stderr = std::fs::File::create(&log).unwrap();
        let stdout = stderr.try_clone().unwrap();
        let child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
        Self { child, log }
    }

    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    #[track_caller]
    pub(crate) fn wait_for(&mut self, words: &str) {
        let start = Instant::now();
        while !self.output().contains(words) {
            assert!(
                start.elapsed() < TIMEOUT && self.child.try_wait().unwrap().is_none(),
                "{words:?} was not printed:\n{}",
                self.output()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for its end; returns the exit code and the time until the end.
    pub(crate) fn end(&mut self) -> (Option<i32>, Duration) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), start.elapsed());
            }
            assert!(
                start.elapsed() < TIMEOUT,
                "it is still running:\n{}",
                self.output()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for RunningProgram {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
