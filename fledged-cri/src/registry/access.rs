//! Requests with an authorisation for each origin, and redirects that carry none to another.
//!
//! The credentials belong to one origin, the registry that the image reference names. A redirect may
//! lead to another registry, which is authorised by its own challenge and anonymously, as in
//! containerd.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use fledged_core::error::{Failure, Reason};
use fledged_core::port::RegistryAuth;
use http::header::{AUTHORIZATION, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::{Response, Url};
use secrecy::ExposeSecret;
use tokio::sync::Mutex;

use super::challenge::Challenges;
use super::client::{Registry, Repository, failure_of_transport};
use super::token::{self, Authorization, Login};
use crate::classify::redact;

/// Most redirects of one request, as in Go's HTTP client.
pub(super) const REDIRECTS_MAX: usize = 10;

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin(String);

impl Origin {
    pub(super) fn of(url: &Url) -> Self {
        Self(url.origin().ascii_serialization())
    }

    fn is_plain(&self) -> bool {
        self.0.starts_with("http://")
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The authorisation at one origin. `generation` counts its renewals.
#[derive(Default)]
struct Grant {
    generation: u64,
    header: Option<HeaderValue>,
    /// When the header expires.
    until: Option<Instant>,
}

/// Requests about one repository, with one set of credentials.
pub(super) struct Access {
    registry: Registry,
    repository: Repository,
    /// The only origin that receives the credentials.
    home: Origin,
    auth: Option<RegistryAuth>,
    grants: Mutex<BTreeMap<Origin, Grant>>,
}

impl Access {
    /// Requests to the registry of `repository`.
    pub(super) fn new(
        registry: Registry,
        repository: Repository,
        auth: Option<RegistryAuth>,
    ) -> Self {
        let (scheme, host) = (registry.scheme(&repository.host), &repository.host);
        let root = format!("{scheme}://{host}");
        let home = Url::parse(&root).map_or(Origin(root), |url| Origin::of(&url));
        let mut grants = BTreeMap::new();
        if let Some(RegistryAuth::RegistryToken(token)) = &auth {
            let grant = Grant {
                header: token::bearer(token.expose_secret()).ok(),
                ..Grant::default()
            };
            grants.insert(home.clone(), grant);
        }
        Self {
            registry,
            repository,
            home,
            auth,
            grants: Mutex::new(grants),
        }
    }

    /// Sends one request and follows redirects. At each origin that asks for an authorisation, the
    /// request is repeated with one.
    ///
    /// # Errors
    ///
    /// [`Reason::ConnectionFailed`], [`Reason::RegistryError`] for too many or malformed redirects, or
    /// the failure of a token server. An answer with an error status is not a failure here.
    pub(super) async fn request(
        &self,
        method: &Method,
        url: &str,
        headers: &HeaderMap,
    ) -> Result<Response, Failure> {
        let mut url = Url::parse(url)
            .map_err(|error| Failure::new(Reason::InvalidReference, error.to_string()))?;
        for _ in 0..=REDIRECTS_MAX {
            let response = self.authorized(method, &url, headers).await?;
            match redirect(&response).map_err(|problem| self.bad_redirect(problem))? {
                Some(next) => url = next,
                None => return Ok(response),
            }
        }
        Err(self.bad_redirect(&format!("redirects more than {REDIRECTS_MAX} times")))
    }

    /// The origin of an answer, if it is not the registry's own.
    pub(super) fn elsewhere(&self, response: &Response) -> Option<Origin> {
        Some(Origin::of(response.url())).filter(|origin| *origin != self.home)
    }

    /// The failure without the credentials, which a server may repeat in its answer.
    pub(super) fn without_secrets(&self, mut failure: Failure) -> Failure {
        let secret = match &self.auth {
            Some(RegistryAuth::Basic { password, .. }) => Some(password),
            Some(RegistryAuth::IdentityToken(token) | RegistryAuth::RegistryToken(token)) => {
                Some(token)
            }
            None => None,
        };
        let secrets: Vec<&str> = secret.iter().map(|secret| secret.expose_secret()).collect();
        failure.message = redact(&failure.message, &secrets);
        failure
    }

    async fn authorized(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response, Failure> {
        let origin = Origin::of(url);
        let (generation, header) = self.current(&origin).await;
        let response = self.once(method, url, headers, header).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let challenges = Challenges::in_headers(response.headers());
        match self.renew(&origin, url, generation, &challenges).await? {
            Some(header) => self.once(method, url, headers, Some(header)).await,
            None => Ok(response),
        }
    }

    async fn once(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        authorization: Option<HeaderValue>,
    ) -> Result<Response, Failure> {
        let client = self.registry.http(url);
        let mut request = client
            .request(method.clone(), url.clone())
            .headers(headers.clone());
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        request.send().await.map_err(|error| {
            let origin = Origin::of(url);
            let action = if origin == self.home {
                format!("cannot reach {}", self.repository.registry)
            } else {
                let registry = &self.repository.registry;
                format!("cannot reach {origin}, to which {registry} redirects")
            };
            failure_of_transport(&action, error)
        })
    }

    /// The authorisation at an origin. An expired one is left out, so that the next answer has a
    /// challenge.
    async fn current(&self, origin: &Origin) -> (u64, Option<HeaderValue>) {
        let grants = self.grants.lock().await;
        let Some(grant) = grants.get(origin) else {
            return (0, None);
        };
        let valid = grant.until.is_none_or(|until| Instant::now() < until);
        (grant.generation, grant.header.clone().filter(|_| valid))
    }

    /// A fresh authorisation at an origin, or the current one if another request has renewed it since
    /// `generation`.
    async fn renew(
        &self,
        origin: &Origin,
        url: &Url,
        generation: u64,
        challenges: &Challenges,
    ) -> Result<Option<HeaderValue>, Failure> {
        let mut grants = self.grants.lock().await;
        let grant = grants.entry(origin.clone()).or_default();
        if grant.generation == generation {
            let own = *origin == self.home;
            let name = if own {
                self.repository.registry.clone()
            } else {
                origin.to_string()
            };
            let login = Login {
                registry: &self.registry,
                name: &name,
                repository: repository_of(url).unwrap_or(&self.repository.path),
                plain: origin.is_plain(),
            };
            let auth = self.auth.as_ref().filter(|_| own);
            let granted = login
                .authorize(auth, challenges)
                .await
                .map_err(|failure| self.without_secrets(failure))?;
            let (header, lifetime) = match granted {
                Some(Authorization { header, lifetime }) => (Some(header), lifetime),
                None => (None, None),
            };
            grant.header = header;
            grant.until = lifetime.and_then(|lifetime| Instant::now().checked_add(lifetime));
            grant.generation += 1;
        }
        Ok(grant.header.clone())
    }

    fn bad_redirect(&self, problem: &str) -> Failure {
        let registry = &self.repository.registry;
        Failure::new(Reason::RegistryError, format!("{registry} {problem}"))
    }
}

/// Where an answer redirects to, or `None` if it is no redirect.
pub(super) fn redirect(response: &Response) -> Result<Option<Url>, &'static str> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let Some(location) = response.headers().get(LOCATION) else {
        return Ok(None);
    };
    let target = std::str::from_utf8(location.as_bytes())
        .ok()
        .and_then(|location| response.url().join(location).ok())
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    target
        .map(Some)
        .ok_or("redirects to an address that is not a valid URL")
}

/// The repository that a URL of the distribution specification is about: `a/b` of
/// `/v2/a/b/manifests/1`.
fn repository_of(url: &Url) -> Option<&str> {
    let path = url.path().strip_prefix("/v2/")?;
    let at = path
        .rfind("/manifests/")
        .or_else(|| path.rfind("/blobs/"))?;
    path.get(..at).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let home = Origin::of(&url("https://r.example/v2/a/manifests/1"));
        assert_eq!(home, Origin::of(&url("https://R.example:443/")));
        for other in [
            "http://r.example/",
            "https://r.example:5000/",
            "https://x.r.example/",
            "https://r.example.evil/",
        ] {
            assert_ne!(home, Origin::of(&url(other)), "{other}");
        }
    }

    #[test]
    fn the_repository_is_read_from_the_url() {
        for (text, expected) in [
            ("https://r/v2/a/b/manifests/1", Some("a/b")),
            ("https://r/v2/a/blobs/sha256:00", Some("a")),
            ("https://r/v2/blobs/manifests/1", Some("blobs")),
            ("https://r/v2/", None),
            ("https://r/signed/object?x=/v2/", None),
        ] {
            assert_eq!(repository_of(&url(text)), expected, "{text}");
        }
    }

    #[test]
    fn a_redirect_needs_a_valid_target() {
        let answer = |status: u16, location: &str| {
            let answer = http::Response::builder()
                .status(status)
                .header(LOCATION, location)
                .body("")
                .unwrap();
            redirect(&Response::from(answer)).map(|target| target.map(String::from))
        };
        let target = "https://b.example/x?y=z".to_owned();
        for status in [301, 302, 303, 307, 308] {
            assert_eq!(
                answer(status, &target),
                Ok(Some(target.clone())),
                "{status}"
            );
        }
        assert_eq!(answer(200, &target), Ok(None));
        assert_eq!(answer(304, &target), Ok(None));
        for bad in ["file:///etc/passwd", "ftp://b.example/", "https://"] {
            assert!(answer(307, bad).is_err(), "{bad}");
        }
    }
}
