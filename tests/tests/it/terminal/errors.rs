//! What is wrong is named, and what to do.

use fledged_apiserver::{Failure, RequestFilter, Server};
use fledged_tests::Fledged;
use fledged_tests::kube::World;

use crate::terminal::support::{call, fledged, run, says};

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_not_there_is_looked_for_elsewhere() {
    let world = World::without_controller(Default::default()).await;
    world.apply("web", &["app:1"]).await;
    let missing = fledged(&world, &["get", "wep"], 1);
    says(
        &missing,
        &[
            "no ImageCache \"wep\"",
            world.cluster().namespace(),
            "get -A",
        ],
    );
    let elsewhere = Fledged::new()
        .env("KUBECONFIG", world.cluster().kubeconfig())
        .args(["get", "web", "-n", "default"]);
    let elsewhere = run(elsewhere);
    assert_eq!(elsewhere.code, Some(1));
    let hint = format!("there is one with -n {}", world.cluster().namespace());
    says(&elsewhere, &[&hint]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_the_definitions_is_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::builder().start().await.unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig()).unwrap();
    let output = run(Fledged::new().args(["get", "--kubeconfig"]).arg(kubeconfig));
    assert_eq!(output.code, Some(1), "{output}");
    says(
        &output,
        &[
            "imagecaches.kubefledged.io",
            "not installed",
            "kubefledged-crd.yaml",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_does_not_answer_is_named() {
    let mut world = World::without_controller(Default::default()).await;
    if world.cluster().embedded().is_none() {
        return;
    }
    let url = world.cluster().embedded().unwrap().url();
    world.cluster_mut().stop_server().await;
    let output = fledged(&world, &["get"], 1);
    says(
        &output,
        &[
            "cannot list imagecaches.kubefledged.io",
            &url,
            "does not answer",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forbidden_is_said_by_verb_and_resource() {
    let world = World::without_controller(Default::default()).await;
    let Some(server) = world.cluster().embedded() else {
        return;
    };
    let filter = RequestFilter {
        verb: Some("list".to_owned()),
        resource: Some("imagecaches".to_owned()),
        ..RequestFilter::default()
    };
    server.fail_next(1, filter, Failure::forbidden("nobody may"));
    let output = fledged(&world, &["get"], 1);
    says(
        &output,
        &[
            "not allowed to list imagecaches.kubefledged.io",
            "verb list",
            "nobody may",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_arguments_end_with_2() {
    let world = World::without_controller(Default::default()).await;
    for (args, parts) in [
        (
            &["get", "--context", "nowhere"][..],
            &["--context \"nowhere\""][..],
        ),
        (
            &["get", "--kubeconfig", "/nowhere/at/all"],
            &["--kubeconfig /nowhere/at/all"],
        ),
        (&["get", "-o", "xml"], &["'xml'", "yaml"]),
        (&["get", "web", "-A"], &["--all-namespaces"]),
    ] {
        says(&fledged(&world, args, 2), parts);
    }
    let nowhere = call(&world, &["get"]).env("KUBECONFIG", "/nowhere/at/all");
    let nowhere = run(nowhere);
    assert_eq!(nowhere.code, Some(2), "{nowhere}");
    says(&nowhere, &["$KUBECONFIG /nowhere/at/all"]);
}
