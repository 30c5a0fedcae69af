//! The HTTP client for registries: proxies, plain HTTP, timeouts, and the failures of its requests.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fledged_core::error::{Failure, Reason, plain_text};
use fledged_core::model::ImageRef;
use jiff::Timestamp;
use reqwest::header::RETRY_AFTER;
use reqwest::{Response, Url};

use super::ensure_tls_provider;
use super::hosts_file::HostEntry;
use super::no_proxy::NoProxy;
use super::tls_failure::{misconfiguration, tls_error};
use super::trust::{Trust, TrustId};
use crate::classify;

pub(super) const USER_AGENT: &str = concat!("fledged/", env!("CARGO_PKG_VERSION"));
/// Longest part of an error body that is read, in bytes. Registries answer with a few hundred.
const ERROR_BODY_MAX: usize = 16 * 1024;
/// Longest part of a registry's error text that a message repeats, in characters.
const ERROR_TEXT_MAX: usize = 400;

/// A file of certificate authorities to trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryAuthority {
    /// The only registry (`host` or `host:port`) that it is for; `None`: all of them.
    pub registry: Option<String>,
    /// One or more certificates in PEM form.
    pub file: PathBuf,
}

/// How registries are reached.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RegistryOptions {
    /// Registries (`host` or `host:port`) that serve plain HTTP only.
    pub plain_http: Vec<String>,
    /// Registries (`host` or `host:port`) whose certificate is not verified, and which are reached by plain
    /// HTTP if they do not speak TLS, as with Docker's `insecure-registries`.
    ///
    /// Registries on the loopback interface are always reached by plain HTTP or unverified HTTPS.
    pub insecure: Vec<String>,
    /// Certificate authorities, in addition to those of the machine.
    pub authorities: Vec<RegistryAuthority>,
    /// Folders with a folder for each registry, which has a `hosts.toml` or certificate files as for
    /// containerd; see [`hosts_dirs_of_this_machine`](super::hosts_dirs_of_this_machine). Read for each image.
    pub hosts_dirs: Vec<PathBuf>,
    /// Limit on establishing a connection.
    pub connect_timeout: Duration,
    /// Limit on the time without progress while an answer is read. Every received byte resets it.
    pub read_timeout: Duration,
}

impl RegistryOptions {
    /// Sets [`insecure`](Self::insecure).
    #[must_use]
    pub fn with_insecure<H: Into<String>>(mut self, hosts: impl IntoIterator<Item = H>) -> Self {
        self.insecure = hosts.into_iter().map(Into::into).collect();
        self
    }

    /// Sets [`read_timeout`](Self::read_timeout).
    #[must_use]
    pub fn with_read_timeout(mut self, timeout: Duration) -> Self {
        self.read_timeout = timeout;
        self
    }
}

impl Default for RegistryOptions {
    /// HTTPS; 10 s to connect, which covers two retransmissions of a lost SYN; 60 s without
    /// progress, because a pull-through registry may fetch from its upstream before the first byte.
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            insecure: Vec::new(),
            authorities: Vec::new(),
            hosts_dirs: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(60),
        }
    }
}

/// One repository, as messages and as requests name it.
#[derive(Debug, Clone)]
pub(super) struct Repository {
    /// The registry as in the image reference: `docker.io`, `registry.example:5000`.
    pub(super) registry: String,
    /// The `host[:port]` that serves it: `registry-1.docker.io` for `docker.io`.
    pub(super) host: String,
    /// Its name within the registry: `library/nginx`.
    pub(super) path: String,
}

impl Repository {
    pub(super) fn of(image: &ImageRef) -> Self {
        let host = match image.registry() {
            // As in containerd and Docker.
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        Self {
            registry: image.registry().to_owned(),
            host: host.to_owned(),
            path: image.repository().to_owned(),
        }
    }
}

/// A client for container registries of the OCI distribution specification. Cheap to clone; clones
/// share connections.
#[derive(Debug, Clone)]
pub struct Registry {
    options: Arc<RegistryOptions>,
    no_proxy: Arc<NoProxy>,
    /// The HTTP clients, one for each set of TLS settings.
    clients: Arc<Mutex<BTreeMap<TrustId, Http>>>,
    /// The scheme of hosts that may have either.
    schemes: Arc<Mutex<BTreeMap<String, &'static str>>>,
}

impl Registry {
    /// A client with those options. Connects to no registry.
    ///
    /// The proxies in `HTTP_PROXY` and `HTTPS_PROXY` are used, except for what `NO_PROXY` names and for
    /// registries on the loopback interface, as in containerd and Docker.
    ///
    /// # Errors
    ///
    /// [`Reason::RegistryMisconfigured`] for a file of authorities that cannot be read.
    pub fn new(options: RegistryOptions) -> Result<Self, Failure> {
        ensure_tls_provider();
        let all = options.authorities.iter().map(|authority| &authority.file);
        Trust::read(&HostEntry::default(), all, true)?;
        Ok(Self {
            options: Arc::new(options),
            no_proxy: Arc::new(NoProxy::from_env()),
            clients: Arc::default(),
            schemes: Arc::default(),
        })
    }

