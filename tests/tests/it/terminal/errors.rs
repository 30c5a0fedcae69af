//! Errors of the commands for a cluster: each names its cause and a remedy.

use fledged_apiserver::{Failure, RequestFilter, Server};
use fledged_tests::Fledged;
use fledged_tests::kube::World;

use crate::terminal::support::{call, fledged, run, stderr_has};

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_cache_is_searched_in_other_namespaces() {
    let world = World::without_controller(Default::default()).await;
    world.apply("web", &["app:1"]).await;
    let missing = fledged(&world, &["get", "wep"], 1);
    stderr_has(
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
    stderr_has(&elsewhere, &[&hint]);
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_definitions_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::builder().start().await.unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig()).unwrap();
    let output = run(Fledged::new().args(["get", "--kubeconfig"]).arg(kubeconfig));
    assert_eq!(output.code, Some(1), "{output}");
    stderr_has(
        &output,
        &[
            "imagecaches.kubefledged.io",
            "not installed",
            "kubefledged-crd.yaml",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_api_server_is_named() {
    let mut world = World::without_controller(Default::default()).await;
    if world.cluster().embedded().is_none() {
        return;
    }
    let url = world.cluster().embedded().unwrap().url();
    world.cluster_mut().stop_server().await;
    let output = fledged(&world, &["get"], 1);
    stderr_has(
        &output,
        &[
            "cannot list imagecaches.kubefledged.io",
            &url,
            "does not answer",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_request_is_named_by_verb_and_resource() {
    let world = World::without_controller(Default::default()).await;
    let Some(server) = world.cluster().embedded() else {
        return;
    };
    let filter = RequestFilter {
        verb: Some("list".to_owned()),
        resource: Some("imagecaches".to_owned()),
        ..RequestFilter::default()
    };
    server.fail_next(1, filter, Failure::forbidden("no such right"));
    let output = fledged(&world, &["get"], 1);
    stderr_has(
        &output,
        &[
            "not allowed to list imagecaches.kubefledged.io",
            "verb list",
            "no such right",
        ],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_arguments_are_named_with_exit_code_2() {
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
        stderr_has(&fledged(&world, args, 2), parts);
    }
    let nowhere = call(&world, &["get"]).env("KUBECONFIG", "/nowhere/at/all");
    let nowhere = run(nowhere);
    assert_eq!(nowhere.code, Some(2), "{nowhere}");
    stderr_has(&nowhere, &["$KUBECONFIG /nowhere/at/all"]);
}
