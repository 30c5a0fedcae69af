//! How a node pulls and keeps images: the settings of its runtime and kubelet, its image file system, and the
//! pressure on it. Everything is read; nothing is changed.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use fledged_cri::inspection::Inspection;
//!
//! let uri = "unix:///run/containerd/containerd.sock".parse()?;
//! let inspection = Inspection::read(Some(&uri), "/".as_ref()).await;
//! match &inspection.containerd {
//!     Ok(settings) => println!("{}", settings.images.max_concurrent_downloads),
//!     Err(unread) => println!("not read: {unread}"),
//! }
//! # Ok(())
//! # }
//! ```

mod containerd_file;
mod containerd_settings;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod hosts_folders;
mod image_disk;
mod kubelet_settings;
mod release;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fledged_core::error::Failure;
use fledged_core::port::{FilesystemUsage, RuntimeInfo};

pub(crate) use containerd_settings::images_plugin_of;
pub use containerd_settings::{
    ContainerdSettings, ImagesPlugin, SettingsOrigin, TransferPlugin, UnusedSettings,
};
pub use hosts_folders::{HostsFolders, HostsProblem};
pub use image_disk::ImageDisk;
pub use kubelet_settings::{EvictionThreshold, InvalidSetting, KubeletSettings};
pub use release::Release;

use crate::CriRuntime;
use crate::open::{OpenOptions, open};
use crate::pressure::{self, PressureError};
pub use crate::pressure::{Pressure, PressureLine};
use crate::target::RuntimeUri;

/// Longest wait for one answer of the runtime.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Longest configuration file that is read, in bytes.
const FILE_MAX: u64 = 1024 * 1024;

/// Something that was read, or why it was not.
pub type Fact<T> = Result<T, Unread>;

/// Why something was not read, as a phrase. It names the file or call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{phrase}")]
pub struct Unread {
    phrase: String,
    is_broken: bool,
}

impl Unread {
    /// With this phrase.
    pub fn new(phrase: impl Into<String>) -> Self {
        Self {
            phrase: phrase.into(),
            is_broken: false,
        }
    }

    /// With this phrase: a file is invalid, or one that another names is missing.
    pub fn broken(phrase: impl Into<String>) -> Self {
        Self {
            is_broken: true,
            ..Self::new(phrase)
        }
    }

    /// Whether a file is invalid, so that its program cannot read it either.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    fn file(path: &Path, problem: impl fmt::Display) -> Self {
        Self::broken(format!("cannot read {}: {problem}", path.display()))
    }

    /// A relative path of a command line, without the working directory of its process.
    fn working_directory(program: &str, path: &str, error: &io::Error) -> Self {
        Self::new(format!(
            "{path} is relative to the working directory of {program}, which cannot be read: {error}"
        ))
    }

    fn io(path: &Path, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::new(format!("there is no {}", path.display())),
            // Its program may have more rights than this process.
            io::ErrorKind::PermissionDenied => {
                Self::new(format!("cannot read {}: {error}", path.display()))
            }
            _ => Self::file(path, error),
        }
    }
}

/// The runtime that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnsweringRuntime {
    /// Where it answered.
    pub uri: RuntimeUri,
    /// Its name and versions.
    pub info: RuntimeInfo,
}

impl AnsweringRuntime {
    /// A runtime with this name and version.
    #[must_use]
    pub fn new(uri: RuntimeUri, info: RuntimeInfo) -> Self {
        Self { uri, info }
    }
}

/// What was read of one node.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Inspection {
    /// The runtime.
    pub runtime: Fact<AnsweringRuntime>,
    /// The settings of containerd.
    pub containerd: Fact<ContainerdSettings>,
    /// The `hosts.toml` files in the folders of containerd's `config_path`.
    pub hosts: Fact<HostsFolders>,
    /// The settings of the kubelet.
    pub kubelet: Fact<KubeletSettings>,
    /// The file system of the images.
    pub disk: Fact<ImageDisk>,
    /// Pressure on the processors.
    pub cpu_pressure: Fact<Pressure>,
    /// Pressure on disks.
    pub io_pressure: Fact<Pressure>,
    /// Pressure on memory.
    pub memory_pressure: Fact<Pressure>,
}

impl Inspection {
    /// Nothing was read, for this reason.
    #[must_use]
    pub fn unread(reason: &Unread) -> Self {
        Self {
            runtime: Err(reason.clone()),
            containerd: Err(reason.clone()),
            hosts: Err(reason.clone()),
            kubelet: Err(reason.clone()),
            disk: Err(reason.clone()),
            cpu_pressure: Err(reason.clone()),
            io_pressure: Err(reason.clone()),
            memory_pressure: Err(reason.clone()),
        }
    }

