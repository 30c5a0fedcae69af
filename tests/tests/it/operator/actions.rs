//! kube-fledged's actions (create, refresh, purge, delete), with its reasons in the status.

use std::time::Duration;

use fledged_core::error::Reason;
use fledged_kube::crd::{FINALIZER, PURGE_ANNOTATION, REFRESH_ANNOTATION};
use fledged_tests::kube::{Way, World, WorldOptions, eventually};
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

scenarios! {
    a_created_cache_is_on_every_node_and_succeeds,
    a_failed_image_is_reported_by_node_and_reason,
    a_failing_pull_is_reported_during_retries,
    a_cache_without_matching_nodes_has_its_own_status,
    a_refresh_pulls_moved_tags_and_removes_the_annotation,
    a_refresh_ends_once_evicted_images_are_back,
    the_refresh_interval_follows_a_moved_tag,
    a_purge_lasts_until_a_refresh,
    a_deletion_removes_images_only_with_policy_purge,
    an_unresponsive_node_does_not_block_a_deletion,
}

const APP: &str = "registry.test/app:1";
const DB: &str = "registry.test/db:1";
const MOVING: &str = "registry.test/moving:latest";

async fn a_created_cache_is_on_every_node_and_succeeds(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP, DB]);
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.apply("web", &[APP, DB]).await;
    let status = world.ended("web", "ImageCacheCreate", "Succeeded").await;
    for node in [&a, &b] {
        assert_eq!(node.runtime.held(), [APP, DB]);
    }
    assert_eq!(status.cached.as_deref(), Some("4/4"));
    assert!(status.failures.is_empty() && status.failures_total == Some(0));
    assert!(
        status.message.contains("4 of 4 cached on 2 nodes"),
        "{}",
        status.message
    );
    let of = |kind: &str| {
        let condition = status.conditions.iter().find(|c| c.type_ == kind).unwrap();
        (condition.status.clone(), condition.reason.clone())
    };
    assert_eq!(of("Ready"), ("True".to_owned(), "ImagesCached".to_owned()));
    assert_eq!(
        of("Progressing"),
        ("False".to_owned(), "Settled".to_owned())
    );
    assert_eq!(
        of("Degraded"),
        ("False".to_owned(), "AsExpected".to_owned())
    );
    let events: Api<Event> = Api::namespaced(world.cluster().client(), world.cluster().namespace());
    eventually("an event for the start and one for the end", || async {
        let about = ListParams::default().fields("involvedObject.name=web");
        let events = events.list(&about).await.unwrap().items;
        let found: Vec<_> = events
            .iter()
            .map(|e| (e.type_.clone(), e.reason.clone(), e.message.clone()))
            .collect();
        let created = |e: &&Event| e.reason.as_deref() == Some("ImageCacheCreate");
        match events.iter().filter(created).count() {
            2 if events.iter().all(|e| e.type_.as_deref() == Some("Normal")) => Ok(()),
            _ => Err(format!("{found:?}")),
        }
    })
    .await;
}

async fn a_failed_image_is_reported_by_node_and_reason(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP, DB]);
    world.registry().fail(DB, Reason::Unauthorized);
    let a = world.node("a").await;
    world.apply("web", &[APP, DB]).await;
    let status = world.ended("web", "ImageCacheCreate", "Failed").await;
    assert_eq!(status.cached.as_deref(), Some("1/2"));
    let failures = &status.failures[DB];
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].node, a.name());
    assert_eq!(failures[0].reason, "Unauthorized");
    assert!(failures[0].message.contains("injected"), "{failures:?}");
    let events: Api<Event> = Api::namespaced(world.cluster().client(), world.cluster().namespace());
    eventually("a warning", || async {
        let about = ListParams::default().fields("type=Warning");
        let events = events.list(&about).await.unwrap().items;
        let warned = |reason, start: &str| {
            let starts = |e: &Event| e.message.as_ref().is_some_and(|m| m.starts_with(start));
            let mut events = events.iter();
            events.any(|e| e.reason.as_deref() == Some(reason) && starts(e))
        };
        let cause = format!("{}: {DB}: Unauthorized: ", a.name());
        (warned("ImageCacheCreate", "creating") && warned("ImagePullFailed", &cause))
            .then_some(())
            .ok_or(format!("{events:?}"))
    })
    .await;
    // Once the cause is gone, a refresh is enough; the spec does not change.
    world.registry().mend(DB);
    world.annotate("web", REFRESH_ANNOTATION).await;
    world.ended("web", "ImageCacheRefresh", "Succeeded").await;
}

