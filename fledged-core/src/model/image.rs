//! Image references and digests.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::value::shown;

/// Longest `registry/repository`, in bytes (the limit of the reference grammar in
/// `distribution/reference`).
const NAME_MAX: usize = 255;
/// Longest input that is parsed: name, tag (128) and the longest digest, with separators.
const REFERENCE_MAX: usize = NAME_MAX + 1 + 128 + 1 + 7 + 128;

/// The error for a string that is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference \"{}\": {problem}", shown(.value))]
pub struct ParseImageRefError {
    value: String,
    problem: String,
}

impl ParseImageRefError {
    fn new(value: &str, problem: impl Into<String>) -> Self {
        Self {
            value: value.to_owned(),
            problem: problem.into(),
        }
    }

    /// The whole text that was refused.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// The problem, without the text.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

/// A reference to a container image, valid and normalised.
///
/// `nginx` is `docker.io/library/nginx:latest`; where both a tag and a digest are given, the digest
/// decides and the normalised form has no tag, as in containerd. Two references are equal when
/// their normalised forms are; [`ImageRef::original`] and `Display` keep what the user wrote.
///
/// ```
/// use fledged_core::model::ImageRef;
///
/// let image: ImageRef = "nginx".parse()?;
/// assert_eq!(image.as_str(), "docker.io/library/nginx:latest");
/// assert_eq!(image.to_string(), "nginx");
/// assert!(image.is_mutable());
/// assert!("nginx; rm -rf /".parse::<ImageRef>().is_err());
/// # Ok::<(), fledged_core::model::ParseImageRefError>(())
/// ```
#[derive(Clone)]
pub struct ImageRef(Arc<Parts>);

struct Parts {
    original: String,
    normalised: String,
    name_len: usize,
    registry_len: usize,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl ImageRef {
    /// Parses a reference by the OCI distribution grammar.
    ///
    /// # Errors
    ///
    /// A [`ParseImageRefError`] that repeats the value and names the problem: white space, control
    /// or shell characters, upper case in the repository, over-long parts, a malformed digest.
    pub fn parse(value: &str) -> Result<Self, ParseImageRefError> {
        let fail = |problem: &str| Err(ParseImageRefError::new(value, problem));
        if value.is_empty() {
            return fail("it is empty");
        }
        if value.len() > REFERENCE_MAX {
            return Err(ParseImageRefError::new(
                value,
                format!(
                    "it is {} bytes long, the limit is {REFERENCE_MAX}",
                    value.len()
                ),
            ));
        }
        // Brackets only around the IPv6 address of a registry.
        let after_address = match value.strip_prefix('[') {
            None => value,
            Some(rest) => match rest.split_once(']') {
                Some((address, after)) if is_ipv6(address) => after,
                _ => return fail("it does not begin with an IPv6 address in brackets"),
            },
        };
        if let Some(bad) = after_address.chars().find(|c| {
            !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':' | '@'))
        }) {
            let what = if bad.is_whitespace() {
                "white space"
            } else if bad.is_control() {
                "a control character"
            } else {
                "a character that no reference can have"
            };
            return Err(ParseImageRefError::new(
                value,
                format!("it contains {what} ({bad:?})"),
            ));
        }
        let parts = split(value).map_err(|e| ParseImageRefError::new(value, e))?;
        // A bare 64-digit hexadecimal name is an image ID to every runtime, never a repository.
        if is_lower_hex(value, 64) {
            return fail("it is an image ID; name the repository");
        }
        let name = format!("{}/{}", parts.registry, parts.repository);
        if name.len() > NAME_MAX {
            return Err(ParseImageRefError::new(
                value,
                format!(
                    "registry and repository are {} bytes long, the limit is {NAME_MAX}",
                    name.len()
                ),
            ));
        }
        let digest =
            parts.digest.map(Digest::parse).transpose().map_err(|e| {
                ParseImageRefError::new(value, format!("its digest {}", e.problem()))
            })?;
        let tag = match (parts.tag, &digest) {
            (None, None) => Some("latest"),
            (tag, _) => tag,
        };
        let normalised = match (&digest, tag) {
            (Some(digest), _) => format!("{name}@{digest}"),
            (None, tag) => format!("{name}:{}", tag.unwrap_or_default()),
        };
        Ok(Self(Arc::new(Parts {
            original: value.to_owned(),
            registry_len: parts.registry.len(),
            name_len: name.len(),
            tag: tag.map(str::to_owned),
            digest,
            normalised,
        })))
    }

