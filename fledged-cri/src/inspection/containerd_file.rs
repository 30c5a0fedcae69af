//! The configuration file of the containerd behind a socket, with the files that it imports.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::containerd_settings::UnusedSettings;
use super::{FILE_MAX, Fact, Unread};
use crate::kubelet::processes;
use crate::node_path::below;
use crate::text_file::read_utf8;

/// containerd's default.
const DEFAULT_FILE: &str = "/etc/containerd/config.toml";
/// containerd's default.
const DEFAULT_SOCKET: &str = "/run/containerd/containerd.sock";
/// Most files that are read for one configuration.
const FILES_MAX: usize = 64;
/// The plugin that pulls for CRI, by the version of the file.
const IMAGES: &str = "io.containerd.cri.v1.images";
const CRI_V2: &str = "io.containerd.grpc.v1.cri";
const CRI_V1: &str = "cri";
const TRANSFER: &str = "io.containerd.transfer.v1.local";
/// The plugin that has the address in version 4 of the file.
const SERVER_V4: &str = "io.containerd.server.v1.grpc";

/// The configuration file of one containerd.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    pub(super) content: Fact<ConfigContent>,
}

/// The settings of the files, with the names of version 3 of the format.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct ConfigContent {
    /// Whether there is a file. Without one, containerd uses its defaults.
    pub(super) exists: bool,
    /// `version` of the file itself, not of the files that it imports.
    pub(super) version: i64,
    /// Where containerd listens, if it is set.
    address: Option<String>,
    pub(super) images: Table,
    pub(super) transfer: Table,
    pub(super) unused: Vec<UnusedSettings>,
}

/// The file of the containerd that listens on this socket. It is named by the command line of its process.
///
/// # Errors
///
/// The process is not found, and the socket is not the default one.
pub(super) fn read(root: &Path, socket: &Path) -> Fact<ConfigFile> {
    let mut others = 0_usize;
    let mut unknown: Vec<ConfigFile> = Vec::new();
    for process in processes(root) {
        if process.program() != "containerd" {
            continue;
        }
        let argument = |long, short| process.flag(long).or_else(|| process.flag(short));
        let named = argument("--config", "-c");
        let named_path = process.path(root, named.unwrap_or(DEFAULT_FILE));
        let (path, read) = match named_path {
            Ok(path) => {
                let read = read_files(root, &path);
                (path, read)
            }
            Err(error) => {
                let path = named.unwrap_or(DEFAULT_FILE);
                let unread = Unread::working_directory("containerd", path, &error);
                (PathBuf::from(path), Err(unread))
            }
        };
        let content = match read {
            Ok(content) if named.is_some() && !content.exists => Err(Unread::broken(format!(
                "there is no {}, which the command line of containerd names",
                path.display()
            ))),
            read => read,
        };
        if argument("--address", "-a").is_none() && content.is_err() {
            // The file may have the address.
            unknown.push(ConfigFile { path, content });
            continue;
        }
        let set = content
            .as_ref()
            .ok()
            .and_then(|content| content.address.as_deref());
        let address = argument("--address", "-a")
            .or(set)
            .unwrap_or(DEFAULT_SOCKET);
        if is_same_socket(root, address, socket) {
            return Ok(ConfigFile { path, content });
        }
        others += 1;
    }
    if unknown.len() > 1 && is_same_socket(root, DEFAULT_SOCKET, socket) {
        let of_others = |file: &ConfigFile| file.path != Path::new(DEFAULT_FILE);
        unknown.sort_by_key(of_others);
        unknown.truncate(1);
    }
    if unknown.len() > 1 {
        let problems = unknown
            .iter()
            .filter_map(|file| file.content.as_ref().err());
        let problems: Vec<String> = problems.map(ToString::to_string).collect();
        return Err(Unread::broken(format!(
            "which containerd listens on {} is not known: {}",
            socket.display(),
            problems.join("; ")
        )));
    }
    if let Some(file) = unknown.pop() {
        return Ok(file);
    }
    if others == 0 && is_same_socket(root, DEFAULT_SOCKET, socket) {
        let path = PathBuf::from(DEFAULT_FILE);
        let content = read_files(root, &path);
        return Ok(ConfigFile { path, content });
    }
    Err(Unread::new(format!(
        "no process containerd that listens on {} was found, so its configuration file is not known",
        socket.display()
    )))
}

