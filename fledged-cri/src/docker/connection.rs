//! The connection to Docker Engine: API version, credentials, and the one call that the client
//! library cannot make.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use bytes::Bytes;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ByteSize, ImageRef};
use fledged_core::port::RegistryAuth;
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use super::failure;

/// Limit on the time until the Engine begins an answer. Listing and disk usage walk its whole store,
/// which takes minutes on slow disks; the Docker CLI has no limit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// The same for a pull, whose answer begins when the registry has answered. In effect no limit: the
/// caller of a pull has a deadline and drops the future.
const PULL_ANSWER_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// The header that carries credentials (Docker Engine API, "Authentication").
const AUTH_HEADER: &str = "X-Registry-Auth";

/// Docker Engine behind a Unix socket.
#[derive(Debug)]
pub(super) struct Connection {
    socket: PathBuf,
    /// The client with the negotiated API version. It opens a connection for each request.
    client: Mutex<Option<Docker>>,
}

impl Connection {
    pub(super) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            client: Mutex::new(None),
        }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    /// A client that has negotiated an API version with the Engine.
    pub(super) async fn client(&self) -> Result<Docker, Failure> {
        let mut client = self.client.lock().await;
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let connected = self.connect().await?;
        *client = Some(connected.clone());
        Ok(connected)
    }

    /// A client for a pull, whose answer may begin late.
    pub(super) async fn pull_client(&self) -> Result<Docker, Failure> {
        Ok(self.client().await?.with_timeout(PULL_ANSWER_TIMEOUT))
    }

    async fn connect(&self) -> Result<Docker, Failure> {
        let path = self.socket.to_str().ok_or_else(|| {
            let path = self.socket.display();
            let problem = format!("the socket's path {path} is not valid UTF-8");
            Failure::new(Reason::RuntimeUnavailable, problem)
        })?;
        Docker::connect_with_unix(path, ANSWER_TIMEOUT.as_secs(), API_DEFAULT_VERSION)
            .map_err(|e| failure::of(&e, &self.socket, None))?
            .with_request_modifier(with_engine_auth)
            .negotiate_version()
            .await
            .map_err(|e| failure::of(&e, &self.socket, None))
    }

    /// The failure of a call. After an Engine was unavailable, the API version is negotiated again,
    /// because the Engine may have been upgraded.
    pub(super) async fn failure(&self, error: &bollard::errors::Error) -> Failure {
        self.failure_with(error, None).await
    }

    /// The failure of a call that carried a secret, which the message does not repeat.
    pub(super) async fn failure_with(
        &self,
        error: &bollard::errors::Error,
        secret: Option<&str>,
    ) -> Failure {
        let failure = failure::of(error, &self.socket, secret);
        if failure.reason == Reason::RuntimeUnavailable {
            *self.client.lock().await = None;
        }
        failure
    }

    /// Bytes that the layers of all images take, each counted once.
    ///
    /// A request of our own: the client library reads only the newest form of the answer, which
    /// leaves the size out for Engines before API version 1.52.
    pub(super) async fn image_bytes(&self) -> Result<ByteSize, Failure> {
        let unavailable = |error: &dyn std::fmt::Display| {
            let text = format!("no disk usage from {}: {error}", self.socket.display());
            Failure::new(Reason::RuntimeUnavailable, text)
        };
        let unavailable = &unavailable;
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|e| unavailable(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| unavailable(&e))?;
        let request = Request::get("/system/df")
            .header(http::header::HOST, "docker")
            .body(Empty::<Bytes>::new())
            .map_err(|e| unavailable(&e))?;
        let answer = async move {
            let response = sender
                .send_request(request)
                .await
                .map_err(|e| unavailable(&e))?;
            let status = response.status();
            let body = response.into_body().collect().await;
            let body = body.map_err(|e| unavailable(&e))?.to_bytes();
            if !status.is_success() {
                let text = String::from_utf8_lossy(&body).trim().to_owned();
                return Err(Failure::new(Reason::Unknown, text));
            }
            Ok(body)
        };
        // The connection is polled until the answer is complete; it ends when the sender is dropped.
        let both = async { futures_util::join!(answer, connection).0 };
        let body = tokio::time::timeout(ANSWER_TIMEOUT, both)
            .await
            .map_err(|e| unavailable(&e))?;
        parse_disk_usage(&body?)
    }
}

/// The answer of `GET /system/df`, reduced to the images.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DiskUsage {
    /// The size of all layers, each counted once; up to API version 1.51.
    layers_size: Option<i64>,
    /// The same since API version 1.52.
    image_usage: Option<ImageUsage>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageUsage {
    total_size: Option<i64>,
}

fn parse_disk_usage(body: &[u8]) -> Result<ByteSize, Failure> {
    let usage: DiskUsage = serde_json::from_slice(body).map_err(|e| {
        let text = format!("malformed disk usage: {e}");
        Failure::new(Reason::Unknown, text)
    })?;
    let bytes = usage
        .image_usage
        .and_then(|images| images.total_size)
        .or(usage.layers_size)
        .unwrap_or_default();
    Ok(ByteSize::new(u64::try_from(bytes).unwrap_or_default()))
}

/// The credentials in the Engine's form.
pub(super) fn credentials(auth: &RegistryAuth, image: &ImageRef) -> DockerCredentials {
    let mut credentials = DockerCredentials {
        serveraddress: Some(image.registry().to_owned()),
        ..DockerCredentials::default()
    };
    match auth {
        RegistryAuth::Basic { username, password } => {
            credentials.username = Some(username.clone());
            credentials.password = Some(password.expose_secret().to_owned());
        }
        RegistryAuth::IdentityToken(token) => {
            credentials.identitytoken = Some(token.expose_secret().to_owned());
        }
        RegistryAuth::RegistryToken(token) => {
            credentials.registrytoken = Some(token.expose_secret().to_owned());
        }
    }
    credentials
}

/// The secret part of the credentials.
pub(super) fn secret(auth: &RegistryAuth) -> &str {
    match auth {
        RegistryAuth::Basic { password, .. } => password.expose_secret(),
        RegistryAuth::IdentityToken(token) | RegistryAuth::RegistryToken(token) => {
            token.expose_secret()
        }
    }
}

/// Rewrites the credentials header in the URL-safe alphabet of base64, the only one that the Engine
/// reads, and marks it as sensitive.
///
/// The client library writes the standard alphabet. The Engine treats a header that it cannot decode as
/// "no credentials" and pulls anonymously, so that some passwords would work and others would not.
fn with_engine_auth(mut request: BollardRequest) -> BollardRequest {
    let Some(value) = request.headers_mut().get_mut(AUTH_HEADER) else {
        return request;
    };
    let url_safe: Vec<u8> = value
        .as_bytes()
        .iter()
        .map(|byte| match byte {
            b'+' => b'-',
            b'/' => b'_',
            other => *other,
        })
        .collect();
    if let Ok(mut url_safe) = HeaderValue::from_bytes(&url_safe) {
        url_safe.set_sensitive(true);
        *value = url_safe;
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_disk_usage_are_read() {
        let old = parse_disk_usage(br#"{"LayersSize": 1234, "Images": []}"#);
        assert_eq!(old, Ok(ByteSize::new(1234)));
        let new = parse_disk_usage(br#"{"ImageUsage": {"TotalCount": 2, "TotalSize": 99}}"#);
        assert_eq!(new, Ok(ByteSize::new(99)));
        assert_eq!(
            parse_disk_usage(br#"{"LayersSize": -1}"#),
            Ok(ByteSize::ZERO)
        );
        assert!(parse_disk_usage(b"[").is_err());
    }
}
