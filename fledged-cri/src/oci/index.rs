//! `index.json`: the references, and the manifests they point at.

use fledged_core::model::{Digest, ImageRef};
use serde_json::{Map, Value, json};

use super::layout::Layout;
use super::layout_error::LayoutError;

/// The name, by the image specification.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The name that containerd's import prefers.
const IMAGE_NAME: &str = "io.containerd.image.name";

/// The manifest that a reference points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) size: u64,
}

/// The file in memory. Entries and fields of other tools stay unchanged.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Index(Map<String, Value>);

impl Index {
    /// Reads the file. Empty if it does not exist.
    pub(crate) fn load(layout: &Layout) -> Result<Self, LayoutError> {
        let path = layout.index();
        let Some(bytes) = layout.read_index()? else {
            return Ok(Self(Map::new()));
        };
        let malformed = |problem: String| LayoutError::Malformed {
            path: path.clone(),
            problem,
        };
        let fields: Map<String, Value> =
            serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        match fields.get("manifests") {
            None | Some(Value::Array(_)) => Ok(Self(fields)),
            Some(_) => Err(malformed("\"manifests\" is not a list".to_owned())),
        }
    }

    /// Replaces the file atomically.
    pub(crate) fn store(&self, layout: &Layout) -> Result<(), LayoutError> {
        let mut fields = self.0.clone();
        fields.insert("schemaVersion".to_owned(), json!(2));
        fields
            .entry("mediaType")
            .or_insert_with(|| json!("application/vnd.oci.image.index.v1+json"));
        fields.entry("manifests").or_insert_with(|| json!([]));
        layout.replace_index(Value::Object(fields).to_string().as_bytes())
    }

    /// Every entry with a digest, and its reference if the entry belongs to fledged.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Option<ImageRef>, Target)> + '_ {
        self.manifests()
            .iter()
            .filter_map(|entry| Some((name_of(entry), target_of(entry)?)))
    }

    /// Every field of the file, also those of other tools.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &Value> {
        self.0.values()
    }

    /// The manifest that a reference points at.
    pub(crate) fn get(&self, image: &ImageRef) -> Option<Target> {
        self.entries()
            .find(|(name, _)| name.as_ref() == Some(image))
            .map(|(_, target)| target)
    }

    /// Points a reference at `target`. Returns the previous target.
    pub(crate) fn set(&mut self, image: &ImageRef, target: &Target) -> Option<Target> {
        let before = self.remove(image);
        let entry = json!({
            "mediaType": target.media_type,
            "digest": target.digest,
            "size": target.size,
            "annotations": { REF_NAME: image.as_str(), IMAGE_NAME: image.as_str() },
        });
        let list = self.0.entry("manifests").or_insert_with(|| json!([]));
        if let Value::Array(list) = list {
            list.push(entry);
            // The order has no meaning; sorting makes equal layouts equal files.
            list.sort_by_cached_key(|entry| name_of(entry).map(|name| name.as_str().to_owned()));
        }
        before
    }

    /// Removes a reference. Returns its target.
    pub(crate) fn remove(&mut self, image: &ImageRef) -> Option<Target> {
        let mut before = None;
        if let Some(Value::Array(list)) = self.0.get_mut("manifests") {
            list.retain(|entry| {
                let matches = name_of(entry).as_ref() == Some(image);
                if matches {
                    before = target_of(entry);
                }
                !matches
            });
        }
        before
    }

    fn manifests(&self) -> &[Value] {
        match self.0.get("manifests") {
            Some(Value::Array(list)) => list,
            _ => &[],
        }
    }
}

/// The reference of an entry that belongs to fledged: all its names are the same full, normalised
/// reference.
///
/// A bare tag (`latest`), as some tools write it, does not identify an image. Other tools copy all
/// annotations when they add a tag and change only the specification's, so containerd's annotation
/// alone does not show whose entry it is.
fn name_of(entry: &Value) -> Option<ImageRef> {
    let annotations = entry.get("annotations")?;
    let mut names = [REF_NAME, IMAGE_NAME]
        .into_iter()
        .filter_map(|key| annotations.get(key));
    let text = names.next()?.as_str()?;
    if names.any(|other| other.as_str() != Some(text)) {
        return None;
    }
    ImageRef::parse(text)
        .ok()
        .filter(|image| image.as_str() == text)
}

