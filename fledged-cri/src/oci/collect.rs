//! Garbage collection: deletes blobs that no entry of the index reaches and no pull needs.

use std::collections::{BTreeSet, HashMap};
use std::io::Read as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fledged_core::model::Digest;
use serde_json::Value;

use super::index::Index;
use super::layout::{Layout, age};
use super::layout_error::LayoutError;
use crate::registry::MANIFEST_MAX;

/// How long an unreachable blob is kept. The next attempt of a failed pull reuses its layers, and
/// back-off delays that by hours at most.
pub(crate) const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// How long an unreachable blob that this process did not write is kept on a full disk. Another tool
/// may be copying it; such tools write the entry last, and a layer of some gigabytes takes minutes.
/// Blobs of earlier fledged processes are deleted after the same time.
pub(crate) const GRACE_OF_OTHERS: Duration = Duration::from_secs(30 * 60);

/// Every blob that these manifests reach, themselves included.
///
/// Follows everything that looks like a descriptor in everything that looks like JSON, also in unknown
/// kinds of documents: keeping too much does not break another tool's image.
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
        // The first byte distinguishes layers from documents without reading them.
        if starts_like_json(layout, &digest)?
            && let Some(bytes) = layout.read(&digest, MANIFEST_MAX)?
            && let Ok(document) = serde_json::from_slice::<Value>(&bytes)
        {
            digests_in(&document, &mut open);
        }
    }
    Ok(known)
}

/// Deletes every blob that no entry reaches and no pull has pinned, and every partial file that no pull has
/// pinned, if it is in `doomed` or older than `grace`. The index must not change meanwhile.
pub(crate) fn collect(
    layout: &Layout,
    index: &Index,
    pins: &Pins,
    doomed: &BTreeSet<Digest>,
    grace: Duration,
) -> Result<(), LayoutError> {
    // All fields, not only valid entries: those of other tools may lack fields and still reach blobs.
    let mut roots = Vec::new();
    for field in index.fields() {
        digests_in(field, &mut roots);
    }
    let needed = reachable(layout, roots)?;
    for (digest, _) in layout.present()? {
        if needed.contains(&digest) {
            continue;
        }
        if !doomed.contains(&digest) && age_of_blob(layout, &digest)? < grace {
            continue;
        }
        if let Some(deleted) = pins.unless_pinned(&digest, || layout.delete_blob(&digest)) {
            deleted?;
            tracing::debug!(%digest, "unused blob deleted");
        }
    }
    for digest in layout.partials()? {
        let age = layout.age_of_partial(&digest)?;
        if !doomed.contains(&digest) && age.is_none_or(|age| age < grace) {
            continue;
        }
        if let Some(deleted) = pins.unless_pinned(&digest, || layout.delete_partial(&digest)) {
            deleted?;
            tracing::debug!(%digest, "unfinished download deleted");
        }
    }
    Ok(())
}

fn age_of_blob(layout: &Layout, digest: &Digest) -> Result<Duration, LayoutError> {
    let file = layout.open_blob(digest)?;
    Ok(file.as_ref().map(age).unwrap_or_default())
}

fn starts_like_json(layout: &Layout, digest: &Digest) -> Result<bool, LayoutError> {
    let Some(mut file) = layout.open_blob(digest)? else {
        return Ok(false);
    };
    let mut first = [0];
    match file.read(&mut first) {
        Ok(1) => Ok(first[0] == b'{' || first[0].is_ascii_whitespace()),
        Ok(_) => Ok(false),
        Err(error) => Err(LayoutError::io("read", &layout.blob(digest))(error)),
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

/// The blobs that running pulls need, which are not deleted: how many pulls, by digest.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pins(Arc<Mutex<HashMap<Digest, usize>>>);

impl Pins {
    /// An empty set for one pull. Dropping it releases its pins.
    pub(crate) fn hold(&self) -> PinSet {
        PinSet {
            pins: self.clone(),
            mine: Mutex::new(Vec::new()),
        }
    }

    /// Runs `delete` unless the blob is pinned. It cannot be pinned meanwhile.
    pub(crate) fn unless_pinned<T>(
        &self,
        digest: &Digest,
        delete: impl FnOnce() -> T,
    ) -> Option<T> {
        let counts = self.counts();
        (!counts.contains_key(digest)).then(delete)
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pins of one pull.
#[derive(Debug)]
pub(crate) struct PinSet {
    pins: Pins,
    mine: Mutex<Vec<Digest>>,
}

impl PinSet {
    /// Pins a blob. Must come before the check whether the blob is present.
    pub(crate) fn add(&self, digest: &Digest) {
        // Both under the first lock, so that a concurrent release matches the counts.
        let mut counts = self.pins.counts();
        *counts.entry(digest.clone()).or_insert(0) += 1;
        self.mine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(digest.clone());
    }

    /// The pinned digests.
    pub(crate) fn digests(&self) -> Vec<Digest> {
        self.mine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Releases all pins of this set.
    pub(crate) fn release(&self) {
        let mut counts = self.pins.counts();
        let mut mine = self.mine.lock().unwrap_or_else(PoisonError::into_inner);
        for digest in mine.drain(..) {
            if let Some(count) = counts.get_mut(&digest) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&digest);
                }
            }
        }
    }
}

impl Drop for PinSet {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

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
            layout.create_own_folder().unwrap();
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
            let present = self.layout.present().unwrap();
            present.into_iter().map(|(digest, _)| digest).collect()
        }
    }

    #[test]
    fn keeps_reachable_pinned_and_recent_blobs() {
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
    fn unknown_entries_keep_their_blobs() {
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
    fn partial_files_are_deleted_after_the_grace() {
        let store = Store::new();
        let index = store.index(&[]);
        let digests = [b"old", b"new", b"own", b"end"]
            .map(|content| Digest::parse(&crate::registry::sha256(content)).unwrap());
        for digest in &digests {
            drop(store.layout.partial_file(digest).unwrap());
        }
        let [old, new, pinned, doomed] = digests;
        let aged = store.layout.partial_file(&old).unwrap();
        let day_ago = std::time::SystemTime::now() - GRACE - Duration::from_secs(60);
        aged.as_file().set_modified(day_ago).unwrap();
        let pins = Pins::default();
        let pull = pins.hold();
        pull.add(&pinned);
        let all = [pinned.clone(), doomed].into();
        collect(&store.layout, &index, &pins, &all, GRACE).unwrap();
        let left: BTreeSet<Digest> = store.layout.partials().unwrap().into_iter().collect();
        assert_eq!(left, [new, pinned].into());
    }

    #[test]
    fn files_that_are_not_blobs_stay() {
        let store = Store::new();
        let odd = store.layout.root().join("blobs/sha256/README");
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

    #[test]
    fn a_blob_is_free_after_the_last_release() {
        let pins = Pins::default();
        let digest = Digest::parse(&crate::registry::sha256(b"x")).unwrap();
        let free = || pins.unless_pinned(&digest, || ()).is_some();
        assert!(free());
        let (one, two) = (pins.hold(), pins.hold());
        one.add(&digest);
        one.add(&digest);
        two.add(&digest);
        assert!(!free());
        drop(one);
        assert!(!free());
        drop(two);
        assert!(free());
    }
}
