//! Names and labels of Jobs and what is in them.

use std::fmt::Write as _;

use fledged_core::model::{ImageRef, NodeName};
use sha2::{Digest, Sha256};

/// Longest value of a label, and longest name of a container.
const LABEL_MAX: usize = 63;
/// Hexadecimal digits of a hash that stand in for what is cut off: 64 bits.
const HASH: usize = 16;

/// Labels and annotations, with kube-fledged's names where it has them.
pub(super) const APP: (&str, &str) = ("app", "kubefledged");
pub(super) const COMPONENT: (&str, &str) = ("kubefledged", "kubefledged-image-manager");
pub(super) const CACHE: &str = "imagecache";
/// Label: the node, cut and hashed where it is too long. Annotation: the node as it is.
pub(super) const NODE: &str = "kubefledged.io/node";
/// Label: `pull` or `remove`.
pub(super) const KIND: &str = "kubefledged.io/job";
/// Annotation: every ImageCache that the Job serves.
pub(super) const CACHES: &str = "kubefledged.io/imagecaches";

/// Selects the Jobs of this driver, and their pods.
pub(super) fn selector() -> String {
    format!("{}={},{}={},{KIND}", APP.0, APP.1, COMPONENT.0, COMPONENT.1)
}

/// The first digits of a text's SHA-256.
fn hash(text: &str, digits: usize) -> String {
    let mut hex = String::new();
    for byte in Sha256::digest(text.as_bytes())
        .iter()
        .take(digits.div_ceil(2))
    {
        // Writing to a string can't fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex.truncate(digits);
    hex
}

/// The text as the value of a label: itself, or its beginning and a hash where it is too long.
pub(super) fn label_value(text: &str) -> String {
    if text.len() <= LABEL_MAX {
        return text.to_owned();
    }
    let start: String = text.chars().take(LABEL_MAX - HASH - 1).collect();
    let start = start.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    format!("{start}-{}", hash(text, HASH))
}

/// The container that stands for an image: readable, and the same for the same image alone.
pub(super) fn container_name(image: &ImageRef) -> String {
    let text = image.as_str();
    let last = text.rsplit('/').next().unwrap_or(text);
    let last = last.split('@').next().unwrap_or(last);
    let plain = last.chars().map(|c| match c.is_ascii_alphanumeric() {
        true => c.to_ascii_lowercase(),
        false => '-',
    });
    let plain: String = plain.take(LABEL_MAX - HASH - 1).collect();
    match plain.trim_matches('-') {
        "" => format!("image-{}", hash(text, HASH)),
        plain => format!("{plain}-{}", hash(text, HASH)),
    }
}

/// The name of a new Job; `random` tells it from others of the node.
pub(super) fn job_name(kind: &str, node: &NodeName, random: u32) -> String {
    format!("fledged-{kind}-{}-{random:08x}", hash(node.as_str(), HASH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_valid_and_differ_however_long_the_names_are() {
        let long = format!("{}.example.com", "n".repeat(200));
        let longer = format!("{long}x");
        assert_eq!(label_value("node-1"), "node-1");
        for name in [&long, &longer] {
            let label = label_value(name);
            assert!(
                label.len() <= LABEL_MAX && label.starts_with("nnn"),
                "{label}"
            );
        }
        assert_ne!(label_value(&long), label_value(&longer));
        // A cut must not leave a dot before the hash.
        let dotted = format!("{}.{}", "n".repeat(45), "m".repeat(40));
        assert!(
            !label_value(&dotted).contains(".-"),
            "{}",
            label_value(&dotted)
        );
    }

    #[test]
    fn containers_are_named_after_their_images_alone() {
        let name = |text: &str| container_name(&text.parse().unwrap());
        assert!(name("quay.io/team/x:1").starts_with("x-1-"));
        assert_eq!(name("nginx"), name("docker.io/library/nginx:latest"));
        assert_ne!(name("a.test/x:1"), name("b.test/x:1"));
        let digest = format!(
            "registry.test/{}@sha256:{}",
            "y".repeat(120),
            "0".repeat(64)
        );
        for name in [name(&digest), name("registry.test/x_y:_1.2")] {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(name.len() <= LABEL_MAX && name.chars().all(plain), "{name}");
            assert!(!name.starts_with('-'), "{name}");
        }
    }

    #[test]
    fn the_name_of_a_job_fits_into_a_label() {
        let node = NodeName::new("n".repeat(253)).unwrap();
        let name = job_name("remove", &node, u32::MAX);
        assert!(name.len() <= LABEL_MAX, "{name}");
        assert_ne!(name, job_name("remove", &node, 0));
    }
}
