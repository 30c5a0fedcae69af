//! A controller with another node driver than agents.
use std::sync::Arc;
use std::time::Duration;

use fledged_core::model::{AssignedImage, NodeName};
use fledged_core::planner::ClusterEvent;
use fledged_core::port::WriteFailure;
use fledged_kube::crd::{ImageCache, NodeImageCache};
use fledged_kube::lease::LeaseName;
use fledged_operator::controller::DriverError;
use fledged_operator::controller::{Candidate, Controller, ControllerConfig, ControllerError};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::driver_support::{NODE, Recording, cache, cache_of, cluster, settled, status_is};

const IMAGE: &str = "registry.test/app:1";

/// A running controller with a driver, and its shutdown signal.
struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), ControllerError>>,
}

impl Running {
    fn start(client: &Client, driver: &Arc<Recording>) -> Self {
        let driver = Arc::clone(driver);
        let lease = LeaseName::of_controller("default");
        let mut election = Candidate::new(lease, "test");
        election.times.retry_period = Duration::from_millis(200);
        let mut config = ControllerConfig::default();
        config.election = Some(election);
        config.driver = Some(driver);
        let controller = Controller::new(client.clone(), config);
        let stop = CancellationToken::new();
        let task = tokio::spawn(controller.run(stop.clone().cancelled_owned()));
        Self { stop, task }
    }

    async fn ended(self) -> Result<(), ControllerError> {
        self.task.await.unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.ended().await.unwrap();
    }
}

fn assign() -> String {
    format!("assign {NODE} {IMAGE}")
}

#[tokio::test]
async fn assignments_and_reports_use_only_the_driver() {
    let (_server, client) = cluster().await;
    let driver = Recording::new(false);
    let running = Running::start(&client, &driver);
    cache(&client, "web", IMAGE).await;
    status_is(&client, "web", "Succeeded").await;
    assert_eq!(driver.calls(), ["run".to_owned(), assign()]);

    let caches: Api<ImageCache> = Api::default_namespaced(client.clone());
    caches
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    assert_eq!(driver.calls_when(3).await[2], format!("release {NODE}"));

    running.stop().await;
    assert_eq!(driver.calls()[3..], ["run ended"]);
    let records: Api<NodeImageCache> = Api::all(client.clone());
    let records = records.list(&ListParams::default()).await.unwrap();
    assert!(records.items.is_empty());
}

/// Runs a controller, then a second one; returns the driver's calls by the second.
async fn after_a_restart(keeps_record: bool) -> Vec<String> {
    let (_server, client) = cluster().await;
    let driver = Recording::new(keeps_record);
    cache(&client, "web", IMAGE).await;
    let running = Running::start(&client, &driver);
    status_is(&client, "web", "Succeeded").await;
    running.stop().await;
    let before = driver.calls();
    assert_eq!(before, ["run".to_owned(), assign(), "run ended".to_owned()]);

    let running = Running::start(&client, &driver);
    if !keeps_record {
        driver.calls_when(before.len() + 2).await;
    }
    // The status of this cache follows all earlier writes.
    let nowhere = json!({ "images": [IMAGE], "nodeSelector": { "no": "node" } });
    cache_of(&client, "nowhere", nowhere).await;
    status_is(&client, "nowhere", "NoImagesPulledOrDeleted").await;
    running.stop().await;
    driver.calls().split_off(before.len())
}

#[tokio::test]
async fn recorded_assignments_are_not_written_again() {
    let since = after_a_restart(true).await;
    assert_eq!(since, ["run", "run ended"]);
}

#[tokio::test]
async fn assignments_without_record_are_written_again() {
    let since = after_a_restart(false).await;
    assert_eq!(since, ["run".to_owned(), assign(), "run ended".to_owned()]);
}

#[tokio::test]
async fn a_deleted_record_is_written_again() {
    let (_server, client) = cluster().await;
    let driver = Recording::new(true);
    let running = Running::start(&client, &driver);
    cache(&client, "web", IMAGE).await;
    status_is(&client, "web", "Succeeded").await;
    driver.send(ClusterEvent::AssignmentGone(NodeName::new(NODE).unwrap()));
    assert_eq!(driver.calls_when(3).await[1..], [assign(), assign()]);
    running.stop().await;
}

