//! Leader election: of several controllers only the holder of the lease acts.

use std::time::Duration;

use fledged_kube::lease::LeaseName;
use fledged_operator::controller::{self, Controller, ControllerConfig};
use fledged_tests::kube::{Way, World, WorldOptions, eventually};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

scenarios! {
    another_candidate_takes_over_after_kill_and_release,
    a_controller_without_its_lease_ends_with_an_error,
}

const APP: &str = "registry.test/app:1";
const DB: &str = "registry.test/db:1";

struct Candidate {
    stop: CancellationToken,
    task: JoinHandle<Result<(), String>>,
}

fn candidate(world: &World, identity: &str) -> Candidate {
    let lease = LeaseName::new(world.cluster().namespace(), "controller");
    let mut election = controller::Candidate::new(lease, identity);
    election.times.lease_duration = Duration::from_secs(3);
    election.times.renew_deadline = Duration::from_secs(2);
    election.times.retry_period = Duration::from_millis(200);
    let mut config = ControllerConfig::default();
    config.planner = WorldOptions::by(world.way()).planner;
    config.driver = Some(world.driver());
    config.election = Some(election);
    let controller = Controller::new(world.cluster().client(), config);
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let run = async move { controller.run(stopped).await.map_err(|e| e.to_string()) };
    Candidate {
        stop,
        task: tokio::spawn(run),
    }
}

async fn leader(world: &World, wanted: &str) {
    let leases: Api<Lease> = Api::namespaced(world.cluster().client(), world.cluster().namespace());
    eventually(&format!("{wanted:?} to lead"), || async {
        let lease = leases.get_opt("controller").await.unwrap();
        let holder = lease.and_then(|l| l.spec).and_then(|s| s.holder_identity);
        let holder = holder.unwrap_or_default();
        (holder == wanted).then_some(()).ok_or(holder)
    })
    .await;
}

async fn another_candidate_takes_over_after_kill_and_release(way: Way) {
    let world = World::without_controller(WorldOptions::by(way)).await;
    world.publish(&[APP, DB]);
    let a = world.node("a").await;
    let one = candidate(&world, "one");
    leader(&world, "one").await;
    let two = candidate(&world, "two");
    world.apply("web", &[APP]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    // After a kill the lease has to expire.
    one.task.abort();
    leader(&world, "two").await;
    world.apply("web", &[APP, DB]).await;
    world.ended("web", "ImageCacheUpdate", "Succeeded").await;
    a.holds_exactly(&[APP, DB]).await;
    // A stopped controller releases its lease.
    let three = candidate(&world, "three");
    two.stop.cancel();
    two.task.await.unwrap().unwrap();
    leader(&world, "three").await;
    world.apply("web", &[DB]).await;
    world
        .status_when("web", "edited", |s| s.cached.as_deref() == Some("1/1"))
        .await;
    three.stop.cancel();
    three.task.await.unwrap().unwrap();
    leader(&world, "").await;
}

async fn a_controller_without_its_lease_ends_with_an_error(way: Way) {
    let world = World::without_controller(WorldOptions::by(way)).await;
    let one = candidate(&world, "one");
    leader(&world, "one").await;
    let leases: Api<Lease> = Api::namespaced(world.cluster().client(), world.cluster().namespace());
    eventually("the lease to be taken by force", || async {
        let mut lease = leases.get("controller").await.unwrap();
        lease.spec.as_mut().unwrap().holder_identity = Some("thief".to_owned());
        let replaced = leases
            .replace("controller", &Default::default(), &lease)
            .await;
        replaced.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let error = one.task.await.unwrap().unwrap_err();
    assert!(error.contains("no longer the leader"), "{error}");
    assert!(error.contains(world.cluster().namespace()), "{error}");
}
