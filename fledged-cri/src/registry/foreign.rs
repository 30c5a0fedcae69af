//! Layers outside the registry, by the URLs of their descriptor ("foreign layers").
//!
//! The author of an image chooses these URLs, and the node requests them. They must not reach what only
//! the node can reach: its own services, its network, the metadata service of its cloud.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::{Response, Url};

use super::client::Registry;
use super::redirect::{REDIRECTS_MAX, redirect};

/// The answer to an anonymous request for one URL.
///
/// # Errors
///
/// The problem, for a log message. It does not repeat the URL, which may carry a signature.
pub(super) async fn fetch(registry: &Registry, url: &str) -> Result<Response, String> {
    let mut url = Url::parse(url).map_err(|error| error.to_string())?;
    let http = registry.default_http().map_err(|failure| failure.message)?;
    for _ in 0..=REDIRECTS_MAX {
        check(&url).await?;
        let response = http
            .client(&url)
            .get(url)
            .send()
            .await
            .map_err(|error| error.without_url().to_string())?;
        match redirect(&response)? {
            Some(next) => url = next,
            None if response.status().is_success() => return Ok(response),
            None => return Err(response.status().to_string()),
        }
    }
    Err(format!("redirects more than {REDIRECTS_MAX} times"))
}

/// Checks that a URL uses HTTPS and leads to a public address.
async fn check(url: &Url) -> Result<(), &'static str> {
    if url.scheme() != "https" {
        return Err("the URL does not use HTTPS");
    }
    let host = url.host_str().ok_or("the URL has no host")?;
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<IpAddr> = match name.parse() {
        Ok(address) => vec![address],
        // A name that this machine cannot resolve may be known to its proxy.
        Err(_) => tokio::net::lookup_host((name, url.port_or_known_default().unwrap_or(443)))
            .await
            .map(|found| found.map(|socket| socket.ip()).collect())
            .unwrap_or_default(),
    };
    if addresses.iter().all(|address| is_public(*address)) {
        Ok(())
    } else {
        Err("the URL leads to an address that is not public")
    }
}

/// Whether an address is one of the public internet (IANA's special-purpose registries).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => match embedded_v4(v6) {
            Some(v4) => is_public_v4(v4),
            None => is_public_v6(v6),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        // Carrier-grade NAT, which clouds also use for their own services.
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        // Benchmarks.
        || (a == 198 && (18..20).contains(&b))
        // Reserved, and broadcast.
        || a >= 240;
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    // Global unicast, without the range for documentation.
    first & 0xe000 == 0x2000 && !(first == 0x2001 && second == 0xdb8)
}

/// The IPv4 address in an IPv6 one: mapped, compatible, or of a NAT64 gateway or 6to4.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [s0, s1, s2, s3, s4, s5, s6, s7] = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match [s0, s1, s2, s3, s4, s5] {
        [0, 0, 0, 0, 0, 0xffff | 0] | [0x64, 0xff9b, 0, 0, 0, 0] => Some(v4(s6, s7)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{RegistryOptions, fake};
    use super::*;

    #[tokio::test]
    async fn only_public_https_urls_are_fetched() {
        for public in [
            "https://8.8.8.8/layer",
            "https://[2606:4700::1]/layer",
            "https://[64:ff9b::808:808]:8443/layer",
        ] {
            assert_eq!(
                check(&Url::parse(public).unwrap()).await,
                Ok(()),
                "{public}"
            );
        }
        for refused in [
            "http://8.8.8.8/layer",
            "ftp://8.8.8.8/layer",
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://localhost/",
            "https://10.1.2.3/",
            "https://172.16.0.1/",
            "https://192.168.0.1:8443/",
            "https://169.254.169.254/latest/meta-data",
            "https://100.100.100.200/",
            "https://0.0.0.0/",
            "https://224.0.0.1/",
            "https://255.255.255.255/",
            "https://[::1]/",
            "https://[::]/",
            "https://[fe80::1]/",
            "https://[fd00:ec2::254]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[64:ff9b::a9fe:a9fe]/",
            "https://[2002:7f00:1::]/",
        ] {
            assert!(
                check(&Url::parse(refused).unwrap()).await.is_err(),
                "{refused}"
            );
        }
    }

    #[tokio::test]
    async fn a_local_server_gets_no_request() {
        let server = fake::Fake::start(|_, _| fake::Answer::new(200, "x")).await;
        let registry = Registry::new(RegistryOptions::default()).unwrap();
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{}/layer", server.addr);
            assert!(fetch(&registry, &url).await.is_err(), "{url}");
        }
        assert!(server.asked().is_empty());
    }
}
