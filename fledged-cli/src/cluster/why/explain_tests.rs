//! One answer for each situation.

use serde_json::{Value, json};

use super::*;
use crate::cluster::why::text::text;

const NOW: &str = "2026-01-01T00:10:00Z";
const APP: &str = "registry.test/app:1";

/// A cache, a node and its record in which all is well.
struct Scene {
    cache: Value,
    node: Option<Value>,
    record: Option<Value>,
}

impl Scene {
    fn new() -> Self {
        let condition = json!({ "type": "Ready", "status": "True" });
        let said = json!({ "image": APP, "phase": "Cached", "finished": "2026-01-01T00:05:00Z" });
        Self {
            cache: json!({
                "metadata": { "namespace": "shop", "name": "web", "uid": "1", "generation": 1 },
                "spec": { "cacheSpec": [{ "images": [APP], "nodeSelector": { "tier": "web" } }] },
                "status": { "status": "Processing", "reason": "ImageCacheCreate", "message": "",
                    "observedGeneration": 1, "startTime": "2026-01-01T00:00:00Z" },
            }),
            node: Some(json!({
                "metadata": { "name": "node-1", "labels": { "tier": "web" } },
                "spec": { "taints": [] },
                "status": { "conditions": [condition],
                    "nodeInfo": { "operatingSystem": "linux", "architecture": "arm64" } },
            })),
            record: Some(json!({
                "metadata": { "name": "node-1", "generation": 3,
                    "managedFields": [{ "time": "2026-01-01T00:09:30Z" }] },
                "spec": { "images": [{ "image": APP }] },
                "status": { "observedGeneration": 3, "images": [said] },
            })),
        }
    }

    fn group(&mut self) -> &mut Value {
        &mut self.cache["spec"]["cacheSpec"][0]
    }

    fn node(&mut self) -> &mut Value {
        self.node.as_mut().unwrap()
    }

    fn record(&mut self) -> &mut Value {
        self.record.as_mut().unwrap()
    }

    /// What the agent says of the image.
    fn says(&mut self, phase: &str, more: Value) {
        let mut said = json!({ "image": APP, "phase": phase, "started": "2026-01-01T00:09:00Z" });
        let more = more.as_object().unwrap().clone();
        said.as_object_mut().unwrap().extend(more);
        self.record()["status"]["images"] = json!([said]);
    }

    fn answer(&self, image: &str) -> Answer {
        fn read<T: serde::de::DeserializeOwned>(value: &Value) -> T {
            serde_json::from_value(value.clone()).unwrap()
        }
        let (node, record) = (self.node.as_ref().map(read), self.record.as_ref().map(read));
        explain(&Situation {
            program: "fledged",
            cache: &read(&self.cache),
            node_name: &NodeName::new("node-1").unwrap(),
            node: node.as_ref(),
            record: record.as_ref(),
            image: &image.parse().unwrap(),
            now: NOW.parse().unwrap(),
        })
    }
}

/// The answer once something is no more as it should be.
fn when(change: impl FnOnce(&mut Scene)) -> Answer {
    let mut scene = Scene::new();
    change(&mut scene);
    scene.answer(APP)
}

fn reason(change: impl FnOnce(&mut Scene)) -> WhyReason {
    when(change).reason
}

fn tainted(scene: &mut Scene, key: &str) {
    scene.group()["tolerations"] = json!([]);
    scene.node()["spec"]["taints"] = json!([{ "key": key, "effect": "NoSchedule" }]);
}

