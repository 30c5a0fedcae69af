//! Requests about one repository, authorised when the registry asks for it.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
use super::endpoint::{Endpoint, endpoints};
use super::foreign;
use super::manifest::{self, Blob, Fetched, MANIFEST_MAX};

/// The header in which a registry states the digest of its answer.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// Requests about one image's repository, with one set of credentials, at each host that serves it.
pub(crate) struct Session {
    /// The hosts in the order in which they are tried.
    hosts: Result<Vec<Host>, Failure>,
    /// For content outside the registry, which is requested without credentials.
    registry: Registry,
    image: ImageRef,
    /// Set when a host does not honour `Range`.
    no_ranges: AtomicBool,
    /// Whether a host that this process cannot use ends a request.
    needs_every_host: bool,
    /// The hosts that have served each blob.
    served: Mutex<HashMap<Digest, ServedBy>>,
}

/// The hosts that have served a blob, by their position.
#[derive(Debug, Default)]
struct ServedBy {
    hosts: BTreeSet<usize>,
    /// Those whose content was wrong. They are asked last.
    wrong: BTreeSet<usize>,
}

impl Session {
    pub(crate) fn new(registry: Registry, image: &ImageRef, auth: Option<RegistryAuth>) -> Self {
        let repository = Repository::of(image);
        let hosts = endpoints(&registry, &repository).map(|endpoints| {
            let host = |endpoint: Endpoint| Host {
                pull: endpoint.pull,
                resolve: endpoint.resolve,
                head_is_wrong: AtomicBool::new(false),
                access: Access::new(registry.clone(), endpoint, repository.clone(), auth.clone()),
            };
            endpoints.into_iter().map(host).collect()
        });
        Self {
            hosts,
            image: image.clone(),
            registry,
            no_ranges: AtomicBool::new(false),
            needs_every_host: false,
            served: Mutex::default(),
        }
    }

    /// A host that cannot be reached or refuses access ends a request, in place of going on with the next one: another
    /// program may use it, such as a mirror on the loopback interface of the node.
    #[cfg(feature = "cri")]
    #[must_use]
    pub(crate) fn needing_every_host(mut self) -> Self {
        self.needs_every_host = true;
        self
    }

    fn failures(&self) -> Failures {
        Failures {
            most_relevant: None,
            needs_every_host: self.needs_every_host,
        }
    }

    /// The hosts that serve content by digest, or those that resolve tags.
    fn hosts(&self, resolve: bool) -> Result<impl Iterator<Item = &Host>, Failure> {
        let hosts = self.hosts.as_ref().map_err(Failure::clone)?;
        let serves = move |host: &&Host| host.pull && (host.resolve || !resolve);
        if !hosts.iter().any(|host| serves(&host)) {
            let registry = self.image.registry();
            let capability = if resolve { "resolve" } else { "pull" };
            return Err(Failure::new(
                Reason::RegistryMisconfigured,
                format!("no host of {registry} in hosts.toml has the capability {capability:?}"),
            ));
        }
        Ok(hosts.iter().filter(serves))
    }

    /// The hosts that serve a blob, with their positions. Those that have served wrong content come last.
    fn hosts_of(&self, blob: &Blob) -> Result<Vec<(usize, &Host)>, Failure> {
        let mut hosts: Vec<_> = self.hosts(false)?.enumerate().collect();
        let served = self.served();
        if let Some(served) = served.get(&blob.digest) {
            hosts.sort_by_key(|(position, _)| served.wrong.contains(position));
        }
        Ok(hosts)
    }

    fn serves(&self, blob: &Blob, position: usize) {
        let mut served = self.served();
        if let Some(served) = served.get_mut(&blob.digest) {
            served.hosts.insert(position);
            return;
        }
        let by = ServedBy {
            hosts: BTreeSet::from([position]),
            ..ServedBy::default()
        };
        served.insert(blob.digest.clone(), by);
    }

    fn served(&self) -> MutexGuard<'_, HashMap<Digest, ServedBy>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The content of a blob was wrong: other hosts are asked first from now on. Returns whether there is one that has
    /// served nothing wrong.
    pub(crate) fn distrust(&self, blob: &Blob) -> bool {
        let hosts = self.hosts(false).map_or(0, Iterator::count);
        let mut served = self.served();
        let Some(by) = served.get_mut(&blob.digest) else {
            return false;
        };
        by.wrong.append(&mut by.hosts);
        by.wrong.len() < hosts
    }