fn target_of(entry: &Value) -> Option<Target> {
    Some(Target {
        digest: Digest::parse(entry.get("digest")?.as_str()?).ok()?,
        media_type: entry.get("mediaType")?.as_str()?.to_owned(),
        size: entry.get("size")?.as_u64()?,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn target(digit: char) -> Target {
        Target {
            digest: Digest::parse(&format!("sha256:{}", digit.to_string().repeat(64))).unwrap(),
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            size: 7,
        }
    }

    fn image(text: &str) -> ImageRef {
        text.parse().unwrap()
    }

    #[test]
    fn a_reference_has_one_target() {
        let mut index = Index(Map::new());
        assert_eq!(index.set(&image("nginx"), &target('a')), None);
        assert_eq!(index.set(&image("busybox:1"), &target('a')), None);
        assert_eq!(index.get(&image("nginx:latest")), Some(target('a')));
        assert_eq!(index.set(&image("nginx"), &target('b')), Some(target('a')));
        assert_eq!(index.get(&image("nginx")), Some(target('b')));
        assert_eq!(index.entries().count(), 2);
        assert_eq!(index.remove(&image("nginx")), Some(target('b')));
        assert_eq!(index.remove(&image("nginx")), None);
        assert_eq!(index.get(&image("busybox:1")), Some(target('a')));
    }

    #[test]
    fn entries_of_other_tools_stay_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        layout.create_own_folder().unwrap();
        layout.initialise().unwrap();
        let theirs = json!({
            "schemaVersion": 2,
            "annotations": {"x": "y"},
            "manifests": [
                {"mediaType": "application/vnd.example", "digest": target('1').digest, "size": 1,
                 "annotations": {REF_NAME: "latest"}, "artifactType": "a/b"},
                {"odd": true},
            ],
        });
        fs::write(layout.index(), theirs.to_string()).unwrap();
        let mut index = Index::load(&layout).unwrap();
        let names: Vec<_> = index.entries().map(|(name, _)| name).collect();
        assert_eq!(names, [None], "a bare tag is not a reference");
        index.set(&image("nginx"), &target('a'));
        index.store(&layout).unwrap();
        index.remove(&image("nginx"));
        index.store(&layout).unwrap();
        let stored: Value = serde_json::from_slice(&fs::read(layout.index()).unwrap()).unwrap();
        assert_eq!(stored["annotations"], theirs["annotations"]);
        let manifests = stored["manifests"].as_array().unwrap();
        for entry in theirs["manifests"].as_array().unwrap() {
            assert!(manifests.contains(entry), "{entry}");
        }
        assert_eq!(manifests.len(), 2);
    }

    #[test]
    fn an_entry_is_owned_if_all_its_names_are_equal() {
        let full = "docker.io/library/nginx:latest";
        assert_eq!(image(full).as_str(), full);
        let named = |annotations: Value| name_of(&json!({ "annotations": annotations }));
        for ours in [
            json!({REF_NAME: full, IMAGE_NAME: full}),
            json!({REF_NAME: full}),
            json!({IMAGE_NAME: full}),
        ] {
            assert_eq!(named(ours.clone()), Some(image(full)), "{ours}");
        }
        for theirs in [
            json!({REF_NAME: "keepme", IMAGE_NAME: full}),
            json!({REF_NAME: full, IMAGE_NAME: "docker.io/library/nginx:1"}),
            json!({REF_NAME: full, IMAGE_NAME: 1}),
            json!({REF_NAME: "nginx:latest", IMAGE_NAME: "nginx:latest"}),
            json!({}),
        ] {
            assert_eq!(named(theirs.clone()), None, "{theirs}");
        }
    }

    #[test]
    fn a_tag_of_another_tool_survives_pull_and_removal() {
        let name = image("nginx");
        let keep = json!({
            "mediaType": "x", "digest": target('a').digest, "size": 7,
            "annotations": {REF_NAME: "keepme", IMAGE_NAME: name.as_str()},
        });
        let mut index = Index(Map::new());
        index.0.insert("manifests".to_owned(), json!([keep]));
        assert_eq!(index.get(&name), None);
        assert_eq!(index.set(&name, &target('a')), None);
        assert_eq!(index.set(&name, &target('b')), Some(target('a')));
        assert_eq!(index.remove(&name), Some(target('b')));
        assert_eq!(index.manifests(), [keep]);
    }

    #[test]
    fn equal_references_give_equal_files() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        layout.create_own_folder().unwrap();
        let written = |order: &[&str]| {
            let mut index = Index(Map::new());
            for name in order {
                index.set(&image(name), &target('a'));
            }
            index.store(&layout).unwrap();
            fs::read(layout.index()).unwrap()
        };
        assert_eq!(written(&["a", "b", "c"]), written(&["c", "a", "b"]));
    }

    #[test]
    fn a_malformed_file_is_an_error_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        for text in ["{", "[]", r#"{"manifests":{}}"#] {
            fs::write(layout.index(), text).unwrap();
            let error = Index::load(&layout).unwrap_err().to_string();
            assert!(error.contains("index.json is malformed"), "{error}");
        }
    }
}