/// Whether the address, a path of the node, is that socket: a path of this process, or of the node.
fn is_same_socket(root: &Path, address: &str, socket: &Path) -> bool {
    let id = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let outside = below(root, address).ok();
    Path::new(address) == socket
        || root.join(address.trim_start_matches('/')) == socket
        || outside.is_some_and(|outside| {
            outside == socket || id(&outside).is_some_and(|address| Some(address) == id(socket))
        })
}

/// The settings of a file and of those that it imports.
pub(super) fn read_files(root: &Path, first: &Path) -> Fact<ConfigContent> {
    let mut content = ConfigContent::default();
    let mut waiting = VecDeque::from([first.to_owned()]);
    let mut read: Vec<PathBuf> = Vec::new();
    while let Some(path) = waiting.pop_front() {
        if read.contains(&path) {
            continue;
        }
        if read.len() == FILES_MAX {
            let problem = format!("it imports more than {FILES_MAX} files");
            return Err(Unread::file(first, problem));
        }
        let is_first = read.is_empty();
        let text = match below(root, &path).and_then(|path| read_utf8(&path, FILE_MAX)) {
            Ok(text) => text,
            Err(error) if is_first && error.kind() == io::ErrorKind::NotFound => {
                return Ok(content);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let path = path.display();
                return Err(Unread::broken(format!(
                    "there is no {path}, which is imported"
                )));
            }
            Err(error) => return Err(Unread::io(&path, &error)),
        };
        let table = parse(&text).map_err(|problem| Unread::file(&path, problem))?;
        let version = version(&table).map_err(|problem| Unread::file(&path, problem))?;
        if is_first {
            content.exists = true;
            content.version = version;
        }
        waiting.extend(imports(root, &path, &table)?);
        content.add(&path, &table);
        read.push(path);
    }
    match content.mistyped() {
        Some(problem) => Err(Unread::broken(format!(
            "cannot use {}: {problem}",
            first.display()
        ))),
        None => Ok(content),
    }
}

/// The table of a file, or the line and the problem, without the text of the line: it may hold a password.
pub(super) fn parse(text: &str) -> Result<Table, String> {
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| before.matches('\n').count() + 1);
        format!("line {line}: {}", error.message())
    })
}

/// Files without a version have version 1.
fn version(table: &Table) -> Result<i64, &'static str> {
    let Some(version) = table.get("version") else {
        return Ok(1);
    };
    version.as_integer().ok_or("its version is not an integer")
}

/// The files that a file imports: absolute, or relative to its folder, the last part perhaps with `*`.
fn imports(root: &Path, file: &Path, table: &Table) -> Fact<Vec<PathBuf>> {
    let Some(listed) = table.get("imports") else {
        return Ok(Vec::new());
    };
    let listed = listed.as_array().and_then(|listed| {
        let patterns = listed.iter().map(Value::as_str);
        patterns.collect::<Option<Vec<&str>>>()
    });
    let listed = listed.ok_or_else(|| Unread::file(file, "imports is not a list of strings"))?;
    let mut found = Vec::new();
    for pattern in listed {
        let pattern = match file.parent() {
            Some(folder) => folder.join(pattern),
            None => PathBuf::from(pattern),
        };
        let (folder, name) = match (pattern.parent(), pattern.file_name()) {
            (Some(folder), Some(name)) => (folder, name.to_string_lossy().into_owned()),
            _ => continue,
        };
        if !name.contains('*') {
            found.push(pattern);
            continue;
        }
        let entries = match below(root, folder).and_then(fs::read_dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Unread::io(folder, &error)),
        };
        let names = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.filter(|entry| matches_glob(entry, &name)).collect();
        names.sort();
        found.extend(names.into_iter().map(|name| folder.join(name)));
    }
    Ok(found)
}

/// Whether a file name matches a pattern in which `*` is any text. Other special characters are not known.
fn matches_glob(name: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|prefix| name.strip_prefix(prefix)) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(suffix) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
            None => return false,
        }
    }
    rest.ends_with(suffix)
}

