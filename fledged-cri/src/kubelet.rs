//! The runtime that the kubelet of this machine uses: from its process and its configuration file.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::node_path::below;
use crate::target::RuntimeUri;
use crate::text_file::read_text;

/// The kubelet's configuration file, by kubeadm's and most installers' convention.
pub(crate) const CONFIG: &str = "/var/lib/kubelet/config.yaml";
/// The flag that names the runtime (kubelet(1)).
const ENDPOINT_FLAG: &str = "--container-runtime-endpoint";
pub(crate) const CONFIG_FLAG: &str = "--config";
/// Most bytes read of a configuration file or a command line. Real ones have a few KiB.
const READ_MAX: u64 = 256 * 1024;

/// Programs that contain a kubelet, with the socket of the containerd that they start.
const EMBEDDED: [(&str, &str); 2] = [
    ("k3s", "/run/k3s/containerd/containerd.sock"),
    ("kubelite", "/var/snap/microk8s/common/run/containerd.sock"),
];

/// A runtime that a kubelet's configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Named {
    /// A kubelet runs and uses it.
    Running(RuntimeUri),
    /// Only a configuration file names it, perhaps one that is left over.
    Configured(RuntimeUri),
}

/// The runtime that the kubelet uses, if its process or its configuration file names one. `root` is `/`;
/// tests have their own.
///
/// Blocks. What cannot be read counts as missing: other users' processes are hidden on some machines.
pub(crate) fn named_runtime(root: &Path) -> Option<Named> {
    let configured = |path: &Path| endpoint_in_config(&below(root, path).ok()?);
    for process in processes(root) {
        let program = process.program();
        let embedded = EMBEDDED.iter().find(|(name, _)| *name == program);
        if program != "kubelet" && embedded.is_none() {
            continue;
        }
        let config = || match process.flag(CONFIG_FLAG) {
            Some(config) => configured(&process.path(root, config).ok()?),
            None => configured(Path::new(CONFIG)),
        };
        let named = process
            .flag(ENDPOINT_FLAG)
            .and_then(parse)
            .or_else(|| match embedded {
                Some((_, socket)) => parse(socket),
                None => config(),
            });
        if let Some(uri) = named {
            return Some(Named::Running(uri));
        }
    }
    configured(Path::new(CONFIG)).map(Named::Configured)
}

/// Whether this program contains a kubelet, as k3s does.
#[cfg(all(feature = "cri", feature = "oci"))]
pub(crate) fn embeds_kubelet(program: &str) -> bool {
    EMBEDDED.iter().any(|(name, _)| *name == program)
}

/// A process of the node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    id: u64,
    pub(crate) arguments: Vec<String>,
}

impl Process {
    /// The file name of its program.
    pub(crate) fn program(&self) -> &str {
        let path = self.arguments.first().map_or("", String::as_str);
        path.rsplit('/').next().unwrap_or_default()
    }

    /// The value of `--flag=value` or `--flag value`.
    pub(crate) fn flag(&self, name: &str) -> Option<&str> {
        flag(&self.arguments, name)
    }

    /// A path of its command line as a path of the node: a relative one starts in its working directory.
    ///
    /// # Errors
    ///
    /// The working directory cannot be read.
    pub(crate) fn path(&self, root: &Path, path: &str) -> io::Result<PathBuf> {
        if Path::new(path).is_absolute() {
            return Ok(PathBuf::from(path));
        }
        let folder = below(root, format!("/proc/{}", self.id))?;
        Ok(fs::read_link(folder.join("cwd"))?.join(path))
    }
}

/// The processes of root and of this user. Other users could start a program called
/// kubelet to have credentials sent to a socket of theirs.
pub(crate) fn processes(root: &Path) -> Vec<Process> {
    let own = fs::metadata("/proc/self").map_or(0, |metadata| metadata.uid());
    let mut found = Vec::new();
    let folder = below(root, "/proc").and_then(fs::read_dir);
    for entry in folder.into_iter().flatten().flatten() {
        let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|id| id.parse::<u64>().ok())
        else {
            continue;
        };
        let trusted = entry
            .metadata()
            .is_ok_and(|metadata| [0, own].contains(&metadata.uid()));
        let file = below(root, format!("/proc/{id}/cmdline")).ok();
        if trusted && let Some(text) = file.and_then(|file| read(&file)) {
            // k3s replaces its command line by one string with spaces.
            let arguments = text.split(['\0', ' ']).filter(|part| !part.is_empty());
            let arguments = arguments.map(str::to_owned).collect();
            found.push(Process { id, arguments });
        }
    }
    found.sort();
    found
}

/// Whether any process can be seen, of any user. The root of another machine may have no `/proc`, or an empty one.
#[cfg(all(feature = "cri", feature = "oci"))]
pub(crate) fn sees_processes(root: &Path) -> bool {
    let folder = below(root, "/proc").and_then(fs::read_dir);
    let mut names = folder.into_iter().flatten().flatten();
    names.any(|entry| {
        let name = entry.file_name();
        name.to_str()
            .is_some_and(|name| name.parse::<u64>().is_ok())
    })
}

