//! A real containerd in a temporary folder: the one in `PATH`, or the program that `TEST_CONTAINERD` names.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::leftovers::{TemporaryFolder, uninterrupted};
use crate::poll::{SOON, poll_until};
use crate::process::Process;
use crate::require::find;

/// containerd's namespace for the images of the CRI plugin.
const NAMESPACE: &str = "k8s.io";

/// containerd with the CRI plugin and the overlayfs snapshotter, in a temporary folder.
///
/// No CNI is configured: images work, sandboxes only with the host's network.
#[derive(Debug)]
pub struct Containerd {
    /// Dropped before the folder.
    process: Process,
    folder: TemporaryFolder,
}

impl Containerd {
    /// Starts containerd and waits until its CRI plugin serves.
    ///
    /// # Panics
    ///
    /// When containerd does not start; the message shows its log.
    #[must_use]
    pub fn start() -> Self {
        Self::start_in(TemporaryFolder::create("containerd-"), "")
    }

    /// Starts containerd with these lines in the settings of its CRI plugin.
    ///
    /// # Panics
    ///
    /// When containerd does not start; the message shows its log.
    #[must_use]
    pub fn start_with(cri_settings: &str) -> Self {
        Self::start_in(TemporaryFolder::create("containerd-"), cri_settings)
    }

    /// Starts containerd with content and snapshots on an ext4 file system of this size, which a file in the temporary
    /// folder holds. Needs loop devices.
    ///
    /// # Panics
    ///
    /// When the file system cannot be made or mounted, or containerd does not start.
    #[must_use]
    pub fn start_on_small_disk(mebibytes: u64) -> Self {
        let folder = TemporaryFolder::create("containerd-");
        let image = folder.path().join("disk");
        let file = std::fs::File::create(&image).expect("the file of a disk");
        file.set_len(mebibytes << 20).expect("a sparse file");
        // No blocks that are only for root, so that a full disk is full for containerd.
        run(
            "mkfs.ext4",
            &["-q", "-F", "-m", "0", &image.display().to_string()],
        );
        let root = folder.path().join("root");
        std::fs::create_dir(&root).expect("a mount point");
        let (image, root) = (image.display().to_string(), root.display().to_string());
        make_loop_device();
        uninterrupted(|| run("mount", &["-o", "loop", &image, &root]));
        Self::start_in(folder, "")
    }

    fn start_in(folder: TemporaryFolder, cri_settings: &str) -> Self {
        let root = folder.path();
        std::fs::write(config_path(root), config(root, cri_settings))
            .expect("writing containerd's configuration");
        let mut process = spawn(root);
        wait_ready(&mut process, root);
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

    /// The folder of its configuration, with `config.toml` and the `hosts.toml` files.
    #[must_use]
    pub fn config_dir(&self) -> PathBuf {
        self.folder.path().to_owned()
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
        self.start_again();
        wait_ready(&mut self.process, self.folder.path());
    }

    /// The same, without waiting until it serves.
    pub(crate) fn start_again(&mut self) {
        self.process.kill9();
        // Remove the stale socket, which would look like a daemon that is not ready yet.
        let _ = std::fs::remove_file(self.socket());
        self.process = spawn(self.folder.path());
    }

    /// Its process.
    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The folder that holds configuration, logs, content and snapshots.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes the `hosts.toml` of a registry, or removes it. containerd reads it at each pull.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn configure_registry(&self, registry: &str, hosts: Option<&str>) {
        let folder = self.folder.path().join("certs.d").join(registry);
        let _ = std::fs::remove_dir_all(&folder);
        if let Some(hosts) = hosts {
            std::fs::create_dir_all(&folder).expect("a folder for hosts.toml");
            std::fs::write(folder.join("hosts.toml"), hosts).expect("writing hosts.toml");
        }
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

/// Runs a program that must succeed, and returns its standard output.
fn run(program: &str, args: &[&str]) -> String {
    let path = find(program).unwrap_or_else(|| panic!("{program} is not installed"));
    let output = Command::new(path).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Makes the device file of the next free loop device if it is missing: the kernel adds devices, but a container has
/// only the files that were there when it was started.
fn make_loop_device() {
    let device = run("losetup", &["--find"]);
    let device = device.trim();
    if let (false, Some(number)) = (Path::new(device).exists(), device.strip_prefix("/dev/loop")) {
        // 7 is the major number of loop devices.
        run("mknod", &[device, "b", "7", number]);
    }
}

fn spawn(root: &Path) -> Process {
    let program = std::env::var("TEST_CONTAINERD").unwrap_or_default();
    let program = match program.as_str() {
        "" => "containerd",
        path => path,
    };
    let config = config_path(root).display().to_string();
    Process::start(program, &["--config", &config], root)
}

fn wait_ready(process: &mut Process, root: &Path) {
    let socket = socket_path(root);
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
}

fn config_path(root: &Path) -> PathBuf {
    root.join("config.toml")
}

fn socket_path(root: &Path) -> PathBuf {
    root.join("containerd.sock")
}

fn config(root: &Path, cri_settings: &str) -> String {
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
{cri_settings}

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"

[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{root}/certs.d"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{root}/cni/bin"
conf_dir = "{root}/cni/conf"

[plugins."io.containerd.internal.v1.opt"]
path = "{root}/opt"
"#,
        root = root.display()
    )
}
