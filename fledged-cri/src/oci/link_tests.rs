//! Layouts whose files or folders are symbolic links to other places of the machine.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use fledged_core::error::{ErrorClass, Failure, Reason};
use fledged_core::model::ImageRef;
use fledged_core::port::{ImageRuntime, PullRequest};
use tempfile::TempDir;

use super::{OciLayoutOptions, OciLayoutRuntime};

/// A layout with one entry, and a folder beside it that no operation may change.
struct Place {
    temporary: TempDir,
}

impl Place {
    fn new() -> Self {
        let temporary = TempDir::new().unwrap();
        let place = Self { temporary };
        fs::create_dir_all(place.layout().join("blobs/sha256")).unwrap();
        fs::create_dir_all(place.layout().join(".fledged/unfinished")).unwrap();
        let manifest = br#"{"schemaVersion":2,"config":{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"mediaType":"application/vnd.oci.image.config.v1+json"},"layers":[]}"#;
        let digest = crate::registry::sha256(manifest);
        fs::write(place.blob(&digest), manifest).unwrap();
        fs::write(place.blob(&crate::registry::sha256(b"")), b"").unwrap();
        let index = serde_json::json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest,
                "size": manifest.len(),
                "annotations": {"org.opencontainers.image.ref.name": image().as_str()},
            }],
        });
        fs::write(place.layout().join("index.json"), index.to_string()).unwrap();
        let marker = r#"{"imageLayoutVersion":"1.0.0"}"#;
        fs::write(place.layout().join("oci-layout"), marker).unwrap();
        fs::create_dir_all(place.elsewhere().join("blobs/sha256")).unwrap();
        for name in ["a", "b", "index.json", "fledged-tmp-1-1"] {
            fs::write(place.elsewhere().join(name), "theirs").unwrap();
        }
        place
    }

    fn layout(&self) -> PathBuf {
        self.temporary.path().join("layout")
    }

    fn elsewhere(&self) -> PathBuf {
        self.temporary.path().join("elsewhere")
    }

    fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.layout().join("blobs/sha256").join(hex)
    }

    /// Replaces a path of the layout by a link.
    fn link(&self, name: &str, target: &Path) {
        let path = self.layout().join(name);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path).unwrap(),
            Ok(_) => fs::remove_file(&path).unwrap(),
            Err(_) => {}
        }
        symlink(target, path).unwrap();
    }

    fn open(&self) -> Result<OciLayoutRuntime, Failure> {
        OciLayoutRuntime::open(self.layout(), OciLayoutOptions::default()).map_err(Failure::from)
    }

    /// Every operation. None reaches a registry: nothing listens on the port of the image.
    async fn operations(&self) -> Vec<(&'static str, Result<(), Failure>)> {
        let runtime = match self.open() {
            Ok(runtime) => runtime,
            Err(failure) => return vec![("open", Err(failure))],
        };
        vec![
            ("list", runtime.list().await.map(drop)),
            ("lookup", runtime.lookup(&image()).await.map(drop)),
            (
                "pull",
                runtime.pull(PullRequest::new(image())).await.map(drop),
            ),
            ("remove", runtime.remove(&image()).await.map(drop)),
        ]
    }
}

fn image() -> ImageRef {
    "127.0.0.1:9/app:1".parse().unwrap()
}

/// Every path below a folder with its content, without following links.
fn snapshot(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            found.push((path.clone(), "a folder".to_owned()));
            found.extend(snapshot(&path));
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            found.push((path, target.display().to_string()));
        } else {
            let content = fs::read(&path).unwrap();
            found.push((path, String::from_utf8(content).unwrap()));
        }
    }
    found.sort();
    found
}

fn assert_refused(operation: &str, result: Result<(), Failure>, path: &Path) {
    let failure = result.expect_err(operation);
    assert_eq!(failure.reason, Reason::StoreUnusable, "{failure}");
    assert_eq!(failure.class(), ErrorClass::Fatal);
    let text = format!("{} is a symbolic link", path.display());
    assert!(
        failure.to_string().contains(&text),
        "{operation}: {failure}"
    );
}

#[tokio::test]
async fn no_operation_follows_a_link_of_the_layout() {
    for name in [
        ".fledged",
        ".fledged/unfinished",
        ".fledged/lock",
        "blobs",
        "blobs/sha256",
        "index.json",
        "oci-layout",
    ] {
        for target in ["", "blobs", "index.json", "missing"] {
            let place = Place::new();
            place.link(name, &place.elsewhere().join(target));
            let before = snapshot(place.temporary.path());
            for (operation, result) in place.operations().await {
                assert_refused(operation, result, &place.layout().join(name));
            }
            assert_eq!(snapshot(place.temporary.path()), before, "{name}");
        }
    }
}

#[tokio::test]
async fn a_blob_that_is_a_link_is_refused() {
    for content in [b"".as_slice(), b"x"] {
        let place = Place::new();
        let config = crate::registry::sha256(b"");
        let file = place.elsewhere().join("config");
        fs::write(&file, content).unwrap();
        let name = format!("blobs/sha256/{}", config.trim_start_matches("sha256:"));
        place.link(&name, &file);
        let before = snapshot(place.temporary.path());
        let runtime = place.open().unwrap();
        let listed = runtime.list().await.map(drop);
        assert_refused("list", listed, &place.layout().join(&name));
        let found = runtime.lookup(&image()).await.map(drop);
        assert_refused("lookup", found, &place.layout().join(&name));
        assert_eq!(snapshot(place.temporary.path()), before);

        runtime.remove(&image()).await.unwrap();
        assert_eq!(fs::read(&file).unwrap(), content);
    }
}

#[tokio::test]
async fn reading_a_layout_changes_nothing() {
    let place = Place::new();
    let unfinished = place.layout().join(".fledged/unfinished");
    fs::write(unfinished.join("fledged-tmp-1-1"), "half").unwrap();
    let before = snapshot(place.temporary.path());
    let read = async || {
        let runtime = place.open().unwrap();
        assert_eq!(runtime.list().await.unwrap().len(), 1);
        assert!(runtime.lookup(&image()).await.unwrap().is_some());
        runtime.info().await.unwrap();
        runtime.filesystems().await.unwrap();
        let other = "127.0.0.1:9/other:1".parse().unwrap();
        runtime.remove(&other).await.unwrap();
    };
    read().await;
    assert_eq!(snapshot(place.temporary.path()), before);
    fs::remove_dir_all(place.layout().join(".fledged")).unwrap();
    read().await;
    assert!(!place.layout().join(".fledged").exists());
}

#[tokio::test]
async fn the_folder_itself_may_be_a_link() {
    let place = Place::new();
    let link = place.temporary.path().join("link");
    symlink(place.layout(), &link).unwrap();
    let runtime = OciLayoutRuntime::open(&link, OciLayoutOptions::default()).unwrap();
    assert_eq!(runtime.list().await.unwrap().len(), 1);
    runtime.remove(&image()).await.unwrap();
    assert!(runtime.list().await.unwrap().is_empty());
}
