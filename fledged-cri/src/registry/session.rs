//! A conversation with one registry about one repository: requests, authorised when asked to.

use bytes::Bytes;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{Digest, ImageRef};
use fledged_core::port::RegistryAuth;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, StatusCode};
use oci_client::Reference;
use reqwest::Response;
use secrecy::ExposeSecret;
use tokio::sync::Mutex;

use super::digester::{Digester, sha256};
use super::manifest::{self, MANIFEST_MAX, Manifest};
use super::{Blob, Registry, failure, handshake};

/// The header in which registries name what they answer with.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// A manifest as it came, and what it says.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    /// Byte for byte what the digest is of.
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
                format!("manifest {digest} came with digest {actual}"),
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

/// What was granted so far. The number tells whether somebody else renewed it meanwhile.
struct Grant {
    round: u64,
    header: Option<HeaderValue>,
}

/// See the module.
pub(crate) struct Session {
    registry: Registry,
    reference: Reference,
    /// `https://host/v2/repository`.
    base: String,
    auth: Option<RegistryAuth>,
    grant: Mutex<Grant>,
}

impl Session {
    pub(crate) fn new(registry: Registry, image: &ImageRef, auth: Option<RegistryAuth>) -> Self {
        let (host, repository) = (image.registry().to_owned(), image.repository().to_owned());
        let reference = match (image.digest(), image.tag()) {
            (Some(digest), _) => Reference::with_digest(host, repository, digest.to_string()),
            (None, tag) => {
                Reference::with_tag(host, repository, tag.unwrap_or("latest").to_owned())
            }
        };
        let host = reference.resolve_registry();
        let base = format!(
            "{}://{host}/v2/{}",
            registry.scheme(host),
            reference.repository()
        );
        let header = match &auth {
            Some(RegistryAuth::RegistryToken(token)) => {
                handshake::bearer(token.expose_secret()).ok()
            }
            _ => None,
        };
        Self {
            registry,
            reference,
            base,
            auth,
            grant: Mutex::new(Grant { round: 0, header }),
        }
    }

