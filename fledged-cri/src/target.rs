//! Which runtime to use: its URI, and detection of a running one.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tokio::net::UnixStream;

/// The forms of a URI, as errors list them.
const FORMS: &str = "unix:///path.sock (CRI), docker:///path.sock (Docker Engine) or oci:DIR \
                     (OCI image layout)";
/// Longest path of a Unix socket in bytes: `sun_path` has 108 with its terminating zero (unix(7)).
const SOCKET_PATH_MAX: usize = 107;
/// Limit on connecting to a socket. A local socket accepts at once or not at all.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// The file name of Docker Engine's socket. No CRI runtime uses it.
const DOCKER_SOCKET: &str = "docker.sock";

/// The runtime that holds the images of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RuntimeUri {
    /// A CRI v1 socket: `unix:///path.sock`, or the path alone.
    Cri(PathBuf),
    /// A Docker Engine socket: `docker:///path.sock`, or a path to a `docker.sock` alone.
    Docker(PathBuf),
    /// An OCI image layout: `oci:DIR`.
    Oci(PathBuf),
}

/// Why a string is not a runtime URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid runtime \"{}\": {problem}", .value.escape_debug())]
pub struct ParseRuntimeUriError {
    value: String,
    problem: String,
}

/// No runtime accepts connections.
#[derive(Debug, thiserror::Error)]
#[error("no container runtime accepts connections ({}); select one with --runtime: {FORMS}", tried_list(.tried))]
pub struct NoRuntimeFound {
    tried: Vec<(RuntimeUri, io::Error)>,
}

impl NoRuntimeFound {
    /// The runtimes that were tried, in order, and their errors.
    #[must_use]
    pub fn tried(&self) -> &[(RuntimeUri, io::Error)] {
        &self.tried
    }
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
    /// The sockets that [`RuntimeUri::detect`] tries: containerd, CRI-O (both of its paths),
    /// cri-dockerd, Docker Engine.
    #[must_use]
    pub fn candidates() -> Vec<Self> {
        vec![
            Self::Cri("/run/containerd/containerd.sock".into()),
            Self::Cri("/var/run/crio/crio.sock".into()),
            Self::Cri("/run/crio/crio.sock".into()),
            Self::Cri("/run/cri-dockerd.sock".into()),
            Self::Docker("/var/run/docker.sock".into()),
        ]
    }

    /// The first runtime of this machine whose socket accepts connections.
    ///
    /// # Errors
    ///
    /// [`NoRuntimeFound`], which lists the runtimes that were tried.
    pub async fn detect() -> Result<Self, NoRuntimeFound> {
        Self::detect_among(Self::candidates()).await
    }

    /// The first of these runtimes whose socket accepts connections. An OCI layout has no socket and is
    /// always accepted.
    ///
    /// # Errors
    ///
    /// [`NoRuntimeFound`], which lists the runtimes that were tried.
    pub async fn detect_among(
        candidates: impl IntoIterator<Item = Self> + Send,
    ) -> Result<Self, NoRuntimeFound> {
        let candidates: Vec<Self> = candidates.into_iter().collect();
        let mut tried = Vec::new();
        for uri in candidates {
            match uri.probe().await {
                Ok(()) => return Ok(uri),
                Err(error) => tried.push((uri, error)),
            }
        }
        Err(NoRuntimeFound { tried })
    }

    /// The path of the socket or folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Cri(path) | Self::Docker(path) | Self::Oci(path) => path,
        }
    }

    async fn probe(&self) -> io::Result<()> {
        let (Self::Cri(socket) | Self::Docker(socket)) = self else {
            return Ok(());
        };
        match tokio::time::timeout(PROBE_TIMEOUT, UnixStream::connect(socket)).await {
            Ok(Ok(_)) => Ok(()),
            // A full backlog belongs to a runtime that is busy.
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl fmt::Display for RuntimeUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self {
            Self::Cri(_) => "unix://",
            Self::Docker(_) => "docker://",
            Self::Oci(_) => "oci:",
        };
        f.pad(&format!("{scheme}{}", self.path().display()))
    }
}

impl FromStr for RuntimeUri {
    type Err = ParseRuntimeUriError;

    /// Parses `unix:///path.sock`, `docker:///path.sock` or `oci:DIR`. An absolute path alone is a CRI
    /// socket, as in kube-fledged's `--cri-socket-path`, or Docker's if its file name is `docker.sock`.
    fn from_str(value: &str) -> Result<Self, Self::Err> {
        parse(value).map_err(|problem| ParseRuntimeUriError {
            value: value.to_owned(),
            problem,
        })
    }
}

fn parse(value: &str) -> Result<RuntimeUri, String> {
    if value.trim().is_empty() {
        return Err(format!("it is empty; use {FORMS}"));
    }
    if value.chars().any(char::is_control) {
        return Err("it contains a control character".to_owned());
    }
    if value.starts_with('/') {
        return by_file_name(value);
    }
    match value.split_once(':') {
        Some(("unix", rest)) => by_file_name(rest.strip_prefix("//").unwrap_or(rest)),
        Some(("docker", rest)) => {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            Ok(RuntimeUri::Docker(socket(path)?))
        }
        Some(("oci", rest)) => folder(rest).map(RuntimeUri::Oci),
        Some((scheme, _)) => Err(format!("\"{scheme}\" is not a runtime; use {FORMS}")),
        None => Err(format!(
            "a socket must be an absolute path; otherwise use {FORMS}"
        )),
    }
}

