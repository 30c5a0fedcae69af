//! Entry points for fuzzing: what a registry, a token server and the files about registries hold.

use std::path::Path;

use http::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::Url;

use super::challenge::Challenges;
use super::manifest::{Manifest, check_content_type, config_platform};
use super::no_proxy::NoProxy;
use super::{hosts_file, platform::Platform, token};

/// The `WWW-Authenticate` headers of a refused request, one a line.
pub fn challenge(bytes: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(WWW_AUTHENTICATE, value);
        }
    }
    let _ = Challenges::in_headers(&headers);
}

/// The answer of a token server.
pub fn token(bytes: &[u8]) {
    let _ = token::parse_answer(bytes);
}

/// An image manifest, an index or a configuration. The first line is the content type.
pub fn manifest(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (content_type, body) = bytes.split_at(end);
    let content_type = std::str::from_utf8(content_type).ok();
    let content_type = content_type.filter(|text| !text.is_empty());
    let _ = check_content_type(content_type);
    let _ = config_platform(body);
    match Manifest::parse(body, content_type) {
        Ok((Manifest::Index(index), _)) => {
            let _ = index.candidates(&Platform::host());
            let _ = index.platforms();
        }
        Ok((Manifest::Image(image), _)) => {
            let _ = image.blobs();
        }
        Err(_) => {}
    }
}

/// A `hosts.toml`.
pub fn hosts_toml(bytes: &[u8]) {
    let folder = Path::new("/certs.d/registry.example");
    let text = String::from_utf8_lossy(bytes);
    let _ = hosts_file::parse(folder, &folder.join("hosts.toml"), &text);
}

/// A configuration of containerd.
pub fn containerd_config(bytes: &[u8]) {
    let _ = hosts_file::config_path(&String::from_utf8_lossy(bytes));
}

/// A `NO_PROXY` list, matched with some URLs.
pub fn no_proxy(bytes: &[u8]) {
    let list = NoProxy::parse(&String::from_utf8_lossy(bytes));
    for url in [
        "https://registry.example/v2/",
        "http://10.0.0.1:5000/v2/",
        "http://[::1]:5000/v2/",
    ] {
        if let Ok(url) = Url::parse(url) {
            let _ = list.matches(&url);
        }
    }
}
