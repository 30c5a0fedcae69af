//! Pushing to a registry over HTTP.

use bytes::Bytes;
use fledged_core::model::{Digest, ImageRef};
use hyper::Method;

use crate::http;
use crate::registry::RegistryEndpoint;

/// An image that was pushed to a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// `127.0.0.1:PORT/repository:tag`.
    pub reference: String,
    /// Digest of the manifest, or of the index.
    pub digest: Digest,
    /// Digest of the configuration: the image's ID for containerd and Docker.
    pub config_digest: Digest,
    /// Digests of the layers' blobs, the lowest first.
    pub layers: Vec<Digest>,
    /// Bytes of layers, configuration and manifest, as the registry holds them.
    pub size: u64,
    /// `127.0.0.1:PORT`.
    pub registry: String,
    /// The repository.
    pub repository: String,
    /// The tag.
    pub tag: String,
}

impl Pushed {
    /// The reference by tag.
    ///
    /// # Panics
    ///
    /// When the repository or the tag is invalid.
    #[must_use]
    pub fn image(&self) -> ImageRef {
        self.reference.parse().expect("a valid reference")
    }

    /// `127.0.0.1:PORT/repository@digest`.
    #[must_use]
    pub fn by_digest(&self) -> String {
        format!("{}/{}@{}", self.registry, self.repository, self.digest)
    }

    /// The reference by tag at another address, such as that of a [`FaultProxy`](crate::FaultProxy).
    #[must_use]
    pub fn reference_at(&self, addr: &str) -> String {
        format!("{addr}/{}:{}", self.repository, self.tag)
    }
}

/// The repository to push to.
pub(crate) struct Target {
    pub(crate) addr: String,
    pub(crate) repository: String,
    authorization: Option<String>,
}

impl Target {
    pub(crate) fn new(registry: &dyn RegistryEndpoint, repository: &str) -> Self {
        Self {
            addr: registry.addr(),
            repository: repository.to_owned(),
            authorization: registry.credentials().map(|(u, p)| http::basic(&u, &p)),
        }
    }

    fn send(&self, method: Method, target: &str, media_type: &str, body: Bytes) -> http::Response {
        let authorization = self.authorization.as_deref();
        let headers = [("content-type", media_type)];
        http::send(&self.addr, method, target, &headers, authorization, body)
            .unwrap_or_else(|e| panic!("cannot push {}: {e}", self.repository))
    }

    /// Uploads a blob in one piece (OCI distribution specification, "POST then PUT").
    pub(crate) fn put_blob(&self, digest: &Digest, blob: Bytes) {
        let octets = "application/octet-stream";
        let target = format!("/v2/{}/blobs/uploads/", self.repository);
        let started = self.send(Method::POST, &target, octets, Bytes::new());
        assert_eq!(started.status, 202, "starting an upload: {started:?}");
        let location = started.headers["location"].to_str().expect("a location");
        let location = match location.split_once("://") {
            Some((_, rest)) => &rest[rest.find('/').expect("a path")..],
            None => location,
        };
        let separator = if location.contains('?') { '&' } else { '?' };
        let target = format!("{location}{separator}digest={digest}");
        let stored = self.send(Method::PUT, &target, octets, blob);
        assert_eq!(stored.status, 201, "uploading {digest}: {stored:?}");
    }

    pub(crate) fn put_manifest(&self, reference: &str, media_type: &str, manifest: &Bytes) {
        let target = format!("/v2/{}/manifests/{reference}", self.repository);
        let stored = self.send(Method::PUT, &target, media_type, manifest.clone());
        assert_eq!(stored.status, 201, "putting a manifest: {stored:?}");
    }
}
