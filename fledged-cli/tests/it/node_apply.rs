//! `node apply`, `node list`, `node purge` and `check`, with an OCI layout.

use std::time::Duration;

use crate::support::{TestBed, fledged, fledged_with_stdin, manifest};
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
fn images_are_pulled_only_once() {
    let bed = TestBed::new();
    let file = bed.write("images.yaml", &manifest(&bed.images));
    let store = bed.store();
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
    for image in &bed.images {
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
        .zip(&bed.images)
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
    let mut wanted = bed.images.clone();
    wanted.sort();
    assert_eq!(bed.stored(), wanted);

    let before = bed.registry.traffic();
    let again = fledged(&apply).expect_code(0).json();
    assert_eq!(phases(&again), ["Cached"; 3]);
    assert_eq!(again["images"][0]["attempts"], json!(0));
    assert_eq!(
        bed.registry.traffic(),
        before,
        "a second apply sent requests"
    );
}

#[test]
fn a_dry_run_changes_nothing() {
    let bed = TestBed::new();
    let file = bed.write("images.yaml", &manifest(&bed.images));
    let one = bed.write("one.yaml", &manifest(&bed.images[..1]));
    let store = bed.store();
    let platform = ["--platform", "linux/amd64"];
    let run = |args: &[&str]| fledged(&[args, &["--runtime", &store], &platform[..]].concat());

    let dry = run(&["node", "apply", "-f", &file, "--dry-run", "-o", "json"]).expect_code(0);
    assert_eq!(phases(&dry.json()), ["Pending"; 3]);
    assert!(dry.stderr.contains("3 would be pulled"), "{}", dry.stderr);
    assert_eq!(bed.registry.traffic().requests, 0);
    assert_eq!(bed.stored(), Vec::<String>::new());

    let slow = manifest(&bed.images).replace("spec:\n", "spec:\n  deadline: 3h\n");
    let slow = bed.write("slow.yaml", &slow);
    let cut = "a deadline of 3h is cut to 2h; --deadline 3h allows it";
    let dry = run(&["node", "apply", "-f", &slow, "--dry-run"]).expect_code(0);
    assert!(dry.stderr.contains(cut), "{}", dry.stderr);
    let allowed = [
        "node",
        "apply",
        "-f",
        &slow,
        "--dry-run",
        "--deadline",
        "3h",
    ];
    assert!(!run(&allowed).expect_code(0).stderr.contains("is cut"));

    run(&["node", "apply", "-f", &one]).expect_code(0);
    let dry = run(&["node", "apply", "-f", &file, "--dry-run", "-o", "json"]).expect_code(0);
    assert_eq!(phases(&dry.json()), ["Cached", "Pending", "Pending"]);

    let dry = run(&["node", "purge", "-f", &file, "--dry-run", "-o", "json"]).expect_code(0);
    assert_eq!(phases(&dry.json()), ["Removing", "Absent", "Absent"]);
    let words = "0 would be pulled, 1 would be removed, 0 kept, 2 not present";
    assert!(dry.stderr.contains(words), "{}", dry.stderr);
    assert_eq!(bed.stored(), bed.images[..1]);
}

#[test]
fn purge_removes_only_the_images_of_the_file() {
    let bed = TestBed::new();
    let all = bed.write("all.yaml", &manifest(&bed.images));
    let two = bed.write("two.yaml", &manifest(&bed.images[..2]));
    let store = bed.store();
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
        .expect_stderr(&["2 images: 2 removed, "]);
    assert_eq!(phases(&run.json()), ["Removed"; 2]);
    assert_eq!(bed.stored(), bed.images[2..]);
    let run = fledged(&purge)
        .expect_code(0)
        .expect_stderr(&["2 images: 2 not present, "]);
    assert!(!run.stderr.contains("removed"), "{}", run.stderr);
    assert_eq!(phases(&run.json()), ["Removed"; 2]);
}

#[test]
fn a_missing_image_fails_and_others_are_pulled() {
    let bed = TestBed::new();
    let missing = format!("{}/demo/none:v1", bed.registry.host());
    let images = vec![bed.images[0].clone(), missing.clone()];
    let store = bed.store();
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
        .expect_stderr(&[&format!("failed {missing}: ImageNotFound: ")]);
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
        run.stderr.contains("2 images: 1 present, 1 failed"),
        "{}",
        run.stderr
    );
}

