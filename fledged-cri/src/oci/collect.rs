//! Deleting blobs that no entry of the index reaches.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fledged_core::model::Digest;
use serde_json::Value;

use super::LayoutError;
use super::index::Index;
use super::layout::Layout;
use super::pins::Pins;
use crate::registry::MANIFEST_MAX;

/// How long a blob that nothing reaches is kept: layers of a pull that failed are the head start of
/// its next attempt, which backoff puts hours away at most.
pub(crate) const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a blob is kept on a full disk when nothing reaches it and this process did not write it:
/// a copy by another tool may be under way, and such tools write the entry last. A layer of some
/// gigabytes takes minutes; what an earlier process of ours left is freed after the same time.
pub(crate) const GRACE_OF_OTHERS: Duration = Duration::from_secs(30 * 60);

/// Everything that can be reached from these manifests, themselves included.
///
/// Follows whatever looks like a descriptor in whatever looks like JSON, also in documents of
/// kinds not known here: rather keep too much of what others wrote than break it.
pub(crate) fn reachable(
    layout: &Layout,
    roots: impl IntoIterator<Item = Digest>,
) -> Result<BTreeSet<Digest>, LayoutError> {
    let mut known = BTreeSet::new();
    let mut open: Vec<Digest> = roots.into_iter().collect();
    while let Some(digest) = open.pop() {
        if !known.insert(digest.clone()) {
            continue;
        }
        // Layers are told by their first byte, without reading them through.
        if starts_like_json(&layout.blob(&digest))?
            && let Some(bytes) = layout.read(&digest, MANIFEST_MAX)?
            && let Ok(document) = serde_json::from_slice::<Value>(&bytes)
        {
            digests_in(&document, &mut open);
        }
    }
    Ok(known)
}

/// Deletes every blob that no entry reaches and no pull needs, if it is among `doomed` or older
/// than `grace`. The index must not change meanwhile.
pub(crate) fn collect(
    layout: &Layout,
    index: &Index,
    pins: &Pins,
    doomed: &BTreeSet<Digest>,
    grace: Duration,
) -> Result<(), LayoutError> {
    // Not by entries: those of others may lack what ours have, and reach their blobs all the same.
    let mut roots = Vec::new();
    for field in index.fields() {
        digests_in(field, &mut roots);
    }
    let needed = reachable(layout, roots)?;
    for (digest, metadata) in present(layout)? {
        if needed.contains(&digest) {
            continue;
        }
        let age = metadata
            .modified()
            .ok()
            .and_then(|time| SystemTime::now().duration_since(time).ok())
            .unwrap_or_default();
        if !doomed.contains(&digest) && age < grace {
            continue;
        }
        let path = layout.blob(&digest);
        match pins.unless_pinned(&digest, || fs::remove_file(&path)) {
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                return Err(LayoutError::io("remove", &path)(error));
            }
            Some(_) => tracing::debug!(%digest, "removed a blob that nothing needs"),
            None => {}
        }
    }
    Ok(())
}

/// Every blob on disk. Files whose names are no digests are somebody else's.
pub(crate) fn present(layout: &Layout) -> Result<Vec<(Digest, fs::Metadata)>, LayoutError> {
    let mut found = Vec::new();
    for algorithm in entries(&layout.blobs())? {
        if !algorithm.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        for entry in entries(&algorithm.path())? {
            let (folder, name) = (algorithm.file_name(), entry.file_name());
            let text = format!("{}:{}", folder.to_string_lossy(), name.to_string_lossy());
            // Gone since the folder was read: nothing to report.
            if let (Ok(digest), Ok(metadata)) = (Digest::parse(&text), entry.metadata())
                && !metadata.is_dir()
            {
                found.push((digest, metadata));
            }
        }
    }
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>, LayoutError> {
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(LayoutError::io("read", folder)(error)),
    };
    listed
        .collect::<Result<_, _>>()
        .map_err(LayoutError::io("read", folder))
}

fn starts_like_json(path: &Path) -> Result<bool, LayoutError> {
    let mut first = [0];
    match fs::File::open(path).and_then(|mut file| io::Read::read(&mut file, &mut first)) {
        Ok(1) => Ok(first[0] == b'{' || first[0].is_ascii_whitespace()),
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(LayoutError::io("read", path)(error)),
    }
}

