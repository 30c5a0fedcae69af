//! An agent reconciles its node with its NodeImageCache, and reports with few writes.
use std::time::Duration;

use crate::agent_support::{Node, Server, eventually, image, images};
use fledged_core::error::Reason;
use fledged_core::model::{DesiredState, ImagePhase};
use fledged_kube::crd::{NodeImage, NodeImageCache};
use fledged_operator::agent::FIELD_MANAGER;
use http::Method;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

#[tokio::test(start_paused = true)]
async fn a_rollout_of_20_images_takes_three_status_writes() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "rollout");
    // Twenty images, three at a time, take 7 s; a margin for a loaded machine.
    node.runtime.set_pull_time(Duration::from_secs(1));
    node.start();
    let names: Vec<String> = (0..20).map(|n| format!("r.example/app:{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    node.assign(images(&names)).await;
    let first = node.status_when("an answer", |_| true).await;
    assert_eq!(first.observed_generation, Some(1));
    assert!(first.cached < Some(20));
    let status = node.settled().await;
    assert_eq!((status.desired, status.cached), (Some(20), Some(20)));
    let order: Vec<&str> = status
        .images
        .iter()
        .map(|image| image.image.as_str())
        .collect();
    assert_eq!(order, names, "in the order of the spec");
    assert!(node.writes() <= 3, "{}", node.writes());
    // One write with details may follow, and no further writes.
    node.pass(Duration::from_secs(40)).await;
    let writes = node.writes();
    node.pass(Duration::from_secs(60)).await;
    assert_eq!(node.writes(), writes);
    assert!(writes <= 3, "{writes}");
    assert_eq!(node.runtime.pulls().len(), 20);
    node.stop().await.unwrap();
    assert_eq!(node.writes(), writes);
}

#[tokio::test(start_paused = true)]
async fn an_agent_owns_only_the_status() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "owner");
    node.start();
    node.assign(images(&["r.example/app:1"])).await;
    node.settled().await;
    let object = node.api.get(&node.name).await.unwrap();
    let fields = object.managed_fields();
    let ours: Vec<_> = fields
        .iter()
        .filter(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER))
        .collect();
    assert_eq!(ours.len(), 1);
    assert_eq!(ours[0].subresource.as_deref(), Some("status"));
    assert_eq!(ours[0].operation.as_deref(), Some("Apply"));
    let owned = serde_json::to_value(&ours[0].fields_v1).unwrap();
    assert_eq!(
        owned.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["f:status"]
    );
    assert_eq!(object.spec.images.len(), 1);
    node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn every_assignment_is_acknowledged_and_applied_once() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "answers");
    node.start();
    node.assign(images(&["r.example/app:1"])).await;
    assert_eq!(node.settled().await.observed_generation, Some(1));
    // A change without new images is acknowledged as well.
    let mut same = images(&["r.example/app:1"]);
    same[0].priority = 3;
    node.assign(same).await;
    assert_eq!(node.settled().await.observed_generation, Some(2));
    assert_eq!(node.runtime.pulls().len(), 1);
    // A change of the metadata is not a new assignment.
    let labels = json!({"metadata": {"labels": {"a": "b"}}});
    let writes = node.writes();
    let patch = Patch::Merge(&labels);
    node.api
        .patch(&node.name, &PatchParams::default(), &patch)
        .await
        .unwrap();
    node.pass(Duration::from_secs(20)).await;
    assert_eq!(node.writes(), writes);
    node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn images_are_removed_on_request_but_stay_on_deletion() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "leaving");
    let (one, two) = (image("r.example/app:1"), image("r.example/app:2"));
    node.run(node.agent(Some(Duration::from_secs(5))));
    node.assign(images(&["r.example/app:1", "r.example/app:2"]))
        .await;
    let before = node.settled().await;
    let mut fewer = images(&["r.example/app:1", "r.example/app:2"]);
    fewer[1].state = DesiredState::Absent;
    node.assign(fewer).await;
    let after = node.settled().await;
    assert_eq!((before.desired, after.desired), (Some(2), Some(1)));
    assert!(node.runtime.holds(&one) && !node.runtime.holds(&two));
    node.delete().await;
    eventually("the object is gone", || async {
        node.status().await.is_none().then_some(())
    })
    .await;
    let writes = node.writes();
    // Images without an assignment are not pulled again.
    node.pass(Duration::from_secs(5)).await;
    node.runtime.lose(&one);
    node.pass(Duration::from_secs(30)).await;
    assert_eq!(node.runtime.pulls().len(), 2);
    assert_eq!(node.writes(), writes);
    // A new object of the same name is a new assignment.
    let object = node.assign(images(&["r.example/app:2"])).await;
    assert_eq!(object.metadata.generation, Some(1));
    let status = node.settled().await;
    assert_eq!(status.images[0].image, "r.example/app:2");
    node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn invalid_entries_are_skipped_and_the_rest_is_pulled() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "malformed");
    node.start();
    node.assign(images(&[
        "r.example/app:1",
        "no reference!",
        "r.example/app:2",
    ]))
    .await;
    let status = node.settled().await;
    let named: Vec<&str> = status
        .images
        .iter()
        .map(|image| image.image.as_str())
        .collect();
    assert_eq!(named, ["r.example/app:1", "r.example/app:2"]);
    assert_eq!(status.cached, Some(2));
    node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn private_images_use_the_credentials_of_their_caches() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "private");
    let secret: Secret = serde_json::from_value(json!({
        "metadata": {"name": "agent-private"},
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson":
            r#"{"auths":{"r.example":{"username":"robot","password":"p"}}}"#},
    }))
    .unwrap();
    let secrets: Api<Secret> = Api::namespaced(server.client.clone(), "default");
    let patch = Patch::Apply(&secret);
    let parameters = PatchParams::apply("tests").force();
    secrets
        .patch("agent-private", &parameters, &patch)
        .await
        .unwrap();
    let mut private = images(&["r.example/private:1", "r.example/public:1"]);
    private[0].pull_secrets = vec!["default/agent-private".to_owned()];
    node.start();
    node.assign(private).await;
    assert_eq!(node.settled().await.cached, Some(2));
    let user = |name| node.runtime.user_of(&image(name));
    assert_eq!(user("r.example/private:1").as_deref(), Some("robot"));
    assert_eq!(user("r.example/public:1"), None);
    node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn only_the_nodes_own_object_is_watched() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "own");
    let other = Node::new(&server, "other-than-own");
    other.assign(images(&["r.example/other:1"])).await;
    node.start();
    node.assign(images(&["r.example/app:1"])).await;
    node.settled().await;
    assert_eq!(node.runtime.pulls(), [image("r.example/app:1")]);
    assert_eq!(other.status().await, None);
    assert_eq!(
        node.line.count(&Method::GET, "/nodeimagecaches"),
        2,
        "a list and a watch"
    );
    node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_resumes_from_its_status() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "restart");
    let entry = NodeImage {
        image: "r.example/app:latest".to_owned(),
        pull_policy: fledged_core::model::ImagePullPolicy::Always,
        revision: 2,
        ..NodeImage::default()
    };
    node.assign(vec![entry]).await;
    node.start();
    assert_eq!(node.settled().await.images[0].revision, Some(2));
    node.stop().await.unwrap();
    let writes = node.writes();
    let before = node.status().await;
    node.start();
    node.pass(Duration::from_secs(60)).await;
    assert_eq!(node.runtime.pulls().len(), 1, "the revision is satisfied");
    assert_eq!(node.writes(), writes);
    assert_eq!(node.status().await, before);
    let image = &before.unwrap().images[0];
    assert!(
        image.started.is_some() && image.attempts.is_none(),
        "{image:?}"
    );
    node.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn failures_and_recoveries_are_reported() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "failing");
    let (good, bad) = (image("r.example/good:1"), image("r.example/bad:1"));
    node.runtime
        .fail(&bad, Reason::ImageNotFound, "manifest unknown");
    node.run(node.agent(Some(Duration::from_secs(10))));
    node.assign(images(&["r.example/good:1", "r.example/bad:1"]))
        .await;
    let status = node.settled().await;
    assert_eq!((status.cached, status.failed), (Some(1), Some(1)));
    let failed = &status.images[1];
    assert_eq!(failed.phase, ImagePhase::Failed);
    assert_eq!(failed.reason.as_deref(), Some("ImageNotFound"));
    assert_eq!(failed.message.as_deref(), Some("manifest unknown"));
    node.runtime.lose(&good);
    eventually("the image is pulled again", || async {
        node.runtime.holds(&good).then_some(())
    })
    .await;
    node.stop().await.unwrap();
    let object: Api<NodeImageCache> = Api::all(server.client.clone());
    let status = object.get(&node.name).await.unwrap().status.unwrap();
    assert_eq!(status.cached, Some(1));
}
