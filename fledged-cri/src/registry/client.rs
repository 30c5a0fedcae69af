//! The way to all registries: one HTTP client, and which registries speak plain HTTP.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::ImageRef;
use fledged_core::port::RegistryAuth;
use oci_client::client::{ClientConfig, ClientProtocol};

use super::{Session, ensure_tls_provider};

pub(crate) const USER_AGENT: &str = concat!("fledged/", env!("CARGO_PKG_VERSION"));

/// How registries are reached.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RegistryOptions {
    /// Registries (`host` or `host:port`) that speak plain HTTP, besides those on the loopback
    /// interface, which always do.
    pub insecure: Vec<String>,
    /// How long a connection may take to come up.
    pub connect_timeout: Duration,
    /// How long an answer may make no progress; every byte that arrives starts it anew.
    pub read_timeout: Duration,
}

impl RegistryOptions {
    /// With these registries, `host` or `host:port`, over plain HTTP.
    #[must_use]
    pub fn with_insecure<H: Into<String>>(mut self, hosts: impl IntoIterator<Item = H>) -> Self {
        self.insecure = hosts.into_iter().map(Into::into).collect();
        self
    }

    /// With another time for a connection to come up.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// With another time that an answer may make no progress.
    #[must_use]
    pub fn with_read_timeout(mut self, timeout: Duration) -> Self {
        self.read_timeout = timeout;
        self
    }
}

impl Default for RegistryOptions {
    /// HTTPS; 10 s to connect, which spans two retransmissions of a lost SYN; 60 s without
    /// progress, since a registry may fetch from its own upstream before the first byte.
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(60),
        }
    }
}

/// Access to registries. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct Registry {
    http: reqwest::Client,
    /// For this machine; made when it is first needed.
    direct: Arc<OnceLock<reqwest::Client>>,
    options: Arc<RegistryOptions>,
}

impl Registry {
    /// Access with those options. Needs no registry to be up.
    ///
    /// The proxies that `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` name are used, except for
    /// registries on the loopback interface, as in containerd and Docker.
    ///
    /// # Errors
    ///
    /// A [`Failure`] with [`Reason::RuntimeUnsupported`] when this machine's certificates cannot be
    /// read.
    pub fn new(options: RegistryOptions) -> Result<Self, Failure> {
        ensure_tls_provider();
        let http = builder(&options).build().map_err(|error| {
            let mut failure = super::failure::of_transport("cannot set up HTTPS", error);
            failure.reason = Reason::RuntimeUnsupported;
            failure
        })?;
        Ok(Self {
            http,
            direct: Arc::default(),
            options: Arc::new(options),
        })
    }

    /// The client to reach that `host[:port]` with.
    pub(crate) fn http(&self, host: &str) -> &reqwest::Client {
        if !is_loopback(host) {
            return &self.http;
        }
        self.direct.get_or_init(|| {
            // What worked once with the same certificates works again.
            let direct = builder(&self.options).no_proxy().build();
            direct.unwrap_or_else(|_| self.http.clone())
        })
    }

    /// A conversation about one repository, with one set of credentials.
    pub(crate) fn session(&self, image: &ImageRef, auth: Option<RegistryAuth>) -> Session {
        Session::new(self.clone(), image, auth)
    }

    /// `http` or `https`, for a registry's `host[:port]`.
    pub(crate) fn scheme(&self, host: &str) -> &'static str {
        if is_loopback(host) || self.options.insecure.iter().any(|known| known == host) {
            "http"
        } else {
            "https"
        }
    }

    /// The settings of the client that does the handshake with that registry.
    pub(crate) fn handshake_config(&self, host: &str) -> ClientConfig {
        ClientConfig {
            protocol: if self.scheme(host) == "http" {
                ClientProtocol::Http
            } else {
                ClientProtocol::Https
            },
            connect_timeout: Some(self.options.connect_timeout),
            read_timeout: Some(self.options.read_timeout),
            user_agent: USER_AGENT,
            // The client has no switch for "no proxy"; one that is used for no host is the same.
            http_proxy: is_loopback(host).then(|| "http://localhost".to_owned()),
            no_proxy: is_loopback(host).then(|| "*,0.0.0.0/0,::/0".to_owned()),
            ..ClientConfig::default()
        }
    }
}

fn builder(options: &RegistryOptions) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(options.connect_timeout)
        .read_timeout(options.read_timeout)
}

/// Whether a registry is on this machine, by its name alone, as containerd and Docker decide it.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_only_on_loopback_or_by_name() {
        let registry = Registry::new(RegistryOptions {
            insecure: vec!["registry.lan:5000".to_owned()],
            ..RegistryOptions::default()
        })
        .unwrap();
        for plain in [
            "127.0.0.1:5000",
            "127.9.9.9",
            "localhost",
            "localhost:80",
            "[::1]:5000",
            "registry.lan:5000",
        ] {
            assert_eq!(registry.scheme(plain), "http", "{plain}");
        }
        for tls in [
            "registry.lan",
            "registry.lan:5001",
            "localhost.example",
            "127.0.0.1.example:5000",
            "10.0.0.1:5000",
            "index.docker.io",
        ] {
            assert_eq!(registry.scheme(tls), "https", "{tls}");
        }
    }
}
