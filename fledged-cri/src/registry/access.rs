//! Requests with an authorisation for each origin, and redirects that carry none to another.
//!
//! The credentials belong to one origin, the registry that the image reference names, or a mirror of it
//! that `hosts.toml` names. A redirect may lead to another registry, which is authorised by its own
//! challenge and anonymously, as in containerd.

use std::collections::BTreeMap;
use std::time::Instant;

use fledged_core::error::{Failure, Reason};
use fledged_core::port::RegistryAuth;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::{Response, Url};
use secrecy::ExposeSecret;
use tokio::sync::Mutex;

use super::challenge::Challenges;
use super::client::{Registry, Repository, failure_of_transport};
use super::endpoint::Endpoint;
use super::redirect::{Origin, REDIRECTS_MAX, redirect};
use super::tls_failure::{is_not_tls, is_refusal, tls_error};
use super::token::{self, Authorization, Login};
use crate::classify::redact;

/// The authorisation at one origin. `generation` counts its renewals.
#[derive(Default)]
struct Grant {
    generation: u64,
    header: Option<HeaderValue>,
    /// When the header expires.
    until: Option<Instant>,
}

/// Requests about one repository at one host, with one set of credentials.
pub(super) struct Access {
    registry: Registry,
    /// The only host that receives the credentials.
    endpoint: Endpoint,
    repository: Repository,
    auth: Option<RegistryAuth>,
    grants: Mutex<BTreeMap<Origin, Grant>>,
}

impl Access {
    /// Requests about `repository` to a host that serves it.
    pub(super) fn new(
        registry: Registry,
        endpoint: Endpoint,
        repository: Repository,
        auth: Option<RegistryAuth>,
    ) -> Self {
        let access = Self {
            registry,
            endpoint,
            repository,
            auth,
            grants: Mutex::default(),
        };
        let mut grants = BTreeMap::new();
        // The registry itself has issued it, no mirror.
        if let (Some(RegistryAuth::RegistryToken(token)), None) =
            (&access.auth, &access.endpoint.mirror_of)
        {
            let (first, second) = access.endpoint.reach.schemes();
            for scheme in [Some(first), second].into_iter().flatten() {
                let grant = Grant {
                    header: token::bearer(token.expose_secret()).ok(),
                    ..Grant::default()
                };
                grants.insert(access.origin(scheme), grant);
            }
        }
        Self {
            grants: Mutex::new(grants),
            ..access
        }
    }

    /// The host, as messages name it.
    pub(super) fn name(&self) -> &str {
        &self.endpoint.name
    }

    /// The scheme of the host, and the one to try if the host does not speak it.
    fn schemes(&self) -> (&'static str, Option<&'static str>) {
        let both = self.endpoint.reach.schemes();
        self.registry.schemes(&self.endpoint.host, both)
    }

    fn origin(&self, scheme: &str) -> Origin {
        let root = format!("{scheme}://{}", self.endpoint.host);
        Origin::of_root(root)
    }

    /// The origin of the host itself.
    fn home(&self) -> Origin {
        self.origin(self.schemes().0)
    }

