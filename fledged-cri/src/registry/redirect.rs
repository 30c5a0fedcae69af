//! Redirects, and the origin that credentials belong to.

use std::fmt;

use http::header::LOCATION;
use reqwest::{Response, Url};

/// Most redirects of one request, as in Go's HTTP client.
pub(super) const REDIRECTS_MAX: usize = 10;

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin(String);

impl Origin {
    /// Of `scheme://host[:port]`, in its normal form if it is a valid URL.
    pub(super) fn of_root(root: String) -> Self {
        Url::parse(&root).map_or(Self(root), |url| Self::of(&url))
    }

    pub(super) fn of(url: &Url) -> Self {
        Self(url.origin().ascii_serialization())
    }

    pub(super) fn is_plain(&self) -> bool {
        self.0.starts_with("http://")
    }

    /// The host without its port.
    pub(super) fn host_name(&self) -> &str {
        let host = self.0.split_once("://").map_or("", |(_, host)| host);
        match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => name,
            _ => host,
        }
    }

    /// Whether the other origin is the same host by HTTPS, and this one is not.
    pub(super) fn is_upgraded_to(&self, other: &Self) -> bool {
        self.is_plain() && !other.is_plain() && self.host_name() == other.host_name()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