    pub(super) fn options(&self) -> &RegistryOptions {
        &self.options
    }

    /// The HTTP clients with those TLS settings.
    ///
    /// # Errors
    ///
    /// [`Reason::RegistryMisconfigured`] if the settings do not fit together.
    pub(super) fn http(&self, trust: Trust) -> Result<Http, Failure> {
        let id = trust.id();
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = clients.get(&id) {
            return Ok(known.clone());
        }
        let limit = trust.dial_timeout.unwrap_or(self.options.connect_timeout);
        let config = trust.client_config()?;
        let builder = || {
            reqwest::Client::builder()
                .user_agent(USER_AGENT)
                .tls_backend_preconfigured(config.clone())
                // Followed by hand: credentials must not follow a redirect.
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(limit)
                .read_timeout(self.options.read_timeout)
        };
        let unsupported = |error: reqwest::Error| {
            let text = format!("cannot set up HTTP: {error}");
            Failure::new(Reason::RuntimeUnsupported, text)
        };
        let http = Http {
            proxied: builder().build().map_err(unsupported)?,
            direct: builder().no_proxy().build().map_err(unsupported)?,
            no_proxy: Arc::clone(&self.no_proxy),
        };
        clients.insert(id, http.clone());
        Ok(http)
    }

    /// The HTTP clients for servers that no `hosts.toml` is for.
    ///
    /// # Errors
    ///
    /// [`Reason::RegistryMisconfigured`] for a file of authorities that cannot be read.
    pub(super) fn default_http(&self) -> Result<Http, Failure> {
        let for_all = self.options.authorities.iter();
        let files = for_all
            .filter(|authority| authority.registry.is_none())
            .map(|authority| &authority.file);
        self.http(Trust::read(&HostEntry::default(), files, true)?)
    }

    /// The one of both schemes that the host spoke before, else both: the scheme to try first, and the one to try if
    /// the host does not speak it.
    pub(super) fn schemes(
        &self,
        host: &str,
        both: (&'static str, Option<&'static str>),
    ) -> (&'static str, Option<&'static str>) {
        if both.1.is_none() {
            return both;
        }
        let known = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(host) {
            Some(scheme) => (scheme, None),
            None => both,
        }
    }

    /// A host speaks that scheme; `None`: it no longer answers.
    pub(super) fn learn_scheme(&self, host: &str, scheme: Option<&'static str>) {
        let mut known = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
        match scheme {
            Some(scheme) => known.insert(host.to_owned(), scheme),
            None => known.remove(host),
        };
    }
}

/// HTTP clients with the same TLS settings.
#[derive(Debug, Clone)]
pub(super) struct Http {
    proxied: reqwest::Client,
    /// For registries on this machine and in `NO_PROXY`.
    direct: reqwest::Client,
    no_proxy: Arc<NoProxy>,
}

impl Http {
    /// The client for that URL.
    pub(super) fn client(&self, url: &Url) -> &reqwest::Client {
        if is_loopback(url.host_str().unwrap_or_default()) || self.no_proxy.matches(url) {
            &self.direct
        } else {
            &self.proxied
        }
    }
}

/// Whether a registry is on this machine, by its name alone, as in containerd and Docker.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Reads a body until it ends or is longer than `limit` bytes, which the result's length shows.
pub(super) async fn read_at_most(
    mut response: Response,
    limit: usize,
) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > limit {
            break;
        }
    }
    Ok(body)
}

/// The failure of a request without a complete answer.
///
/// The URL is left out: after a redirect it may carry a signature.
pub(super) fn failure_of_transport(action: &str, error: reqwest::Error) -> Failure {
    // A URL that the registry named: a redirect, or the realm of a challenge.
    let reason = if error.is_builder() {
        Reason::RegistryError
    } else {
        Reason::ConnectionFailed
    };
    if let Some(problem) = tls_error(&error).and_then(misconfiguration) {
        return Failure::new(
            Reason::RegistryMisconfigured,
            format!("{action}: {problem}"),
        );
    }
    let error = error.without_url();
    let mut message = format!("{action}: {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner.to_string();
        // Wrappers repeat the text of what they wrap.
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        cause = inner.source();
    }
    Failure::new(reason, message)
}

/// The failure of a request that a registry refused.
pub(super) async fn failure_of_response(action: &str, response: Response) -> Failure {
    let refusal = Refusal::read(response).await;
    let message = if refusal.text.is_empty() {
        format!("{action}: {}", refusal.status)
    } else {
        format!("{action}: {}: {}", refusal.status, refusal.text)
    };
    let mut failure = classify::from_status(refusal.status.as_u16(), message);
    if failure.reason == Reason::Unknown {
        failure.reason = match classify::reason_of_text(&refusal.text) {
            // A registry's text says nothing about this node.
            Reason::DiskFull | Reason::StoreUnusable | Reason::RuntimeUnavailable => {
                Reason::Unknown
            }
            reason => reason,
        };
    }
    failure.with_retry_after(refusal.retry_after)
}

