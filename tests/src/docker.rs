//! A real Docker Engine in a temporary folder.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::leftovers::unmount_below;
use crate::process::Process;

/// Docker Engine with its own containerd and without container networks.
///
/// Registries on loopback addresses may be plain HTTP, as is Docker's default.
#[derive(Debug)]
pub struct Dockerd {
    process: Process,
    folder: TempDir,
}

impl Dockerd {
    /// Starts the Engine and waits until it answers.
    ///
    /// # Panics
    ///
    /// When the Engine does not start; the message shows its log.
    #[must_use]
    pub fn start() -> Self {
        let folder = TempDir::with_prefix("dockerd-").expect("a temporary folder");
        let process = launch(folder.path());
        Self { process, folder }
    }

    /// The socket of its API.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket_path(self.folder.path())
    }

    /// The socket as `docker:///path`.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("docker://{}", self.socket().display())
    }

    /// The folder that holds its images.
    #[must_use]
    pub fn data_root(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Sends SIGTERM and waits for the end; the folders stay for [`Self::restart`].
    pub fn stop(&mut self) {
        self.process.stop();
        self.kill_containerd();
    }

    /// SIGKILL; the folders stay for [`Self::restart`].
    pub fn kill9(&mut self) {
        self.process.kill9();
        self.kill_containerd();
    }

    /// Stops the Engine if it still runs, and starts it again on the same folders.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub fn restart(&mut self) {
        self.stop();
        let root = self.folder.path();
        // Stale after a SIGKILL: if another process has the same PID, dockerd takes it for the old one and waits.
        for stale in [
            "docker.sock",
            "docker.pid",
            "exec/containerd/containerd.pid",
            "exec/containerd/containerd.sock",
        ] {
            let _ = std::fs::remove_file(root.join(stale));
        }
        self.process = launch(root);
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// Kills the Engine's containerd, which runs in its own session and usually dies with its parent.
    fn kill_containerd(&self) {
        let file = self.folder.path().join("exec/containerd/containerd.pid");
        let pid = std::fs::read_to_string(file)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .and_then(rustix::process::Pid::from_raw);
        let Some(pid) = pid else { return };
        // The PID may have been reused: kill only a process that was started for this folder.
        let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let ours = std::fs::read(proc.join("cmdline")).is_ok_and(|line| {
            String::from_utf8_lossy(&line).contains(&*self.folder.path().to_string_lossy())
        });
        if ours {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            crate::poll_until("containerd to end", crate::SOON, || {
                let stat = std::fs::read_to_string(proc.join("stat")).unwrap_or_default();
                (stat.is_empty() || stat.contains(") Z ")).then_some(())
            });
        }
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // Only a clean stop unmounts; a test that panics need not wait for it.
        if std::thread::panicking() {
            self.process.kill9();
        } else {
            self.process.stop();
        }
        self.kill_containerd();
        unmount_below(self.folder.path());
    }
}

fn launch(root: &Path) -> Process {
    let socket = socket_path(root);
    let args = [
        "--iptables=false".to_owned(),
        "--ip6tables=false".to_owned(),
        "--ip-forward=false".to_owned(),
        "--ip-masq=false".to_owned(),
        "--bridge=none".to_owned(),
        format!("--data-root={}", root.join("data").display()),
        format!("--exec-root={}", root.join("exec").display()),
        format!("--pidfile={}", root.join("docker.pid").display()),
        // The configuration of the machine's Docker must not apply.
        format!("--config-file={}", root.join("daemon.json").display()),
        format!("--host=unix://{}", socket.display()),
    ];
    std::fs::write(root.join("daemon.json"), "{}").expect("writing dockerd's configuration");
    let mut process = Process::start("dockerd", &args, root);
    process.wait_ready(|_| ping(&socket));
    process
}

fn socket_path(root: &Path) -> PathBuf {
    root.join("docker.sock")
}

/// `GET /_ping` answers 200 once the daemon serves.
fn ping(socket: &Path) -> Option<()> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream
        .write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
        .ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    answer.starts_with(b"HTTP/1.1 200").then_some(())
}
