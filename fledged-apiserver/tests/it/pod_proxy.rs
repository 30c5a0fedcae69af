//! `GET` on `pods/proxy`.
use std::net::SocketAddr;

use fledged_apiserver::{Failure, RequestFilter};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{Cluster, MERGE};

behaviours![
    on sockets:
    a_request_to_no_pod_is_refused,
    a_pod_without_a_routable_address_is_not_asked,
];

const POD: &str = "/api/v1/namespaces/default/pods";

/// Creates a pod with these addresses. Returns the path of its proxy without the slash at the end.
async fn pod(cluster: &Cluster, addresses: &[&str]) -> String {
    let port = json!({ "name": "metrics", "containerPort": 8082 });
    let object = json!({
        "metadata": { "generateName": "agent-" },
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{ "name": "agent", "image": "agent:1", "ports": [port] }],
        },
    });
    let made = cluster.post(POD, object).await.ok();
    let name = made["metadata"]["name"].as_str().unwrap();
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    if let Some(first) = addresses.first() {
        let status = json!({ "status": { "podIP": first, "podIPs": ips } });
        let path = format!("{POD}/{name}/status");
        cluster.patch(&path, MERGE, status).await.ok();
    }
    format!("{POD}/{name}")
}

async fn a_request_to_no_pod_is_refused(cluster: &Cluster) {
    for id in ["no-such", "no-such:8082", "http:no-such:8082"] {
        let missing = cluster.get(&format!("{POD}/{id}/proxy/pulls")).await;
        let status = missing.refused(404, "NotFound");
        assert_eq!(status["message"], "pods \"no-such\" not found");
    }
    for id in ["ftp:no-such:80", "a:b:c:d", ":8082"] {
        let invalid = cluster.get(&format!("{POD}/{id}/proxy/pulls")).await;
        let status = invalid.refused(400, "BadRequest");
        let message = format!("invalid pod request \"{id}\"");
        assert_eq!(status["message"], message);
    }
}

async fn a_pod_without_a_routable_address_is_not_asked(cluster: &Cluster) {
    for addresses in [&[][..], &["127.0.0.1"], &["169.254.1.1"], &["::1"]] {
        let pod = pod(cluster, addresses).await;
        let refused = cluster.get(&format!("{pod}:8082/proxy/pulls")).await;
        let status = refused.refused(400, "BadRequest");
        assert_eq!(status["message"], "address not allowed", "{addresses:?}");
        cluster.delete(&format!("{pod}?gracePeriodSeconds=0")).await;
    }
}

/// Answers each request with its first line.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let line = json!({ "line": head.lines().next() }).to_string();
            let text = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Own: yes\r\nContent-Length: {}\r\n\r\n{line}",
                line.len()
            );
            stream.write_all(text.as_bytes()).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn a_pod_answers_through_the_server() {
    let cluster = Cluster::embedded().await;
    let pod = pod(&cluster, &["10.1.2.3", "fd00::3"]).await;
    let address = "10.1.2.3:8082".parse().unwrap();
    cluster.server().route_pod(address, echo().await);
    let line = |answer: Value| answer["line"].as_str().unwrap().to_owned();
    let answer = cluster.get(&format!("{pod}:8082/proxy/pulls?x=1")).await;
    assert_eq!(answer.headers["x-own"], "yes");
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(line(answer.ok()), "GET /pulls?x=1 HTTP/1.1");
    // The first port of the pod.
    let answer = cluster.get(&format!("{pod}/proxy/a/b/")).await;
    assert_eq!(line(answer.ok()), "GET /a/b/ HTTP/1.1");
    let root = cluster.get(&format!("{pod}/proxy")).await;
    assert_eq!(root.code, 301);
    assert_eq!(root.headers["location"], format!("{pod}/proxy/"));
    let answer = cluster.get(&format!("{pod}/proxy/")).await;
    assert_eq!(line(answer.ok()), "GET / HTTP/1.1");
    let posted = cluster.post(&format!("{pod}/proxy/pulls"), json!({})).await;
    posted.refused(405, "MethodNotAllowed");
    let counted = |key: &fledged_apiserver::RequestKey| {
        (key.verb.as_str(), key.subresource.as_str()) == ("get", "proxy")
    };
    assert_eq!(cluster.server().count(counted), 4);
}

#[tokio::test]
async fn a_pod_that_does_not_answer_is_unavailable() {
    let cluster = Cluster::embedded().await;
    let pod = pod(&cluster, &["10.1.2.3"]).await;
    // The port was free a moment ago.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap();
    drop(listener);
    cluster
        .server()
        .route_pod("10.1.2.3:8082".parse().unwrap(), closed);
    // A real server resolves no names of ports either.
    for port in ["8082", "metrics", "70000"] {
        let answer = cluster.get(&format!("{pod}:{port}/proxy/pulls")).await;
        let status = answer.refused(503, "ServiceUnavailable");
        let message = status["message"].as_str().unwrap();
        assert!(
            message.starts_with("error trying to reach service: "),
            "{message}"
        );
    }
}

#[tokio::test]
async fn requests_to_pods_can_be_refused() {
    let cluster = Cluster::embedded().await;
    let filter = RequestFilter {
        resource: Some("pods".to_owned()),
        subresource: Some("proxy".to_owned()),
        ..RequestFilter::default()
    };
    cluster
        .server()
        .fail_next(1, filter, Failure::forbidden("a test says so"));
    let refused = cluster.get(&format!("{POD}/a:1/proxy/pulls")).await;
    refused.refused(403, "Forbidden");
    let asked = cluster.get(&format!("{POD}/a:1/proxy/pulls")).await;
    asked.refused(404, "NotFound");
}
