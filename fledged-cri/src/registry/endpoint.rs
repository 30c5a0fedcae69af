//! The hosts that serve a registry, in the order in which they are tried: the mirrors of `hosts.toml`, then
//! the registry itself.

use fledged_core::error::Failure;
use http::HeaderMap;

use super::client::{Http, Registry, RegistryOptions, Repository, is_loopback};
use super::hosts_file::{self, Address, HostEntry};
use super::trust::Trust;

/// The schemes by which a host is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Https,
    Http,
    /// Plain HTTP if the host does not speak TLS.
    HttpsThenHttp,
    /// HTTPS if the host does not speak plain HTTP.
    HttpThenHttps,
}

impl Reach {
    /// The scheme that is tried first, and the other one.
    pub(super) fn schemes(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Https => ("https", None),
            Self::Http => ("http", None),
            Self::HttpsThenHttp => ("https", Some("http")),
            Self::HttpThenHttps => ("http", Some("https")),
        }
    }
}

/// One host that serves a registry.
pub(super) struct Endpoint {
    /// As messages name it.
    pub(super) name: String,
    /// `host[:port]`.
    pub(super) host: String,
    /// The path before the repository, `/v2`.
    pub(super) path: String,
    pub(super) reach: Reach,
    /// Whether blobs and manifests are fetched here by digest.
    pub(super) pull: bool,
    /// Whether tags are resolved here.
    pub(super) resolve: bool,
    /// Sent with each request to this host.
    pub(super) headers: HeaderMap,
    /// The registry that a mirror stands for, which it gets as `?ns=`.
    pub(super) mirror_of: Option<String>,
    pub(super) http: Http,
}

/// The hosts of a repository's registry.
///
/// # Errors
///
/// [`Reason::RegistryMisconfigured`] for a `hosts.toml` or a certificate file that cannot be used.
pub(super) fn endpoints(
    registry: &Registry,
    repository: &Repository,
) -> Result<Vec<Endpoint>, Failure> {
    let options = registry.options();
    let mut entries = hosts_file::entries(&options.hosts_dirs, &repository.registry)?;
    if entries.is_empty() {
        entries.push(HostEntry::default());
    }
    entries
        .into_iter()
        .map(|entry| endpoint(registry, repository, entry))
        .collect()
}

fn endpoint(
    registry: &Registry,
    repository: &Repository,
    entry: HostEntry,
) -> Result<Endpoint, Failure> {
    let options = registry.options();
    let name = &repository.registry;
    let is_own = entry.address.is_none();
    let address = entry.address.clone().unwrap_or_else(|| Address {
        plain: false,
        host: repository.host.clone(),
        path: "/v2".to_owned(),
    });
    let is_mirror = address.host != *name && address.host != repository.host;
    let is_named = |host: &str| host == address.host || (!is_mirror && host == name);
    let authorities: Vec<_> = options
        .authorities
        .iter()
        .filter(|authority| authority.registry.as_deref().is_none_or(is_named))
        .map(|authority| &authority.file)
        .collect();
    let (reach, verify) = reach(options, &entry, &address, is_own, is_named);
    let trust = Trust::read(&entry, authorities, verify)?;
    Ok(Endpoint {
        name: if is_mirror {
            format!("the mirror {} of {name}", address.host)
        } else {
            name.clone()
        },
        http: registry.http(trust)?,
        host: address.host,
        path: address.path,
        reach,
        pull: entry.pull,
        resolve: entry.resolve,
        headers: entry.header,
        mirror_of: is_mirror.then(|| name.clone()),
    })
}

/// How a host is reached, and whether its certificate is verified.
fn reach(
    options: &RegistryOptions,
    entry: &HostEntry,
    address: &Address,
    is_own: bool,
    is_named: impl Fn(&str) -> bool,
) -> (Reach, bool) {
    let listed = |hosts: &[String]| hosts.iter().any(|host| is_named(host));
    let port = address
        .host
        .rsplit_once(':')
        .map(|(_, port)| port)
        .filter(|port| !port.ends_with(']'));
    let verify = !entry.skip_verify.unwrap_or(false);
    if listed(&options.plain_http) {
        return (Reach::Http, verify);
    }
    if listed(&options.insecure) {
        return (Reach::HttpsThenHttp, false);
    }
    if is_own && is_loopback(&address.host) {
        let pinned = |host: &Option<String>| host.as_deref().is_some_and(&is_named);
        if options.authorities.iter().any(|a| pinned(&a.registry)) {
            return (Reach::Https, true);
        }
        // As in containerd.
        let reach = match port {
            Some("80") => Reach::Http,
            Some("443") => Reach::HttpsThenHttp,
            _ => Reach::HttpThenHttps,
        };
        return (reach, false);
    }
    let reach = match (address.plain, entry.has_tls()) {
        (false, _) => Reach::Https,
        (true, true) if port.is_some_and(|port| port != "80") => Reach::HttpsThenHttp,
        (true, _) => Reach::Http,
    };
    (reach, verify)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::client::RegistryAuthority;
    use super::*;

    fn reached(options: &RegistryOptions, host: &str, url: Option<&str>) -> (Reach, bool) {
        let entry = HostEntry::default();
        let address = Address {
            plain: url.is_some_and(|url| url.starts_with("http://")),
            host: host.to_owned(),
            path: "/v2".to_owned(),
        };
        reach(options, &entry, &address, url.is_none(), |name| {
            name == host
        })
    }

    #[test]
    fn plain_http_only_on_loopback_or_by_name() {
        let options = RegistryOptions {
            plain_http: vec!["plain.lan:5000".to_owned()],
            insecure: vec!["insecure.lan:5000".to_owned()],
            ..RegistryOptions::default()
        };
        for (host, reach, verify) in [
            ("127.0.0.1:5000", Reach::HttpThenHttps, false),
            ("127.9.9.9", Reach::HttpThenHttps, false),
            ("localhost", Reach::HttpThenHttps, false),
            ("[::1]:5000", Reach::HttpThenHttps, false),
            ("localhost:80", Reach::Http, false),
            ("localhost:443", Reach::HttpsThenHttp, false),
            ("plain.lan:5000", Reach::Http, true),
            ("insecure.lan:5000", Reach::HttpsThenHttp, false),
            ("plain.lan", Reach::Https, true),
            ("plain.lan:5001", Reach::Https, true),
            ("localhost.example", Reach::Https, true),
            ("127.0.0.1.example:5000", Reach::Https, true),
            ("10.0.0.1:5000", Reach::Https, true),
            ("registry-1.docker.io", Reach::Https, true),
        ] {
            assert_eq!(reached(&options, host, None), (reach, verify), "{host}");
        }
        let mirror = reached(&options, "m.lan", Some("http://m.lan"));
        assert_eq!(mirror, (Reach::Http, true));
    }

    #[test]
    fn an_authority_for_a_loopback_registry_is_enforced() {
        let authority = RegistryAuthority {
            registry: None,
            file: PathBuf::from("ca.pem"),
        };
        let mut options = RegistryOptions {
            authorities: vec![authority],
            ..RegistryOptions::default()
        };
        let found = reached(&options, "localhost:5000", None);
        assert_eq!(found, (Reach::HttpThenHttps, false));
        options.authorities[0].registry = Some("localhost:5000".to_owned());
        let found = reached(&options, "localhost:5000", None);
        assert_eq!(found, (Reach::Https, true));
    }
}
