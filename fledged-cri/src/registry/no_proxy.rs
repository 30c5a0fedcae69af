//! Hosts that are reached without a proxy, by the rules of Go (`golang.org/x/net/http/httpproxy`),
//! which containerd, Docker and the kubelet follow.

use std::net::IpAddr;

use ipnet::IpNet;
use reqwest::Url;

/// One entry of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    All,
    Network(IpNet),
    Address(IpAddr, Option<u16>),
    /// A suffix with its leading dot, whether the domain itself matches too, and a port.
    Domain(String, bool, Option<u16>),
}

/// The rules in `NO_PROXY`, or `no_proxy` if that is empty.
#[derive(Debug, Clone, Default)]
pub(super) struct NoProxy(Vec<Rule>);

impl NoProxy {
    pub(super) fn from_env() -> Self {
        let found = ["NO_PROXY", "no_proxy"]
            .iter()
            .filter_map(|name| std::env::var(name).ok())
            .find(|value| !value.is_empty());
        Self::parse(&found.unwrap_or_default())
    }

    pub(super) fn parse(list: &str) -> Self {
        let entries = list.split(',').map(|entry| entry.trim().to_lowercase());
        Self(entries.filter_map(|entry| rule(&entry)).collect())
    }

    /// Whether requests for that URL use no proxy.
    pub(super) fn matches(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else {
            return false;
        };
        let host = host.trim_end_matches('.').to_lowercase();
        let address: Option<IpAddr> = bare(&host).parse().ok();
        let port = url.port_or_known_default();
        let at = |wanted: &Option<u16>| wanted.is_none() || *wanted == port;
        self.0.iter().any(|rule| match rule {
            Rule::All => true,
            Rule::Network(network) => address.is_some_and(|address| network.contains(&address)),
            Rule::Address(wanted, port) => address == Some(*wanted) && at(port),
            Rule::Domain(suffix, itself, port) => {
                let whole = *itself && suffix.strip_prefix('.') == Some(host.as_str());
                (whole || host.ends_with(suffix.as_str())) && at(port)
            }
        })
    }
}

fn rule(entry: &str) -> Option<Rule> {
    if entry == "*" {
        return Some(Rule::All);
    }
    if let Ok(network) = entry.parse() {
        return Some(Rule::Network(network));
    }
    // An IPv6 address without brackets has no port.
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) if bare(entry).parse::<IpAddr>().is_err() => {
            (host, Some(port.parse().ok()?))
        }
        _ => (entry, None),
    };
    if let Ok(address) = bare(host).parse() {
        return Some(Rule::Address(address, port));
    }
    let host = host
        .strip_prefix('*')
        .filter(|rest| rest.starts_with('.'))
        .unwrap_or(host);
    let (suffix, itself) = match host.strip_prefix('.') {
        Some(_) => (host.to_owned(), false),
        None => (format!(".{host}"), true),
    };
    (suffix.len() > 1).then_some(Rule::Domain(suffix, itself, port))
}

/// An IPv6 address without its brackets.
fn bare(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_match_as_in_go() {
        for (list, url, matches) in [
            ("*", "https://r.example/", true),
            ("", "https://r.example/", false),
            ("corp.example", "https://corp.example/", true),
            ("corp.example", "https://reg.corp.example/", true),
            ("corp.example", "https://notcorp.example/", false),
            (".corp.example", "https://reg.corp.example/", true),
            (".corp.example", "https://corp.example/", false),
            ("*.corp.example", "https://reg.corp.example/", true),
            ("*.corp.example", "https://a.reg.corp.example/", true),
            ("*.corp.example", "https://corp.example/", false),
            ("*corp.example", "https://reg.corp.example/", false),
            (
                "a.b, REG.Corp.Example ,c",
                "https://reg.corp.example:5000/",
                true,
            ),
            (
                "reg.corp.example:5000",
                "https://reg.corp.example:5000/",
                true,
            ),
            ("reg.corp.example:5000", "https://reg.corp.example/", false),
            ("reg.corp.example:443", "https://reg.corp.example/", true),
            (".corp.example:443", "https://reg.corp.example/", true),
            ("10.0.0.0/8", "https://10.1.2.3:5000/", true),
            ("10.0.0.0/8", "https://11.1.2.3/", false),
            ("10.0.0.0/8", "https://10.example/", false),
            ("10.1.2.3", "https://10.1.2.3:5000/", true),
            ("10.1.2.3:5000", "https://10.1.2.3:5000/", true),
            ("10.1.2.3:5000", "https://10.1.2.3/", false),
            ("fd00:10::5", "https://[fd00:10::5]:5000/", true),
            ("[fd00:10::5]", "https://[fd00:10::5]:5000/", true),
            ("[fd00:10::5]:5000", "https://[fd00:10::5]:5000/", true),
            ("[fd00:10::5]:5001", "https://[fd00:10::5]:5000/", false),
            ("fd00::/8", "https://[fd00:10::5]:5000/", true),
            (".", "https://r.example/", false),
            ("r.example:http", "https://r.example/", false),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(
                NoProxy::parse(list).matches(&url),
                matches,
                "{list:?} {url}"
            );
        }
    }
}
