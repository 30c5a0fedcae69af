//! A registry that serves one image under every name, unless a script answers instead.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fledged_tests::{Image, ImageBuilder};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A request that reached the registry.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) path: String,
    /// The address under which the client knows the registry.
    pub(super) host: String,
    pub(super) authorization: Option<String>,
    pub(super) body: String,
}

/// A whole answer.
pub(super) type Answer = Response<Full<Bytes>>;

type Script = dyn Fn(&Asked) -> Option<Answer> + Send + Sync;

/// The registry, on a loopback port until it is dropped.
pub(super) struct ScriptedRegistry {
    addr: String,
    log: Arc<Mutex<Vec<Asked>>>,
    server: JoinHandle<()>,
}

impl ScriptedRegistry {
    /// Starts a registry. The script answers a request, or leaves it to the image.
    pub(super) async fn start(
        script: impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (script, log): (Arc<Script>, Arc<Mutex<Vec<Asked>>>) =
            (Arc::new(script), Arc::default());
        let image = Arc::new(files(&ImageBuilder::new().build()));
        let asked = Arc::clone(&log);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, log, image) =
                    (Arc::clone(&script), Arc::clone(&asked), Arc::clone(&image));
                let service = service_fn(move |request| {
                    let (script, log, image) =
                        (Arc::clone(&script), Arc::clone(&log), Arc::clone(&image));
                    async move {
                        let asked = read(request).await?;
                        log.lock().unwrap().push(asked.clone());
                        Ok::<_, hyper::Error>(
                            script(&asked).unwrap_or_else(|| serve(&image, &asked)),
                        )
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { addr, log, server }
    }

    /// `host:port`.
    pub(super) fn addr(&self) -> &str {
        &self.addr
    }

    /// A reference to the image under this name.
    pub(super) fn reference(&self, name: &str) -> String {
        format!("{}/{name}:1", self.addr)
    }

    /// The requests so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.log.lock().unwrap().clone()
    }
}

impl Drop for ScriptedRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Returns an answer with a status, a header and a body.
pub(super) fn answer(status: u16, (name, value): (&str, &str), body: &str) -> Answer {
    let answer = Response::builder().status(status).header(name, value);
    answer
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap()
}

async fn read(request: Request<Incoming>) -> Result<Asked, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let header = head.headers.get("authorization");
    Ok(Asked {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        host: head.headers["host"].to_str().unwrap().to_owned(),
        authorization: header.map(|value| value.to_str().unwrap().to_owned()),
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

/// The files of an image by digest, with media types. The manifest is also there as the tag `1`.
fn files(image: &Image) -> BTreeMap<String, (&'static str, Bytes)> {
    let mut files = BTreeMap::new();
    for (digest, media_type, content) in image.contents() {
        if digest == image.digest() {
            files.insert("1".to_owned(), (media_type, content.clone()));
        }
        files.insert(digest.to_string(), (media_type, content));
    }
    files
}

fn serve(image: &BTreeMap<String, (&'static str, Bytes)>, asked: &Asked) -> Answer {
    if asked.path == "/v2/" {
        return Response::new(Full::default());
    }
    let last = asked.path.rsplit('/').next().unwrap();
    let Some((media_type, content)) = image.get(last) else {
        let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        return answer(404, ("content-type", "application/json"), body);
    };
    let body = match asked.method.as_str() {
        "HEAD" => Bytes::new(),
        _ => content.clone(),
    };
    Response::builder()
        .header("content-type", *media_type)
        .header("content-length", content.len())
        .body(Full::new(body))
        .unwrap()
}
