//! Controls of the server, and its behaviour over a socket.
use crate::support::Cluster;
use fledged_apiserver::{Failure, RequestFilter, Server, StartError};
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()
}

#[tokio::test]
async fn kube_client_creates_applies_lists_and_watches() {
    let server = Server::builder().start().await.unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client().unwrap());
    let made = maps
        .create(&PostParams::default(), &config_map("a"))
        .await
        .unwrap();
    let patch = Patch::Apply(
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"x": "y"}, "metadata": {"name": "a"}}),
    );
    let patched = maps
        .patch("a", &PatchParams::apply("me"), &patch)
        .await
        .unwrap();
    assert_eq!(patched.data.unwrap()["x"], "y");
    assert_eq!(patched.metadata.uid, made.metadata.uid);
    let listed = maps.list(&ListParams::default().limit(1)).await.unwrap();
    assert_eq!(listed.items.len(), 1);
    let events =
        watcher(maps.clone(), watcher::Config::default().streaming_lists()).applied_objects();
    let first = Box::pin(events).try_next().await.unwrap().unwrap();
    assert_eq!(first.metadata.name.as_deref(), Some("a"));
    assert!(
        maps.delete("a", &Default::default())
            .await
            .unwrap()
            .is_right()
    );
    server.shutdown().await;
}

#[tokio::test]
async fn requests_are_counted() {
    let server = Server::builder().start().await.unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(server.client().unwrap());
    maps.create(&PostParams::default(), &config_map("a"))
        .await
        .unwrap();
    let apply =
        Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}));
    for _ in 0..3 {
        maps.patch("a", &PatchParams::apply("counter"), &apply)
            .await
            .unwrap();
    }
    maps.get("a").await.unwrap();
    assert_eq!(server.count(|request| request.is_write()), 4);
    assert_eq!(
        server.count(|request| request.verb == "apply" && request.field_manager == "counter"),
        3
    );
    assert_eq!(
        server.count(|request| request.verb == "get" && request.resource == "configmaps"),
        1
    );
    server.reset_requests();
    assert_eq!(server.count(|_| true), 0);
}