    /// The digest that the registry has for the session's reference, where it tells one.
    ///
    /// Registries count this less than reading the manifest.
    pub(crate) async fn head_manifest(&self) -> Result<Option<Digest>, Failure> {
        let url = self.manifest_url(&self.target());
        let response = self.send(Method::HEAD, &url, "manifest").await?;
        Ok(response
            .headers()
            .get(CONTENT_DIGEST)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| Digest::parse(text).ok()))
    }

    /// The manifest of the session's reference, verified where the reference has a digest.
    pub(crate) async fn manifest(&self) -> Result<Fetched, Failure> {
        let wanted = match self.reference.digest() {
            Some(digest) => Some(parse_digest(digest)?),
            None => None,
        };
        self.fetch_manifest(&self.target(), wanted).await
    }

    /// A manifest of the same repository, by digest.
    pub(crate) async fn manifest_by_digest(&self, digest: &Digest) -> Result<Fetched, Failure> {
        self.fetch_manifest(digest.as_str(), Some(digest.clone()))
            .await
    }

    async fn fetch_manifest(
        &self,
        target: &str,
        wanted: Option<Digest>,
    ) -> Result<Fetched, Failure> {
        let url = self.manifest_url(target);
        let mut response = self.send(Method::GET, &url, "manifest").await?;
        let text = |response: &Response, name: &str| {
            let value = response.headers().get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        // What the registry itself names by tag is held against the body like a written digest.
        let stated = text(&response, CONTENT_DIGEST).and_then(|text| Digest::parse(&text).ok());
        let content_type = text(&response, CONTENT_TYPE.as_str());
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| failure::of_transport("reading the manifest broke off", error))?
        {
            body.extend_from_slice(&chunk);
            if body.len() > MANIFEST_MAX {
                return Err(Failure::new(
                    Reason::InvalidImage,
                    format!("the manifest is longer than {MANIFEST_MAX} bytes"),
                ));
            }
        }
        let digest = match wanted.or(stated) {
            Some(digest) => digest,
            None => parse_digest(&sha256(&body))?,
        };
        // Parameters (`; charset=utf-8`) mean nothing for JSON.
        let content_type = content_type
            .as_deref()
            .and_then(|value| value.split(';').next())
            .map(str::trim);
        Fetched::verified(digest, Bytes::from(body), content_type)
    }

    /// Starts to read a blob; the body is not verified here.
    ///
    /// Content that the registry does not have and the descriptor offers elsewhere is asked for
    /// there, without credentials.
    pub(crate) async fn blob(&self, blob: &Blob) -> Result<Response, Failure> {
        let url = self.blob_url(&blob.digest);
        let failure = match self.send(Method::GET, &url, "blob").await {
            Ok(response) => return Ok(response),
            Err(failure) => failure,
        };
        if failure.reason != Reason::ImageNotFound {
            return Err(failure);
        }
        for url in &blob.urls {
            if !(url.starts_with("https://") || url.starts_with("http://")) {
                continue;
            }
            match self.registry.http("").get(url).send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    tracing::debug!(digest = %blob.digest, status = %response.status(), "foreign layer refused");
                }
                Err(error) => {
                    let error = error.without_url();
                    tracing::debug!(digest = %blob.digest, %error, "foreign layer not reached");
                }
            }
        }
        Err(failure)
    }

    /// Whether the registry has a blob, and of that size, without reading it.
    pub(crate) async fn has_blob(&self, blob: &Blob) -> Result<(), Failure> {
        let url = self.blob_url(&blob.digest);
        let response = match self.request(Method::HEAD, &url).await? {
            // A registry that sends readers elsewhere has the blob; the address it names may be
            // signed for reading only, and then refuses to be asked like this.
            response
                if response.status() == StatusCode::FORBIDDEN
                    && response.url().host_str()
                        != reqwest::Url::parse(&url)
                            .ok()
                            .as_ref()
                            .and_then(|url| url.host_str()) =>
            {
                return Ok(());
            }
            response => accepted(response, &self.action("blob")).await?,
        };
        let length = response
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse::<u64>().ok());
        match length {
            Some(length) if length != blob.size => Err(Failure::new(
                Reason::DigestMismatch,
                format!(
                    "blob {} has {length} bytes, its descriptor says {}",
                    blob.digest, blob.size
                ),
            )),
            _ => Ok(()),
        }
    }

    fn target(&self) -> String {
        match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => digest.to_owned(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        }
    }

    fn manifest_url(&self, target: &str) -> String {
        format!("{}/manifests/{target}", self.base)
    }

    fn blob_url(&self, digest: &Digest) -> String {
        format!("{}/blobs/{digest}", self.base)
    }

    fn action(&self, what: &str) -> String {
        format!("{} refuses the {what}", self.reference.registry())
    }

    async fn send(&self, method: Method, url: &str, what: &str) -> Result<Response, Failure> {
        let response = self.request(method, url).await?;
        accepted(response, &self.action(what)).await
    }

    /// One request, and once more with a fresh authorisation when the registry wants one.
    async fn request(&self, method: Method, url: &str) -> Result<Response, Failure> {
        let (round, header) = {
            let grant = self.grant.lock().await;
            (grant.round, grant.header.clone())
        };
        let response = self.once(method.clone(), url, header).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        match self.authorize(round, &response).await? {
            Some(header) => self.once(method, url, Some(header)).await,
            None => Ok(response),
        }
    }

    async fn once(
        &self,
        method: Method,
        url: &str,
        authorization: Option<HeaderValue>,
    ) -> Result<Response, Failure> {
        let mut request = self
            .registry
            .http(self.reference.resolve_registry())
            .request(method, url)
            .header(ACCEPT, accept_for(url));
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        request.send().await.map_err(|error| {
            failure::of_transport(
                &format!("cannot reach {}", self.reference.registry()),
                error,
            )
        })
    }

    /// A fresh authorisation, unless a neighbour has obtained one since `round`.
    async fn authorize(
        &self,
        round: u64,
        refusal: &Response,
    ) -> Result<Option<HeaderValue>, Failure> {
        let mut grant = self.grant.lock().await;
        if grant.round == round {
            grant.header = handshake::authorize(
                &self.registry,
                &self.reference,
                self.auth.as_ref(),
                refusal.headers().get(WWW_AUTHENTICATE),
            )
            .await?;
            grant.round += 1;
        }
        Ok(grant.header.clone())
    }
}

/// Manifests are negotiated; blobs are what they are.
fn accept_for(url: &str) -> &'static str {
    if url.contains("/manifests/") {
        manifest::ACCEPT
    } else {
        "*/*"
    }
}

async fn accepted(response: Response, action: &str) -> Result<Response, Failure> {
    if response.status().is_success() {
        Ok(response)
    } else {
        Err(failure::of_response(action, response).await)
    }
}

fn parse_digest(text: &str) -> Result<Digest, Failure> {
    Digest::parse(text).map_err(|error| Failure::new(Reason::InvalidReference, error.to_string()))
}
