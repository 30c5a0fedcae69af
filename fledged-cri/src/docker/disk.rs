//! How much room the Engine's images take, and how much is left.

use std::path::Path;

use bytes::Bytes;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::ByteSize;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;

use super::connection::ANSWER;

/// `GET /system/df`, of which only the images matter here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DiskUsage {
    /// All layers, each counted once; until API version 1.51.
    layers_size: Option<i64>,
    /// The same from API version 1.52 on.
    image_usage: Option<ImageUsage>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImageUsage {
    total_size: Option<i64>,
}

/// Bytes that all layers take, each counted once.
///
/// The client knows the newest form of the answer only, in which the Engines of today say nothing.
pub(super) async fn image_bytes(socket: &Path) -> Result<ByteSize, Failure> {
    let unavailable = |error: &dyn std::fmt::Display| {
        let text = format!("no disk usage from {}: {error}", socket.display());
        Failure::new(Reason::RuntimeUnavailable, text)
    };
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|e| unavailable(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| unavailable(&e))?;
    let request = Request::get("/system/df")
        .header(http::header::HOST, "docker")
        .body(Empty::<Bytes>::new())
        .map_err(|e| unavailable(&e))?;
    let complain = &unavailable;
    let answer = async move {
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| complain(&e))?;
        let status = response.status();
        let body = response.into_body().collect().await;
        let body = body.map_err(|e| complain(&e))?.to_bytes();
        if !status.is_success() {
            let text = String::from_utf8_lossy(&body).trim().to_owned();
            return Err(Failure::new(Reason::Unknown, text));
        }
        Ok(body)
    };
    // The connection has to be driven until the answer is there; it ends with the sender.
    let both = async { futures_util::join!(answer, connection).0 };
    let body = tokio::time::timeout(ANSWER, both)
        .await
        .map_err(|e| unavailable(&e))?;
    parse(&body?)
}

fn parse(body: &[u8]) -> Result<ByteSize, Failure> {
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

/// Bytes that can still be written below a folder; `None` where it is not visible from here (a
/// remote Engine, or one in another mount namespace).
pub(super) async fn available_bytes(folder: String) -> Option<ByteSize> {
    // A file system that hangs must not hang the caller's thread.
    let asked = tokio::task::spawn_blocking(move || rustix::fs::statvfs(folder));
    let usage = asked.await.ok()?.ok()?;
    Some(ByteSize::new(usage.f_bavail.saturating_mul(usage.f_frsize)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_answer_are_read() {
        let old = parse(br#"{"LayersSize": 1234, "Images": []}"#);
        assert_eq!(old, Ok(ByteSize::new(1234)));
        let new = parse(br#"{"ImageUsage": {"TotalCount": 2, "TotalSize": 99}}"#);
        assert_eq!(new, Ok(ByteSize::new(99)));
        assert_eq!(parse(br#"{"LayersSize": -1}"#), Ok(ByteSize::ZERO));
        assert!(parse(b"[").is_err());
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_has_no_room_to_tell_of() {
        assert!(available_bytes("/".to_owned()).await.is_some());
        assert_eq!(available_bytes("/no/such/folder".to_owned()).await, None);
    }
}
