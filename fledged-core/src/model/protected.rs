//! Images that are never removed.

use wildmatch::WildMatch;

use super::ImageRef;

/// Patterns of images that are never removed, for any cause.
///
/// In a pattern, `*` stands for any characters, `/` and none included, and `?` for one. It is compared with the
/// normalised reference, and with its name alone: a pattern without a tag matches every tag and digest.
///
/// ```
/// use fledged_core::model::ProtectedImages;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let protected = ProtectedImages::new(["*/pause", "registry.example/base:1.*"]);
/// assert_eq!(protected.pattern_of(&"registry.k8s.io/pause:3.10".parse()?), Some("*/pause"));
/// assert_eq!(protected.pattern_of(&"registry.example/base:2.0".parse()?), None);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ProtectedImages(Vec<(String, WildMatch)>);

impl ProtectedImages {
    /// The patterns that are used unless others are set: sandbox images by their usual names, and the image of
    /// the operator itself.
    pub const DEFAULT: [&str; 3] = ["*/pause", "*/mirrored-pause", "*/fledged-operator"];

    /// These patterns. Empty ones are ignored.
    pub fn new(patterns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let patterns = patterns.into_iter().map(Into::into);
        let patterns = patterns.filter(|pattern| !pattern.trim().is_empty());
        Self(
            patterns
                .map(|pattern| {
                    let matcher = WildMatch::new(pattern.trim());
                    (pattern.trim().to_owned(), matcher)
                })
                .collect(),
        )
    }

    /// No patterns.
    #[must_use]
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// With that image, in every version.
    #[must_use]
    pub fn and_image(mut self, image: &ImageRef) -> Self {
        let name = image.name().to_owned();
        let matcher = WildMatch::new(&name);
        self.0.push((name, matcher));
        self
    }

    /// The first pattern that protects the image.
    #[must_use]
    pub fn pattern_of(&self, image: &ImageRef) -> Option<&str> {
        let protects =
            |matcher: &WildMatch| matcher.matches(image.as_str()) || matcher.matches(image.name());
        let found = self.0.iter().find(|(_, matcher)| protects(matcher));
        found.map(|(pattern, _)| pattern.as_str())
    }

    /// Why that image is kept, as a sentence. `None` if it is not protected.
    #[must_use]
    pub fn why_kept(&self, image: &ImageRef) -> Option<String> {
        let pattern = self.pattern_of(image)?;
        Some(format!("it is protected by the pattern {pattern}"))
    }

    /// The patterns.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(pattern, _)| pattern.as_str())
    }
}

impl Default for ProtectedImages {
    fn default() -> Self {
        Self::new(Self::DEFAULT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_tags_and_digests() {
        let by_digest = format!("registry.k8s.io/pause@sha256:{}", "a".repeat(64));
        for (pattern, image, expected) in [
            ("*/pause", "registry.k8s.io/pause:3.9", true),
            ("*/pause", by_digest.as_str(), true),
            (
                "*/pause",
                "123.dkr.ecr.eu-west-1.amazonaws.com/eks/pause:3.5",
                true,
            ),
            ("*/pause", "shop.example/pause-music:1", false),
            ("*/pause:*", "registry.k8s.io/pause:3.9", true),
            ("*/pause:3.1?", "registry.k8s.io/pause:3.9", false),
            ("docker.io/library/nginx", "nginx", true),
            ("nginx", "nginx", false),
            ("*", "nginx", true),
            (" ", "nginx", false),
        ] {
            let image = image.parse().unwrap();
            let found = ProtectedImages::new([pattern]).pattern_of(&image).is_some();
            assert_eq!(found, expected, "{pattern} {image}");
        }
    }

    #[test]
    fn sandbox_images_are_protected_by_default() {
        for image in [
            "registry.k8s.io/pause:3.10",
            "rancher/mirrored-pause:3.6",
            "localhost/fledged-operator:1.0",
        ] {
            let kept = ProtectedImages::default().why_kept(&image.parse().unwrap());
            assert!(kept.is_some(), "{image}");
        }
        let own = "registry.example/tools/fledged:1".parse().unwrap();
        assert_eq!(ProtectedImages::default().pattern_of(&own), None);
        assert!(
            ProtectedImages::none()
                .and_image(&own)
                .why_kept(&own)
                .is_some()
        );
    }
}
