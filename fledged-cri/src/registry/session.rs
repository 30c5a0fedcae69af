//! Requests about one repository, authorised when the registry asks for it.

use bytes::Bytes;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{Digest, ImageRef};
use fledged_core::port::RegistryAuth;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::Response;
use secrecy::ExposeSecret;
use tokio::sync::Mutex;

use super::client::{
    Registry, Repository, failure_of_response, failure_of_transport, read_at_most,
};
use super::digest::sha256;
use super::manifest::{self, Blob, Fetched, MANIFEST_MAX};
use super::token;

/// The header in which a registry states the digest of its answer.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// The authorisation of a session. `generation` counts its renewals.
struct Grant {
    generation: u64,
    header: Option<HeaderValue>,
}

/// Requests about one image's repository, with one set of credentials.
pub(crate) struct Session {
    registry: Registry,
    repository: Repository,
    image: ImageRef,
    /// `https://host/v2/repository`.
    base: String,
    auth: Option<RegistryAuth>,
    grant: Mutex<Grant>,
}

impl Session {
    pub(crate) fn new(registry: Registry, image: &ImageRef, auth: Option<RegistryAuth>) -> Self {
        let repository = Repository::of(image);
        let (host, path) = (&repository.host, &repository.path);
        let base = format!("{}://{host}/v2/{path}", registry.scheme(host));
        let header = match &auth {
            Some(RegistryAuth::RegistryToken(token)) => token::bearer(token.expose_secret()).ok(),
            _ => None,
        };
        Self {
            registry,
            repository,
            image: image.clone(),
            base,
            auth,
            grant: Mutex::new(Grant {
                generation: 0,
                header,
            }),
        }
    }

    /// The digest that the registry states for the session's image, if it states one.
    ///
    /// Registries do not count this towards their rate limits, or count it less than a read.
    pub(crate) async fn head_manifest(&self) -> Result<Option<Digest>, Failure> {
        let url = self.manifest_url(self.target());
        let response = self.send(Method::HEAD, &url, "manifest").await?;
        Ok(stated_digest(&response))
    }

    /// The manifest of the session's image, verified if its reference has a digest.
    pub(crate) async fn manifest(&self) -> Result<Fetched, Failure> {
        self.fetch_manifest(self.target(), self.image.digest())
            .await
    }

    /// A manifest of the same repository, by digest.
    pub(crate) async fn manifest_by_digest(&self, digest: &Digest) -> Result<Fetched, Failure> {
        self.fetch_manifest(digest.as_str(), Some(digest)).await
    }

    async fn fetch_manifest(
        &self,
        target: &str,
        expected: Option<&Digest>,
    ) -> Result<Fetched, Failure> {
        let url = self.manifest_url(target);
        let response = self.send(Method::GET, &url, "manifest").await?;
        // The digest that the registry states for a tag is verified like one in the reference.
        let stated = stated_digest(&response);
        let content_type = response.headers().get(CONTENT_TYPE).cloned();
        let body = read_at_most(response, MANIFEST_MAX)
            .await
            .map_err(|error| failure_of_transport("reading the manifest failed", error))?;
        if body.len() > MANIFEST_MAX {
            return Err(Failure::new(
                Reason::InvalidImage,
                format!("the manifest is longer than {MANIFEST_MAX} bytes"),
            ));
        }
        let digest = match expected.cloned().or(stated) {
            Some(digest) => digest,
            None => Digest::parse(&sha256(&body))
                .map_err(|error| Failure::new(Reason::InvalidReference, error.to_string()))?,
        };
        // Parameters such as `; charset=utf-8` mean nothing for JSON.
        let content_type = content_type
            .as_ref()
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .map(str::trim);
        Fetched::verified(digest, Bytes::from(body), content_type)
    }

    /// Starts to read a blob. The body is not verified here.
    ///
    /// If the registry does not have it and the descriptor lists URLs, those are tried, without
    /// credentials.
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
                    tracing::debug!(digest = %blob.digest, %error, "foreign layer not reachable");
                }
            }
        }
        Err(failure)
    }

    /// Checks that the registry has a blob of that size, without reading it.
    pub(crate) async fn has_blob(&self, blob: &Blob) -> Result<(), Failure> {
        let url = self.blob_url(&blob.digest);
        let response = self.request(Method::HEAD, &url).await?;
        // A registry that redirects has the blob. The target may be signed for GET only and then
        // refuses HEAD.
        if response.status() == StatusCode::FORBIDDEN && was_redirected(&response, &url) {
            return Ok(());
        }
        let response = accepted(response, &self.action("blob")).await?;
        let length = response
            .headers()
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse::<u64>().ok());
        match length {
            Some(length) if length != blob.size => Err(Failure::new(
                Reason::DigestMismatch,
                format!(
                    "blob {} has {length} bytes, its descriptor has {}",
                    blob.digest, blob.size
                ),
            )),
            _ => Ok(()),
        }
    }

    fn target(&self) -> &str {
        match self.image.digest() {
            Some(digest) => digest.as_str(),
            None => self.image.tag().unwrap_or("latest"),
        }
    }

    fn manifest_url(&self, target: &str) -> String {
        format!("{}/manifests/{target}", self.base)
    }

    fn blob_url(&self, digest: &Digest) -> String {
        format!("{}/blobs/{digest}", self.base)
    }

    fn action(&self, what: &str) -> String {
        format!("{} refuses the {what}", self.repository.registry)
    }

    async fn send(&self, method: Method, url: &str, what: &str) -> Result<Response, Failure> {
        let response = self.request(method, url).await?;
        accepted(response, &self.action(what)).await
    }

    /// Sends one request, and sends it again with a fresh authorisation if the registry asks for
    /// one.
    async fn request(&self, method: Method, url: &str) -> Result<Response, Failure> {
        let (generation, header) = {
            let grant = self.grant.lock().await;
            (grant.generation, grant.header.clone())
        };
        let response = self.once(method.clone(), url, header).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        match self.authorize(generation, response.headers()).await? {
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
        let client = self.registry.http(&self.repository.host);
        let mut request = client.request(method, url).header(ACCEPT, accept_for(url));
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        request.send().await.map_err(|error| {
            let action = format!("cannot reach {}", self.repository.registry);
            failure_of_transport(&action, error)
        })
    }

    /// A fresh authorisation, or the current one if another request has renewed it since
    /// `generation`.
    async fn authorize(
        &self,
        generation: u64,
        refusal: &HeaderMap,
    ) -> Result<Option<HeaderValue>, Failure> {
        let mut grant = self.grant.lock().await;
        if grant.generation == generation {
            let auth = self.auth.as_ref();
            grant.header =
                token::authorize(&self.registry, &self.repository, auth, refusal).await?;
            grant.generation += 1;
        }
        Ok(grant.header.clone())
    }
}

/// The `Accept` header: manifests are negotiated, blobs are not.
fn accept_for(url: &str) -> &'static str {
    if url.contains("/manifests/") {
        manifest::ACCEPT
    } else {
        "*/*"
    }
}

fn stated_digest(response: &Response) -> Option<Digest> {
    let value = response.headers().get(CONTENT_DIGEST)?;
    Digest::parse(value.to_str().ok()?).ok()
}

fn was_redirected(response: &Response, url: &str) -> bool {
    let requested = reqwest::Url::parse(url).ok();
    response.url().host_str() != requested.as_ref().and_then(|url| url.host_str())
}

async fn accepted(response: Response, action: &str) -> Result<Response, Failure> {
    if response.status().is_success() {
        Ok(response)
    } else {
        Err(failure_of_response(action, response).await)
    }
}
