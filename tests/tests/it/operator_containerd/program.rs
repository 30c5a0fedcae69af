//! The program: flags, probes, metrics, exit codes.

use std::net::TcpListener;
use std::time::Duration;

use bytes::Bytes;
use fledged_kube::crd::definitions_yaml;
use fledged_tests::http;
use fledged_tests::kube::{World, WorldOptions, eventually};
use fledged_tests::{Fledged, Output};

fn run(args: &[&str]) -> Output {
    Fledged::operator().args(args.iter().copied()).run()
}

/// Sends a GET request and returns status and body.
fn get(address: &str, path: &str) -> Result<(u16, String), String> {
    let answer = http::send(address, hyper::Method::GET, path, &[], None, Bytes::new())?;
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    Ok((answer.status.as_u16(), body))
}

#[test]
fn invalid_flags_are_named_with_exit_code_2() {
    for (args, words) in [
        (
            vec!["controller", "--job-retention-policy=keep"],
            vec!["--job-retention-policy", "keep"],
        ),
        (
            vec!["controller", "--image-pull-deadline-duration=5"],
            vec!["'5'", "unit is missing"],
        ),
        (
            vec!["controller", "--metrics-bind-address=nowhere"],
            vec!["--metrics-bind-address", "nowhere"],
        ),
        (
            vec!["controller", "--leader-elect-lease-duration=5s"],
            vec!["--leader-elect-lease-duration", "5s"],
        ),
        (
            vec!["agent", "--node-name=Bad_Name"],
            vec!["--node-name", "Bad_Name"],
        ),
        (
            vec!["agent", "--node-name=a", "--runtime=ftp://x"],
            vec!["--runtime", "ftp://x"],
        ),
        (
            vec!["agent", "--node-name=a", "--pull-via=fetcher"],
            vec!["--pull-via", "fetcher", "auto"],
        ),
        (
            vec!["agent", "--node-name=a", "--max-pull-rate=1k"],
            vec!["--max-pull-rate", "'1k'", "must be at least 64Ki"],
        ),
        (
            vec![
                "agent",
                "--node-name=a",
                "--max-pull-rate=1M",
                "--runtime=unix:///x.sock",
            ],
            vec!["--max-pull-rate", "unix:///x.sock", "--pull-via=auto"],
        ),
        (vec!["agent"], vec!["--node-name"]),
        (
            vec!["controller", "--node-driver=job"],
            vec!["--node-driver", "job"],
        ),
    ] {
        let output = run(&args);
        assert_eq!(output.code, Some(2), "{args:?}: {output}");
        for word in words {
            assert!(output.stderr.contains(word), "{args:?}: {output}");
        }
    }
}

#[test]
fn a_missing_kubeconfig_is_named_with_exit_code_1() {
    let output = Fledged::operator()
        .args(["controller", "--kubeconfig=/nowhere/config"])
        .run();
    assert_eq!(output.code, Some(1), "{output}");
    assert!(output.stderr.contains("/nowhere/config"), "{output}");
}

#[test]
fn crds_prints_the_definitions() {
    let output = run(&["crds"]);
    assert_eq!(output.code, Some(0), "{output}");
    assert_eq!(output.stdout, definitions_yaml().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_metrics_report_the_state() {
    let world = World::without_controller(WorldOptions::default()).await;
    world.publish(&["registry.test/app:1"]);
    let _a = world.node("a").await;
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let address = format!("127.0.0.1:{port}");
    let namespace = world.cluster().namespace().to_owned();
    let controller = Fledged::operator()
        .args(["controller", "--namespace", &namespace, "--log-format=json"])
        .arg("--kubeconfig")
        .arg(world.cluster().kubeconfig())
        .args([
            "--metrics-bind-address",
            &address,
            "--health-probe-bind-address",
            &address,
        ])
        .spawn();
    let ask = |path: &'static str| {
        let address = address.clone();
        async move {
            tokio::task::spawn_blocking(move || get(&address, path))
                .await
                .unwrap()
        }
    };
    eventually("the controller to be ready", || async {
        match ask("/readyz").await {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(ask("/livez").await.unwrap().0, 200);
    world.apply("web", &["registry.test/app:1"]).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    eventually("the metrics to count the cache", || async {
        let (_, text) = ask("/metrics").await?;
        let all = [
            "fledged_leader 1",
            "fledged_image_caches{status=\"Succeeded\"} 1",
            "fledged_images{state=\"cached\"} 1",
            "fledged_api_writes_total{object=\"assignment\",result=\"ok\"} 1",
            "fledged_queue_depth 0",
            "fledged_build_info{",
            "fledged_reconcile_latency_seconds_count",
        ];
        let missing = all.iter().find(|line| !text.contains(**line));
        missing.map_or(Ok(()), |line| Err(format!("{line} is missing in {text}")))
    })
    .await;
    controller.terminate();
    let output = controller.wait(Duration::from_secs(60));
    assert_eq!(output.code, Some(0), "{output}");
    for line in output.stderr.lines() {
        let _: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
}