fn digests_in(value: &Value, into: &mut Vec<Digest>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(text)) = fields.get("digest")
                && let Ok(digest) = Digest::parse(text)
            {
                into.push(digest);
            }
            for field in fields.values() {
                digests_in(field, into);
            }
        }
        Value::Array(list) => {
            for item in list {
                digests_in(item, into);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use fledged_core::model::ImageRef;

    use super::*;
    use crate::oci::index::Target;

    struct Store {
        _folder: tempfile::TempDir,
        layout: Layout,
    }

    impl Store {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let layout = Layout::new(folder.path());
            layout.create_corner().unwrap();
            layout.initialise().unwrap();
            Self {
                _folder: folder,
                layout,
            }
        }

        fn blob(&self, content: &str) -> Digest {
            let digest = Digest::parse(&crate::registry::sha256(content.as_bytes())).unwrap();
            fs::write(self.layout.blob(&digest), content).unwrap();
            digest
        }

        fn image(&self, layers: &[&Digest]) -> Digest {
            let list: Vec<String> = layers
                .iter()
                .map(|digest| format!(r#"{{"digest":"{digest}","size":1}}"#))
                .collect();
            self.blob(&format!(r#"{{"layers":[{}]}}"#, list.join(",")))
        }

        fn index(&self, entries: &[(&str, &Digest)]) -> Index {
            let mut index = Index::load(&self.layout).unwrap();
            for (name, digest) in entries {
                let image: ImageRef = name.parse().unwrap();
                index.set(
                    &image,
                    &Target {
                        digest: (*digest).clone(),
                        media_type: "x".to_owned(),
                        size: 1,
                    },
                );
            }
            index
        }

        fn left(&self) -> BTreeSet<Digest> {
            let present = present(&self.layout).unwrap();
            present.into_iter().map(|(digest, _)| digest).collect()
        }
    }

    #[test]
    fn keeps_what_is_reached_needed_or_young() {
        let store = Store::new();
        let (shared, own, lost) = (store.blob("shared"), store.blob("own"), store.blob("lost"));
        let kept = store.image(&[&shared]);
        let removed = store.image(&[&shared, &own]);
        let list = store.image(&[&kept]);
        let index = store.index(&[("a", &list)]);
        let doomed = reachable(&store.layout, [removed.clone()]).unwrap();
        assert!(doomed.contains(&shared));

        let pins = Pins::default();
        let pull = pins.hold();
        pull.add(&own);
        collect(&store.layout, &index, &pins, &doomed, GRACE).unwrap();
        let expected = |digests: &[&Digest]| digests.iter().map(|d| (*d).clone()).collect();
        let left: BTreeSet<Digest> = expected(&[&shared, &own, &lost, &kept, &list]);
        assert_eq!(store.left(), left);

        drop(pull);
        collect(
            &store.layout,
            &index,
            &pins,
            &BTreeSet::new(),
            Duration::ZERO,
        )
        .unwrap();
        let left: BTreeSet<Digest> = expected(&[&shared, &kept, &list]);
        assert_eq!(store.left(), left);
    }

    #[test]
    fn entries_that_are_not_understood_keep_what_they_reach() {
        let store = Store::new();
        let layer = store.blob("layer");
        let (sparse, nested) = (store.image(&[&layer]), store.blob("nested"));
        let document = serde_json::json!({
            "schemaVersion": 2,
            "manifests": [{"digest": sparse}],
            "subject": {"digest": nested},
        });
        fs::write(store.layout.index(), document.to_string()).unwrap();
        let index = Index::load(&store.layout).unwrap();
        let before = store.left();
        assert_eq!(before.len(), 3);
        let pins = Pins::default();
        collect(&store.layout, &index, &pins, &before, Duration::ZERO).unwrap();
        assert_eq!(store.left(), before);
    }

    #[test]
    fn files_that_are_no_blobs_are_left() {
        let store = Store::new();
        let odd = store.layout.blobs().join("sha256").join("README");
        fs::write(&odd, "x").unwrap();
        let index = store.index(&[]);
        collect(
            &store.layout,
            &index,
            &Pins::default(),
            &BTreeSet::new(),
            Duration::ZERO,
        )
        .unwrap();
        assert!(odd.exists());
    }
}
