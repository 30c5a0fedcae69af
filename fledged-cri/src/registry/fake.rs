//! A registry of a few lines, whose answers a test chooses request by request. For tests of this crate, and of
//! others by the feature `test-util`.
//!
//! [`Quirk`](super::quirk::Quirk) has the answers of registries that differ from the specification.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

use super::digest::sha256;

/// A request that a fake has received.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `GET`, `HEAD`, ...
    pub method: String,
    /// Path and query.
    pub target: String,
    headers: BTreeMap<String, String>,
    /// The body, empty for most requests.
    pub body: String,
}

impl Asked {
    /// The value of a header, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The `Authorization` header.
    #[must_use]
    pub fn authorization(&self) -> Option<&str> {
        self.header("authorization")
    }

    /// Whether the request has this method, and this text in its target.
    #[must_use]
    pub fn is(&self, method: &str, path: &str) -> bool {
        self.method == method && self.target.contains(path)
    }
}

/// An answer. Its length is stated unless a header does.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
    cut_after: Option<usize>,
    stalling: bool,
    delay: Duration,
}

impl Answer {
    /// An answer without headers of its own.
    #[must_use]
    pub fn new(status: u16, body: impl Into<String>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut_after: None,
            stalling: false,
            delay: Duration::ZERO,
        }
    }

    /// With one more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Closes the connection after that many bytes of the body.
    #[must_use]
    pub fn cut_after(mut self, bytes: usize) -> Self {
        self.cut_after = Some(bytes);
        self
    }

    /// Sends nothing more after that many bytes of the body, and keeps the connection.
    #[must_use]
    pub fn stalling_after(mut self, bytes: usize) -> Self {
        self.stalling = true;
        self.cut_after(bytes)
    }

    /// Waits before each byte of the body.
    #[must_use]
    pub fn slowly(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// 401 with this `WWW-Authenticate` header.
    #[must_use]
    pub fn challenge(value: impl Into<String>) -> Self {
        Self::new(401, "").with("www-authenticate", value)
    }

    /// 307 to this location.
    #[must_use]
    pub fn redirect(to: impl Into<String>) -> Self {
        Self::new(307, "").with("location", to)
    }

    async fn write(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        head_only: bool,
    ) -> io::Result<()> {
        let mut text = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", self.status);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self
            .headers
            .iter()
            .any(|(name, _)| name == "content-length")
        {
            text.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        text.push_str("\r\n");
        stream.write_all(text.as_bytes()).await?;
        if !head_only {
            let length = self.cut_after.unwrap_or(usize::MAX).min(self.body.len());
            let body = self.body.as_bytes().get(..length).unwrap_or_default();
            if self.delay.is_zero() {
                stream.write_all(body).await?;
            } else {
                for byte in body {
                    tokio::time::sleep(self.delay).await;
                    stream.write_all(&[*byte]).await?;
                    stream.flush().await?;
                }
            }
        }
        if self.stalling {
            stream.flush().await?;
            // Until the client closes it.
            let _ = stream.read(&mut [0]).await;
        }
        stream.shutdown().await
    }
}

type Answers = Arc<dyn Fn(&Asked, &str) -> Answer + Send + Sync>;

/// The running server. Its tasks end with the runtime in which it was started.
pub struct Fake {
    /// `127.0.0.1:PORT`.
    pub addr: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    /// Starts a server that answers with `answer`, which gets the request and the server's address.
    ///
    /// # Errors
    ///
    /// No port can be bound.
    pub async fn bind(
        answer: impl Fn(&Asked, &str) -> Answer + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let fake = Self {
            addr: listener.local_addr()?.to_string(),
            asked: Arc::default(),
        };
        let (asked, addr) = (Arc::clone(&fake.asked), fake.addr.clone());
        let answer: Answers = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, asked, addr) = (Arc::clone(&answer), Arc::clone(&asked), addr.clone());
                // The client may close the connection at any time.
                tokio::spawn(async move { serve(stream, &answer, &asked, &addr).await });
            }
        });
        Ok(fake)
    }

    /// The requests so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Every `Authorization` header that the server has received.
    #[must_use]
    pub fn authorizations(&self) -> Vec<String> {
        let asked = self.asked();
        let sent = asked.iter().filter_map(Asked::authorization);
        sent.map(str::to_owned).collect()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &Answers,
    asked: &Mutex<Vec<Asked>>,
    addr: &str,
) -> io::Result<()> {
    let Some(request) = read(&mut stream).await? else {
        return Answer::new(400, "not HTTP").write(&mut stream, false).await;
    };
    let answer = answer(&request, addr);
    let head_only = request.method == "HEAD";
    asked
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(request);
    answer.write(&mut stream, head_only).await
}