#[tokio::test]
async fn metrics_use_the_names_of_kube_apiserver() {
    let server = Server::builder().start().await.unwrap();
    let client = server.client().unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let (made, sent) = (
        config_map("a"),
        serde_json::to_vec(&config_map("a")).unwrap(),
    );
    maps.create(&PostParams::default(), &made).await.unwrap();
    let again = maps.create(&PostParams::default(), &made).await;
    assert!(again.is_err());
    maps.get_opt("b").await.unwrap();
    let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
    let text = client.request_text(request).await.unwrap();
    let labels = |code, verb| {
        format!(
            "apiserver_request_total{{code=\"{code}\",group=\"\",resource=\"configmaps\",subresource=\"\",verb=\"{verb}\"}} 1\n"
        )
    };
    for line in [
        labels(201, "POST"),
        labels(409, "POST"),
        labels(404, "GET"),
        format!(
            "apiserver_request_body_size_bytes_sum{{group=\"\",resource=\"configmaps\",verb=\"create\"}} {}\n",
            2 * sent.len()
        ),
    ] {
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
    let memory = text
        .lines()
        .find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    assert!(memory.unwrap().parse::<u64>().unwrap() > 1 << 20);
}

#[tokio::test]
async fn requests_fail_on_demand() {
    let cluster = Cluster::embedded().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let writes = RequestFilter {
        writes_only: true,
        resource: Some("configmaps".into()),
        ..RequestFilter::default()
    };
    cluster
        .server()
        .fail_next(2, writes.clone(), Failure::too_many_requests(7));
    let refused = cluster.post(path, json!({"metadata": {"name": "a"}})).await;
    assert_eq!(refused.headers["retry-after"], "7");
    assert_eq!(
        refused.refused(429, "TooManyRequests")["details"]["retryAfterSeconds"],
        7
    );
    cluster.get(path).await.ok();
    cluster
        .post(path, json!({"metadata": {"name": "a"}}))
        .await
        .refused(429, "TooManyRequests");
    cluster
        .post(path, json!({"metadata": {"name": "a"}}))
        .await
        .ok();
    let named = RequestFilter {
        name: Some("b".into()),
        ..RequestFilter::default()
    };
    cluster
        .server()
        .fail_next(1, named, Failure::internal_error());
    cluster.get(&format!("{path}/a")).await.ok();
    cluster
        .get(&format!("{path}/b"))
        .await
        .refused(500, "InternalError");
    cluster.server().fail_next(5, writes, Failure::conflict());
    cluster
        .delete(&format!("{path}/a"))
        .await
        .refused(409, "Conflict");
    cluster.server().fail_nothing();
    cluster.delete(&format!("{path}/a")).await.ok();
}

#[tokio::test]
async fn compaction_expires_earlier_versions() {
    let cluster = Cluster::embedded().await;
    let path = "/api/v1/namespaces/default/configmaps";
    let made = cluster
        .post(path, json!({"metadata": {"name": "a"}}))
        .await
        .ok();
    let version = made["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    let page = cluster.get("/api/v1/namespaces?limit=1").await.ok();
    cluster.server().compact();
    let mut watch = cluster
        .watch(&format!("{path}?resourceVersion={version}"))
        .await;
    let line = watch.next().await.unwrap();
    assert_eq!(
        (
            &line["type"],
            &line["object"]["code"],
            &line["object"]["reason"]
        ),
        (&json!("ERROR"), &json!(410), &json!("Expired"))
    );
    assert!(watch.next().await.is_none());
    cluster
        .get(&format!(
            "{path}?resourceVersion={version}&resourceVersionMatch=Exact"
        ))
        .await
        .refused(410, "Expired");
    let token = page["metadata"]["continue"].as_str().unwrap();
    let expired = cluster
        .get(&format!("/api/v1/namespaces?continue={token}"))
        .await
        .refused(410, "Expired");
    let token = expired["metadata"]["continue"].as_str().unwrap();
    let rest = cluster
        .get(&format!("/api/v1/namespaces?continue={token}"))
        .await
        .ok();
    assert_eq!(rest["items"].as_array().unwrap().len(), 3);
    let now = cluster.get(path).await.ok();
    let mut watch = cluster
        .watch(&format!(
            "{path}?resourceVersion={}",
            now["metadata"]["resourceVersion"].as_str().unwrap()
        ))
        .await;
    cluster
        .post(path, json!({"metadata": {"name": "b"}}))
        .await
        .ok();
    assert_eq!(watch.event().await, ("ADDED".to_owned(), "b".to_owned()));
}

#[tokio::test]
async fn history_length_is_bounded() {
    let cluster = Cluster::of(Server::builder().history(2).start().await.unwrap());
    let path = "/api/v1/namespaces/default/configmaps";
    let mut versions = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let made = cluster
            .post(path, json!({"metadata": {"name": name}}))
            .await
            .ok();
        versions.push(
            made["metadata"]["resourceVersion"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    let mut watch = cluster
        .watch(&format!("{path}?resourceVersion={}", versions[0]))
        .await;
    assert_eq!(watch.next().await.unwrap()["type"], "ERROR");
    let mut watch = cluster
        .watch(&format!("{path}?resourceVersion={}", versions[1]))
        .await;
    assert_eq!(watch.event().await.1, "c");
}

#[tokio::test]
async fn cut_watches_ends_open_watches() {
    let cluster = Cluster::embedded().await;
    let mut watch = cluster.watch("/api/v1/namespaces").await;
    for _ in 0..4 {
        assert_eq!(watch.event().await.0, "ADDED");
    }
    cluster.server().cut_watches();
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_server_that_is_down_keeps_its_objects() {
    let cluster = Cluster::embedded().await;
    let server = cluster.server();
    let path = "/api/v1/namespaces/default/configmaps";
    cluster
        .post(path, json!({"metadata": {"name": "a"}}))
        .await
        .ok();
    let maps: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    let mut watch = maps
        .watch(&WatchParams::default(), "0")
        .await
        .unwrap()
        .boxed();
    assert!(matches!(
        watch.try_next().await.unwrap(),
        Some(WatchEvent::Added(_))
    ));
    server.down();
    while let Some(Ok(_)) = watch.next().await {}
    assert!(maps.get("a").await.is_err());
    server.up().await.unwrap();
    server.up().await.unwrap();
    assert_eq!(
        maps.get("a").await.unwrap().metadata.name.as_deref(),
        Some("a")
    );
    assert_eq!(
        server.object("", "configmaps", "default", "a").unwrap()["metadata"]["name"],
        "a"
    );
}

#[tokio::test]
async fn seed_objects_are_created_and_validated() {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"tier": "x"}}});
    let server = Server::builder().seed([node]).start().await.unwrap();
    let nodes: Api<Node> = Api::all(server.client().unwrap());
    assert_eq!(
        nodes
            .list(&ListParams::default().labels("tier=x"))
            .await
            .unwrap()
            .items
            .len(),
        1
    );
    let bad = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "N_"}});
    let error = Server::builder().seed([bad]).start().await.unwrap_err();
    assert!(
        matches!(&error, StartError::Seed { object, .. } if object == "Node \"N_\""),
        "{error}"
    );
}

