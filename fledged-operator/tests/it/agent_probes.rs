//! Metrics and probes over HTTP.
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fledged_kube::serve::{BindAddress, Routes, Server, register_build_info};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

async fn start(routes: Routes) -> (SocketAddr, JoinHandle<()>) {
    let address = BindAddress::parse("127.0.0.1:0").unwrap().unwrap();
    let server = Server::bind(&address, routes).await.unwrap();
    let address = server.address();
    (address, tokio::spawn(server.run(std::future::pending())))
}

/// Sends these bytes and returns the answer, once the server has closed the connection.
async fn send(address: SocketAddr, text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let read = tokio::time::timeout(Duration::from_secs(20), reading).await;
    let _ = read.expect("the server does not close");
    String::from_utf8(answer).unwrap()
}

async fn get(address: SocketAddr, path: &str) -> String {
    send(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
}

#[tokio::test]
async fn metrics_are_openmetrics() {
    let mut registry = Registry::default();
    register_build_info(&mut registry);
    let (address, _server) = start(Routes::new().with_metrics(Arc::new(registry))).await;
    let answer = get(address, "/metrics").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.contains(kind), "{head}");
    let version = env!("CARGO_PKG_VERSION");
    assert!(body.contains(&format!("fledged_build_info{{version=\"{version}\"}} 1")));
    assert!(body.ends_with("# EOF\n"));
    assert!(get(address, "/livez").await.starts_with("HTTP/1.1 404"));
    assert!(get(address, "/").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn documents_are_json_and_made_for_each_request() {
    let count = std::sync::atomic::AtomicUsize::new(0);
    let document = move || format!("{{\"count\":{}}}", count.fetch_add(1, Ordering::SeqCst));
    let pulls = Routes::new().with_document("/pulls", document);
    let (address, _server) = start(Routes::new().with_probes().merged(pulls)).await;
    assert!(get(address, "/pulls").await.ends_with("{\"count\":0}"));
    let answer = get(address, "/pulls").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(
        answer.contains("content-type: application/json\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("{\"count\":1}"), "{answer}");
    assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn failing_probes_show_the_problem() {
    let synced = Arc::new(AtomicBool::new(false));
    let state = Arc::clone(&synced);
    let routes = Routes::new()
        .with_liveness("loop", || Ok(()))
        .with_readiness("runtime", || Ok(()))
        .with_readiness("cache", move || match state.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err("not synced yet".to_owned()),
        });
    let (address, _server) = start(routes).await;
    for path in ["/livez", "/healthz"] {
        let answer = get(address, path).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with("[+]loop ok\nok\n"), "{answer}");
    }
    let answer = get(address, "/readyz?verbose").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("[+]runtime ok\n[-]cache failed: not synced yet\n"));
    synced.store(true, Ordering::SeqCst);
    assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(get(address, "/metrics").await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn only_get_and_head_are_served_and_bodies_ignored() {
    let (address, _server) = start(Routes::new().with_probes()).await;
    let head = send(address, "HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(
        head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"),
        "{head}"
    );
    let post = "POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n";
    let answer = send(address, post).await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("allow: get, head"));
    let answer = send(address, "\u{1}\u{2}\r\n\r\n").await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
        "{answer}"
    );
    let long = format!("GET /livez HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let answer = send(address, &long).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn idle_connections_do_not_block_requests() {
    let (address, _server) = start(Routes::new().with_probes()).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        silent.push(stream);
    }
    assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
    // Shutdown does not wait for idle connections either.
    let mut last = silent.pop().unwrap();
    let mut rest = Vec::new();
    let reading = last.read_to_end(&mut rest);
    let closed = tokio::time::timeout(Duration::from_secs(15), reading).await;
    assert!(closed.is_ok(), "the connection is still open");
}

#[tokio::test]
async fn a_bind_error_names_the_address() {
    let (taken, _server) = start(Routes::new()).await;
    let address = BindAddress::parse(&taken.to_string()).unwrap().unwrap();
    let error = Server::bind(&address, Routes::new()).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&format!("cannot listen at {taken}")),
        "{text}"
    );
    let any = BindAddress::parse(":0").unwrap().unwrap();
    let server = Server::bind(&any, Routes::new()).await.unwrap();
    assert!(server.address().ip().is_unspecified());
}

#[tokio::test]
async fn a_server_stops_on_shutdown() {
    let address = BindAddress::parse("127.0.0.1:0").unwrap().unwrap();
    let server = Server::bind(&address, Routes::new().with_probes())
        .await
        .unwrap();
    let bound = server.address();
    server.run(std::future::ready(())).await;
    assert!(TcpStream::connect(bound).await.is_err());
}