    /// The normalised form, `registry/repository:tag` or `registry/repository@digest`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.normalised
    }

    /// The reference as the user wrote it.
    #[must_use]
    pub fn original(&self) -> &str {
        &self.0.original
    }

    /// The registry's host and port, `docker.io` where none was written.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.0
            .normalised
            .get(..self.0.registry_len)
            .unwrap_or_default()
    }

    /// The repository within the registry, `library/nginx` for `nginx`.
    #[must_use]
    pub fn repository(&self) -> &str {
        self.0
            .normalised
            .get(self.0.registry_len + 1..self.0.name_len)
            .unwrap_or_default()
    }

    /// Registry and repository without tag or digest.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.normalised.get(..self.0.name_len).unwrap_or_default()
    }

    /// The tag that was written or defaulted; also the one beside a digest, which decides nothing.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.0.tag.as_deref()
    }

    /// The digest, if the reference has one.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.0.digest.as_ref()
    }

    /// The image with that digest in the same repository.
    #[must_use]
    pub fn at_digest(&self, digest: &Digest) -> Self {
        let normalised = format!("{}@{digest}", self.name());
        Self(Arc::new(Parts {
            original: normalised.clone(),
            normalised,
            name_len: self.0.name_len,
            registry_len: self.0.registry_len,
            tag: None,
            digest: Some(digest.clone()),
        }))
    }

    /// Whether the reference is a mutable tag: no digest, and no tag or `latest`.
    ///
    /// Mutable tags are pulled again on a refresh, as by the kubelet and kube-fledged.
    #[must_use]
    pub fn is_mutable(&self) -> bool {
        self.0.digest.is_none() && self.0.tag.as_deref().is_none_or(|tag| tag == "latest")
    }
}

impl FromStr for ImageRef {
    type Err = ParseImageRefError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Self::parse(value)
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.original)
    }
}

impl fmt::Debug for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageRef({})", self.0.normalised)
    }
}

impl PartialEq for ImageRef {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for ImageRef {}

impl PartialOrd for ImageRef {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ImageRef {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // A fast path, because most references are copies and a planner makes hundreds of thousands of comparisons.
        match Arc::ptr_eq(&self.0, &other.0) {
            true => std::cmp::Ordering::Equal,
            false => self.0.normalised.cmp(&other.0.normalised),
        }
    }
}

impl Hash for ImageRef {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.normalised.hash(state);
    }
}

/// Allows lookups in maps keyed by reference with a runtime's (normalised) name.
impl Borrow<str> for ImageRef {
    fn borrow(&self) -> &str {
        &self.0.normalised
    }
}

impl Serialize for ImageRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.original)
    }
}

impl<'de> Deserialize<'de> for ImageRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Whether a text consists of `len` lower-case hexadecimal digits.
fn is_lower_hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The error for a string that is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid digest \"{}\": {problem}", shown(.value))]
pub struct ParseDigestError {
    value: String,
    problem: &'static str,
}

impl ParseDigestError {
    /// The problem, without the text.
    #[must_use]
    pub fn problem(&self) -> &str {
        self.problem
    }
}

/// A content digest, `sha256:`, `sha384:` or `sha512:` with lower-case hexadecimal digits (OCI image
/// specification, descriptor digests).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    /// Parses `algorithm:hex`.
    ///
    /// # Errors
    ///
    /// [`ParseDigestError`] for an unregistered algorithm, a wrong length, or digits that are not
    /// lower-case hexadecimal.
    pub fn parse(value: &str) -> Result<Self, ParseDigestError> {
        let fail = |problem| {
            Err(ParseDigestError {
                value: value.to_owned(),
                problem,
            })
        };
        let Some((algorithm, hex)) = value.split_once(':') else {
            return fail("must be algorithm:hex");
        };
        let digits = match algorithm {
            "sha256" => 64,
            "sha384" => 96,
            "sha512" => 128,
            _ => return fail("must use sha256, sha384 or sha512"),
        };
        if hex.len() != digits {
            return fail("has the wrong number of digits for its algorithm");
        }
        if !is_lower_hex(hex, digits) {
            return fail("must be lower-case hexadecimal");
        }
        Ok(Self(value.to_owned()))
    }

    /// `algorithm:hex`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The algorithm, `sha256` for instance.
    #[must_use]
    pub fn algorithm(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }

    /// The digits without the algorithm.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Self::parse(value)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