#[tokio::test]
async fn a_slow_watcher_is_cut_off() {
    let cluster = Cluster::of(Server::builder().history(1).start().await.unwrap());
    let path = "/api/v1/namespaces/default/configmaps";
    let made = cluster
        .post(path, json!({"metadata": {"name": "a"}}))
        .await
        .ok();
    let from = made["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = cluster
        .watch(&format!("{path}?resourceVersion={from}"))
        .await;
    let text = "x".repeat(300_000);
    for round in 0..220 {
        let patch = json!({"data": {"text": text, "round": round.to_string()}});
        cluster
            .patch(&format!("{path}/a"), crate::support::MERGE, patch)
            .await
            .ok();
    }
    let mut seen = 0;
    while watch.next().await.is_some() {
        seen += 1;
    }
    assert!(seen < 220, "{seen} events were kept for it");
}

/// The answer to a request with this prefix of its path and these header lines, as a status code.
async fn raw(address: &str, prefix: &str, headers: &str) -> u16 {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request =
        format!("GET {prefix}/api/v1/nodes HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_server_with_a_token_refuses_others() {
    let server = Server::builder().token("secret").start().await.unwrap();
    let address = server.url().trim_start_matches("http://").to_owned();
    let port = address.rsplit(':').next().unwrap();
    let own = format!("Host: {address}\r\n");
    let bearer = "Authorization: Bearer secret\r\n";
    for (headers, code) in [
        (format!("{own}{bearer}"), 200),
        (format!("Host: localhost:{port}\r\n{bearer}"), 200),
        (own.clone(), 401),
        (format!("{own}Authorization: Bearer other\r\n"), 401),
        (format!("{own}Authorization: Basic secret\r\n"), 401),
        // DNS rebinding: the name of a web page leads to the loopback address.
        (format!("Host: attacker.example:{port}\r\n{bearer}"), 401),
    ] {
        assert_eq!(raw(&address, "", &headers).await, code, "{headers}");
    }
    // kubectl sends no bearer token over plain HTTP.
    for (prefix, code) in [("/secret", 200), ("/secre", 401), ("/secretx", 401)] {
        assert_eq!(raw(&address, prefix, &own).await, code, "{prefix}");
    }
    // A client of the kubeconfig that does sends both.
    assert_eq!(
        raw(&address, "/secret", &format!("{own}{bearer}")).await,
        200
    );
    let elsewhere = "Host: attacker.example\r\n";
    assert_eq!(raw(&address, "/secret", elsewhere).await, 401);
    let nodes: Api<Node> = Api::all(server.client().unwrap());
    assert_eq!(
        nodes
            .list(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        0
    );
    assert!(server.kubeconfig().contains(r#"{"token":"secret"}"#));
    assert!(!format!("{server:?}").contains("secret"));
}