#[test]
fn node_labels_select_entries() {
    let bed = TestBed::new();
    let text = format!(
        "apiVersion: kubefledged.io/v1alpha2\nkind: ImageCache\nmetadata: {{name: test}}\nspec:\n  cacheSpec:\n  - images: [{:?}]\n    nodeSelector: {{tier: edge}}\n  - images: [{:?}]\n    nodeSelector: {{kubernetes.io/hostname: worker-1, kubernetes.io/os: linux}}\n",
        bed.images[0], bed.images[1]
    );
    let file = bed.write("images.yaml", &text);
    let store = bed.store();
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
        [json!(bed.images[0])]
    );
    assert_eq!(names(&["--node-name", "worker-1"]), [json!(bed.images[1])]);
    let run = fledged(&[&dry[..], &["--node-name", "other"]].concat())
        .expect_code(0)
        .expect_stderr(&[
            "warning: ",
            "no entry of the manifests",
            "kubernetes.io/hostname=other",
            "--node-label",
        ]);
    assert_eq!(run.json()["images"], json!([]));
}

#[test]
fn ignored_fields_and_empty_credentials_give_warnings() {
    let bed = TestBed::new();
    let text = manifest(&bed.images[..1]) + "  imagePullSecrets: [{name: key}]\n  typo: 1\n";
    let file = bed.write("images.yaml", &text);
    let store = bed.store();
    let dry = [
        "node",
        "apply",
        "-f",
        &file,
        "--runtime",
        &store,
        "--dry-run",
    ];
    fledged(&dry).expect_code(0).expect_stderr(&[
        "warning: ",
        "ImageCache default/test",
        "--registry-config",
        "spec.typo: unknown field",
    ]);
    for nothing in ["{}", "{\"auths\": {}}"] {
        let config = bed.write("config.json", nothing);
        fledged(&[&dry[..], &["--registry-config", &config]].concat())
            .expect_code(0)
            .expect_stderr(&["warning: ", &config, "contains no credentials"]);
    }
    let config = bed.write(
        "config.json",
        "{\"auths\": {\"registry.example\": {\"auth\": \"dTpw\"}}}",
    );
    let run = fledged(&[&dry[..], &["--registry-config", &config]].concat()).expect_code(0);
    assert!(!run.stderr.contains("--registry-config"), "{}", run.stderr);
}

#[test]
fn check_downloads_no_layers() {
    let bed = TestBed::new();
    let file = bed.write("images.yaml", &manifest(&bed.images));
    let check = ["check", "-f", &file, "--platform", "linux/amd64"];
    let run = fledged(&[&check[..], &["-o", "json"]].concat()).expect_code(0);
    let outcome = run.json();
    for (image, written) in outcome["images"]
        .as_array()
        .unwrap()
        .iter()
        .zip(&bed.images)
    {
        assert_eq!(image["reference"], json!(written));
        assert_eq!(image["available"], json!(true));
        assert!(image["digest"].as_str().unwrap().starts_with("sha256:"));
        assert!(image["sizeBytes"].as_u64().unwrap() > 1_000_000);
        assert_eq!(image["platforms"], json!(["linux/amd64"]));
    }
    assert_eq!(outcome["summary"]["failed"], json!(0));
    // Configurations may be downloaded, layers not.
    assert!(bed.registry.traffic().bytes < 100_000);
    let table = fledged(&check).expect_code(0);
    assert!(table.stdout.contains("linux/amd64"), "{}", table.stdout);
    assert!(
        table.stderr.contains("3 images: 3 can be pulled"),
        "{}",
        table.stderr
    );
}

#[test]
fn check_fails_for_missing_images_and_platforms() {
    let bed = TestBed::new();
    let missing = format!("{}/demo/none:v1", bed.registry.host());
    let file = bed.write(
        "images.yaml",
        &manifest(&[bed.images[0].clone(), missing.clone()]),
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
fn a_pull_fails_at_its_deadline() {
    // A pull of any image takes minutes.
    let bed = TestBed::paced(Duration::from_secs(1));
    let file = bed.write("images.yaml", &manifest(&bed.images[..1]));
    let store = bed.store();
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
    ])
    .expect_code(1);
    for part in ["Failed", "DeadlineExceeded", "hint: raise the deadline"] {
        assert!(run.stdout.contains(part), "{}", run.stdout);
    }
    assert_eq!(bed.stored(), Vec::<String>::new());
}
