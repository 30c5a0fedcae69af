//! The API server without a socket, on paused time.

use std::time::Duration;

use fledged_apiserver::{Clock, Failure, RequestFilter, Server, Service};
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const HOUR: Duration = Duration::from_secs(3600);

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn config_map(name: &str) -> ConfigMap {
    object(json!({"metadata": {"name": name}}))
}

fn service() -> (Service, Api<ConfigMap>) {
    let service = Server::builder().service().unwrap();
    let maps = Api::default_namespaced(service.client());
    (service, maps)
}

#[tokio::test(start_paused = true)]
async fn an_hour_passes_with_an_open_watch() {
    let (service, maps) = service();
    let start = Instant::now();
    let mut events = watcher(maps.clone(), watcher::Config::default())
        .default_backoff()
        .applied_objects()
        .boxed();
    let create = async {
        sleep(HOUR).await;
        let params = PostParams::default();
        maps.create(&params, &config_map("late")).await.unwrap()
    };
    let (created, seen) = tokio::join!(create, events.try_next());
    assert_eq!(seen.unwrap().unwrap().uid(), created.uid());
    assert!(start.elapsed() >= HOUR);
    // A watch lasts half an hour to an hour, unless the client asks for less (kube's watcher does: 290 seconds).
    assert!(service.count(|request| request.verb == "watch") > 1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_at_its_timeout() {
    let (_service, maps) = service();
    let start = Instant::now();
    let params = WatchParams::default().timeout(200).disable_bookmarks();
    let events: Vec<WatchEvent<ConfigMap>> = maps
        .watch(&params, "0")
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(events.len(), 0);
    assert_eq!(start.elapsed().as_secs(), 200);
}

#[tokio::test(start_paused = true)]
async fn the_clock_of_objects_can_follow_paused_time() {
    let start: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
    let service = Server::builder()
        .clock(Clock::tokio(start))
        .service()
        .unwrap();
    let pods: Api<Pod> = Api::default_namespaced(service.client());
    let pod = object(json!({
        "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i:1"}]},
    }));
    let created = pods.create(&PostParams::default(), &pod).await.unwrap();
    assert_eq!(created.creation_timestamp().unwrap().0, start);
    sleep(HOUR).await;
    assert_eq!(service.clock().now(), start + HOUR);
    let deleted = pods.delete("p", &DeleteParams::default()).await.unwrap();
    let at = deleted.unwrap_left().metadata.deletion_timestamp.unwrap().0;
    // The grace period of a pod is 30 seconds.
    assert_eq!(at.to_string(), "2030-01-01T01:00:30Z");
}

#[tokio::test(start_paused = true)]
async fn server_side_apply_and_garbage_collection() {
    let (service, maps) = service();
    let owner = maps
        .create(&PostParams::default(), &config_map("owner"))
        .await
        .unwrap();
    let owned = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "data": {"x": "y"},
        "metadata": {"name": "owned", "ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.uid().unwrap()},
        ]},
    });
    let apply = PatchParams::apply("test");
    let applied = maps
        .patch("owned", &apply, &Patch::Apply(&owned))
        .await
        .unwrap();
    assert_eq!(applied.managed_fields().len(), 1);
    maps.delete("owner", &DeleteParams::default())
        .await
        .unwrap();
    while maps.get_opt("owned").await.unwrap().is_some() {
        sleep(Duration::from_secs(1)).await;
    }
    assert!(
        service
            .object("", "configmaps", "default", "owned")
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn controls_of_a_service() {
    let (service, maps) = service();
    let gets = RequestFilter {
        verb: Some("get".into()),
        ..RequestFilter::default()
    };
    service.fail_next(1, gets, Failure::unavailable());
    assert!(maps.get_opt("a").await.is_err());
    assert!(maps.get_opt("a").await.unwrap().is_none());
    assert_eq!(service.count(|request| request.verb == "get"), 2);
    let before = service.revision();
    maps.create(&PostParams::default(), &config_map("a"))
        .await
        .unwrap();
    assert_eq!(service.revision(), before + 1);
    let watch = maps.watch(&WatchParams::default(), "0").await.unwrap();
    service.cut_watches();
    assert_eq!(watch.try_collect::<Vec<_>>().await.unwrap().len(), 1);
    service.compact();
    let mut watch = maps
        .watch(&WatchParams::default(), &before.to_string())
        .await
        .unwrap()
        .boxed();
    let event = watch.try_next().await.unwrap().unwrap();
    assert!(matches!(event, WatchEvent::Error(status) if status.code == 410));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_down_keeps_its_objects() {
    let (service, maps) = service();
    maps.create(&PostParams::default(), &config_map("a"))
        .await
        .unwrap();
    let watch = maps.watch(&WatchParams::default(), "0").await.unwrap();
    service.down();
    assert_eq!(watch.try_collect::<Vec<_>>().await.unwrap().len(), 1);
    assert!(matches!(
        maps.get("a").await.unwrap_err(),
        kube::Error::Service(_)
    ));
    service.up();
    assert_eq!(maps.get("a").await.unwrap().name_any(), "a");
}

#[tokio::test]
async fn a_server_shares_its_objects_with_its_service() {
    let server = Server::builder().start().await.unwrap();
    let client = Client::new(server.service(), "default");
    let inside: Api<ConfigMap> = Api::default_namespaced(client);
    let outside: Api<ConfigMap> = Api::default_namespaced(server.client().unwrap());
    inside
        .create(&PostParams::default(), &config_map("a"))
        .await
        .unwrap();
    assert_eq!(outside.get("a").await.unwrap().name_any(), "a");
    server.shutdown().await;
}

#[test]
fn a_service_needs_a_tokio_runtime() {
    let error = Server::builder().service().unwrap_err();
    assert_eq!(error.to_string(), "no tokio runtime is running");
}
