//! apply, list, purge and check with an OCI layout and a registry in this process.
use std::time::Duration;

use crate::support::{Stage, fledged, fledged_with_stdin, manifest};
use serde_json::{Value, json};

fn phases(outcome: &Value) -> Vec<&str> {
    outcome["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["phase"].as_str().unwrap())
        .collect()
}

#[test]
fn images_are_pulled_once_and_then_are_there() {
    let stage = Stage::new();
    let file = stage.write("images.yaml", &manifest(&stage.images));
    let store = stage.store();
    let apply = [
        "node",
        "apply",
        "-f",
        &file,
        "--runtime",
        &store,
        "--platform",
        "linux/amd64",
        "-o",
        "json",
    ];

    let run = fledged(&apply).expect_code(0);
    for image in &stage.images {
        assert!(
            run.stderr.contains(&format!("pulled {image} (")),
            "{}",
            run.stderr
        );
    }
    let outcome = run.json();
    assert_eq!(phases(&outcome), ["Cached"; 3]);
    let keys = |value: &Value| {
        value
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&outcome), ["images", "summary"]);
    assert_eq!(
        keys(&outcome["images"][0]),
        [
            "attempts",
            "digest",
            "message",
            "phase",
            "reason",
            "reference",
            "seconds",
            "sizeBytes"
        ]
    );
    assert_eq!(
        keys(&outcome["summary"]),
        ["cached", "desired", "failed", "seconds"]
    );
    for (image, written) in outcome["images"]
        .as_array()
        .unwrap()
        .iter()
        .zip(&stage.images)
    {
        assert_eq!(image["reference"], json!(written));
        assert_eq!(image["attempts"], json!(1));
        assert!(image["digest"].as_str().unwrap().starts_with("sha256:"));
        assert!(image["sizeBytes"].as_u64().unwrap() > 1_000_000);
        assert!(image["seconds"].as_f64().is_some());
        assert_eq!(image["reason"], Value::Null);
        assert_eq!(image["message"], Value::Null);
    }
    assert_eq!(outcome["summary"]["desired"], json!(3));
    assert_eq!(outcome["summary"]["cached"], json!(3));
    assert_eq!(outcome["summary"]["failed"], json!(0));
    let mut wanted = stage.images.clone();
    wanted.sort();
    assert_eq!(stage.held(), wanted);

    let before = stage.registry.traffic();
    let again = fledged(&apply).expect_code(0).json();
    assert_eq!(phases(&again), ["Cached"; 3]);
    assert_eq!(again["images"][0]["attempts"], json!(0));
    assert_eq!(
        stage.registry.traffic(),
        before,
        "a re-apply asked the registry"
    );
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let stage = Stage::new();
    let file = stage.write("images.yaml", &manifest(&stage.images));
    let one = stage.write("one.yaml", &manifest(&stage.images[..1]));
    let store = stage.store();
    let platform = ["--platform", "linux/amd64"];
    let run = |args: &[&str]| fledged(&[args, &["--runtime", &store], &platform[..]].concat());

    let dry = run(&["node", "apply", "-f", &file, "--dry-run", "-o", "json"]).expect_code(0);
    assert_eq!(phases(&dry.json()), ["Pending"; 3]);
    assert!(dry.stderr.contains("3 would be pulled"), "{}", dry.stderr);
    assert_eq!(stage.registry.traffic().requests, 0);
    assert_eq!(stage.held(), Vec::<String>::new());

    run(&["node", "apply", "-f", &one]).expect_code(0);
    let dry = run(&["node", "apply", "-f", &file, "--dry-run", "-o", "json"]).expect_code(0);
    assert_eq!(phases(&dry.json()), ["Cached", "Pending", "Pending"]);

    let dry = run(&["node", "purge", "-f", &file, "--dry-run", "-o", "json"]).expect_code(0);
    assert_eq!(phases(&dry.json()), ["Removing", "Removed", "Removed"]);
    assert_eq!(stage.held(), stage.images[..1]);
}

