//! The built binary, and a registry for it.
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use fledged_cli::demo::{DemoRegistry, generate, storefront};
use serde_json::Value;

/// Longest wait for anything that is to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The binary with those arguments, and none of this machine's settings.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fledged"));
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FLEDGED_") {
            command.env_remove(name);
        }
    }
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
    /// Fails unless it ended with that code.
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

    /// Fails unless every part is in what it said on stderr.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "{part:?} is not in:\n{}",
                self.stderr
            );
        }
        self
    }

    /// The JSON on stdout, which must be all there is.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}:\n{}\n{}", self.stdout, self.stderr))
    }
}

/// Runs the binary to its end.
pub(crate) fn fledged(args: &[&str]) -> Run {
    command(args).output().unwrap().into()
}

/// Runs the binary to its end with that on stdin.
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

/// The text of an ImageCache with those images on every node.
pub(crate) fn manifest(images: &[String]) -> String {
    format!(
        "apiVersion: kubefledged.io/v1alpha2\nkind: ImageCache\nmetadata: {{name: test}}\nspec:\n  cacheSpec:\n  - images: {images:?}\n"
    )
}

/// A folder, a registry with the demo's images, and the means to serve it.
pub(crate) struct Stage {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) registry: DemoRegistry,
    pub(crate) images: Vec<String>,
    _runtime: tokio::runtime::Runtime,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::paced(Duration::from_millis(5))
    }

    /// With a registry that pauses that long after every 64 KiB.
    pub(crate) fn paced(pause: Duration) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let images = storefront();
        let content = generate(&images, "linux", "amd64");
        let registry = runtime
            .block_on(DemoRegistry::paced(content, pause))
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

    /// `oci:` and a folder that does not exist yet.
    pub(crate) fn store(&self) -> String {
        format!("oci:{}", self.store_path().display())
    }

    pub(crate) fn store_path(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// References that the store holds.
    pub(crate) fn held(&self) -> Vec<String> {
        let listing = fledged(&["node", "list", "--runtime", &self.store(), "-o", "json"])
            .expect_code(0)
            .json();
        let mut held: Vec<String> = listing["images"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|image| image["references"].as_array().unwrap().clone())
            .map(|reference| reference.as_str().unwrap().to_owned())
            .filter(|reference| !reference.contains('@'))
            .collect();
        held.sort();
        held
    }
}

pub(crate) fn text_of(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn eventually(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A process that stays; killed when dropped. What it says goes to a file.
pub(crate) struct Staying {
    child: Child,
    log: PathBuf,
}

impl Staying {
    /// Starts the binary.
    pub(crate) fn start(args: &[&str], log: PathBuf) -> Self {
        Self::spawn(&mut command(args), log)
    }

    /// Starts a command that was prepared.
    pub(crate) fn spawn(command: &mut Command, log: PathBuf) -> Self {
        let stderr = std::fs::File::create(&log).unwrap();
        let stdout = stderr.try_clone().unwrap();
        let child = command.stdout(stdout).stderr(stderr).spawn().unwrap();
        Self { child, log }
    }

    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    #[track_caller]
    pub(crate) fn wait_for(&mut self, words: &str) {
        let start = Instant::now();
        while !self.said().contains(words) {
            assert!(
                start.elapsed() < PATIENCE && self.child.try_wait().unwrap().is_none(),
                "it never said {words:?}:\n{}",
                self.said()
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

    /// Waits for its end; the exit code and how long that took.
    pub(crate) fn end(&mut self) -> (Option<i32>, Duration) {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), start.elapsed());
            }
            assert!(
                start.elapsed() < PATIENCE,
                "it does not end:\n{}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