impl ConfigContent {
    /// Adds a file, whose values replace those of files before it.
    pub(super) fn add(&mut self, path: &Path, table: &Table) {
        let plugins = table.get("plugins");
        let plugin = |name: &str| plugins.and_then(|plugins| plugins.get(name)?.as_table());
        let address = |table: Option<&Value>| {
            let address = table.and_then(|table| table.get("address")?.as_str());
            address
                .filter(|address| !address.is_empty())
                .map(str::to_owned)
        };
        let server = plugins.and_then(|plugins| plugins.get(SERVER_V4));
        if let Some(address) = address(server).or_else(|| address(table.get("grpc"))) {
            self.address = Some(address);
        }
        let version = version(table).unwrap_or(1);
        let old = match version {
            ..=1 => plugin(CRI_V1).map(|table| (CRI_V1, table)),
            _ => plugin(CRI_V2).map(|table| (CRI_V2, table)),
        };
        if let Some(images) = plugin(IMAGES) {
            merge(&mut self.images, images);
        }
        if let Some((name, old)) = old {
            let moved = with_new_names(old);
            if version < 3 {
                merge(&mut self.images, &moved);
            } else if !moved.is_empty() {
                self.unused.push(UnusedSettings {
                    file: path.to_owned(),
                    table: format!("plugins.\"{name}\""),
                    keys: moved.keys().cloned().collect(),
                });
            }
        }
        if let Some(transfer) = plugin(TRANSFER) {
            merge(&mut self.transfer, transfer);
        }
    }

    /// The first setting whose value has the wrong type. The plugin does not start with it.
    fn mistyped(&self) -> Option<String> {
        let registry = self.images.get("registry");
        if registry.is_some_and(|registry| !registry.is_table()) {
            return Some("registry is not a table".to_owned());
        }
        let registry = registry.and_then(Value::as_table);
        let images = Some(&self.images);
        let transfer = Some(&self.transfer);
        for (table, key, is_valid, kind) in [
            (
                images,
                "snapshotter",
                Value::is_str as fn(&Value) -> bool,
                "a string",
            ),
            (
                images,
                "discard_unpacked_layers",
                Value::is_bool,
                "a boolean",
            ),
            (
                images,
                "disable_snapshot_annotations",
                Value::is_bool,
                "a boolean",
            ),
            (
                images,
                "image_pull_with_sync_fs",
                Value::is_bool,
                "a boolean",
            ),
            (images, "use_local_image_pull", Value::is_bool, "a boolean"),
            (
                images,
                "max_concurrent_downloads",
                Value::is_integer,
                "an integer",
            ),
            (
                images,
                "concurrent_layer_fetch_buffer",
                Value::is_integer,
                "an integer",
            ),
            (registry, "config_path", Value::is_str, "a string"),
            (
                transfer,
                "max_concurrent_downloads",
                Value::is_integer,
                "an integer",
            ),
            (
                transfer,
                "concurrent_layer_fetch_buffer",
                Value::is_integer,
                "an integer",
            ),
            (
                transfer,
                "max_concurrent_unpacks",
                Value::is_integer,
                "an integer",
            ),
        ] {
            if table
                .and_then(|table| table.get(key))
                .is_some_and(|value| !is_valid(value))
            {
                return Some(format!("{key} is not {kind}"));
            }
        }
        None
    }
}

/// The settings of the plugin of versions 1 and 2 that have moved to the plugin of version 3.
fn with_new_names(old: &Table) -> Table {
    let mut moved = Table::new();
    for key in [
        "registry",
        "max_concurrent_downloads",
        "image_pull_progress_timeout",
        "image_pull_with_sync_fs",
    ] {
        if let Some(value) = old.get(key) {
            moved.insert(key.to_owned(), value.clone());
        }
    }
    let containerd = old.get("containerd").and_then(Value::as_table);
    for key in [
        "snapshotter",
        "disable_snapshot_annotations",
        "discard_unpacked_layers",
    ] {
        if let Some(value) = containerd.and_then(|containerd| containerd.get(key)) {
            moved.insert(key.to_owned(), value.clone());
        }
    }
    moved
}