    /// The failure of a blob that came with this digest.
    pub(crate) fn wrong_digest(&self, blob: &Blob, actual: &str) -> Failure {
        let served = self.served();
        let by = served.get(&blob.digest).map(|served| &served.hosts);
        let hosts = self.hosts(false).into_iter().flatten().enumerate();
        let names: Vec<&str> = hosts
            .filter(|(position, _)| by.is_some_and(|by| by.contains(position)))
            .map(|(_, host)| host.access.name())
            .collect();
        let from = match names.as_slice() {
            [] => String::new(),
            names => format!(" from {}", names.join(" and ")),
        };
        Failure::new(
            Reason::DigestMismatch,
            format!("blob {} came{from} with digest {actual}", blob.digest),
        )
    }

    /// The digest that the registry states for the session's image, if it states one.
    ///
    /// Registries do not count this towards their rate limits, or count it less than a read.
    pub(crate) async fn head_manifest(&self) -> Result<Option<Digest>, Failure> {
        let tail = format!("manifests/{}", self.target());
        let mut failures = self.failures();
        for host in self.hosts(self.image.digest().is_none())? {
            match host.send(&Method::HEAD, &tail, "manifest").await {
                Ok(response) => return Ok(stated_digest(&response)),
                Err(failure) => failures.add(failure)?,
            }
        }
        Err(failures.most_relevant())
    }

    /// The manifest of the session's image, verified if its reference has a digest.
    ///
    /// A pull-through cache may have a digest only after it was asked for the tag.
    pub(crate) async fn manifest(&self) -> Result<Fetched, Failure> {
        let found = self
            .fetch_manifest(self.target(), self.image.digest())
            .await;
        match (found, self.image.digest(), self.image.tag()) {
            (Err(missing), Some(digest), Some(tag)) if missing.reason == Reason::ImageNotFound => {
                self.manifest_by_tag(tag, digest, missing).await
            }
            (found, ..) => found,
        }
    }

    async fn manifest_by_tag(
        &self,
        tag: &str,
        digest: &Digest,
        mut missing: Failure,
    ) -> Result<Fetched, Failure> {
        match self.fetch_manifest(tag, Some(digest)).await {
            Err(failure) if failure.reason == Reason::DigestMismatch => {
                missing.message = format!("{}; the tag {tag} is another image", missing.message);
                Err(missing)
            }
            Err(_) => Err(missing),
            found => found,
        }
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
        let resolve = expected.is_none_or(|digest| digest.as_str() != target);
        let mut failures = self.failures();
        for host in self.hosts(resolve)? {
            match host.fetch_manifest(target, expected).await {
                Ok(fetched) => return Ok(fetched),
                Err(failure) => failures.add(failure)?,
            }
        }
        Err(failures.most_relevant())
    }

    /// Starts to read a blob. The body is not verified here.
    ///
    /// If the registry does not have it and the descriptor lists URLs, those are tried, without
    /// credentials.
    pub(crate) async fn blob(&self, blob: &Blob) -> Result<Response, Failure> {
        let tail = format!("blobs/{}", blob.digest);
        let mut failures = self.failures();
        for (position, host) in self.hosts_of(blob)? {
            match host.send(&Method::GET, &tail, "blob").await {
                Ok(response) => {
                    self.serves(blob, position);
                    return Ok(response);
                }
                Err(failure) => failures.add(failure)?,
            }
        }
        self.foreign_blob(blob, failures.most_relevant()).await
    }

    /// Whether parts of blobs were served so far.
    pub(crate) fn serves_ranges(&self) -> bool {
        !self.no_ranges.load(Ordering::Relaxed)
    }

    /// Starts to read a part of a blob, or returns `None` if the registry does not honour or refuses `Range`, or has
    /// content of another length. The answer may end before the part does.
    pub(crate) async fn blob_part(
        &self,
        blob: &Blob,
        range: &Range<u64>,
    ) -> Result<Option<Response>, Failure> {
        let mut failures = self.failures();
        let mut is_refused = false;
        for (position, host) in self.hosts_of(blob)? {
            match host.blob_part(blob, range).await {
                Ok(PartAnswer::Part(response)) => {
                    self.serves(blob, position);
                    return Ok(Some(response));
                }
                Ok(PartAnswer::NoRanges) => {
                    is_refused = true;
                    break;
                }
                Ok(PartAnswer::Refused(failure)) => {
                    is_refused = true;
                    failures.add(failure)?;
                }
                Err(failure) => failures.add(failure)?,
            }
        }
        if !is_refused {
            return Err(failures.most_relevant());
        }
        self.no_ranges.store(true, Ordering::Relaxed);
        Ok(None)
    }