/// The value of `--flag=value` or `--flag value`.
pub(crate) fn flag<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.strip_prefix(name) {
            Some("") => return rest.next().map(String::as_str),
            Some(value) if value.starts_with('=') => return value.get(1..),
            _ => {}
        }
    }
    None
}

/// `containerRuntimeEndpoint` of a KubeletConfiguration, in YAML or JSON. It is a field of the top level.
fn endpoint_in_config(path: &Path) -> Option<RuntimeUri> {
    let text = read(path)?;
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_json = name.trim_start().starts_with('"');
        if name.starts_with(char::is_whitespace) && !is_json {
            return None;
        }
        if name.trim_matches(|c: char| c.is_whitespace() || "\"'{".contains(c))
            != "containerRuntimeEndpoint"
        {
            return None;
        }
        let value = value.split(" #").next()?;
        parse(value.trim_matches(|c: char| c.is_whitespace() || "\"',}".contains(c)))
    })
}

fn parse(text: &str) -> Option<RuntimeUri> {
    match text.parse() {
        Ok(RuntimeUri::Oci(_)) | Err(_) => None,
        Ok(uri) => Some(uri),
    }
}

fn read(path: &Path) -> Option<String> {
    read_text(path, READ_MAX).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The root of a machine with these files.
    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    fn named(files: &[(&str, &str)]) -> Option<Named> {
        named_runtime(machine(files).path())
    }

    fn cri(path: &str) -> RuntimeUri {
        RuntimeUri::Cri(path.into())
    }

    #[test]
    fn the_process_names_the_runtime() {
        for (command, socket) in [
            (
                "/usr/bin/kubelet\0--v=2\0--container-runtime-endpoint=unix:///run/crio/crio.sock\0",
                "/run/crio/crio.sock",
            ),
            (
                "kubelet\0--container-runtime-endpoint\0/run/x.sock\0",
                "/run/x.sock",
            ),
            (
                "/usr/local/bin/k3s server\0",
                "/run/k3s/containerd/containerd.sock",
            ),
            (
                "/usr/local/bin/k3s\0agent\0--container-runtime-endpoint=/run/x.sock\0",
                "/run/x.sock",
            ),
            (
                "/snap/microk8s/1/kubelite\0--kubelet-args-file=x\0",
                "/var/snap/microk8s/common/run/containerd.sock",
            ),
        ] {
            let found = named(&[
                ("proc/7/cmdline", "sh\0-c\0kubelet\0"),
                ("proc/12/cmdline", command),
            ]);
            assert_eq!(found, Some(Named::Running(cri(socket))), "{command:?}");
        }
    }

    #[test]
    fn the_configuration_names_the_runtime() {
        let config = "apiVersion: kubelet.config.k8s.io/v1beta1\nlogging:\n  containerRuntimeEndpoint: /run/no.sock\ncontainerRuntimeEndpoint: \"unix:///run/crio/crio.sock\" # kubeadm\n";
        let socket = cri("/run/crio/crio.sock");
        assert_eq!(
            named(&[("var/lib/kubelet/config.yaml", config)]),
            Some(Named::Configured(socket.clone()))
        );
        assert_eq!(
            named(&[
                ("var/lib/kubelet/config.yaml", config),
                ("proc/12/cmdline", "kubelet\0"),
            ]),
            Some(Named::Running(socket.clone()))
        );
        let json = "{\n  \"kind\": \"KubeletConfiguration\",\n  \"containerRuntimeEndpoint\": \"unix:///run/crio/crio.sock\"\n}\n";
        assert_eq!(
            named(&[
                ("etc/kubelet.json", json),
                ("proc/12/cmdline", "kubelet\0--config=/etc/kubelet.json\0"),
            ]),
            Some(Named::Running(socket))
        );
    }

    #[test]
    fn a_relative_configuration_is_in_the_working_directory() {
        let root = machine(&[
            ("proc/12/cmdline", "kubelet\0--config\0kc.yaml\0"),
            (
                "srv/kc.yaml",
                "containerRuntimeEndpoint: unix:///run/a.sock\n",
            ),
            ("kc.yaml", "containerRuntimeEndpoint: unix:///run/b.sock\n"),
        ]);
        assert_eq!(named_runtime(root.path()), None, "no working directory");
        std::os::unix::fs::symlink("/srv", root.path().join("proc/12/cwd")).unwrap();
        let found = named_runtime(root.path());
        assert_eq!(found, Some(Named::Running(cri("/run/a.sock"))));
    }

    #[test]
    fn no_runtime_is_named_without_a_kubelet() {
        for files in [
            vec![],
            vec![(
                "var/lib/kubelet/config.yaml",
                "kind: KubeletConfiguration\n",
            )],
            vec![(
                "var/lib/kubelet/config.yaml",
                "containerRuntimeEndpoint: \"\"\n",
            )],
            vec![(
                "proc/12/cmdline",
                "vi\0--container-runtime-endpoint=/run/x.sock\0",
            )],
            vec![(
                "proc/self/cmdline",
                "kubelet\0--container-runtime-endpoint=/run/x.sock\0",
            )],
        ] {
            assert_eq!(named(&files), None, "{files:?}");
        }
    }
}
