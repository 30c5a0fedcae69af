//! Which runtime to use: its URI.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use crate::detect::{DetectError, NoRuntimeFound};

/// The forms of a URI, as errors list them.
pub(crate) const FORMS: &str = "unix:///path.sock (CRI), docker:///path.sock (Docker Engine) or oci:DIR \
                     (OCI image layout)";
/// Longest path of a Unix socket in bytes: `sun_path` has 108 with its terminating zero (unix(7)).
const SOCKET_PATH_MAX: usize = 107;
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

impl RuntimeUri {
    /// The path of the socket or folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Cri(path) | Self::Docker(path) | Self::Oci(path) => path,
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
}