    /// Checks that the registry has a blob of that size, without reading it.
    ///
    /// Registries, their proxies and signed URLs often refuse `HEAD` of content that `GET` returns, so
    /// only a `HEAD` that finds the expected size decides. Otherwise the first byte is requested, and the whole blob if
    /// `Range` may be what is refused, as in a pull.
    pub(crate) async fn has_blob(&self, blob: &Blob) -> Result<(), Failure> {
        let mut failures = self.failures();
        for host in self.hosts(false)? {
            match host.has_blob(blob).await {
                Ok(()) => return Ok(()),
                Err(failure) => failures.add(failure)?,
            }
        }
        self.foreign_blob(blob, failures.most_relevant())
            .await
            .map(drop)
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

    fn target(&self) -> &str {
        match self.image.digest() {
            Some(digest) => digest.as_str(),
            None => self.image.tag().unwrap_or("latest"),
        }
    }
}

/// The answer to a request with `Range`.
enum RangeAnswer {
    /// The host accepts the request, and may ignore `Range`.
    Accepted(Response),
    /// 416.
    Unsatisfiable,
    /// The host refuses the request. It may accept one without `Range`.
    Refused(Failure),
}

/// The answer to a request for a part of a blob.
enum PartAnswer {
    Part(Response),
    /// The host has the blob, and does not serve parts of it.
    NoRanges,
    /// The host refuses the request. It may accept one without `Range`.
    Refused(Failure),
}

/// Whether a request without `Range` may succeed. Proxies refuse the header in different ways, and some storage behind a
/// signed URL does not accept one that is not part of the signature. If it was something else, that request shows it.
fn may_refuse_ranges(status: StatusCode, failure: &Failure) -> bool {
    let may_be_ranges = matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::FORBIDDEN
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_ACCEPTABLE
            | StatusCode::PRECONDITION_FAILED
            | StatusCode::NOT_IMPLEMENTED
    );
    let is_throttled = failure.reason == Reason::TooManyRequests || failure.retry_after.is_some();
    may_be_ranges && !is_throttled
}

/// The failures of several hosts. The most relevant one is reported, as in containerd: an answer of a
/// registry before "not found", and that before a connection that failed; the first of each kind.
struct Failures {
    most_relevant: Option<Failure>,
    /// Whether the next host is not asked after one that this process cannot use.
    needs_every_host: bool,
}

impl Failures {
    /// Adds the failure of a host, or returns it if the next host is not to be asked.
    fn add(&mut self, failure: Failure) -> Result<(), Failure> {
        let is_unusable = matches!(
            failure.reason,
            Reason::ConnectionFailed | Reason::RegistryMisconfigured | Reason::Unauthorized
        );
        if self.needs_every_host && is_unusable {
            return Err(failure);
        }
        let relevance = |failure: &Failure| match failure.reason {
            Reason::ConnectionFailed | Reason::RegistryMisconfigured => 1,
            Reason::ImageNotFound => 2,
            _ => 3,
        };
        if self
            .most_relevant
            .as_ref()
            .is_none_or(|known| relevance(known) < relevance(&failure))
        {
            self.most_relevant = Some(failure);
        }
        Ok(())
    }

    fn most_relevant(self) -> Failure {
        self.most_relevant
            .unwrap_or_else(|| Failure::new(Reason::Unknown, "no host was asked"))
    }
}

/// One host that serves the repository.
struct Host {
    access: Access,
    pull: bool,
    resolve: bool,
    /// Whether the host answers `HEAD` of a blob otherwise than `GET`.
    head_is_wrong: AtomicBool,
}