#[test]
fn what_the_cache_says_comes_first() {
    use WhyReason::{CacheDeleting, CachePurged, Cached, ImageNotInCache, InvalidSpec, KeptInUse};
    assert_eq!(reason(|_| ()), Cached);
    let other = Scene::new().answer("registry.test/db:1");
    assert_eq!(other.reason, ImageNotInCache);
    let invalid = reason(|scene| scene.group()["images"] = json!(["UPPER"]));
    assert_eq!(invalid, InvalidSpec);
    let deleting = reason(|scene| {
        scene.cache["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    });
    assert_eq!(deleting, CacheDeleting);
    let purged = reason(|scene| scene.cache["status"]["purged"] = true.into());
    assert_eq!(purged, CachePurged);
    let kept = reason(|scene| {
        scene.cache["status"]["purged"] = true.into();
        scene.record()["spec"]["images"][0]["state"] = "Absent".into();
        scene.says("InUse", json!({}));
    });
    assert_eq!(kept, KeptInUse);
}

#[test]
fn an_image_that_another_cache_wants_is_told_of() {
    let mut scene = Scene::new();
    scene.record()["spec"] = json!({
        "images": [{ "image": "registry.test/db:1" }],
        "caches": [{ "namespace": "shop", "name": "other", "uid": "2" }],
    });
    let answer = scene.answer("registry.test/db:1");
    assert_eq!(answer.reason, WhyReason::ImageNotInCache);
    let last = answer.evidence.last().unwrap();
    assert_eq!(last.value, "wanted by shop/other");
    assert_eq!(last.object, "NodeImageCache node-1");
    assert!(!answer.cached, "it is not there yet");
}

#[test]
fn an_image_that_is_there_for_others_is_there() {
    let other = json!([{ "namespace": "shop", "name": "other", "uid": "2" }]);
    let mut scene = Scene::new();
    scene.record()["spec"]["caches"] = other;
    scene.cache["status"]["purged"] = true.into();
    let purged = scene.answer(APP);
    assert!(purged.cached);
    assert!(
        purged
            .because
            .contains("for other ImageCaches; the ImageCache is purged"),
        "{}",
        purged.because
    );
    assert!(
        purged
            .evidence
            .iter()
            .any(|e| e.value == "wanted by shop/other")
    );

    scene.group()["images"] = json!(["registry.test/db:1"]);
    let not_named = scene.answer(APP);
    assert_eq!(not_named.reason, WhyReason::ImageNotInCache);
    assert!(not_named.cached && not_named.because.contains("does not name"));

    // For nobody but this cache, which is purged: on its way out.
    let mut scene = Scene::new();
    scene.cache["status"]["purged"] = true.into();
    assert!(!scene.answer(APP).cached);
}

#[test]
fn then_whether_the_node_is_meant_and_can_act() {
    use WhyReason::{
        Cached, NodeLeaving, NodeNotFound, NodeNotLinux, NodeNotReady, NodeNotSelected, NodeTainted,
    };
    assert_eq!(reason(|scene| scene.node = None), NodeNotFound);
    let unlabelled = reason(|scene| scene.node()["metadata"]["labels"] = json!({}));
    assert_eq!(unlabelled, NodeNotSelected);
    assert_eq!(reason(|scene| tainted(scene, "gpu")), NodeTainted);
    // Cordoned for now, which is not for images.
    let passing = reason(|scene| tainted(scene, "node.kubernetes.io/unschedulable"));
    assert_eq!(passing, Cached);
    let windows = reason(|scene| {
        scene.node()["status"]["nodeInfo"]["operatingSystem"] = "windows".into();
    });
    assert_eq!(windows, NodeNotLinux);
    let away = reason(|scene| {
        scene.node()["status"]["conditions"][0]["status"] = "Unknown".into();
    });
    assert_eq!(away, NodeNotReady);
    let leaving = reason(|scene| {
        let taint = json!({ "key": "karpenter.sh/disrupted", "effect": "NoSchedule" });
        scene.node()["spec"]["taints"] = json!([taint]);
    });
    assert_eq!(leaving, NodeLeaving);
}

#[test]
fn then_how_far_the_node_is() {
    use WhyReason::{
        AgentSilent, BackingOff, Cached, Failed, NotAssigned, NotTakenUp, Pulling, Waiting,
    };
    assert_eq!(reason(|scene| scene.record = None), NotAssigned);
    let edited = reason(|scene| {
        scene.record = None;
        scene.cache["metadata"]["generation"] = 2.into();
    });
    assert_eq!(edited, NotTakenUp);
    let unanswered = reason(|scene| scene.record()["status"] = json!({}));
    assert_eq!(unanswered, Waiting);
    let silent = reason(|scene| {
        scene.record()["status"] = json!({});
        let long_ago = json!([{ "time": "2026-01-01T00:08:00Z" }]);
        scene.record()["metadata"]["managedFields"] = long_ago;
    });
    assert_eq!(silent, AgentSilent);
    let refreshed = |scene: &mut Scene| scene.record()["spec"]["images"][0]["revision"] = 7.into();
    let verified = when(refreshed);
    assert_eq!(verified.reason, Cached);
    assert!(
        verified.because.ends_with("it looks again for a refresh"),
        "{verified:?}"
    );
    let moves = reason(|scene| {
        refreshed(scene);
        scene.record()["spec"]["images"][0]["pullPolicy"] = "Always".into();
    });
    assert_eq!(moves, Pulling);
    for (phase, wanted) in [
        ("Pending", Waiting),
        ("Pulling", Pulling),
        ("BackingOff", BackingOff),
        ("Failed", Failed),
    ] {
        assert_eq!(reason(|scene| scene.says(phase, json!({}))), wanted);
    }
}

#[test]
fn a_failed_pull_is_told_with_its_evidence_and_what_to_do() {
    let answer = when(|scene| {
        let more = json!({ "reason": "PlatformNotFound", "message": "no match for platform",
            "finished": "2026-01-01T00:09:01Z", "attempts": 2,
            "nextAttempt": "2026-01-01T00:14:00Z" });
        scene.says("Failed", more);
    });
    assert_eq!(
        text(&answer, NOW.parse().unwrap()),
        "\
no: registry.test/app:1 is not cached on node-1: its last round of pulls failed: PlatformNotFound
  the runtime says: no match for platform
  NodeImageCache node-1 status.images[0].phase: Failed, since 2026-01-01T00:09:01Z (59s ago)
  2 attempts, the next at 2026-01-01T00:14:00Z (in 4m)
  what to do: publish the image for arm64, or keep it from such nodes with a nodeSelector on kubernetes.io/arch; fledged refresh web -n shop tries again at once
"
    );
}

#[test]
fn a_node_that_is_not_selected_is_told_by_its_label() {
    let answer = when(|scene| scene.node()["metadata"]["labels"]["tier"] = "db".into());
    assert_eq!(
        text(&answer, NOW.parse().unwrap()),
        "\
no: registry.test/app:1 is not cached on node-1: the ImageCache does not mean the node: it wants tier=web, and the node has tier=db
  ImageCache shop/web spec.cacheSpec[0].nodeSelector[tier]: web
  Node node-1 metadata.labels[tier]: db
  what to do: label the node, or change the selector
"
    );
}
