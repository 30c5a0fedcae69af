//! Manifests and indexes, OCI and Docker schema 2: parsed, verified, and selected by platform.

use std::collections::BTreeSet;

use bytes::Bytes;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::Digest;
use oci_spec::image as spec;
use serde::Deserialize;

use super::Platform;
use super::artifact;
use super::digest::Digester;

/// Longest manifest that is read, in bytes: the size that registries have to accept by the distribution
/// specification.
pub(crate) const MANIFEST_MAX: usize = 4 * 1024 * 1024;
/// How deep indexes may nest. Registries and builders write one level.
const INDEX_DEPTH_MAX: usize = 3;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Prefix of both forms of Docker schema 1, which has no configuration and cannot be verified by digest.
const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+";
/// Most manifests without a platform that are tried in one index.
const UNNAMED_MAX: usize = 8;

/// The `Accept` header of a manifest request.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A configuration or layer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    /// Exact length in bytes.
    pub(crate) size: u64,
    /// URLs of content that registries may not distribute.
    pub(crate) urls: Vec<String>,
}

/// One manifest of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) digest: Digest,
    pub(crate) platform: Option<Platform>,
    /// Whether the index says that it is no container image.
    artifact: bool,
}

/// An image for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageManifest {
    pub(crate) config: Blob,
    pub(crate) layers: Vec<Blob>,
    /// What it is, if it is no container image: `a Helm chart`.
    pub(crate) artifact: Option<String>,
}

impl ImageManifest {
    /// Configuration and layers, without duplicates.
    pub(crate) fn blobs(&self) -> Vec<&Blob> {
        let mut known = BTreeSet::new();
        std::iter::once(&self.config)
            .chain(&self.layers)
            .filter(|blob| known.insert(&blob.digest))
            .collect()
    }
}

/// Images for several platforms under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Index(Vec<IndexEntry>);

impl Index {
    /// The manifests to try for a platform, in this order: the best one that is for it, else those
    /// without a platform.
    pub(crate) fn candidates(&self, platform: &Platform) -> Vec<&IndexEntry> {
        let ranked = self
            .0
            .iter()
            .filter_map(|entry| {
                let rank = platform.rank_of(entry.platform.as_ref()?)?;
                Some((rank, entry))
            })
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, entry)| entry);
        if let Some(best) = ranked {
            return vec![best];
        }
        let unnamed = |entry: &&IndexEntry| entry.platform.is_none() && !entry.artifact;
        self.0.iter().filter(unnamed).take(UNNAMED_MAX).collect()
    }

    /// The platforms of the images. Attestations, whose platform is `unknown`, are left out.
    pub(crate) fn platforms(&self) -> Vec<Platform> {
        let known: BTreeSet<&Platform> = self
            .0
            .iter()
            .filter_map(|entry| entry.platform.as_ref())
            .filter(|platform| platform.os() != "unknown")
            .collect();
        known.into_iter().cloned().collect()
    }
}

/// An index or an image manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Manifest {
    Index(Index),
    Image(ImageManifest),
}

/// The fields that decide how a manifest is parsed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    schema_version: Option<u32>,
    media_type: Option<String>,
    #[serde(default)]
    config: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
}

impl Manifest {
    /// Parses a manifest. Returns it with its media type: the one it states, else `content_type`, else
    /// the OCI media type of its form.
    ///
    /// # Errors
    ///
    /// [`Reason::InvalidImage`] for a document that is not exactly one kind of manifest.
    pub(crate) fn parse(
        bytes: &[u8],
        content_type: Option<&str>,
    ) -> Result<(Self, String), Failure> {
        let outline: Outline = serde_json::from_slice(bytes).map_err(malformed)?;
        let stated = outline.media_type.as_deref();
        let schema1 = [stated, content_type]
            .into_iter()
            .flatten()
            .any(|media_type| media_type.starts_with(DOCKER_SCHEMA1));
        if schema1 || outline.schema_version == Some(1) {
            return Err(malformed(
                "Docker schema 1 is not supported; push the image again with a current client",
            ));
        }
        // Readers disagree about a document that parses as both (CVE-2021-41190).
        if outline.manifests.is_some() && (outline.config.is_some() || outline.layers.is_some()) {
            return Err(malformed("it is both an index and an image"));
        }
        let known = [stated, content_type]
            .into_iter()
            .flatten()
            .find(|t| matches!(*t, OCI_INDEX | OCI_MANIFEST | DOCKER_LIST | DOCKER_MANIFEST));
        let media_type = match (known, stated) {
            (Some(known), _) => known,
            (None, Some(other)) => {
                return Err(malformed(format!("unknown media type {other:?}")));
            }
            (None, None) if outline.manifests.is_some() => OCI_INDEX,
            (None, None) => OCI_MANIFEST,
        };
        let manifest = if matches!(media_type, OCI_INDEX | DOCKER_LIST) {
            let index = spec::ImageIndex::from_reader(bytes).map_err(malformed)?;
            let entries = index.manifests().iter().map(entry);
            Self::Index(Index(entries.collect::<Result<_, _>>()?))
        } else {
            let image = spec::ImageManifest::from_reader(bytes).map_err(malformed)?;
            let layers = image.layers().iter().map(blob);
            Self::Image(ImageManifest {
                config: blob(image.config())?,
                layers: layers.collect::<Result<_, _>>()?,
                artifact: artifact::kind_of(&image),
            })
        };
        Ok((manifest, media_type.to_owned()))
    }
}

