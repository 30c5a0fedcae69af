//! Requests about one repository, authorised when the registry asks for it.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{Digest, ImageRef};
use fledged_core::port::RegistryAuth;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::Response;

use super::access::Access;
use super::client::{
    Registry, Repository, failure_of_response, failure_of_transport, read_at_most,
};
use super::digest::sha256;
use super::foreign;
use super::manifest::{self, Blob, Fetched, MANIFEST_MAX};

/// The header in which a registry states the digest of its answer.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// Requests about one image's repository, with one set of credentials.
pub(crate) struct Session {
    access: Access,
    /// For content outside the registry, which is requested without credentials.
    registry: Registry,
    name: String,
    image: ImageRef,
    /// `https://host/v2/repository`.
    base: String,
    /// Whether the registry answers `HEAD` of a blob otherwise than `GET`.
    head_is_wrong: AtomicBool,
}

impl Session {
    pub(crate) fn new(registry: Registry, image: &ImageRef, auth: Option<RegistryAuth>) -> Self {
        let repository = Repository::of(image);
        let (host, path) = (&repository.host, &repository.path);
        Self {
            base: format!("{}://{host}/v2/{path}", registry.scheme(host)),
            name: repository.registry.clone(),
            image: image.clone(),
            head_is_wrong: AtomicBool::new(false),
            access: Access::new(registry.clone(), repository, auth),
            registry,
        }
    }

    /// The digest that the registry states for the session's image, if it states one.
    ///
    /// Registries do not count this towards their rate limits, or count it less than a read.
    pub(crate) async fn head_manifest(&self) -> Result<Option<Digest>, Failure> {
        let url = self.manifest_url(self.target());
        let response = self.send(&Method::HEAD, &url, "manifest").await?;
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
        let response = self.send(&Method::GET, &url, "manifest").await?;
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
        manifest::check_content_type(content_type)?;
        Fetched::verified(digest, Bytes::from(body), content_type)
    }

    /// Starts to read a blob. The body is not verified here.
    ///
    /// If the registry does not have it and the descriptor lists URLs, those are tried, without
    /// credentials.
    pub(crate) async fn blob(&self, blob: &Blob) -> Result<Response, Failure> {
        let url = self.blob_url(&blob.digest);
        let failure = match self.send(&Method::GET, &url, "blob").await {
            Ok(response) => return Ok(response),
            Err(failure) => failure,
        };
        self.foreign_blob(blob, failure).await
    }

    /// A blob from the URLs of its descriptor, or `failure`, with which the registry refuses it.
    async fn foreign_blob(&self, blob: &Blob, failure: Failure) -> Result<Response, Failure> {
        if failure.reason != Reason::ImageNotFound {
            return Err(failure);
        }
        for url in &blob.urls {
            match foreign::fetch(&self.registry, url).await {
                Ok(response) => return Ok(response),
                Err(problem) => {
                    tracing::debug!(digest = %blob.digest, problem, "foreign layer not fetched");
                }
            }
        }
        Err(failure)
    }

    /// Checks that the registry has a blob of that size, without reading it.
    ///
    /// Registries, their proxies and signed URLs often refuse `HEAD` of content that `GET` returns, so
    /// only a `HEAD` that finds the expected size decides. Otherwise the first byte is requested.
    pub(crate) async fn has_blob(&self, blob: &Blob) -> Result<(), Failure> {
        let url = self.blob_url(&blob.digest);
        if !self.head_is_wrong.load(Ordering::Relaxed) {
            let response = self.request(&Method::HEAD, &url, HeaderMap::new()).await?;
            if response.status() == StatusCode::TOO_MANY_REQUESTS {
                return self.accepted(response, "blob").await.map(drop);
            }
            let length = number(&response, CONTENT_LENGTH.as_str(), Some);
            if response.status().is_success() && length == Some(blob.size) {
                return Ok(());
            }
        }
        let first = HeaderMap::from_iter([(RANGE, HeaderValue::from_static("bytes=0-0"))]);
        let response = self.request(&Method::GET, &url, first).await?;
        // The server has the blob and no byte at the start of it, or it does not serve parts.
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(());
        }
        let response = match self.accepted(response, "blob").await {
            Ok(response) => response,
            Err(failure) => return self.foreign_blob(blob, failure).await.map(drop),
        };
        self.head_is_wrong.store(true, Ordering::Relaxed);
        let length = match response.status() {
            StatusCode::PARTIAL_CONTENT => number(&response, CONTENT_RANGE.as_str(), |text| {
                text.rsplit_once('/').map(|(_, total)| total)
            }),
            _ => number(&response, CONTENT_LENGTH.as_str(), Some),
        };
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

    async fn send(&self, method: &Method, url: &str, what: &str) -> Result<Response, Failure> {
        let response = self.request(method, url, HeaderMap::new()).await?;
        self.accepted(response, what).await
    }

    async fn request(
        &self,
        method: &Method,
        url: &str,
        mut headers: HeaderMap,
    ) -> Result<Response, Failure> {
        headers.insert(ACCEPT, HeaderValue::from_static(accept_for(url)));
        self.access.request(method, url, &headers).await
    }

    async fn accepted(&self, response: Response, what: &str) -> Result<Response, Failure> {
        if response.status().is_success() {
            return Ok(response);
        }
        let action = match self.access.elsewhere(&response) {
            Some(origin) => {
                format!(
                    "{origin}, to which {} redirects, refuses the {what}",
                    self.name
                )
            }
            None => format!("{} refuses the {what}", self.name),
        };
        let failure = failure_of_response(&action, response).await;
        Err(self.access.without_secrets(failure))
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

/// The number in a part of a header.
fn number<'a>(
    response: &'a Response,
    header: &str,
    part: impl FnOnce(&'a str) -> Option<&'a str>,
) -> Option<u64> {
    let value = response.headers().get(header)?.to_str().ok()?;
    part(value)?.trim().parse().ok()
}