    /// The URL of something in the repository, `manifests/1`.
    fn url(&self, scheme: &str, tail: &str) -> Result<Url, Failure> {
        let Endpoint { host, path, .. } = &self.endpoint;
        let url = format!("{scheme}://{host}{path}/{}/{tail}", self.repository.path);
        let mut url = Url::parse(&url)
            .map_err(|error| Failure::new(Reason::InvalidReference, error.to_string()))?;
        if let Some(registry) = &self.endpoint.mirror_of {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        Ok(url)
    }

    /// Sends one request about something in the repository, `manifests/1`, and follows redirects. At each
    /// origin that asks for an authorisation, the request is repeated with one.
    ///
    /// # Errors
    ///
    /// [`Reason::ConnectionFailed`], [`Reason::RegistryMisconfigured`], [`Reason::RegistryError`] for too
    /// many or malformed redirects, or the failure of a token server. An answer with an error status is not
    /// a failure here.
    pub(super) async fn request(
        &self,
        method: &Method,
        tail: &str,
        headers: &HeaderMap,
    ) -> Result<Response, Failure> {
        let mut response = self.first(method, tail, headers).await?;
        for _ in 0..REDIRECTS_MAX {
            match redirect(&response).map_err(|problem| self.bad_redirect(problem))? {
                Some(next) => response = self.authorized(method, &next, headers).await?,
                None => return Ok(response),
            }
        }
        match redirect(&response) {
            Ok(None) => Ok(response),
            _ => Err(self.bad_redirect(&format!("redirects more than {REDIRECTS_MAX} times"))),
        }
    }

    /// The answer of the host itself, by the scheme that it speaks.
    async fn first(
        &self,
        method: &Method,
        tail: &str,
        headers: &HeaderMap,
    ) -> Result<Response, Failure> {
        let (scheme, other) = self.schemes();
        let url = self.url(scheme, tail)?;
        let sent = self.send(method, &url, headers).await;
        let Some(other) = other else {
            if sent.is_err() {
                self.registry.learn_scheme(&self.endpoint.host, None);
            }
            return self.answered(method, &url, headers, sent).await;
        };
        if is_of_another_scheme(&self.endpoint.host, scheme, &sent) {
            let other_url = self.url(other, tail)?;
            let other_sent = self.send(method, &other_url, headers).await;
            let counts = match &other_sent {
                Ok(_) => !is_of_another_scheme(&self.endpoint.host, other, &other_sent),
                // The error by the scheme that the host speaks is the one to report.
                Err((_, error)) => {
                    tls_error(error).is_some_and(is_refusal)
                        || sent
                            .as_ref()
                            .is_err_and(|(_, error)| tls_error(error).is_some_and(is_not_tls))
                }
            };
            if counts {
                if other_sent.is_ok() {
                    self.registry.learn_scheme(&self.endpoint.host, Some(other));
                }
                return self.answered(method, &other_url, headers, other_sent).await;
            }
        }
        if sent.is_ok() {
            self.registry
                .learn_scheme(&self.endpoint.host, Some(scheme));
        }
        self.answered(method, &url, headers, sent).await
    }

    /// The origin of an answer, if it is not the registry's own.
    pub(super) fn elsewhere(&self, response: &Response) -> Option<Origin> {
        Some(Origin::of(response.url())).filter(|origin| *origin != self.home())
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
        let headers = self.endpoint.headers.values();
        let headers = headers.filter_map(|value| value.to_str().ok());
        let secret = secret.iter().map(|secret| secret.expose_secret());
        let secrets: Vec<&str> = secret.chain(headers).collect();
        failure.message = redact(&failure.message, &secrets);
        failure
    }

    async fn authorized(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
    ) -> Result<Response, Failure> {
        let sent = self.send(method, url, headers).await;
        self.answered(method, url, headers, sent).await
    }

    /// Sends a request with the current authorisation, whose generation is returned.
    async fn send(&self, method: &Method, url: &Url, headers: &HeaderMap) -> Sent {
        let (generation, header) = self.current(&Origin::of(url)).await;
        match self.once(method, url, headers, header).await {
            Ok(response) => Ok((generation, response)),
            Err(error) => Err((generation, error)),
        }
    }

    /// The answer to a request that was sent, or to its repetition if it was refused.
    async fn answered(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        sent: Sent,
    ) -> Result<Response, Failure> {
        let (generation, response) = sent.map_err(|(_, error)| self.unreachable(url, error))?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let origin = Origin::of(url);
        let challenges = Challenges::in_headers(response.headers());
        match self.renew(&origin, url, generation, &challenges).await? {
            Some(header) => {
                let sent = self.once(method, url, headers, Some(header)).await;
                sent.map_err(|error| self.unreachable(url, error))
            }
            None => Ok(response),
        }
    }

    async fn once(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        authorization: Option<HeaderValue>,
    ) -> Result<Response, reqwest::Error> {
        let client = self.endpoint.http.client(url);
        let mut headers = headers.clone();
        if Origin::of(url) == self.home() {
            for (name, value) in &self.endpoint.headers {
                headers.append(name, value.clone());
            }
        }
        // In place of one in hosts.toml.
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, value);
        }
        let request = client.request(method.clone(), url.clone());
        request.headers(headers).send().await
    }

    fn unreachable(&self, url: &Url, error: reqwest::Error) -> Failure {
        let (origin, name) = (Origin::of(url), self.name());
        let action = if origin.host_name() == self.home().host_name() {
            format!("cannot reach {name}")
        } else {
            format!("cannot reach {origin}, to which {name} redirects")
        };
        failure_of_transport(&action, error)
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
            let home = self.home();
            let own = *origin == home || home.is_upgraded_to(origin);
            let name = if own {
                self.name().to_owned()
            } else {
                origin.to_string()
            };
            let login = Login {
                http: &self.endpoint.http,
                name: &name,
                repository: repository_of(url).unwrap_or(&self.repository.path),
                plain: origin.is_plain(),
                headers: match own {
                    true => self.endpoint.headers.clone(),
                    false => HeaderMap::new(),
                },
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
        Failure::new(Reason::RegistryError, format!("{} {problem}", self.name()))
    }
}

/// What became of a request, with the generation of its authorisation.
type Sent = Result<(u64, Response), (u64, reqwest::Error)>;

/// Whether the outcome of a request suggests that the host speaks the other scheme.
fn is_of_another_scheme(host: &str, scheme: &str, sent: &Sent) -> bool {
    let has_port = host
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.ends_with(']'));
    match sent {
        // A server that expects TLS answers plain HTTP with 400.
        Ok((_, response)) => scheme == "http" && response.status() == StatusCode::BAD_REQUEST,
        Err((_, error)) => match tls_error(error) {
            Some(error) => !is_refusal(error),
            // With a port, the other scheme would be refused at the same one.
            None if error.is_connect() => !has_port || error.is_timeout(),
            None => scheme == "http",
        },
    }
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
}
