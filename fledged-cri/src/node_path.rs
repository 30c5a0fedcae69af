//! Paths of a node whose file system is mounted in a directory of this machine.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use rustix::io::Errno;

/// Most symbolic links in one path, as in the kernel.
const LINKS_MAX: usize = 40;

/// The path in the file system at `root`, without symbolic links: those of the node are resolved in `root`, so that
/// an absolute one does not leave it. What does not exist stays as it is.
///
/// # Errors
///
/// The path has more than 40 symbolic links.
pub(crate) fn below(root: &Path, path: impl AsRef<Path>) -> io::Result<PathBuf> {
    let path = path.as_ref();
    if root == Path::new("/") {
        return Ok(root.join(path));
    }
    let mut found = root.to_owned();
    let mut depth = 0_usize;
    let mut links = 0;
    let mut rest = reversed(path);
    while let Some(part) = rest.pop() {
        if part == ".." {
            // Above the root of a node is the root.
            if depth > 0 {
                found.pop();
                depth -= 1;
            }
            continue;
        }
        found.push(part);
        depth += 1;
        // No link, or nothing that can be read: the caller's own call says which.
        let Ok(target) = fs::read_link(&found) else {
            continue;
        };
        links += 1;
        if links > LINKS_MAX {
            return Err(Errno::LOOP.into());
        }
        if target.is_absolute() {
            root.clone_into(&mut found);
            depth = 0;
        } else {
            found.pop();
            depth -= 1;
        }
        rest.extend(reversed(&target));
    }
    Ok(found)
}

/// The names of a path, the last first.
fn reversed(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_are_resolved_in_the_root() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("node");
        fs::create_dir_all(root.join("etc/real")).unwrap();
        fs::create_dir_all(root.join("srv")).unwrap();
        fs::write(folder.path().join("outside"), "").unwrap();
        for (link, target) in [
            ("etc/absolute", "/etc/real"),
            ("etc/relative", "real"),
            ("etc/up", "../../../outside"),
            ("etc/dangling", "/missing/a"),
            ("etc/twice", "/etc/absolute/../real/f"),
            ("srv/again", "/etc/twice"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        for (path, expected) in [
            ("/etc/real/f", "etc/real/f"),
            ("/etc/absolute/f", "etc/real/f"),
            ("/etc/relative/./f", "etc/real/f"),
            ("/etc/up", "outside"),
            ("/../../etc/../etc/real", "etc/real"),
            ("/etc/dangling/b", "missing/a/b"),
            ("/srv/again", "etc/real/f"),
            ("/", ""),
            ("missing/../etc", "etc"),
        ] {
            assert_eq!(below(&root, path).unwrap(), root.join(expected), "{path}");
        }
        let host = below(Path::new("/"), "/etc/../a").unwrap();
        assert_eq!(host, Path::new("/etc/../a"));
    }

    #[test]
    fn a_loop_of_links_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        symlink("/b", root.path().join("a")).unwrap();
        symlink("a", root.path().join("b")).unwrap();
        let error = below(root.path(), "/a/file").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
    }
}