async fn a_failing_pull_is_reported_during_retries(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP, DB]);
    world.registry().fail(APP, Reason::ConnectionFailed);
    let a = world.node("a").await;
    // Nodes and caches have separate watches: once this cache ends, the controller knows that the node is Ready.
    world.apply("first", &[DB]).await;
    world.ended("first", "ImageCacheCreate", "Succeeded").await;
    world.apply("web", &[APP]).await;
    let status = world
        .status_when("web", "failing so far", |status| {
            status.failures_total == Some(1)
        })
        .await;
    assert_eq!(status.status, "Processing");
    let failure = &status.failures[APP][0];
    assert_eq!(
        (failure.node.as_str(), failure.reason.as_str()),
        (a.name(), "ConnectionFailed")
    );
    let degraded = status
        .conditions
        .iter()
        .find(|c| c.type_ == "Degraded")
        .unwrap();
    assert_eq!(
        (degraded.status.as_str(), degraded.reason.as_str()),
        ("True", "ImagesFailing")
    );
    world.registry().mend(APP);
    let status = world.ended("web", "ImageCacheCreate", "Succeeded").await;
    assert!(status.failures.is_empty() && status.failures_total == Some(0));
}

async fn a_cache_without_matching_nodes_has_its_own_status(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP]);
    let _other = world.node("a").await;
    let group = json!({ "images": [APP], "nodeSelector": { "tier": "nowhere" } });
    world
        .apply_spec("web", json!({ "cacheSpec": [group] }))
        .await;
    let status = world
        .ended("web", "ImageCacheCreate", "NoImagesPulledOrDeleted")
        .await;
    assert_eq!(status.cached.as_deref(), Some("0/0"));
}

async fn a_refresh_pulls_moved_tags_and_removes_the_annotation(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP, MOVING]);
    let a = world.node("a").await;
    world.apply("web", &[APP, MOVING]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    world.registry().publish(MOVING, "moved");
    world.annotate("web", REFRESH_ANNOTATION).await;
    let status = world.ended("web", "ImageCacheRefresh", "Succeeded").await;
    assert_eq!(a.runtime.content(MOVING).as_deref(), Some("moved"));
    assert_eq!(
        a.runtime.pulls(APP),
        1,
        "a fixed tag is verified, not pulled"
    );
    assert!(status.refresh_revision > Some(0));
    world.annotation_gone("web", REFRESH_ANNOTATION).await;
    // The same annotation a second time is a new request.
    world.registry().publish(MOVING, "moved again");
    world.annotate("web", REFRESH_ANNOTATION).await;
    let revision = status.refresh_revision;
    world
        .status_when("web", "refreshed again", |status| {
            status.refresh_revision > revision && status.status == "Succeeded"
        })
        .await;
    assert_eq!(a.runtime.content(MOVING).as_deref(), Some("moved again"));
}

async fn a_refresh_ends_once_evicted_images_are_back(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP, DB]);
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.apply("web", &[APP, DB]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    // Without an agent, a pulled image counts as present until a newer list of the kubelet lacks it.
    let missing = way == Way::Agents;
    if missing {
        a.runtime.evict(DB);
    }
    world.annotate("web", REFRESH_ANNOTATION).await;
    let status = world.ended("web", "ImageCacheRefresh", "Succeeded").await;
    assert_eq!(a.runtime.held(), [APP, DB]);
    assert_eq!(status.cached.as_deref(), Some("4/4"));
    assert_eq!(status.verify_revision, status.refresh_revision);
    assert_eq!(a.runtime.pulls(DB), 1 + usize::from(missing));
    for (node, image) in [(&a, APP), (&b, APP), (&b, DB)] {
        assert_eq!(
            node.runtime.pulls(image),
            1,
            "{image}: present, so not pulled again"
        );
    }
    world.annotation_gone("web", REFRESH_ANNOTATION).await;
}