/// Docker's socket is recognised by its file name, also after `unix://` as in `DOCKER_HOST`.
fn by_file_name(path: &str) -> Result<RuntimeUri, String> {
    let path = socket(path)?;
    if path.file_name().is_some_and(|name| name == DOCKER_SOCKET) {
        return Ok(RuntimeUri::Docker(path));
    }
    Ok(RuntimeUri::Cri(path))
}

fn socket(path: &str) -> Result<PathBuf, String> {
    if path.is_empty() {
        return Err("the path of the socket is missing".to_owned());
    }
    if !path.starts_with('/') {
        return Err(format!("the path of the socket, {path}, must be absolute"));
    }
    if path.ends_with('/') {
        return Err(format!("{path} is a folder, not a socket"));
    }
    if path.len() > SOCKET_PATH_MAX {
        return Err(format!(
            "the path of the socket is {} bytes long, the limit is {SOCKET_PATH_MAX}",
            path.len()
        ));
    }
    Ok(PathBuf::from(path))
}

fn folder(path: &str) -> Result<PathBuf, String> {
    // `oci:///srv/images` means `oci:/srv/images`.
    let path = match path.strip_prefix("//") {
        Some(absolute) if absolute.starts_with('/') => absolute,
        Some(_) => return Err("use oci:DIR, without slashes before a relative folder".to_owned()),
        None => path,
    };
    if path.is_empty() {
        return Err("the folder is missing; use oci:DIR".to_owned());
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(value: &str) -> RuntimeUri {
        value.parse().unwrap()
    }

    fn problem(value: &str) -> String {
        value.parse::<RuntimeUri>().unwrap_err().to_string()
    }

    #[test]
    fn every_form_parses() {
        let cri = RuntimeUri::Cri("/run/containerd/containerd.sock".into());
        assert_eq!(parsed("unix:///run/containerd/containerd.sock"), cri);
        assert_eq!(parsed("unix:/run/containerd/containerd.sock"), cri);
        assert_eq!(parsed("/run/containerd/containerd.sock"), cri);
        let docker = RuntimeUri::Docker("/var/run/docker.sock".into());
        assert_eq!(parsed("docker:///var/run/docker.sock"), docker);
        assert_eq!(parsed("/var/run/docker.sock"), docker);
        assert_eq!(parsed("unix:///var/run/docker.sock"), docker);
        assert_eq!(parsed("oci:images"), RuntimeUri::Oci("images".into()));
        assert_eq!(parsed("oci:/srv/a b"), RuntimeUri::Oci("/srv/a b".into()));
        assert_eq!(parsed("oci:///srv"), RuntimeUri::Oci("/srv".into()));
    }

    #[test]
    fn display_and_parse_agree() {
        for text in [
            "unix:///a.sock",
            "docker:///d/x.sock",
            "oci:dir",
            "oci:/dir",
        ] {
            assert_eq!(parsed(text).to_string(), text);
        }
    }

    #[test]
    fn errors_name_value_and_problem() {
        for (value, words) in [
            ("", "empty"),
            ("containerd.sock", "absolute path"),
            ("tcp://10.0.0.1:2375", "\"tcp\" is not a runtime"),
            ("unix://run/x.sock", "run/x.sock, must be absolute"),
            ("unix://", "missing"),
            ("docker:", "missing"),
            ("oci:", "folder is missing"),
            ("oci://images", "without slashes"),
            ("/run/containerd/", "is a folder"),
            ("/run/\nx", "control character"),
        ] {
            let text = problem(value);
            let start = format!("invalid runtime \"{}\": ", value.escape_debug());
            assert!(text.starts_with(&start) && text.contains(words), "{text}");
        }
        let long = format!("/{}", "x".repeat(107));
        assert!(problem(&long).contains("the limit is 107"));
    }

    #[tokio::test]
    async fn the_first_listening_socket_is_detected() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        // The socket of a runtime that has exited: the file exists, but no process listens.
        drop(std::os::unix::net::UnixListener::bind(at("dead.sock")).unwrap());
        let _live = std::os::unix::net::UnixListener::bind(at("live.sock")).unwrap();
        let _next = std::os::unix::net::UnixListener::bind(at("next.sock")).unwrap();
        let found = RuntimeUri::detect_among([
            RuntimeUri::Cri(at("missing.sock")),
            RuntimeUri::Cri(at("dead.sock")),
            RuntimeUri::Docker(at("live.sock")),
            RuntimeUri::Cri(at("next.sock")),
        ])
        .await;
        assert_eq!(found.unwrap(), RuntimeUri::Docker(at("live.sock")));
    }

    #[tokio::test]
    async fn the_error_lists_the_tried_runtimes() {
        let folder = tempfile::tempdir().unwrap();
        let dead = folder.path().join("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        let missing = folder.path().join("missing.sock");
        let candidates = [
            RuntimeUri::Cri(dead.clone()),
            RuntimeUri::Docker(missing.clone()),
        ];
        let error = RuntimeUri::detect_among(candidates).await.unwrap_err();
        let text = error.to_string();
        for words in [
            format!("unix://{}: not listening", dead.display()),
            format!("docker://{}: not found", missing.display()),
            "--runtime: unix:///path.sock (CRI), docker:///path.sock".to_owned(),
            "oci:DIR".to_owned(),
        ] {
            assert!(text.contains(&words), "{text}");
        }
    }

    #[test]
    fn the_order_is_containerd_crio_cri_dockerd_docker() {
        let order: Vec<String> = RuntimeUri::candidates()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(order[0].contains("containerd"));
        assert!(order[1].contains("/var/run/crio") && order[2].contains("/run/crio"));
        assert!(order[3].contains("cri-dockerd"));
        assert_eq!(order[4], "docker:///var/run/docker.sock");
    }
}