/// Checks that an answer may be a manifest, by its `Content-Type` without parameters. Registries often
/// serve manifests under a general type; then the manifest's own media type counts.
///
/// # Errors
///
/// [`Reason::InvalidImage`] for the type of something else, such as the page of a proxy.
pub(crate) fn check_content_type(content_type: Option<&str>) -> Result<(), Failure> {
    let Some(content_type) = content_type.filter(|text| !text.is_empty()) else {
        return Ok(());
    };
    let lower = content_type.to_ascii_lowercase();
    let general = [
        "application/json",
        "application/octet-stream",
        "binary/octet-stream",
    ];
    let known = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];
    let schema1 = lower.starts_with(DOCKER_SCHEMA1);
    if schema1 || general.iter().chain(&known).any(|known| *known == lower) {
        return Ok(());
    }
    Err(Failure::new(
        Reason::InvalidImage,
        format!("the registry's answer is no manifest: its content type is {content_type:?}"),
    ))
}

fn malformed(problem: impl std::fmt::Display) -> Failure {
    Failure::new(
        Reason::InvalidImage,
        format!("the manifest is malformed: {problem}"),
    )
}

fn digest(descriptor: &spec::Descriptor) -> Result<Digest, Failure> {
    Digest::parse(descriptor.digest().as_ref()).map_err(malformed)
}

fn blob(descriptor: &spec::Descriptor) -> Result<Blob, Failure> {
    Ok(Blob {
        digest: digest(descriptor)?,
        size: descriptor.size(),
        urls: descriptor.urls().clone().unwrap_or_default(),
    })
}

fn entry(descriptor: &spec::Descriptor) -> Result<IndexEntry, Failure> {
    Ok(IndexEntry {
        digest: digest(descriptor)?,
        artifact: artifact::is_marked(descriptor),
        platform: descriptor.platform().as_ref().map(|platform| {
            Platform::new(
                &platform.os().to_string(),
                &platform.architecture().to_string(),
                platform.variant().as_deref().unwrap_or_default(),
            )
        }),
    })
}

/// A verified manifest: its bytes and its parsed form.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    /// The content that the digest is of.
    pub(crate) bytes: Bytes,
    pub(crate) manifest: Manifest,
}

impl Fetched {
    /// Verifies and parses a manifest.
    ///
    /// # Errors
    ///
    /// [`Reason::DigestMismatch`], or [`Reason::InvalidImage`].
    pub(crate) fn verified(
        digest: Digest,
        bytes: Bytes,
        content_type: Option<&str>,
    ) -> Result<Self, Failure> {
        let actual = Digester::of(&digest, &bytes);
        if actual != digest.as_str() {
            return Err(Failure::new(
                Reason::DigestMismatch,
                format!("manifest {digest} has the digest {actual}"),
            ));
        }
        let (manifest, media_type) = Manifest::parse(&bytes, content_type)?;
        Ok(Self {
            digest,
            media_type,
            bytes,
            manifest,
        })
    }
}

impl Fetched {
    /// Whether it is the manifest of something else than a container image.
    pub(crate) fn is_artifact(&self) -> bool {
        matches!(&self.manifest, Manifest::Image(image) if image.artifact.is_some())
    }
}

/// The manifests between a reference and the image for one platform.
pub(crate) struct Resolved {
    /// The manifest or index of the reference, then nested ones; the image manifest is last.
    pub(crate) chain: Vec<Fetched>,
    pub(crate) image: ImageManifest,
    /// The platforms of the index. Empty without an index.
    pub(crate) platforms: Vec<Platform>,
    /// Whether an index names the image's platform. Otherwise only the configuration does.
    pub(crate) platform_is_named: bool,
}