impl Host {
    async fn fetch_manifest(
        &self,
        target: &str,
        expected: Option<&Digest>,
    ) -> Result<Fetched, Failure> {
        let tail = format!("manifests/{target}");
        let response = self.send(&Method::GET, &tail, "manifest").await?;
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

    async fn blob_part(&self, blob: &Blob, range: &Range<u64>) -> Result<PartAnswer, Failure> {
        let response = match self.ranged(blob, range).await? {
            RangeAnswer::Accepted(response) => response,
            RangeAnswer::Unsatisfiable => return Ok(PartAnswer::NoRanges),
            RangeAnswer::Refused(failure) => return Ok(PartAnswer::Refused(failure)),
        };
        let is_part = response.status() == StatusCode::PARTIAL_CONTENT
            && number(&response, CONTENT_RANGE.as_str(), |text| {
                text.trim().strip_prefix("bytes ")?.split('-').next()
            }) == Some(range.start)
            && number(&response, CONTENT_RANGE.as_str(), total) == Some(blob.size);
        Ok(match is_part {
            true => PartAnswer::Part(response),
            false => PartAnswer::NoRanges,
        })
    }

    /// Requests a range of a blob, which is not empty.
    async fn ranged(&self, blob: &Blob, range: &Range<u64>) -> Result<RangeAnswer, Failure> {
        let tail = format!("blobs/{}", blob.digest);
        let value = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        let value = HeaderValue::from_str(&value)
            .map_err(|error| Failure::new(Reason::Unknown, error.to_string()))?;
        let headers = HeaderMap::from_iter([(RANGE, value)]);
        let response = self.request(&Method::GET, &tail, headers).await?;
        let status = response.status();
        if status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(RangeAnswer::Unsatisfiable);
        }
        match self.accepted(response, "blob").await {
            Ok(response) => Ok(RangeAnswer::Accepted(response)),
            Err(failure) if may_refuse_ranges(status, &failure) => {
                Ok(RangeAnswer::Refused(failure))
            }
            Err(failure) => Err(failure),
        }
    }

    async fn has_blob(&self, blob: &Blob) -> Result<(), Failure> {
        let tail = format!("blobs/{}", blob.digest);
        if !self.head_is_wrong.load(Ordering::Relaxed) {
            let response = self.request(&Method::HEAD, &tail, HeaderMap::new()).await?;
            if response.status() == StatusCode::TOO_MANY_REQUESTS {
                return self.accepted(response, "blob").await.map(drop);
            }
            let length = number(&response, CONTENT_LENGTH.as_str(), Some);
            if response.status().is_success() && length == Some(blob.size) {
                return Ok(());
            }
        }
        let response = match self.ranged(blob, &(0..1)).await? {
            RangeAnswer::Accepted(response) => response,
            // The body is not read.
            RangeAnswer::Unsatisfiable | RangeAnswer::Refused(_) => {
                self.send(&Method::GET, &tail, "blob").await?
            }
        };
        self.head_is_wrong.store(true, Ordering::Relaxed);
        let length = match response.status() {
            StatusCode::PARTIAL_CONTENT => number(&response, CONTENT_RANGE.as_str(), total),
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

    async fn send(&self, method: &Method, tail: &str, what: &str) -> Result<Response, Failure> {
        let response = self.request(method, tail, HeaderMap::new()).await?;
        self.accepted(response, what).await
    }

    async fn request(
        &self,
        method: &Method,
        tail: &str,
        mut headers: HeaderMap,
    ) -> Result<Response, Failure> {
        headers.insert(ACCEPT, HeaderValue::from_static(accept_for(tail)));
        self.access.request(method, tail, &headers).await
    }

    async fn accepted(&self, response: Response, what: &str) -> Result<Response, Failure> {
        if response.status().is_success() {
            return Ok(response);
        }
        let action = match self.access.elsewhere(&response) {
            Some(origin) => {
                format!(
                    "{origin}, to which {} redirects, refuses the {what}",
                    self.access.name()
                )
            }
            None => format!("{} refuses the {what}", self.access.name()),
        };
        let failure = failure_of_response(&action, response).await;
        Err(self.access.without_secrets(failure))
    }
}

/// The `Accept` header: manifests are negotiated, blobs are not.
fn accept_for(tail: &str) -> &'static str {
    if tail.starts_with("manifests/") {
        manifest::ACCEPT
    } else {
        "*/*"
    }
}

fn stated_digest(response: &Response) -> Option<Digest> {
    let value = response.headers().get(CONTENT_DIGEST)?;
    Digest::parse(value.to_str().ok()?).ok()
}

/// The length of the whole content, of a `Content-Range`.
fn total(content_range: &str) -> Option<&str> {
    content_range.rsplit_once('/').map(|(_, total)| total)
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