/// Merges as containerd 2.0 and later do: tables by their keys, other values whole.
fn merge(into: &mut Table, from: &Table) {
    for (key, value) in from {
        match (into.get_mut(key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            _ => {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::machine;
    use super::*;

    fn downloads(file: &Fact<ConfigFile>) -> Option<i64> {
        let content = file.as_ref().unwrap().content.as_ref().unwrap();
        content.images.get("max_concurrent_downloads")?.as_integer()
    }

    #[test]
    fn the_process_on_the_socket_names_the_file() {
        let root = machine(&[
            ("proc/7/cmdline", "/usr/bin/containerd\0"),
            (
                "proc/8/cmdline",
                "containerd\0-c\0/k/config.toml\0-a\0/run/k.sock\0",
            ),
            ("proc/9/cmdline", "containerd\0--config=/d/config.toml\0"),
            ("etc/containerd/config.toml", "version = 2\n"),
            (
                "k/config.toml",
                "version = 3\n[plugins.'io.containerd.cri.v1.images']\nmax_concurrent_downloads = 9\n",
            ),
            (
                "d/config.toml",
                "version = 4\n[plugins.'io.containerd.server.v1.grpc']\naddress = '/run/d.sock'\n",
            ),
        ]);
        let file = |socket: &str| read(root.path(), &below(root.path(), socket).unwrap());
        let k3s = file("/run/k.sock");
        assert_eq!(k3s.as_ref().unwrap().path, Path::new("/k/config.toml"));
        assert_eq!(downloads(&k3s), Some(9));
        assert_eq!(
            file("/run/d.sock").unwrap().path,
            Path::new("/d/config.toml")
        );
        let default = file("/run/containerd/containerd.sock").unwrap();
        assert_eq!(default.path, Path::new(DEFAULT_FILE));
        let unread = file("/run/other.sock").unwrap_err().to_string();
        assert!(unread.contains("/run/other.sock"), "{unread}");
    }

    #[test]
    fn imported_files_replace_values() {
        let root = machine(&[
            ("proc/7/cmdline", "containerd\0"),
            (
                "etc/containerd/config.toml",
                "version = 2\nimports = ['conf.d/*.toml']\n[plugins.'io.containerd.grpc.v1.cri']\nmax_concurrent_downloads = 1\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/a'\n",
            ),
            (
                "etc/containerd/conf.d/b.toml",
                "version = 3\n[plugins.'io.containerd.cri.v1.images']\nmax_concurrent_downloads = 5\n",
            ),
            (
                "etc/containerd/conf.d/a.toml",
                "version = 3\n[plugins.'io.containerd.cri.v1.images']\nmax_concurrent_downloads = 4\n",
            ),
            ("etc/containerd/conf.d/README", "="),
        ]);
        let file = read(root.path(), Path::new(DEFAULT_SOCKET));
        assert_eq!(downloads(&file), Some(5));
        let content = file.unwrap().content.unwrap();
        assert_eq!(content.version, 2);
        let registry = content.images.get("registry").unwrap();
        assert_eq!(registry.get("config_path").unwrap().as_str(), Some("/a"));
    }

    #[test]
    fn old_tables_in_a_new_file_are_unused() {
        let root = machine(&[(
            "etc/containerd/config.toml",
            "version = 3\n[plugins.'io.containerd.grpc.v1.cri'.registry]\nconfig_path = '/a'\n[plugins.'io.containerd.grpc.v1.cri']\nstream_server_port = '0'\n",
        )]);
        let content = read(root.path(), Path::new(DEFAULT_SOCKET))
            .unwrap()
            .content
            .unwrap();
        assert!(content.images.is_empty());
        assert_eq!(content.unused.len(), 1);
        assert_eq!(content.unused[0].keys, ["registry"]);
        assert!(content.unused[0].table.contains(CRI_V2));
    }

    #[test]
    fn problems_name_the_file_and_the_line() {
        for (text, problem) in [
            ("version = 2\npassword = 'hush\n", "line 2: "),
            (
                "imports = ['/etc/missing.toml']",
                "there is no /etc/missing.toml",
            ),
            ("version = '2'", "its version is not an integer"),
            ("imports = '/a'", "imports is not a list of strings"),
            (
                "version = 3\n[plugins.'io.containerd.transfer.v1.local']\nmax_concurrent_unpacks = '4'\n",
                "max_concurrent_unpacks is not an integer",
            ),
        ] {
            let root = machine(&[("etc/containerd/config.toml", text)]);
            let file = read(root.path(), Path::new(DEFAULT_SOCKET)).unwrap();
            let unread = file.content.unwrap_err();
            assert!(unread.is_broken(), "{unread}");
            let unread = unread.to_string();
            assert!(unread.contains(problem), "{unread}");
            assert!(!unread.contains("hush"), "{unread}");
        }
        let root = machine(&[]);
        let file = read(root.path(), Path::new(DEFAULT_SOCKET)).unwrap();
        assert!(!file.content.unwrap().exists);
    }

    #[test]
    fn files_that_import_each_other_end() {
        let root = machine(&[
            (
                "etc/containerd/config.toml",
                "imports = ['/etc/containerd/config.toml', 'b.toml']",
            ),
            ("etc/containerd/b.toml", "imports = ['config.toml']"),
        ]);
        let file = read(root.path(), Path::new(DEFAULT_SOCKET)).unwrap();
        assert!(file.content.unwrap().exists);
    }

    #[test]
    fn what_is_no_text_file_is_broken() {
        let content = |root: &Path| {
            let file = read(root, Path::new(DEFAULT_SOCKET)).unwrap();
            file.content.unwrap_err()
        };
        let root = machine(&[("etc/containerd/config.toml/x", "")]);
        let unread = content(root.path());
        assert!(unread.is_broken(), "{unread}");
        let root = machine(&[("etc/containerd/x", "")]);
        fs::write(root.path().join(&DEFAULT_FILE[1..]), b"a = '\xff'\n").unwrap();
        let unread = content(root.path());
        assert!(unread.is_broken(), "{unread}");
        assert!(unread.to_string().ends_with("byte 6 is not valid UTF-8"));
    }

    #[test]
    fn a_broken_file_that_may_have_the_address_is_named() {
        let broken = "[plugins.'io.containerd.server.v1.grpc']\naddress = '/run/d.sock'\n[a\n";
        let root = machine(&[
            ("proc/7/cmdline", "containerd\0-c\0/d/config.toml\0"),
            ("proc/8/cmdline", "containerd\0--address=/run/k.sock\0"),
            ("d/config.toml", broken),
        ]);
        let file = read(root.path(), Path::new("/run/d.sock")).unwrap();
        assert_eq!(file.path, Path::new("/d/config.toml"));
        let unread = file.content.unwrap_err();
        assert!(unread.is_broken(), "{unread}");
        assert!(unread.to_string().contains("/d/config.toml: line 3: "));
        let known = read(root.path(), Path::new("/run/k.sock")).unwrap();
        assert_eq!(known.path, Path::new(DEFAULT_FILE));
    }

    #[test]
    fn a_missing_file_that_the_process_names_is_broken() {
        let root = machine(&[("proc/7/cmdline", "containerd\0-c\0/missing.toml\0")]);
        let file = read(root.path(), Path::new(DEFAULT_SOCKET)).unwrap();
        let unread = file.content.unwrap_err();
        assert!(unread.is_broken(), "{unread}");
        assert!(unread.to_string().starts_with("there is no /missing.toml"));
    }

    #[test]
    fn a_relative_file_is_in_the_working_directory() {
        let root = machine(&[
            ("proc/7/cmdline", "containerd\0-c\0ctd/config.toml\0"),
            (
                "srv/ctd/config.toml",
                "version = 2\n[plugins.'io.containerd.grpc.v1.cri']\nmax_concurrent_downloads = 7\n",
            ),
            ("ctd/config.toml", "[a\n"),
        ]);
        let file = read(root.path(), Path::new(DEFAULT_SOCKET)).unwrap();
        let unread = file.content.unwrap_err();
        assert!(unread.to_string().contains("working directory"), "{unread}");
        assert!(!unread.is_broken(), "{unread}");
        std::os::unix::fs::symlink("/srv", root.path().join("proc/7/cwd")).unwrap();
        let file = read(root.path(), Path::new(DEFAULT_SOCKET));
        assert_eq!(downloads(&file), Some(7));
        assert_eq!(file.unwrap().path, Path::new("/srv/ctd/config.toml"));
    }

    #[test]
    fn globs_match_file_names() {
        for (name, pattern, expected) in [
            ("a.toml", "*.toml", true),
            ("a.toml.bak", "*.toml", false),
            ("99-a.toml", "99-*.toml", true),
            ("a", "a", true),
            ("ab", "a", false),
            ("axbyc", "a*b*c", true),
            ("ac", "a*b*c", false),
            (".toml", "*.toml", true),
        ] {
            assert_eq!(matches_glob(name, pattern), expected, "{name} {pattern}");
        }
    }
}
