//! The folders of registries in containerd's `config_path`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::FILE_MAX;
use crate::node_path::below;
use crate::registry::{HostsFileProblem, check_hosts_file};
use crate::text_file::{read_bytes, read_utf8};

/// Most folders of registries that are read in one directory.
const FOLDERS_MAX: usize = 1000;

/// What the directories of `config_path` hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct HostsFolders {
    /// The directories that exist.
    pub found: Vec<PathBuf>,
    /// The directories that do not exist.
    pub missing: Vec<PathBuf>,
    /// The names of the folders with a `hosts.toml` that can be used, without duplicates.
    pub registries: Vec<String>,
    /// Directories and files that cannot be read or are invalid.
    pub problems: Vec<HostsProblem>,
    /// Valid `hosts.toml` files that name certificate files that cannot be used.
    pub certificates: Vec<HostsProblem>,
}

/// A directory or a `hosts.toml` that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostsProblem {
    /// The directory or file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

impl HostsProblem {
    /// With this problem.
    pub fn new(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            problem: problem.into(),
        }
    }
}

pub(super) fn read(root: &Path, dirs: &[PathBuf]) -> HostsFolders {
    let mut folders = HostsFolders::default();
    for dir in dirs {
        match below(root, dir).and_then(fs::read_dir) {
            Ok(entries) => {
                folders.found.push(dir.clone());
                let names = entries.take(FOLDERS_MAX + 1).flatten();
                let mut names: Vec<String> = names
                    .map(|entry| entry.file_name().to_string_lossy().into_owned())
                    .collect();
                if names.len() > FOLDERS_MAX {
                    let problem = format!("only {FOLDERS_MAX} of its entries are read");
                    folders.problems.push(HostsProblem::new(dir, problem));
                    names.truncate(FOLDERS_MAX);
                }
                names.sort();
                for name in names {
                    read_registry(root, dir, name, &mut folders);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                folders.missing.push(dir.clone());
            }
            Err(error) => folders
                .problems
                .push(HostsProblem::new(dir, error.to_string())),
        }
    }
    folders
}

fn read_registry(root: &Path, dir: &Path, name: String, folders: &mut HostsFolders) {
    let file = dir.join(&name).join("hosts.toml");
    let text = match below(root, &file).and_then(|path| read_utf8(&path, FILE_MAX)) {
        Ok(text) => text,
        // A file beside the folders, or a folder with certificates only.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return;
        }
        Err(error) => {
            let problem = HostsProblem::new(file, error.to_string());
            folders.problems.push(problem);
            return;
        }
    };
    let folder = dir.join(&name);
    let read = |path: &Path| below(root, path).and_then(|path| read_bytes(&path, FILE_MAX));
    match check_hosts_file(&folder, &file, &text, read) {
        Err(HostsFileProblem::Text(problem)) => {
            folders.problems.push(HostsProblem::new(file, problem));
        }
        Err(HostsFileProblem::Certificates(problems)) => {
            let problems = problems.into_iter();
            let problems = problems.map(|problem| HostsProblem::new(&file, problem));
            folders.certificates.extend(problems);
        }
        Ok(()) if folders.registries.contains(&name) => {}
        Ok(()) => folders.registries.push(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hosts_file_is_checked() {
        let root = tempfile::tempdir().unwrap();
        let certs = root.path().join("etc/certs.d");
        for (name, text) in [
            ("good.lan", "server = \"https://good.lan\"\n"),
            ("bad.lan", "server = \n"),
        ] {
            fs::create_dir_all(certs.join(name)).unwrap();
            fs::write(certs.join(name).join("hosts.toml"), text).unwrap();
        }
        fs::create_dir_all(certs.join("certificates.lan")).unwrap();
        fs::create_dir_all(certs.join("odd.lan/hosts.toml")).unwrap();
        fs::write(certs.join("README"), "").unwrap();
        let dirs = ["/etc/certs.d", "/etc/missing.d"].map(PathBuf::from);
        let folders = read(root.path(), &dirs);
        assert_eq!(folders.found, [dirs[0].clone()]);
        assert_eq!(folders.missing, [dirs[1].clone()]);
        assert_eq!(folders.registries, ["good.lan"]);
        let problems: Vec<&Path> = folders.problems.iter().map(|p| &*p.path).collect();
        let expected = ["bad.lan", "odd.lan"].map(|name| dirs[0].join(name).join("hosts.toml"));
        assert_eq!(problems, expected);
        assert!(
            folders.problems[0].problem.starts_with("line 1: "),
            "{folders:?}"
        );
    }

    #[test]
    fn certificate_files_of_hosts_files_are_checked() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("etc/certs.d/r.lan");
        fs::create_dir_all(&folder).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["r.lan".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        for (name, text) in [
            ("good.pem", &*certificate),
            ("good.key", &*key.serialize_pem()),
            ("text.pem", "no certificate"),
        ] {
            fs::write(folder.join(name), text).unwrap();
        }
        // As below an absolute link of the node.
        std::os::unix::fs::symlink("/etc/certs.d/r.lan/good.pem", folder.join("link.pem")).unwrap();
        let read_with = |toml: &str| {
            fs::write(folder.join("hosts.toml"), toml).unwrap();
            read(root.path(), &["/etc/certs.d".into()])
        };
        let good = "ca = ['link.pem', '/etc/certs.d/r.lan/good.pem']\n\
                    client = [['good.pem', 'good.key']]\n";
        let folders = read_with(good);
        assert_eq!(folders.registries, ["r.lan"], "{folders:?}");
        for (toml, problem) in [
            (
                "[host.'https://m.lan:5000']\nca = 'none.pem'\n",
                "host m.lan:5000, ca /etc/certs.d/r.lan/none.pem: No such file or directory",
            ),
            (
                "ca = 'text.pem'\n",
                "the registry itself, ca /etc/certs.d/r.lan/text.pem: it has no certificate in PEM form",
            ),
            (
                "server = 'https://r.lan'\nclient = [['good.pem', 'good.pem']]\n",
                "host r.lan, client /etc/certs.d/r.lan/good.pem: it has no private key in PEM form",
            ),
            (
                "server = 'https://r.lan'\nclient = 'good.key'\n",
                "host r.lan, client /etc/certs.d/r.lan/good.key: it has no certificate in PEM form",
            ),
        ] {
            let folders = read_with(toml);
            assert_eq!(
                (&*folders.registries, &*folders.problems),
                (&[][..], &[][..])
            );
            assert_eq!(folders.certificates.len(), 1, "{folders:?}");
            let found = &folders.certificates[0];
            assert_eq!(found.path, Path::new("/etc/certs.d/r.lan/hosts.toml"));
            assert!(found.problem.starts_with(problem), "{found:?}");
        }
    }
}
