//! Tenants who may create Jobs, and Jobs that outlive what they did.

use std::time::Duration;

use fledged_kube::crd::PURGE_ANNOTATION;
use fledged_operator::jobs::FIELD_MANAGER;
use fledged_tests::kube::{TestNode, Way, World, WorldOptions, eventually};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{APP, Tenant};

const NOWHERE: &str = "registry.test/nowhere:1";
const TOOLS: &str = "registry.test/tools:1";

async fn world() -> (World, TestNode) {
    let world = World::start_by(Way::Jobs).await;
    world.publish(&[APP, TOOLS]);
    let node = world.node("a").await;
    (world, node)
}

fn jobs(tenant: &Tenant) -> Api<Job> {
    Api::namespaced(tenant.client.clone(), &tenant.namespace)
}

/// Waits for the victim's pull Job.
async fn pull_job(victim: &Tenant) -> Job {
    eventually("a pull Job", || async {
        let jobs = jobs(victim).list(&ListParams::default()).await.unwrap();
        jobs.items.into_iter().next().ok_or("none".to_owned())
    })
    .await
}

/// Creates a Job in a tenant's namespace, as a client that calls itself `manager`.
async fn create_job(tenant: &Tenant, manager: &str, job: &Value) {
    let params = PostParams {
        field_manager: Some(manager.to_owned()),
        ..PostParams::default()
    };
    let job = serde_json::from_value(job.clone()).unwrap();
    jobs(tenant).create(&params, &job).await.unwrap();
}

/// A copy of a Job that a tenant may create under the same name.
fn copy_of(job: &Job) -> Value {
    let mut copy = serde_json::to_value(job).unwrap();
    let (labels, annotations) = (job.labels().clone(), job.annotations().clone());
    copy["metadata"] = json!({
        "name": job.name_any(), "labels": labels, "annotations": annotations,
    });
    copy.as_object_mut().unwrap().remove("status");
    copy["spec"]["suspend"] = true.into();
    let spec = copy["spec"].as_object_mut().unwrap();
    spec.remove("selector");
    let labels = copy["spec"]["template"]["metadata"]["labels"].as_object_mut();
    labels
        .unwrap()
        .retain(|key, _| !key.contains("controller-uid") && !key.contains("job-name"));
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_the_same_name_elsewhere_changes_nothing() {
    let (world, a) = world().await;
    let (attacker, victim) = Tenant::attacker_and_victim(&world).await;
    a.runtime.hold_pulls(true);
    victim.create_images("web", &[APP]).await;
    let job = pull_job(&victim).await;
    create_job(&attacker, "a-user", &copy_of(&job)).await;
    let gone = DeleteParams::background();
    jobs(&attacker)
        .delete(&job.name_any(), &gone)
        .await
        .unwrap();
    a.runtime.hold_pulls(false);
    victim.converges("web").await;
    assert_eq!(a.runtime.pulls(APP), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_job_does_not_hold_up_a_pull() {
    let (mut world, a) = world().await;
    let (attacker, victim) = Tenant::attacker_and_victim(&world).await;
    a.runtime.hold_pulls(true);
    victim.create_images("web", &[APP]).await;
    let job = pull_job(&victim).await;
    // A new controller finds no Job but the attacker's.
    world.kill_controller().await;
    let gone = DeleteParams::background();
    jobs(&victim).delete(&job.name_any(), &gone).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(victim.client.clone(), &victim.namespace);
    eventually("the pod of the Job to be gone", || async {
        let left = pods.list(&ListParams::default()).await.unwrap().items.len();
        (left == 0).then_some(()).ok_or(left.to_string())
    })
    .await;
    assert!(!a.runtime.holds(APP));
    let mut forged = copy_of(&job);
    forged["spec"]["activeDeadlineSeconds"] = 1_000_000.into();
    create_job(&attacker, FIELD_MANAGER, &forged).await;
    a.runtime.hold_pulls(false);
    world.start_controller();
    victim.converges("web").await;
    assert!(a.runtime.holds(APP));
}

/// The name of the container that pulls an image: names are no secret.
fn container_name(image: &str) -> String {
    let hash = Sha256::digest(image.as_bytes());
    let hex: String = hash
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let last = image.rsplit('/').next().unwrap().replace(':', "-");
    format!("{last}-{hex}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_another_image_proves_no_pull() {
    let (world, a) = world().await;
    let (attacker, victim) = Tenant::attacker_and_victim(&world).await;
    // The names of the Job and its container are those of a pull of the image.
    a.runtime.hold_pulls(true);
    victim.create_images("first", &[NOWHERE]).await;
    let genuine = pull_job(&victim).await;
    victim
        .caches()
        .delete("first", &DeleteParams::default())
        .await
        .unwrap();
    eventually("the Job to be deleted", || async {
        let left = jobs(&victim).list(&ListParams::default()).await.unwrap();
        left.items
            .is_empty()
            .then_some(())
            .ok_or(format!("{}", left.items.len()))
    })
    .await;
    a.runtime.hold_pulls(false);
    a.runtime.preload(TOOLS, "registry.test/tools:1 v1");
    let mut forged = copy_of(&genuine);
    forged["spec"]["suspend"] = false.into();
    let pod = &mut forged["spec"]["template"]["spec"];
    pod["containers"] = json!([{ "name": container_name(NOWHERE), "image": TOOLS }]);
    pod.as_object_mut().unwrap().remove("volumes");
    pod.as_object_mut().unwrap().remove("initContainers");
    create_job(&attacker, FIELD_MANAGER, &forged).await;
    victim.create_images("web", &[NOWHERE]).await;
    victim.ended("web", "ImageCacheCreate", "Failed").await;
    assert!(!a.runtime.holds(NOWHERE));
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_after_a_purge_means_that_the_image_is_back() {
    // The kubelet lists the removed image for the whole test.
    let world = World::start_with(WorldOptions {
        image_report_interval: Duration::from_secs(20),
        ..WorldOptions::by(Way::Jobs)
    })
    .await;
    world.publish(&[APP]);
    let (_, victim) = Tenant::attacker_and_victim(&world).await;
    let mut a = world.unresponsive_node("a", &[]).await;
    a.runtime.preload(APP, "registry.test/app:1 v1");
    a.object.set_ready(true).await;
    a.start_agent();
    let nodes: Api<Node> = Api::all(victim.client.clone());
    eventually("the kubelet to list the image", || async {
        let status = nodes.get(a.name()).await.unwrap().status;
        let images = status.and_then(|status| status.images).unwrap_or_default();
        let listed = images.len();
        (listed == 1).then_some(()).ok_or(listed.to_string())
    })
    .await;
    victim.create_images("web", &[APP]).await;
    victim.converges("web").await;
    assert_eq!(a.runtime.pulls(APP), 0);
    victim.annotate("web", PURGE_ANNOTATION).await;
    victim.ended("web", "ImageCachePurge", "Succeeded").await;
    assert!(!a.runtime.holds(APP));
    victim
        .caches()
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    victim.create_images("again", &[APP]).await;
    victim.converges("again").await;
    assert!(a.runtime.holds(APP));
}