    /// Reads the node whose file system is at `root`, which is `/` unless it is mounted elsewhere, and the runtime
    /// behind `uri`. Without a runtime, the rest is read.
    ///
    /// Needs a tokio runtime. What cannot be read is an [`Unread`]; nothing is waited for longer than 20 seconds.
    pub async fn read(uri: Option<&RuntimeUri>, root: &Path) -> Self {
        let runtime = match uri {
            Some(uri) => Answers::read(uri).await,
            None => Answers::none(&Unread::new("no runtime is known")),
        };
        let root = root.to_owned();
        let uri = uri.cloned();
        let task = tokio::task::spawn_blocking(move || read_files(runtime, uri.as_ref(), &root));
        match tokio::time::timeout(ANSWER_MAX, task).await {
            Ok(Ok(inspection)) => inspection,
            Ok(Err(error)) => Self::unread(&Unread::new(error.to_string())),
            Err(_) => Self::unread(&Unread::new(format!(
                "the files of this machine could not be read within {} s",
                ANSWER_MAX.as_secs()
            ))),
        }
    }
}

/// What the runtime answered.
struct Answers {
    info: Fact<RuntimeInfo>,
    /// The verbose status.
    status: Fact<HashMap<String, String>>,
    filesystems: Fact<Vec<FilesystemUsage>>,
}

impl Answers {
    fn none(reason: &Unread) -> Self {
        Self {
            info: Err(reason.clone()),
            status: Err(reason.clone()),
            filesystems: Err(reason.clone()),
        }
    }

    async fn read(uri: &RuntimeUri) -> Self {
        let runtime = match open(uri, OpenOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => return Self::none(&Unread::new(error.to_string())),
        };
        let info = within(runtime.info()).await;
        if let Err(unread) = &info {
            return Self::none(unread);
        }
        let status = match uri {
            RuntimeUri::Cri(socket) => within(CriRuntime::connect(socket).verbose_status()).await,
            _ => Ok(HashMap::new()),
        };
        Self {
            info,
            status,
            filesystems: within(runtime.filesystems()).await,
        }
    }
}

async fn within<T>(call: impl Future<Output = Result<T, Failure>>) -> Fact<T> {
    match tokio::time::timeout(ANSWER_MAX, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(failure)) => Err(Unread::new(failure.message)),
        Err(_) => Err(Unread::new(format!(
            "the runtime did not answer within {} s",
            ANSWER_MAX.as_secs()
        ))),
    }
}

fn read_files(answers: Answers, uri: Option<&RuntimeUri>, root: &Path) -> Inspection {
    let containerd = containerd(&answers, uri, root);
    let hosts = match &containerd {
        Ok(settings) => Ok(hosts_folders::read(root, &settings.hosts_dirs())),
        Err(unread) => Err(unread.clone()),
    };
    let runtime = match (uri, answers.info) {
        (Some(uri), Ok(info)) => Ok(AnsweringRuntime::new(uri.clone(), info)),
        (None, Ok(_)) => Err(Unread::new("no runtime is known")),
        (_, Err(unread)) => Err(unread),
    };
    Inspection {
        runtime,
        containerd,
        hosts,
        kubelet: kubelet_settings::read(root),
        disk: answers
            .filesystems
            .and_then(|filesystems| image_disk::read(root, &filesystems)),
        cpu_pressure: pressure(root, "cpu"),
        io_pressure: pressure(root, "io"),
        memory_pressure: pressure(root, "memory"),
    }
}

fn pressure(root: &Path, resource: &str) -> Fact<Pressure> {
    pressure::read(root, resource).map_err(|error| match error {
        PressureError::Unavailable(phrase) => Unread::new(phrase),
        PressureError::Malformed(phrase) => Unread::broken(phrase),
    })
}

/// containerd's settings, if the runtime is containerd.
fn containerd(
    answers: &Answers,
    uri: Option<&RuntimeUri>,
    root: &Path,
) -> Fact<ContainerdSettings> {
    let info = answers.info.as_ref().map_err(Clone::clone)?;
    let socket: PathBuf = match uri {
        Some(RuntimeUri::Cri(socket)) if info.name == "containerd" => socket.clone(),
        _ => {
            return Err(Unread::new(format!(
                "these settings are read only for containerd with CRI, and the runtime is {}",
                info.name
            )));
        }
    };
    let release = Release::parse(&info.version);
    let file = containerd_file::read(root, &socket);
    let status = answers.status.as_ref().map_err(Clone::clone);
    ContainerdSettings::new(release, status.ok(), file)
}

#[cfg(test)]
mod tests;