/// Follows indexes from `root` to the image for `platform`. `next` returns a manifest by digest.
pub(crate) async fn resolve<F>(
    root: Fetched,
    platform: &Platform,
    next: impl Fn(Digest) -> F,
) -> Result<Resolved, Failure>
where
    F: Future<Output = Result<Fetched, Failure>>,
{
    let mut platforms = Vec::new();
    let mut chain = Vec::new();
    let mut platform_is_named = false;
    let mut current = root;
    for _ in 0..=INDEX_DEPTH_MAX {
        let selected = match &current.manifest {
            Manifest::Image(image) => {
                if let Some(kind) = &image.artifact {
                    return Err(Failure::new(
                        Reason::InvalidImage,
                        format!("it is not a container image but {kind}"),
                    ));
                }
                let image = image.clone();
                chain.push(current);
                return Ok(Resolved {
                    chain,
                    image,
                    platforms,
                    platform_is_named,
                });
            }
            Manifest::Index(index) => {
                if chain.is_empty() {
                    platforms = index.platforms();
                }
                let mut selected = None;
                for entry in index.candidates(platform) {
                    let manifest = next(entry.digest.clone()).await?;
                    if entry.platform.is_some() || !manifest.is_artifact() {
                        platform_is_named |= entry.platform.is_some();
                        selected = Some(manifest);
                        break;
                    }
                }
                selected.ok_or_else(|| no_platform(platform, &platforms))?
            }
        };
        chain.push(current);
        current = selected;
    }
    Err(Failure::new(
        Reason::InvalidImage,
        format!("indexes are nested more than {INDEX_DEPTH_MAX} levels deep"),
    ))
}

/// The failure for an image that exists only for the platforms `available`.
pub(crate) fn no_platform(platform: &Platform, available: &[Platform]) -> Failure {
    let list: Vec<String> = available.iter().map(ToString::to_string).collect();
    let message = match list.as_slice() {
        [] => format!("there is no image for {platform}: the index holds no container image"),
        list => format!(
            "there is no image for {platform}, only for {}",
            list.join(", ")
        ),
    };
    Failure::new(Reason::PlatformNotFound, message)
}

