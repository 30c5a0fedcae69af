//! Behaviour of the Job driver alone.

use std::collections::BTreeSet;
use std::time::Duration;

use fledged_apiserver::{Failure, RequestFilter};
use fledged_kube::crd::PURGE_ANNOTATION;
use fledged_operator::jobs::Retention;
use fledged_tests::kube::{TestNode, Way, World, WorldOptions, eventually};
use fledged_tests::skipped;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Node;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;

const APP: &str = "registry.test/app:1";
const DB: &str = "registry.test/db:1";
const CRON: &str = "registry.test/cron:1";

async fn jobs_of(world: &World, kind: &str) -> Vec<Job> {
    let jobs: Api<Job> = Api::namespaced(world.cluster().client(), world.cluster().namespace());
    let ours = format!("app=kubefledged,kubefledged.io/job={kind}");
    let list = jobs.list(&ListParams::default().labels(&ours)).await;
    list.unwrap().items
}

async fn jobs_when(world: &World, kind: &str, count: usize) -> Vec<Job> {
    eventually(&format!("{count} {kind} Jobs"), || async {
        let jobs = jobs_of(world, kind).await;
        let names: Vec<String> = jobs.iter().map(ResourceExt::name_any).collect();
        (jobs.len() == count)
            .then_some(jobs)
            .ok_or(format!("{names:?}"))
    })
    .await
}

/// Waits until the kubelet of `node` lists `image`.
async fn reported(world: &World, node: &TestNode, image: &str) {
    let nodes: Api<Node> = Api::all(world.cluster().client());
    eventually(&format!("the kubelet to report {image}"), || async {
        let node = nodes.get(node.name()).await.unwrap();
        let images = node.status.and_then(|status| status.images);
        let mut names = images.into_iter().flatten().filter_map(|image| image.names);
        let named = names.any(|names| names.iter().any(|name| name == image));
        named.then_some(()).ok_or("not yet".to_owned())
    })
    .await;
}

