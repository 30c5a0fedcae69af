//! A registry of a few lines, whose answers a test chooses request by request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fledged_core::error::Failure;
use fledged_core::port::RegistryAuth;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::digest::sha256;
use super::{Platform, Probe, Registry, RegistryOptions};

/// A request that a fake has received.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    headers: BTreeMap<String, String>,
    pub(super) body: String,
}

impl Asked {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(super) fn authorization(&self) -> Option<&str> {
        self.header("authorization")
    }

    pub(super) fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.target.contains(path)
    }
}

/// An answer. Its length is stated unless a header does.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    pub(super) fn new(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn challenge(value: impl Into<String>) -> Self {
        Self::new(401, "").with("www-authenticate", value)
    }

    pub(super) fn redirect(to: impl Into<String>) -> Self {
        Self::new(307, "").with("location", to)
    }
}

/// The running server. Its task ends with the test's runtime.
pub(super) struct Fake {
    pub(super) addr: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    /// Starts a server that answers with `answer`, which gets the request and the server's address.
    pub(super) async fn start(
        answer: impl Fn(&Asked, &str) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (known, own) = (Arc::clone(&asked), addr.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let Some(request) = read(&mut stream).await else {
                    continue;
                };
                let answer = answer(&request, &own);
                let head_only = request.method == "HEAD";
                known.lock().unwrap().push(request);
                let mut text = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", answer.status);
                for (name, value) in &answer.headers {
                    text.push_str(&format!("{name}: {value}\r\n"));
                }
                if !answer
                    .headers
                    .iter()
                    .any(|(name, _)| name == "content-length")
                {
                    text.push_str(&format!("content-length: {}\r\n", answer.body.len()));
                }
                text.push_str("\r\n");
                if !head_only {
                    text.push_str(&answer.body);
                }
                // The client may have closed the connection.
                let _ = stream.write_all(text.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { addr, asked }
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Every `Authorization` header that the server has received.
    pub(super) fn authorizations(&self) -> Vec<String> {
        let asked = self.asked();
        let sent = asked.iter().filter_map(Asked::authorization);
        sent.map(str::to_owned).collect()
    }

    pub(super) async fn probe(&self, auth: Option<RegistryAuth>) -> Result<Probe, Failure> {
        let registry = Registry::new(RegistryOptions::default()).unwrap();
        let image = format!("{}/team/app:1", self.addr).parse().unwrap();
        registry.probe(&image, auth, &platform()).await
    }
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length = headers
        .get("content-length")
        .map_or(0, |text| text.parse().unwrap());
    while bytes.len() < end + 4 + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8(bytes[end + 4..].to_vec()).unwrap();
    Some(Asked {
        method,
        target,
        headers,
        body,
    })
}

pub(super) fn platform() -> Platform {
    Platform::new("linux", "amd64", "")
}

pub(super) fn password(text: &str) -> Option<RegistryAuth> {
    Some(RegistryAuth::Basic {
        username: "ann".to_owned(),
        password: SecretString::from(text),
    })
}

pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(super) const CONFIG: &str = r#"{"os":"linux","architecture":"amd64"}"#;
pub(super) const LAYER: &str = "a layer's bytes";

pub(super) fn descriptor(media_type: &str, content: &str) -> Value {
    json!({
        "mediaType": media_type,
        "digest": sha256(content.as_bytes()),
        "size": content.len(),
    })
}

/// A manifest with one layer.
pub(super) fn manifest(config: &str, layer: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(config, CONFIG),
        "layers": [descriptor(layer, LAYER)],
    })
}

/// What a registry without quirks answers about an image.
pub(super) fn image(asked: &Asked) -> Answer {
    if asked.target.contains("/manifests/") {
        let body = manifest(OCI_CONFIG, OCI_LAYER).to_string();
        return Answer::new(200, body).with("content-type", OCI_MANIFEST);
    }
    for content in [CONFIG, LAYER] {
        if asked.target.ends_with(&sha256(content.as_bytes())) {
            return Answer::new(200, content);
        }
    }
    Answer::new(404, "")
}
