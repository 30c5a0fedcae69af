//! Registries that differ from the specification, one difference each, as they are met in practice. For tests
//! of this crate, and of others by the feature `test-util`.

use std::io;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::fake::{
    Answer, Asked, CONFIG, Fake, LAYER, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, descriptor,
    image, manifest,
};
use super::sha256;

/// The image that each of the registries serves.
pub const IMAGE: &str = "team/app:1";
/// The user name and password that a registry with [`Quirk::EchoedPassword`] repeats.
pub const LOGIN: (&str, &str) = ("ann", "correct-horse-battery");

/// A difference from the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Quirk {
    /// None at all.
    None,
    /// `HEAD` of a blob has this status; `GET` works.
    HeadOfBlob(u16),
    /// `HEAD` of a blob has the length 0.
    EmptyHeadOfBlob,
    /// Blobs are on another port, which refuses `HEAD`, as with signed URLs.
    BlobsElsewhere,
    /// `GET /v2/` has this status and the realm of another token server.
    Ping(u16),
    /// The token server has this status and body, and asks for a delay of 30 s.
    TokenServer(u16, &'static str),
    /// The token server sends 900 MB.
    HugeToken,
    /// `WWW-Authenticate` has several challenges, in several headers.
    SeveralChallenges,
    /// All requests are redirected to another registry, which requires a token.
    Moved,
    /// Manifests have this `Content-Type`.
    ContentType(&'static str),
    /// The image is a Helm chart.
    Chart,
    /// The image is an index of a chart without a platform, and an image for another platform.
    PlatformlessEntry,
    /// The connection breaks in the middle of the layer.
    CutLayer,
    /// The layer comes byte by byte.
    SlowLayer,
    /// 507, with the text of a full disk.
    FullStorage,
    /// 403, with a text that repeats the credentials.
    EchoedPassword,
    /// 429, with this `Retry-After`.
    Throttled(&'static str),
}

/// A running registry with a quirk.
pub struct QuirkyRegistry {
    main: Fake,
    other: Option<Fake>,
}

impl QuirkyRegistry {
    /// Starts the registry.
    ///
    /// # Errors
    ///
    /// No port can be bound.
    pub async fn start(quirk: Quirk) -> io::Result<Self> {
        let other = match quirk {
            Quirk::BlobsElsewhere => Some(Fake::bind(signed).await?),
            Quirk::Moved => Some(Fake::bind(with_token).await?),
            _ => None,
        };
        let to = other.as_ref().map(|other| other.addr.clone());
        let to = to.unwrap_or_default();
        let main = Fake::bind(move |asked, addr| quirk.answer(asked, addr, &to)).await?;
        Ok(Self { main, other })
    }

    /// The reference of its image.
    #[must_use]
    pub fn image(&self) -> String {
        format!("{}/{IMAGE}", self.main.addr)
    }

    /// The requests so far, those of the other server last.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        let other = self.other.as_ref().map(Fake::asked).unwrap_or_default();
        [self.main.asked(), other].concat()
    }
}

impl Quirk {
    fn answer(self, asked: &Asked, addr: &str, other: &str) -> Answer {
        let is_blob = asked.target.contains("/blobs/");
        let is_head_of_blob = is_blob && asked.method == "HEAD";
        let is_layer = asked.target.ends_with(&sha256(LAYER.as_bytes()));
        let is_manifest = asked.target.contains("/manifests/");
        match self {
            Self::HeadOfBlob(status) if is_head_of_blob => Answer::new(status, "").with(
                "www-authenticate",
                format!("Bearer realm=\"http://{addr}/token\""),
            ),
            Self::HeadOfBlob(_) if asked.is("GET", "/token") => token(),
            Self::EmptyHeadOfBlob if is_head_of_blob => {
                Answer::new(200, "").with("content-length", "0")
            }
            Self::BlobsElsewhere if is_blob => {
                Answer::redirect(format!("http://{other}{}", asked.target))
            }
            Self::Ping(status) if asked.target == "/v2/" => Answer::new(status, "").with(
                "www-authenticate",
                "Bearer realm=\"http://127.0.0.1:1/token\"",
            ),
            Self::Ping(_) => with_token(asked, addr),
            Self::TokenServer(status, body) if asked.is("GET", "/token") => {
                Answer::new(status, body).with("retry-after", "30")
            }
            Self::HugeToken if asked.is("GET", "/token") => {
                Answer::new(200, "x".repeat(1 << 20)).with("content-length", "900000000")
            }
            Self::TokenServer(..) | Self::HugeToken => with_token(asked, addr),
            Self::SeveralChallenges if asked.is("GET", "/token") => token(),
            Self::SeveralChallenges if asked.authorization() != Some("Bearer t0ken") => {
                Answer::challenge("Negotiate")
                    .with("www-authenticate", "Basic realm=\"x\", Digest realm=\"y\"")
                    .with(
                        "www-authenticate",
                        format!("Bearer realm=\"http://{addr}/token\",service=\"s\""),
                    )
            }
            Self::Moved => Answer::redirect(format!("http://{other}{}", asked.target)),
            Self::ContentType(value) if is_manifest => {
                Answer::new(200, manifest(OCI_CONFIG, OCI_LAYER).to_string())
                    .with("content-type", value)
            }
            Self::Chart if is_manifest => {
                Answer::new(200, chart()).with("content-type", OCI_MANIFEST)
            }
            Self::PlatformlessEntry if is_manifest => platformless(asked),
            Self::CutLayer if is_layer && asked.method == "GET" => {
                Answer::new(200, LAYER).cut_after(LAYER.len() / 2)
            }
            Self::SlowLayer if is_layer => {
                Answer::new(200, LAYER).slowly(Duration::from_millis(10))
            }
            Self::FullStorage => Answer::new(507, "write /data: no space left on device"),
            Self::EchoedPassword => match asked.authorization() {
                None => Answer::challenge("Basic realm=\"x\""),
                Some(sent) => Answer::new(403, format!("{} may not pull", decoded(sent))),
            },
            Self::Throttled(delay) => Answer::new(429, "slow down").with("retry-after", delay),
            _ => image(asked),
        }
    }
}

fn token() -> Answer {
    Answer::new(200, r#"{"token":"t0ken"}"#)
}

/// A registry that requires a token.
fn with_token(asked: &Asked, addr: &str) -> Answer {
    if asked.is("GET", "/token") {
        return token();
    }
    match asked.authorization() {
        Some("Bearer t0ken") => image(asked),
        _ => Answer::challenge(format!(
            "Bearer realm=\"http://{addr}/token\",service=\"s\""
        )),
    }
}

/// A blob store that takes signed URLs only.
fn signed(asked: &Asked, _: &str) -> Answer {
    match asked.method.as_str() {
        "HEAD" => Answer::new(403, "signature does not match"),
        _ if asked.authorization().is_some() => Answer::new(400, "two kinds of authorization"),
        _ => image(asked),
    }
}

fn chart() -> String {
    let config = "application/vnd.cncf.helm.config.v1+json";
    let content = "application/vnd.cncf.helm.chart.content.v1.tar+gzip";
    manifest(config, content).to_string()
}

fn platformless(asked: &Asked) -> Answer {
    let foreign = manifest(OCI_CONFIG, OCI_LAYER).to_string();
    let mut foreign_entry = descriptor(OCI_MANIFEST, &foreign);
    if let Some(entry) = foreign_entry.as_object_mut() {
        let platform = json!({ "os": "linux", "architecture": "s390x" });
        entry.insert("platform".to_owned(), platform);
    }
    let chart = chart();
    for content in [&chart, &foreign] {
        if asked.target.ends_with(&sha256(content.as_bytes())) {
            return Answer::new(200, content).with("content-type", OCI_MANIFEST);
        }
    }
    let index = json!({
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [foreign_entry, descriptor(OCI_MANIFEST, &chart)],
    });
    Answer::new(200, index.to_string()).with("content-type", OCI_INDEX)
}

/// The user name and password of a `Basic` header.
fn decoded(header: &str) -> String {
    let pair = header.strip_prefix("Basic ").unwrap_or(header);
    let pair = STANDARD.decode(pair).unwrap_or_default();
    format!("{} with {CONFIG}", String::from_utf8_lossy(&pair))
}