fn created(kind: &str) -> RequestFilter {
    RequestFilter {
        verb: Some("create".to_owned()),
        resource: Some(kind.to_owned()),
        ..RequestFilter::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_job_pulls_all_missing_images_of_a_node() {
    let world = World::start_by(Way::Jobs).await;
    world.publish(&[APP, DB, CRON]);
    let a = world.node("a").await;
    a.runtime.preload(CRON, "registry.test/cron:1 v1");
    reported(&world, &a, CRON).await;
    a.runtime.hold_pulls(true);
    world.apply("web", &[APP, DB, CRON]).await;
    let jobs = jobs_when(&world, "pull", 1).await;
    let job = &jobs[0];
    let pod = job.spec.clone().unwrap().template.spec.unwrap();
    let volumes = pod.volumes.unwrap_or_default().into_iter();
    let images = volumes.filter_map(|volume| volume.image?.reference);
    let images: BTreeSet<String> = images.collect();
    assert_eq!(images, BTreeSet::from([APP.to_owned(), DB.to_owned()]));
    assert_eq!(job.labels()["imagecache"], "web");
    let owners = job.owner_references();
    assert_eq!(owners.len(), 1);
    assert_eq!(owners[0].kind, "ImageCache");
    a.runtime.hold_pulls(false);
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    jobs_when(&world, "pull", 0).await;
    if let Some(server) = world.cluster().embedded() {
        server.reset_requests();
        world.apply("other", &[APP, DB, CRON]).await;
        world.ended("other", "ImageCacheCreate", "Succeeded").await;
        let made = server.count(|key| key.resource == "jobs" && key.is_write());
        assert_eq!(made, 0, "nothing is missing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_creation_of_a_job_is_retried() {
    let world = World::start_by(Way::Jobs).await;
    let Some(server) = world.cluster().embedded() else {
        return skipped("only the embedded API server fails on demand");
    };
    world.publish(&[APP]);
    let a = world.node("a").await;
    server.fail_next(1, created("jobs"), Failure::too_many_requests(1));
    server.fail_next(1, created("jobs"), Failure::internal_error());
    server.fail_next(1, created("jobs"), Failure::unavailable());
    world.apply("web", &[APP]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    assert_eq!(a.runtime.pulls(APP), 1);
    let made = server.count(|key| key.resource == "jobs" && key.verb == "create");
    assert_eq!(made, 4, "one Job, and three attempts that failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_a_job_or_pod_is_reported_verbatim() {
    let world = World::start_by(Way::Jobs).await;
    let Some(server) = world.cluster().embedded() else {
        return skipped("only the embedded API server fails on demand");
    };
    world.publish(&[APP, DB]);
    let _a = world.node("a").await;
    for (name, image, kind) in [("web", APP, "jobs"), ("data", DB, "pods")] {
        let why = "exceeded quota: everything";
        server.fail_next(usize::MAX, created(kind), Failure::forbidden(why));
        world.apply(name, &[image]).await;
        let status = world
            .status_when(name, "failing so far", |status| {
                status.failures_total == Some(1)
            })
            .await;
        let failure = &status.failures[image][0];
        assert!(failure.message.contains(why), "{}", failure.message);
        server.fail_nothing();
        world.ended(name, "ImageCacheCreate", "Succeeded").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_never_starts_fails_at_the_deadline() {
    let mut options = WorldOptions::by(Way::Jobs);
    options.planner.defaults.deadline = Duration::from_secs(3);
    let world = World::start_with(options).await;
    world.publish(&[APP]);
    let a = world.node("a").await;
    // A Ready node without a kubelet: its pods never start.
    let stuck = world.unresponsive_node("stuck", &[]).await;
    stuck.object.set_ready(true).await;
    world.apply("web", &[APP]).await;
    a.holds_exactly(&[APP]).await;
    let status = world.ended("web", "ImageCacheCreate", "Failed").await;
    assert_eq!(status.cached.as_deref(), Some("1/2"));
    let failure = &status.failures[APP][0];
    assert_eq!(failure.node, stuck.name());
    assert_eq!(failure.reason, "DeadlineExceeded");
    assert!(failure.message.contains("is Pending"), "{failure:?}");
    jobs_when(&world, "pull", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_controller_continues_existing_jobs() {
    let mut world = World::start_by(Way::Jobs).await;
    world.publish(&[APP, DB]);
    let a = world.node("a").await;
    a.runtime.hold_pulls(true);
    world.apply("web", &[APP, DB]).await;
    let before = jobs_when(&world, "pull", 1).await;
    eventually("the pull to begin", || async {
        let pulls = a.runtime.pulls(APP) + a.runtime.pulls(DB);
        (pulls == 1).then_some(()).ok_or(format!("{pulls} pulls"))
    })
    .await;
    world.kill_controller().await;
    world.start_controller();
    world
        .record_when(&a, "reported again", |record| {
            let status = record.status.as_ref();
            status.is_some_and(|status| status.images.len() == 2)
        })
        .await;
    a.runtime.hold_pulls(false);
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    assert_eq!((a.runtime.pulls(APP), a.runtime.pulls(DB)), (1, 1));
    drop(before);
    jobs_when(&world, "pull", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn obsolete_jobs_are_deleted_when_the_controller_starts() {
    let mut world = World::start_by(Way::Jobs).await;
    world.publish(&[APP]);
    let a = world.node("a").await;
    a.runtime.hold_pulls(true);
    world.apply("web", &[APP]).await;
    jobs_when(&world, "pull", 1).await;
    world.kill_controller().await;
    a.object.delete().await;
    world.start_controller();
    jobs_when(&world, "pull", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_job_with_the_drivers_labels_is_ignored() {
    let mut world = World::start_by(Way::Jobs).await;
    world.publish(&[APP]);
    let a = world.node("a").await;
    let container = json!({ "name": "x", "image": APP });
    let labels = json!({ "app": "kubefledged", "kubefledged": "kubefledged-image-manager",
        "kubefledged.io/job": "pull" });
    let affinity = json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{ "matchFields": [
            { "key": "metadata.name", "operator": "In", "values": ["gone"] } ] }] } } });
    let job = json!({
        "metadata": { "name": "a-strangers", "labels": labels,
            "annotations": { "kubefledged.io/node": a.name() } },
        "spec": { "template": { "metadata": { "labels": labels },
            "spec": { "restartPolicy": "Never", "containers": [container], "affinity": affinity } } },
    });
    world.create::<Job>(job).await;
    world.apply("web", &[APP]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    assert_eq!(a.runtime.pulls(APP), 1, "the foreign Job is no evidence");
    world.stop_controller().await;
    world.start_controller();
    world.apply("other", &[APP]).await;
    world.ended("other", "ImageCacheCreate", "Succeeded").await;
    let jobs = jobs_when(&world, "pull", 1).await;
    assert_eq!(jobs[0].name_any(), "a-strangers");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_job_removes_and_retained_jobs_expire_later() {
    let mut options = WorldOptions::by(Way::Jobs);
    options.retention = Retention::Retain;
    let mut world = World::start_with(options).await;
    world.publish(&[APP, DB, CRON]);
    let a = world.node("a").await;
    world.apply("web", &[APP, DB, CRON]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    world.annotate("web", PURGE_ANNOTATION).await;
    world.ended("web", "ImageCachePurge", "Succeeded").await;
    a.holds_exactly(&[]).await;
    jobs_when(&world, "pull", 1).await;
    let jobs = jobs_when(&world, "remove", 1).await;
    let pod = jobs[0].spec.clone().unwrap().template.spec.unwrap();
    let args = pod.containers[0].args.clone().unwrap();
    let images: BTreeSet<&str> = args
        .iter()
        .skip_while(|arg| *arg != "--")
        .skip(1)
        .map(String::as_str)
        .collect();
    assert_eq!(images, BTreeSet::from([APP, DB, CRON]));
    assert_eq!(
        jobs[0].spec.clone().unwrap().ttl_seconds_after_finished,
        Some(3600)
    );
    // A restarted controller keeps the retained Jobs.
    world.stop_controller().await;
    world.start_controller();
    world.apply("other", &[APP]).await;
    world.ended("other", "ImageCacheCreate", "Succeeded").await;
    jobs_when(&world, "pull", 2).await;
    jobs_when(&world, "remove", 1).await;
}