// The grammar (`distribution/reference`) is parsed by hand: the regular expression that other parsers
// compile for it costs 18 MB and 20 ms in every process, which an agent on every node cannot afford.
// The tests compare it with such a parser.

/// The registry of a reference that names none, and its former name.
const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_REGISTRY_OLD: &str = "index.docker.io";
/// The first part of one-word repositories of the default registry.
const OFFICIAL: &str = "library";
/// Longest tag, in bytes.
const TAG_MAX: usize = 128;

/// The parts of a reference as written, with the registry's defaults filled in.
#[derive(Debug, PartialEq, Eq)]
struct Split<'a> {
    registry: &'a str,
    repository: Cow<'a, str>,
    tag: Option<&'a str>,
    /// Not validated yet.
    digest: Option<&'a str>,
}

/// Splits a reference into its parts.
///
/// # Errors
///
/// The problem, without the text.
fn split(value: &str) -> Result<Split<'_>, Cow<'static, str>> {
    const FORM: &str = "it does not follow [registry[:port]/]repository[:tag][@digest]";
    if value.contains("://") {
        return Err("it has a scheme; write the registry without one".into());
    }
    let (rest, digest) = match value.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (value, None),
    };
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest.get(last..).and_then(|part| part.split_once(':')) {
        Some((part, tag)) => (rest.get(..last + part.len()).unwrap_or(rest), Some(tag)),
        None => (rest, None),
    };
    match tag {
        Some("") => return Err("the tag after \":\" is empty".into()),
        Some(tag) if tag.len() > TAG_MAX => {
            let problem = format!(
                "its tag is {} bytes long, the limit is {TAG_MAX}",
                tag.len()
            );
            return Err(problem.into());
        }
        Some(tag) if !is_tag(tag) => return Err(FORM.into()),
        _ => {}
    }
    let (registry, repository) = match name.split_once('/') {
        Some((first, path)) if names_registry(first) => (first, path),
        _ => (DEFAULT_REGISTRY, name),
    };
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository name must be lower case".into());
    }
    if !repository.split('/').all(is_component) {
        return Err(FORM.into());
    }
    let host_end = registry.find(']').map_or(0, |bracket| bracket + 1);
    let (host, port) = match registry.get(host_end..).and_then(|rest| rest.find(':')) {
        Some(colon) => registry.split_at(host_end + colon),
        None => (registry, ""),
    };
    let port = port.strip_prefix(':');
    let is_address = host.starts_with('[') && host.ends_with(']');
    if !is_address && !host.split('.').all(is_host_label) {
        return Err(FORM.into());
    }
    if port.is_some_and(|port| !is_port(port)) {
        return Err("the registry's port must be between 1 and 65535".into());
    }
    let registry = match registry {
        DEFAULT_REGISTRY_OLD => DEFAULT_REGISTRY,
        other => other,
    };
    let repository = match registry == DEFAULT_REGISTRY && !repository.contains('/') {
        true => Cow::Owned(format!("{OFFICIAL}/{repository}")),
        false => Cow::Borrowed(repository),
    };
    Ok(Split {
        registry,
        repository,
        tag,
        digest,
    })
}

/// Whether the first part of a name is a registry: it has a dot or a port, or is `localhost`.
fn names_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

/// `[A-Za-z0-9_][A-Za-z0-9_.-]*`
fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = [text.bytes().next(), text.bytes().next_back()];
    ends.into_iter().all(|end| end.is_some_and(alphanumeric))
        && text
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|between| {
                matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-')
            })
}

/// Letters, digits and, inside, dashes.
fn is_host_label(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// An IPv6 address without zone and without an IPv4 address in it, as `distribution/reference` has it.
fn is_ipv6(text: &str) -> bool {
    !text.contains('.') && text.parse::<Ipv6Addr>().is_ok()
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}