#[test]
fn purge_removes_what_the_file_names_and_nothing_else() {
    let stage = Stage::new();
    let all = stage.write("all.yaml", &manifest(&stage.images));
    let two = stage.write("two.yaml", &manifest(&stage.images[..2]));
    let store = stage.store();
    fledged(&[
        "node",
        "apply",
        "-f",
        &all,
        "--runtime",
        &store,
        "--platform",
        "linux/amd64",
    ])
    .expect_code(0);
    let purge = [
        "node",
        "purge",
        "-f",
        &two,
        "--runtime",
        &store,
        "-o",
        "json",
    ];
    let run = fledged(&purge)
        .expect_code(0)
        .says(&["2 images: 2 removed, "]);
    assert_eq!(phases(&run.json()), ["Removed"; 2]);
    assert_eq!(stage.held(), stage.images[2..]);
    let run = fledged(&purge)
        .expect_code(0)
        .says(&["2 images: 2 not there, "]);
    assert!(!run.stderr.contains("removed"), "{}", run.stderr);
    assert_eq!(phases(&run.json()), ["Removed"; 2]);
}

#[test]
fn a_missing_image_fails_and_the_others_are_there() {
    let stage = Stage::new();
    let missing = format!("{}/demo/none:v1", stage.registry.host());
    let images = vec![stage.images[0].clone(), missing.clone()];
    let store = stage.store();
    let apply = [
        "node",
        "apply",
        "-f",
        "-",
        "--runtime",
        &store,
        "--platform",
        "linux/amd64",
    ];
    let run = fledged_with_stdin(&[&apply[..], &["-o", "json"]].concat(), &manifest(&images))
        .expect_code(1)
        .says(&[&format!("failed {missing}: ImageNotFound: ")]);
    let outcome = run.json();
    assert_eq!(phases(&outcome), ["Cached", "Failed"]);
    assert_eq!(outcome["images"][1]["reason"], json!("ImageNotFound"));
    assert_ne!(outcome["images"][1]["message"], Value::Null);
    assert_eq!(outcome["summary"]["failed"], json!(1));

    let run = fledged_with_stdin(&apply, &manifest(&images)).expect_code(1);
    let mut lines = run.stdout.lines();
    assert!(
        lines.next().unwrap().starts_with("IMAGE "),
        "{}",
        run.stdout
    );
    assert!(lines.next().unwrap().contains("Cached"), "{}", run.stdout);
    assert!(
        lines.next().unwrap().contains("ImageNotFound"),
        "{}",
        run.stdout
    );
    assert!(
        run.stderr.contains("2 images: 1 there, 1 failed"),
        "{}",
        run.stderr
    );
}

#[test]
fn labels_decide_which_entries_count() {
    let stage = Stage::new();
    let text = format!(
        "apiVersion: kubefledged.io/v1alpha2\nkind: ImageCache\nmetadata: {{name: test}}\nspec:\n  cacheSpec:\n  - images: [{:?}]\n    nodeSelector: {{tier: edge}}\n  - images: [{:?}]\n    nodeSelector: {{kubernetes.io/hostname: worker-1, kubernetes.io/os: linux}}\n",
        stage.images[0], stage.images[1]
    );
    let file = stage.write("images.yaml", &text);
    let store = stage.store();
    let dry = [
        "node",
        "apply",
        "-f",
        &file,
        "--runtime",
        &store,
        "--dry-run",
        "-o",
        "json",
    ];
    let names = |more: &[&str]| -> Vec<Value> {
        let run = fledged(&[&dry[..], more].concat()).expect_code(0);
        run.json()["images"]
            .as_array()
            .unwrap()
            .iter()
            .map(|image| image["reference"].clone())
            .collect()
    };
    assert_eq!(
        names(&["--node-name", "other", "--node-label", "tier=edge"]),
        [json!(stage.images[0])]
    );
    assert_eq!(
        names(&["--node-name", "worker-1"]),
        [json!(stage.images[1])]
    );
    let run = fledged(&[&dry[..], &["--node-name", "other"]].concat())
        .expect_code(0)
        .says(&[
            "warning: ",
            "no entry of the manifests",
            "kubernetes.io/hostname=other",
            "--node-label",
        ]);
    assert_eq!(run.json()["images"], json!([]));
}