#[tokio::test]
async fn an_unresponsive_node_is_unreachable_until_its_report() {
    let (_server, client) = cluster().await;
    let driver = Recording::new(true);
    let running = Running::start(&client, &driver);
    cache(&client, "web", IMAGE).await;
    status_is(&client, "web", "Succeeded").await;
    let node = || NodeName::new(NODE).unwrap();
    driver.send(ClusterEvent::AgentUnresponsive(node()));
    status_is(&client, "web", "Unknown").await;
    let image = IMAGE.parse().unwrap();
    let report = settled(1, &[AssignedImage::present(image)]);
    driver.send(ClusterEvent::Reported {
        node: node(),
        report,
    });
    status_is(&client, "web", "Succeeded").await;
    running.stop().await;
}

#[tokio::test]
async fn failed_pulls_are_retried() {
    let (_server, client) = cluster().await;
    let driver = Recording::new(false);
    driver.fail(vec![
        WriteFailure::Conflict("the object was changed".to_owned()),
        WriteFailure::Unavailable {
            message: "not now".to_owned(),
            retry_after: None,
        },
    ]);
    let running = Running::start(&client, &driver);
    cache(&client, "web", IMAGE).await;
    status_is(&client, "web", "Succeeded").await;
    assert_eq!(driver.calls()[1..], [assign(), assign(), assign()]);
    running.stop().await;
}

#[tokio::test]
async fn background_work_outlives_the_last_call() {
    let (_server, client) = cluster().await;
    let driver = Recording::new(false);
    driver.hold(true);
    let running = Running::start(&client, &driver);
    cache(&client, "web", IMAGE).await;
    driver.calls_when(2).await;
    running.stop.cancel();
    // The call continues after the shutdown began, and the background work after the call.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    driver.hold(false);
    running.ended().await.unwrap();
    assert_eq!(driver.calls()[2..], ["answered", "run ended"]);
}

#[tokio::test]
async fn background_work_is_dropped_when_the_lease_is_lost() {
    let (_server, client) = cluster().await;
    let driver = Recording::new(false);
    let running = Running::start(&client, &driver);
    driver.calls_when(1).await;
    let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
    let taken = Patch::Merge(json!({ "spec": { "holderIdentity": "another" } }));
    let params = PatchParams::default();
    let lease = leases.patch("kubefledged-controller", &params, &taken);
    lease.await.unwrap();
    let ended = running.ended().await;
    assert!(
        matches!(ended, Err(ControllerError::NotLeading(_))),
        "{ended:?}"
    );
    assert_eq!(driver.calls(), ["run", "run dropped"]);
    let lease = leases.get("kubefledged-controller").await.unwrap();
    let holder = lease.spec.unwrap().holder_identity.unwrap();
    assert_eq!(
        holder, "another",
        "the lease of another holder was released"
    );
}

#[tokio::test]
async fn the_end_of_the_driver_ends_the_controller_with_its_error() {
    let failed = DriverError::new("cannot create job x: no");
    type End = fn(&Recording);
    let ends: [(End, ControllerError); 3] = [
        (
            |driver| driver.end(Err(DriverError::new("cannot create job x: no"))),
            ControllerError::DriverFailed(failed),
        ),
        (|driver| driver.end(Ok(())), ControllerError::DriverEnded),
        (Recording::end_events, ControllerError::WatchesEnded),
    ];
    for (end, wanted) in ends {
        let (_server, client) = cluster().await;
        let driver = Recording::new(false);
        let running = Running::start(&client, &driver);
        cache(&client, "web", IMAGE).await;
        status_is(&client, "web", "Succeeded").await;
        end(&driver);
        assert_eq!(running.ended().await, Err(wanted));
        // The lease is released, so a successor need not wait.
        let leases: Api<Lease> = Api::namespaced(client.clone(), "default");
        let lease = leases.get("kubefledged-controller").await.unwrap();
        let holder = lease.spec.unwrap().holder_identity.unwrap_or_default();
        assert_eq!(holder, "");
    }
}
