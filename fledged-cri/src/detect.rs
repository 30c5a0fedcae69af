//! Detection of the runtime that serves this machine.

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;

use crate::kubelet::{Named, named_runtime};
use crate::target::{FORMS, RuntimeUri};

/// Limit on connecting to a socket. A local socket accepts at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Limit on the answer whether a socket serves CRI. A server without CRI refuses at once.
#[cfg(feature = "cri")]
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Why no runtime is detected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DetectError {
    /// No runtime answers.
    #[error(transparent)]
    NotFound(#[from] NoRuntimeFound),
    /// Several runtimes answer, and no kubelet names one of them.
    #[error(
        "this machine has more than one container runtime ({}), and neither a kubelet's process nor its configuration names one; select one with --runtime, for example --runtime {}",
        list(.found),
        .found.first().map(ToString::to_string).unwrap_or_default()
    )]
    Ambiguous {
        /// The runtimes.
        found: Vec<RuntimeUri>,
    },
}

/// No runtime answers.
#[derive(Debug, thiserror::Error)]
#[error("no container runtime answers ({}){}; select one with --runtime: {FORMS}", tried_list(.tried), .remark)]
pub struct NoRuntimeFound {
    tried: Vec<(RuntimeUri, io::Error)>,
    remark: &'static str,
}

impl NoRuntimeFound {
    /// The runtimes that were tried, in order, and their errors.
    #[must_use]
    pub fn tried(&self) -> &[(RuntimeUri, io::Error)] {
        &self.tried
    }
}

fn list(found: &[RuntimeUri]) -> String {
    let mut text = String::new();
    for uri in found {
        let separator = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{separator}{uri}");
    }
    text
}

fn tried_list(tried: &[(RuntimeUri, io::Error)]) -> String {
    let each = tried.iter().map(|(uri, error)| {
        let why = match error.kind() {
            io::ErrorKind::NotFound => "not found".to_owned(),
            io::ErrorKind::ConnectionRefused => "not listening".to_owned(),
            io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            io::ErrorKind::TimedOut => "does not accept connections".to_owned(),
            _ => error.to_string(),
        };
        format!("{uri}: {why}")
    });
    each.collect::<Vec<_>>().join(", ")
}

impl RuntimeUri {
    /// The sockets that [`RuntimeUri::detect`] tries: containerd at its own path and at those of k3s and
    /// RKE2, MicroK8s and k0s; CRI-O at both of its paths; cri-dockerd; Docker Engine.
    #[must_use]
    pub fn candidates() -> Vec<Self> {
        vec![
            Self::Cri("/run/containerd/containerd.sock".into()),
            Self::Cri("/run/k3s/containerd/containerd.sock".into()),
            Self::Cri("/var/snap/microk8s/common/run/containerd.sock".into()),
            Self::Cri("/run/k0s/containerd.sock".into()),
            Self::Cri("/var/run/crio/crio.sock".into()),
            Self::Cri("/run/crio/crio.sock".into()),
            Self::Cri("/run/cri-dockerd.sock".into()),
            Self::Docker("/var/run/docker.sock".into()),
        ]
    }

    /// The runtime of this machine: the one that its kubelet uses, otherwise the only one of
    /// [`candidates`](Self::candidates) that serves CRI, otherwise Docker Engine.
    ///
    /// Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`DetectError`], which lists the runtimes that were tried, or those that are found if there are
    /// several.
    pub async fn detect() -> Result<Self, DetectError> {
        detect_on(Path::new("/"), Self::candidates()).await
    }

    /// The only one of these runtimes that serves CRI, otherwise the first of the others whose socket
    /// accepts connections. An OCI layout has no socket and is always accepted.
    ///
    /// A containerd without CRI is passed over. A socket that accepts connections and does not answer in
    /// time counts as a runtime that is busy.
    ///
    /// # Errors
    ///
    /// [`DetectError`], which lists the runtimes that were tried, or those that are found if there are
    /// several.
    pub async fn detect_among(
        candidates: impl IntoIterator<Item = Self> + Send,
    ) -> Result<Self, DetectError> {
        let candidates: Vec<Self> = candidates.into_iter().collect();
        among(candidates, None).await
    }