/// The platform in an image's configuration, or `None` if it names none.
pub(crate) fn config_platform(bytes: &[u8]) -> Option<Platform> {
    #[derive(Deserialize)]
    struct Config {
        os: String,
        architecture: String,
        #[serde(default)]
        variant: Option<String>,
    }
    let config: Config = serde_json::from_slice(bytes).ok()?;
    (!config.os.is_empty() && !config.architecture.is_empty()).then(|| {
        Platform::new(
            &config.os,
            &config.architecture,
            config.variant.as_deref().unwrap_or_default(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    fn image_json(extra: &str) -> String {
        format!(
            r#"{{"schemaVersion":2{extra},
            "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{}","size":7}},
            "layers":[
              {{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":10}},
              {{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{}","size":10}}]}}"#,
            hex('c'),
            hex('1'),
            hex('1'),
        )
    }

    fn index(platforms: &[Option<&str>]) -> Index {
        let entries = platforms.iter().zip('0'..).map(|(platform, digit)| {
            let platform = platform.map_or(String::new(), |text| {
                let parts: Vec<&str> = text.split('/').collect();
                let variant = parts
                    .get(2)
                    .map_or(String::new(), |v| format!(r#","variant":"{v}""#));
                format!(
                    r#","platform":{{"os":"{}","architecture":"{}"{variant}}}"#,
                    parts[0], parts[1]
                )
            });
            format!(
                r#"{{"mediaType":"{OCI_MANIFEST}","digest":"{}","size":5{platform}}}"#,
                hex(digit)
            )
        });
        let json = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{}]}}"#,
            entries.collect::<Vec<_>>().join(",")
        );
        match Manifest::parse(json.as_bytes(), None).unwrap() {
            (Manifest::Index(index), media_type) => {
                assert_eq!(media_type, OCI_INDEX);
                index
            }
            other => panic!("{other:?}"),
        }
    }

    fn picked(platforms: &[Option<&str>], want: &str) -> Option<usize> {
        let index = index(platforms);
        let candidates = index.candidates(&want.parse().unwrap());
        let entry = candidates.first()?;
        let digit = entry.digest.hex().chars().next().unwrap();
        Some(digit.to_digit(10).unwrap() as usize)
    }

    #[test]
    fn reads_images_of_both_families() {
        for (extra, content_type, expected) in [
            ("", None, OCI_MANIFEST),
            ("", Some(DOCKER_MANIFEST), DOCKER_MANIFEST),
            (
                r#","mediaType":"application/vnd.docker.distribution.manifest.v2+json""#,
                Some("application/json"),
                DOCKER_MANIFEST,
            ),
        ] {
            let json = image_json(extra);
            let (manifest, media_type) = Manifest::parse(json.as_bytes(), content_type).unwrap();
            assert_eq!(media_type, expected);
            let Manifest::Image(image) = manifest else {
                panic!("not an image")
            };
            assert_eq!(image.layers.len(), 2);
            assert_eq!(image.blobs().len(), 2, "each content once");
        }
    }

    #[test]
    fn documents_of_no_or_two_kinds_are_rejected() {
        let both = image_json(r#","manifests":[]"#);
        let odd = image_json(r#","mediaType":"application/vnd.example""#);
        let bad_digest = image_json("").replace(&hex('c'), "sha256:abc");
        let negative = image_json("").replace(r#""size":7"#, r#""size":-7"#);
        for (json, content_type) in [
            ("not json", None),
            ("[]", None),
            ("{}", None),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, None),
            (
                image_json("").as_str(),
                Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
            ),
            (&both, None),
            (&odd, None),
            (&bad_digest, None),
            (&negative, None),
        ] {
            let failure = Manifest::parse(json.as_bytes(), content_type).unwrap_err();
            assert_eq!(failure.reason, Reason::InvalidImage, "{json}");
        }
    }

    #[test]
    fn only_types_of_other_content_are_refused() {
        for fits in [
            None,
            Some(""),
            Some(OCI_INDEX),
            Some(DOCKER_MANIFEST),
            Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
            Some("application/json"),
            Some("Application/JSON"),
            Some("application/octet-stream"),
        ] {
            assert!(check_content_type(fits).is_ok(), "{fits:?}");
        }
        for other in [
            "text/html",
            "text/plain",
            "application/xml",
            "image/png",
            "x",
        ] {
            let failure = check_content_type(Some(other)).unwrap_err();
            assert_eq!(failure.reason, Reason::InvalidImage, "{other}");
            assert!(failure.message.contains(other), "{failure}");
        }
    }

    #[test]
    fn odd_but_legal_manifests_are_read() {
        let json = image_json(r#","annotations":null,"x-vendor":{"a":[1]},"subject":null"#)
            .replace(
                r#""size":7"#,
                r#""size":7,"urls":null,"x-vendor":true,"annotations":{}"#,
            );
        let (manifest, media_type) = Manifest::parse(json.as_bytes(), None).unwrap();
        assert_eq!(media_type, OCI_MANIFEST);
        assert!(matches!(manifest, Manifest::Image(image) if image.artifact.is_none()));
    }

    #[test]
    fn selects_the_best_platform() {
        let all = [
            Some("linux/386"),
            Some("linux/arm/v6"),
            Some("linux/arm/v7"),
            Some("linux/arm64/v8"),
            Some("linux/amd64"),
            Some("unknown/unknown"),
            Some("windows/amd64"),
        ];
        assert_eq!(picked(&all, "linux/amd64"), Some(4));
        assert_eq!(picked(&all, "linux/arm64"), Some(3));
        assert_eq!(picked(&all, "linux/arm/v7"), Some(2));
        assert_eq!(picked(&all, "linux/arm/v8"), Some(2));
        assert_eq!(picked(&all, "linux/arm/v5"), None);
        assert_eq!(picked(&all, "windows/amd64"), Some(6));
        assert_eq!(picked(&all, "linux/s390x"), None);
        assert_eq!(
            picked(&all[..3], "linux/arm64"),
            Some(2),
            "32-bit arm runs too"
        );
        assert_eq!(picked(&[None, Some("linux/arm64")], "linux/amd64"), Some(0));
        assert_eq!(picked(&[None, Some("linux/amd64")], "linux/amd64"), Some(1));
        assert_eq!(
            index(&all).platforms().len(),
            6,
            "attestations have no platform"
        );
    }

    #[test]
    fn a_configuration_may_name_no_platform() {
        let platform = config_platform(br#"{"os":"linux","architecture":"arm64","variant":"v8"}"#);
        assert_eq!(platform.unwrap().to_string(), "linux/arm64");
        for none in [
            "{}",
            r#"{"os":"linux"}"#,
            r#"{"os":"","architecture":""}"#,
            "x",
        ] {
            assert_eq!(config_platform(none.as_bytes()), None, "{none}");
        }
    }
}