/// Reads a request, or `None` if it is none.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Asked>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        // TLS begins with a byte that no method has.
        if stream.read_buf(&mut bytes).await? == 0 || bytes.first() == Some(&0x16) {
            return Ok(None);
        }
    };
    let Some((head, body)) = bytes.split_at_checked(end + 4) else {
        return Ok(None);
    };
    let head = String::from_utf8_lossy(head).into_owned();
    let mut body = body.to_vec();
    let mut lines = head.lines();
    let mut first = lines
        .next()
        .unwrap_or_default()
        .split(' ')
        .map(str::to_owned);
    let (Some(method), Some(target)) = (first.next(), first.next()) else {
        return Ok(None);
    };
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length = headers
        .get("content-length")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    while body.len() < length {
        if stream.read_buf(&mut body).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(Asked {
        method,
        target,
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    }))
}

/// The media type of an OCI manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of an OCI configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The media type of an OCI layer.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The configuration of the fake's image, for linux/amd64.
pub const CONFIG: &str = r#"{"os":"linux","architecture":"amd64"}"#;
/// The layer of the fake's image, which no runtime can unpack.
pub const LAYER: &str = "a layer's bytes";

/// The descriptor of some content.
#[must_use]
pub fn descriptor(media_type: &str, content: &str) -> Value {
    json!({
        "mediaType": media_type,
        "digest": sha256(content.as_bytes()),
        "size": content.len(),
    })
}

/// A manifest with one layer.
#[must_use]
pub fn manifest(config: &str, layer: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(config, CONFIG),
        "layers": [descriptor(layer, LAYER)],
    })
}

/// What a registry without quirks answers about an image.
#[must_use]
pub fn image(asked: &Asked) -> Answer {
    let path = asked.target.split('?').next().unwrap_or_default();
    if path.contains("/manifests/") {
        let body = manifest(OCI_CONFIG, OCI_LAYER).to_string();
        return Answer::new(200, body).with("content-type", OCI_MANIFEST);
    }
    for content in [CONFIG, LAYER] {
        if path.ends_with(&sha256(content.as_bytes())) {
            return Answer::new(200, content);
        }
    }
    Answer::new(404, "")
}

/// What only the tests of this crate need.
#[cfg(test)]
pub(super) mod unit {
    use fledged_core::error::Failure;
    use fledged_core::port::RegistryAuth;
    use secrecy::SecretString;
    use tokio_rustls::TlsAcceptor;

    use super::super::{Platform, Probe, Registry, RegistryOptions};
    use super::*;

    impl Fake {
        pub(in super::super) async fn start(
            answer: impl Fn(&Asked, &str) -> Answer + Send + Sync + 'static,
        ) -> Self {
            Self::bind(answer).await.unwrap()
        }

        /// A server that speaks TLS and, as servers written in Go, answers plain HTTP with 400.
        pub(in super::super) async fn start_tls(
            acceptor: TlsAcceptor,
            answer: impl Fn(&Asked, &str) -> Answer + Send + Sync + 'static,
        ) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let fake = Self {
                addr: listener.local_addr().unwrap().to_string(),
                asked: Arc::default(),
            };
            let (asked, addr) = (Arc::clone(&fake.asked), fake.addr.clone());
            let answer: Answers = Arc::new(answer);
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let mut first = [0];
                    if stream.peek(&mut first).await.is_ok() && first != [0x16] {
                        let text = "Client sent an HTTP request to an HTTPS server.\n";
                        let _ = read(&mut stream).await;
                        let _ = Answer::new(400, text).write(&mut stream, false).await;
                        continue;
                    }
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = serve(stream, &answer, &asked, &addr).await;
                    }
                }
            });
            fake
        }

        pub(in super::super) async fn probe(
            &self,
            auth: Option<RegistryAuth>,
        ) -> Result<Probe, Failure> {
            probe(RegistryOptions::default(), &self.addr, auth).await
        }
    }

    /// Probes `team/app:1` at a registry.
    pub(in super::super) async fn probe(
        options: RegistryOptions,
        registry: &str,
        auth: Option<RegistryAuth>,
    ) -> Result<Probe, Failure> {
        let image = format!("{registry}/team/app:1").parse().unwrap();
        let registry = Registry::new(options)?;
        registry.probe(&image, auth, &platform()).await
    }

    pub(in super::super) fn platform() -> Platform {
        Platform::new("linux", "amd64", "")
    }

    pub(in super::super) fn password(text: &str) -> Option<RegistryAuth> {
        Some(RegistryAuth::Basic {
            username: "ann".to_owned(),
            password: SecretString::from(text),
        })
    }
}