#[test]
fn what_can_not_be_honoured_is_warned_of() {
    let stage = Stage::new();
    let text = manifest(&stage.images[..1]) + "  imagePullSecrets: [{name: key}]\n  typo: 1\n";
    let file = stage.write("images.yaml", &text);
    let store = stage.store();
    let dry = [
        "node",
        "apply",
        "-f",
        &file,
        "--runtime",
        &store,
        "--dry-run",
    ];
    fledged(&dry).expect_code(0).says(&[
        "warning: ",
        "ImageCache default/test",
        "--registry-config",
        "spec.typo: unknown field",
    ]);
    for nothing in ["{}", "{\"auths\": {}}"] {
        let config = stage.write("config.json", nothing);
        fledged(&[&dry[..], &["--registry-config", &config]].concat())
            .expect_code(0)
            .says(&["warning: ", &config, "holds no credentials"]);
    }
    let config = stage.write(
        "config.json",
        "{\"auths\": {\"registry.example\": {\"auth\": \"dTpw\"}}}",
    );
    let run = fledged(&[&dry[..], &["--registry-config", &config]].concat()).expect_code(0);
    assert!(!run.stderr.contains("--registry-config"), "{}", run.stderr);
}

#[test]
fn check_asks_the_registry_and_touches_nothing() {
    let stage = Stage::new();
    let file = stage.write("images.yaml", &manifest(&stage.images));
    let check = ["check", "-f", &file, "--platform", "linux/amd64"];
    let run = fledged(&[&check[..], &["-o", "json"]].concat()).expect_code(0);
    let outcome = run.json();
    for (image, written) in outcome["images"]
        .as_array()
        .unwrap()
        .iter()
        .zip(&stage.images)
    {
        assert_eq!(image["reference"], json!(written));
        assert_eq!(image["available"], json!(true));
        assert!(image["digest"].as_str().unwrap().starts_with("sha256:"));
        assert!(image["sizeBytes"].as_u64().unwrap() > 1_000_000);
        assert_eq!(image["platforms"], json!(["linux/amd64"]));
    }
    assert_eq!(outcome["summary"]["failed"], json!(0));
    // Configurations may be read; layers must not.
    assert!(stage.registry.traffic().bytes < 100_000);
    let table = fledged(&check).expect_code(0);
    assert!(table.stdout.contains("linux/amd64"), "{}", table.stdout);
    assert!(
        table.stderr.contains("3 images: 3 can be pulled"),
        "{}",
        table.stderr
    );
}

#[test]
fn check_fails_for_what_can_not_be_pulled() {
    let stage = Stage::new();
    let missing = format!("{}/demo/none:v1", stage.registry.host());
    let file = stage.write(
        "images.yaml",
        &manifest(&[stage.images[0].clone(), missing.clone()]),
    );
    let run = fledged(&[
        "check",
        "-f",
        &file,
        "--platform",
        "linux/amd64",
        "-o",
        "json",
    ])
    .expect_code(1);
    let outcome = run.json();
    assert_eq!(outcome["images"][0]["available"], json!(true));
    assert_eq!(outcome["images"][1]["available"], json!(false));
    assert_eq!(outcome["images"][1]["reason"], json!("ImageNotFound"));
    let run = fledged(&[
        "check",
        "-f",
        &file,
        "--platform",
        "linux/s390x",
        "-o",
        "json",
    ])
    .expect_code(1);
    assert_eq!(run.json()["images"][0]["reason"], json!("PlatformNotFound"));
}

#[test]
fn a_pull_that_outlives_its_deadline_fails() {
    // Minutes for any of its images.
    let stage = Stage::paced(Duration::from_secs(1));
    let file = stage.write("images.yaml", &manifest(&stage.images[..1]));
    let store = stage.store();
    let run = fledged(&[
        "node",
        "apply",
        "-f",
        &file,
        "--runtime",
        &store,
        "--platform",
        "linux/amd64",
        "--deadline",
        "1s",
        "-o",
        "json",
    ])
    .expect_code(1);
    let image = &run.json()["images"][0];
    assert_eq!(image["phase"], json!("Failed"));
    assert_eq!(image["reason"], json!("DeadlineExceeded"));
    assert!(image["seconds"].as_f64().unwrap() >= 1.0);
    assert_eq!(stage.held(), Vec::<String>::new());
}