    /// Checks that the runtime accepts connections and does not refuse CRI.
    async fn probe(&self) -> io::Result<()> {
        let (Self::Cri(socket) | Self::Docker(socket)) = self else {
            return Ok(());
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(socket)).await {
            Ok(Ok(_)) => {}
            // A full backlog belongs to a runtime that is busy.
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        match self {
            Self::Cri(socket) => probe_cri(socket).await,
            _ => Ok(()),
        }
    }

    /// Device and inode of the socket: a socket can be reached by several paths.
    fn socket_id(&self) -> Option<(u64, u64)> {
        let metadata = std::fs::metadata(self.path()).ok()?;
        Some((metadata.dev(), metadata.ino()))
    }
}

/// Detects the runtime of the machine whose file system is at `root`.
async fn detect_on(root: &Path, candidates: Vec<RuntimeUri>) -> Result<RuntimeUri, DetectError> {
    let root = root.to_owned();
    let named = tokio::task::spawn_blocking(move || named_runtime(&root)).await;
    match named.unwrap_or_default() {
        // Filling any other runtime would not help this kubelet, so no other is tried.
        Some(Named::Running(uri)) => match uri.probe().await {
            Ok(()) => Ok(uri),
            Err(error) => Err(DetectError::NotFound(NoRuntimeFound {
                tried: vec![(uri, error)],
                remark: ", which the kubelet of this machine uses",
            })),
        },
        Some(Named::Configured(uri)) => among(candidates, Some(uri)).await,
        None => among(candidates, None).await,
    }
}

/// Detects one of the candidates; `preferred` if it answers.
async fn among(
    mut candidates: Vec<RuntimeUri>,
    preferred: Option<RuntimeUri>,
) -> Result<RuntimeUri, DetectError> {
    if let Some(uri) = &preferred
        && !candidates.contains(uri)
    {
        candidates.insert(0, uri.clone());
    }
    let (mut tried, mut found, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for uri in candidates {
        match uri.probe().await {
            Err(error) => tried.push((uri, error)),
            Ok(()) if preferred.as_ref() == Some(&uri) => return Ok(uri),
            Ok(()) if matches!(uri, RuntimeUri::Cri(_)) => {
                let id = uri.socket_id();
                if id.is_none()
                    || found
                        .iter()
                        .all(|other: &RuntimeUri| other.socket_id() != id)
                {
                    found.push(uri);
                }
            }
            Ok(()) => others.push(uri),
        }
    }
    if found.len() > 1 {
        return Err(DetectError::Ambiguous { found });
    }
    let remark = "";
    found
        .into_iter()
        .chain(others)
        .next()
        .ok_or(DetectError::NotFound(NoRuntimeFound { tried, remark }))
}

/// Asks the server behind a socket for CRI.
#[cfg(feature = "cri")]
async fn probe_cri(socket: &Path) -> io::Result<()> {
    let runtime = crate::CriRuntime::connect(socket).with_request_timeout(ANSWER_TIMEOUT);
    match runtime.serves_cri().await {
        Ok(false) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "serves no CRI; if it is containerd, remove \"cri\" from disabled_plugins in its config.toml",
        )),
        Ok(true) => Ok(()),
        Err(failure) => {
            tracing::debug!(socket = %socket.display(), %failure, "no answer for CRI");
            Ok(())
        }
    }
}

