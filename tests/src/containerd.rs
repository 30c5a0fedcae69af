//! A real containerd in a temporary folder.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::poll::{SOON, poll_until};
use crate::process::{Process, unmount_below};
use crate::require::find;

/// containerd's namespace for the images of the CRI plugin.
const NAMESPACE: &str = "k8s.io";

/// containerd with the CRI plugin and the overlayfs snapshotter, in a temporary folder.
///
/// No CNI is configured: images work, sandboxes only with the host's network.
#[derive(Debug)]
pub struct Containerd {
    process: Process,
    folder: TempDir,
}

impl Containerd {
    /// Starts containerd and waits until its CRI plugin serves.
    ///
    /// # Panics
    ///
    /// When containerd does not start; the message shows its log.
    #[must_use]
    pub fn start() -> Self {
        let folder = TempDir::with_prefix("containerd-").expect("a temporary folder");
        let root = folder.path();
        std::fs::write(config_path(root), config(root))
            .expect("writing containerd's configuration");
        let process = launch(root);
        Self { process, folder }
    }

    /// The socket that serves both CRI and containerd's own API.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket_path(self.folder.path())
    }

    /// The socket as `unix:///path`.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The folder that holds its content and snapshots.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// SIGKILL, as an out-of-memory killer would send it. The folders stay for [`Self::restart`].
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Kills containerd if it still runs, and starts it again on the same folders.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn restart(&mut self) {
        self.process.kill9();
        // Remove the stale socket, which would look like a daemon that is not ready yet.
        let _ = std::fs::remove_file(self.socket());
        self.process = launch(self.folder.path());
    }

    /// Runs `ctr` in the namespace `k8s.io` and returns its standard output.
    ///
    /// # Panics
    ///
    /// When `ctr` fails; the message shows its output.
    #[allow(clippy::must_use_candidate)]
    pub fn ctr(&self, args: &[&str]) -> String {
        let output = self.ctr_command(args).output().expect("running ctr");
        assert!(
            output.status.success(),
            "ctr {} ended with {}: {}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The command that [`Self::ctr`] runs, not yet started.
    #[must_use]
    pub fn ctr_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(find("ctr").expect("ctr is not installed"));
        command
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", NAMESPACE])
            .args(args);
        command
    }

    /// Returns the names of all images in the namespace `k8s.io`. The CRI plugin adds `sha256:ID` for each image, with
    /// a short delay after a pull by another client.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    #[must_use]
    pub fn image_names(&self) -> Vec<String> {
        let names = self.ctr(&["images", "list", "--quiet"]);
        names.lines().map(str::to_owned).collect()
    }

    /// Removes all images, their content and their snapshots.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    pub fn remove_all_images(&self) {
        poll_until("all images to be gone", SOON, || {
            let names = self.image_names();
            for name in &names {
                // An error is fine: the image may be gone with another of its names.
                let _ = self
                    .ctr_command(&["images", "remove", "--sync", name])
                    .output();
            }
            names.is_empty().then_some(())
        });
    }

    /// The process ID.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.stderr()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.process.kill9();
        unmount_below(self.folder.path());
    }
}

fn launch(root: &Path) -> Process {
    let config = config_path(root).display().to_string();
    let socket = socket_path(root);
    let mut process = Process::start("containerd", &["--config", &config], root);
    let ctr = find("ctr").expect("ctr is not installed");
    process.wait_ready(|_| {
        UnixStream::connect(&socket).ok()?;
        // The socket accepts connections before the plugins have started, so wait for the CRI plugin.
        let output = Command::new(&ctr)
            .arg("--address")
            .arg(&socket)
            .args(["plugins", "list"])
            .output()
            .ok()?;
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .any(|line| {
                line.split_whitespace().nth(1) == Some("cri") && line.trim_end().ends_with("ok")
            })
            .then_some(())
    });
    process
}

fn config_path(root: &Path) -> PathBuf {
    root.join("config.toml")
}

fn socket_path(root: &Path) -> PathBuf {
    root.join("containerd.sock")
}

fn config(root: &Path) -> String {
    // Snapshotters that are not used would only log that their file systems are missing.
    format!(
        r#"version = 2
root = "{root}/root"
state = "{root}/state"
temp = ""
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
address = "{root}/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
stream_server_address = "127.0.0.1"
stream_server_port = "0"
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{root}/cni/bin"
conf_dir = "{root}/cni/conf"

[plugins."io.containerd.internal.v1.opt"]
path = "{root}/opt"
"#,
        root = root.display()
    )
}