/// The failure of a handshake that a token server refused. Only an answer about the credentials means
/// that they are refused; everything else is the token server's trouble, and tried again.
pub(super) async fn failure_of_refused_token(action: &str, response: Response) -> Failure {
    let refusal = Refusal::read(response).await;
    let reason = reason_of_refused_token(refusal.status.as_u16(), &refusal.text);
    let message = if refusal.text.is_empty() {
        format!("{action}: the token server refused: {}", refusal.status)
    } else {
        format!(
            "{action}: the token server refused: {}: {}",
            refusal.status, refusal.text
        )
    };
    Failure::new(reason, message).with_retry_after(refusal.retry_after)
}

/// Error codes of a token server (RFC 6749, section 5.2) that are about the credentials.
const REFUSED_CREDENTIALS: [&str; 5] = [
    "invalid_grant",
    "invalid_client",
    "unauthorized_client",
    "access_denied",
    "unauthorized",
];

fn reason_of_refused_token(status: u16, text: &str) -> Reason {
    let lower = text.to_lowercase();
    match (status, classify::reason_of_text(text)) {
        (429, _) => Reason::TooManyRequests,
        (408, _) => Reason::ConnectionFailed,
        // A server in trouble may also answer with a status that does not say so.
        (400..=499, reason @ (Reason::TooManyRequests | Reason::RegistryError)) => reason,
        (401 | 403, _) | (400, Reason::Unauthorized) => Reason::Unauthorized,
        (400, _) if REFUSED_CREDENTIALS.iter().any(|code| lower.contains(code)) => {
            Reason::Unauthorized
        }
        _ => Reason::RegistryError,
    }
}

/// The message of an answer with an error status.
struct Refusal {
    status: reqwest::StatusCode,
    retry_after: Option<Duration>,
    /// The registry's error text, on one line.
    text: String,
}

impl Refusal {
    async fn read(response: Response) -> Self {
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| classify::retry_after(value, Timestamp::now()));
        let status = response.status();
        let body = first_bytes(response).await;
        Self {
            status,
            retry_after,
            text: registry_text(&body),
        }
    }
}

/// The start of a body, as far as it can be read.
async fn first_bytes(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() >= ERROR_BODY_MAX {
            body.truncate(ERROR_BODY_MAX);
            break;
        }
    }
    body
}

/// The messages of a distribution-specification error body, or else the whole text, on one line.
fn registry_text(body: &[u8]) -> String {
    let messages = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|json| {
            let errors = json.get("errors")?.as_array()?;
            let texts: Vec<String> = errors
                .iter()
                .map(|error| {
                    let field = |name| error.get(name).and_then(|v| v.as_str()).unwrap_or("");
                    match (field("code"), field("message")) {
                        (code, "") => code.to_lowercase(),
                        ("", message) => message.to_owned(),
                        (code, message) => format!("{}: {message}", code.to_lowercase()),
                    }
                })
                .filter(|text| !text.is_empty())
                .collect();
            (!texts.is_empty()).then(|| texts.join("; "))
        });
    let text = messages.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    plain_text(&text, ERROR_TEXT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_body_becomes_one_line() {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"Tag":"v9"}}]}"#;
        assert_eq!(registry_text(body), "manifest_unknown: manifest unknown");
        assert_eq!(
            registry_text(b"<h1>502\n Bad  Gateway</h1>"),
            "<h1>502 Bad Gateway</h1>"
        );
        assert_eq!(registry_text(b""), "");
        let long = "x".repeat(10_000);
        assert_eq!(
            registry_text(long.as_bytes()).chars().count(),
            ERROR_TEXT_MAX + 1
        );
    }

    #[test]
    fn a_failing_token_server_does_not_refuse_credentials() {
        let details = r#"{"details":"incorrect username or password"}"#;
        for (status, text, reason) in [
            (401, details, Reason::Unauthorized),
            (403, "", Reason::Unauthorized),
            (400, r#"{"error":"invalid_grant"}"#, Reason::Unauthorized),
            (400, "unauthorized: who are you", Reason::Unauthorized),
            (400, "", Reason::RegistryError),
            (404, "not found", Reason::RegistryError),
            (500, "unknown: internal server error", Reason::RegistryError),
            (500, "unauthorized", Reason::RegistryError),
            (429, "", Reason::TooManyRequests),
            (403, "toomanyrequests: slow down", Reason::TooManyRequests),
            (503, details, Reason::RegistryError),
            (507, "", Reason::RegistryError),
        ] {
            assert_eq!(
                reason_of_refused_token(status, text),
                reason,
                "{status} {text}"
            );
        }
    }
}