#[cfg(not(feature = "cri"))]
async fn probe_cri(_socket: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A folder with sockets. Those that listen never answer.
    struct Sockets {
        folder: tempfile::TempDir,
        listening: Vec<UnixListener>,
    }

    impl Sockets {
        fn new(listening: &[&str]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let bind = |name: &&str| UnixListener::bind(folder.path().join(name)).unwrap();
            Self {
                listening: listening.iter().map(bind).collect(),
                folder,
            }
        }

        fn cri(&self, name: &str) -> RuntimeUri {
            RuntimeUri::Cri(self.folder.path().join(name))
        }

        fn docker(&self, name: &str) -> RuntimeUri {
            RuntimeUri::Docker(self.folder.path().join(name))
        }

        /// The socket of a runtime that has exited: the file exists, but no process listens.
        fn dead(&self) -> RuntimeUri {
            drop(UnixListener::bind(self.folder.path().join("dead.sock")).unwrap());
            self.cri("dead.sock")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_only_cri_socket_is_detected() {
        let sockets = Sockets::new(&["docker.sock", "live.sock"]);
        let found = RuntimeUri::detect_among([
            sockets.cri("missing.sock"),
            sockets.dead(),
            sockets.docker("docker.sock"),
            sockets.cri("live.sock"),
        ])
        .await;
        assert_eq!(found.unwrap(), sockets.cri("live.sock"));
        assert_eq!(sockets.listening.len(), 2);
    }

    #[tokio::test]
    async fn docker_is_detected_if_no_socket_serves_cri() {
        let sockets = Sockets::new(&["docker.sock"]);
        let candidates = [sockets.dead(), sockets.docker("docker.sock")];
        let found = RuntimeUri::detect_among(candidates).await;
        assert_eq!(found.unwrap(), sockets.docker("docker.sock"));
    }

    #[tokio::test(start_paused = true)]
    async fn two_runtimes_are_an_error_that_lists_both() {
        let sockets = Sockets::new(&["a.sock", "b.sock"]);
        let (a, b) = (sockets.cri("a.sock"), sockets.cri("b.sock"));
        let error = RuntimeUri::detect_among([a.clone(), b.clone()])
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("({a}, {b})")), "{text}");
        assert!(
            text.ends_with(&format!("for example --runtime {a}")),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_socket_at_two_paths_is_one_runtime() {
        let sockets = Sockets::new(&["a.sock"]);
        let link = sockets.folder.path().join("link.sock");
        std::os::unix::fs::symlink(sockets.folder.path().join("a.sock"), link).unwrap();
        let candidates = [sockets.cri("a.sock"), sockets.cri("link.sock")];
        let found = RuntimeUri::detect_among(candidates).await;
        assert_eq!(found.unwrap(), sockets.cri("a.sock"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_runtime_of_the_kubelet_is_preferred() {
        let sockets = Sockets::new(&["a.sock", "b.sock", "own.sock"]);
        let candidates = || vec![sockets.cri("a.sock"), sockets.cri("b.sock")];
        let root = sockets.folder.path();
        let config = root.join("var/lib/kubelet/config.yaml");
        fs::create_dir_all(config.parent().unwrap()).unwrap();
        for name in ["b.sock", "own.sock"] {
            let uri = sockets.cri(name);
            fs::write(&config, format!("containerRuntimeEndpoint: {uri}\n")).unwrap();
            assert_eq!(detect_on(root, candidates()).await.unwrap(), uri);
        }
        let dead = sockets.dead();
        fs::write(&config, format!("containerRuntimeEndpoint: {dead}\n")).unwrap();
        let one = vec![sockets.cri("a.sock")];
        assert_eq!(
            detect_on(root, one).await.unwrap(),
            sockets.cri("a.sock"),
            "a configuration that is left over"
        );

        fs::create_dir_all(root.join("proc/12")).unwrap();
        fs::write(root.join("proc/12/cmdline"), "kubelet\0").unwrap();
        let error = detect_on(root, candidates()).await.unwrap_err().to_string();
        let text = format!("({dead}: not listening), which the kubelet of this machine uses");
        assert!(error.contains(&text), "{error}");
    }

    #[tokio::test]
    async fn the_error_lists_the_tried_runtimes() {
        let sockets = Sockets::new(&[]);
        let (dead, missing) = (sockets.dead(), sockets.docker("missing.sock"));
        let candidates = [dead.clone(), missing.clone()];
        let error = RuntimeUri::detect_among(candidates).await.unwrap_err();
        let text = error.to_string();
        for words in [
            format!("{dead}: not listening"),
            format!("{missing}: not found"),
            "--runtime: unix:///path.sock (CRI), docker:///path.sock".to_owned(),
            "oci:DIR".to_owned(),
        ] {
            assert!(text.contains(&words), "{text}");
        }
    }

    #[test]
    fn docker_engine_is_the_last_candidate() {
        let candidates = RuntimeUri::candidates();
        let texts: Vec<String> = candidates.iter().map(ToString::to_string).collect();
        for socket in [
            "unix:///run/k3s/containerd/containerd.sock",
            "unix:///var/snap/microk8s/common/run/containerd.sock",
            "unix:///run/k0s/containerd.sock",
        ] {
            assert!(texts.iter().any(|text| text == socket), "{socket}");
        }
        assert_eq!(texts.last().unwrap(), "docker:///var/run/docker.sock");
    }
}