async fn the_refresh_interval_follows_a_moved_tag(way: Way) {
    let mut options = WorldOptions::by(way);
    options.planner.refresh_interval = Duration::from_secs(1);
    let world = World::start_with(options).await;
    world.publish(&[APP, MOVING]);
    let a = world.node("a").await;
    world.apply("web", &[APP, MOVING]).await;
    a.holds_exactly(&[APP, MOVING]).await;
    for content in ["moved", "moved again"] {
        world.registry().publish(MOVING, content);
        eventually("the moved tag to be pulled", || async {
            let held = a.runtime.content(MOVING).unwrap_or_default();
            (held == content).then_some(()).ok_or(held)
        })
        .await;
    }
    world
        .status_when("web", "refreshed by the interval", |status| {
            status.reason == "ImageCacheRefresh" && status.status == "Succeeded"
        })
        .await;
    assert_eq!(a.runtime.pulls(APP), 1, "a fixed tag is not pulled again");
}

async fn a_purge_lasts_until_a_refresh(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP, DB]);
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.apply("web", &[APP, DB]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    b.runtime.set_in_use(DB, true);
    world.annotate("web", PURGE_ANNOTATION).await;
    let status = world.ended("web", "ImageCachePurge", "Succeeded").await;
    a.holds_exactly(&[]).await;
    b.holds_exactly(&[DB]).await;
    assert!(
        status.message.contains("1 kept because"),
        "{}",
        status.message
    );
    world.annotation_gone("web", PURGE_ANNOTATION).await;
    let late = world.node("late").await;
    world
        .status_when("web", "still purged with the new node", |s| {
            s.purged == Some(true)
        })
        .await;
    world.annotate("web", REFRESH_ANNOTATION).await;
    world.ended("web", "ImageCacheRefresh", "Succeeded").await;
    for node in [&a, &b, &late] {
        node.holds_exactly(&[APP, DB]).await;
    }
}

async fn a_deletion_removes_images_only_with_policy_purge(way: Way) {
    let world = World::start_by(way).await;
    world.publish(&[APP, DB]);
    let a = world.node("a").await;
    world.apply("retained", &[APP]).await;
    let purged = json!({ "cacheSpec": [{ "images": [DB] }], "deletionPolicy": "Purge" });
    world.apply_spec("purged", purged).await;
    world
        .ended("retained", "ImageCacheCreate", "Succeeded")
        .await;
    world.ended("purged", "ImageCacheCreate", "Succeeded").await;
    eventually("the finalizer", || async {
        let cache = world.caches().get("purged").await.unwrap();
        let finalizers = cache.metadata.finalizers.unwrap_or_default();
        finalizers
            .contains(&FINALIZER.to_owned())
            .then_some(())
            .ok_or("none".to_owned())
    })
    .await;
    world.delete("retained").await;
    world.delete("purged").await;
    world.gone("retained").await;
    world.gone("purged").await;
    a.holds_exactly(&[APP]).await;
    eventually("the node's record to be deleted", || async {
        let record = world.records().get_opt(a.name()).await.unwrap();
        record.map_or(Ok(()), |record| Err(format!("{record:?}")))
    })
    .await;
}

async fn an_unresponsive_node_does_not_block_a_deletion(way: Way) {
    let mut options = WorldOptions::by(way);
    if way == Way::Agents {
        // Limits after which the node is skipped, 30 s and more by default.
        options.planner.defaults.deadline = Duration::from_secs(1);
        options.planner.answer_grace = Duration::from_secs(1);
        options.planner.report_grace = Duration::from_secs(1);
    }
    let world = World::start_with(options).await;
    world.publish(&[APP]);
    let (a, mut dead, unready) = (
        world.node("a").await,
        world.node("b").await,
        world.node("c").await,
    );
    let mut spec = json!({ "cacheSpec": [{ "images": [APP] }], "deletionPolicy": "Purge" });
    // For the pulls, which a busy machine may delay.
    spec["deadline"] = "5m".into();
    world.apply_spec("web", spec).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    dead.kill_agent().await;
    if way == Way::Jobs {
        // Kubernetes itself marks a node without a kubelet NotReady.
        dead.object.set_ready(false).await;
    }
    unready.object.set_ready(false).await;
    world.delete("web").await;
    world.gone("web").await;
    a.holds_exactly(&[]).await;
    assert!(dead.runtime.holds(APP), "its agent is dead");
    // The removal stays in the record: a node that returns does it.
    dead.start_agent();
    dead.object.set_ready(true).await;
    dead.holds_exactly(&[]).await;
}
