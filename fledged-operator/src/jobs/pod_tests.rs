use serde_json::{Value, json};

use super::*;

const OURS: &str = "registry.test/ours:1";

fn mk_pod(status: Value) -> ReadPod {
    let labels = json!({ "batch.kubernetes.io/job-name": "job" });
    let pod = json!({ "metadata": { "name": "pod", "labels": labels }, "status": status });
    serde_json::from_value(pod).unwrap()
}

fn image() -> ImageRef {
    "registry.test/app:1".parse().unwrap()
}

fn ours() -> ImageRef {
    OURS.parse().unwrap()
}

/// What is said of a container in that state.
fn of_state(state: Value) -> Verdict {
    let status = json!({ "phase": "Pending", "containerStatuses": [
        { "name": "other", "state": { "running": {} } },
        { "name": "c", "imageID": "registry.test/ours@sha256:00", "state": state },
    ] });
    mk_pod(status).verdict("c", &Goal::Begin(image()), &ours())
}

fn failure_of(verdict: Verdict) -> (Failure, bool) {
    match verdict {
        Verdict::Failing { failure, attempt } => (failure, attempt),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_container_that_waits_its_turn_says_nothing() {
    for reason in ["ContainerCreating", "PodInitializing", ""] {
        let state = json!({ "waiting": { "reason": reason } });
        assert_eq!(of_state(state), Verdict::Open, "{reason}");
    }
    assert_eq!(of_state(json!({})), Verdict::Open);
    let pod = mk_pod(json!({}));
    assert_eq!(pod.verdict("c", &Goal::End, &ours()), Verdict::Open);
    assert!(!pod.is_taken());
}

#[test]
fn a_container_that_exists_says_that_its_image_was_pulled() {
    for state in [
        json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } }),
        json!({ "terminated": { "exitCode": 0, "reason": "Completed" } }),
        json!({ "terminated": { "exitCode": 128, "reason": "StartError", "message": "exec format" } }),
        json!({ "terminated": { "exitCode": 1, "startedAt": "2026-01-01T00:00:00Z" } }),
    ] {
        assert_eq!(of_state(state.clone()), Verdict::Begun(None), "{state}");
    }
    // What never was is told as terminated too.
    let state = json!({ "terminated": { "exitCode": 137, "reason": "ContainerStatusUnknown" } });
    assert!(matches!(of_state(state), Verdict::Failing { .. }));
}

#[test]
fn a_digest_is_that_of_the_image_and_not_of_our_program() {
    let digest = |c: &str| format!("sha256:{}", c.repeat(64));
    let status = |image_id: String, volume: Option<String>| {
        let mut container = json!({ "name": "c", "imageID": image_id, "state": { "running": {} } });
        if let Some(volume) = volume {
            container["volumeMounts"] =
                json!([{ "name": "v", "volumeStatus": { "image": { "imageRef": volume } } }]);
        }
        let pod = mk_pod(json!({ "containerStatuses": [container] }));
        match pod.verdict("c", &Goal::Begin(image()), &ours()) {
            Verdict::Begun(digest) => digest.map(|digest| digest.to_string()),
            other => panic!("{other:?}"),
        }
    };
    let (app, ours) = ("registry.test/app", "registry.test/ours");
    let a = digest("a");
    assert_eq!(status(format!("{app}@{a}"), None), Some(a.clone()));
    assert_eq!(
        status(format!("docker-pullable://{app}@{a}"), None),
        Some(a.clone())
    );
    assert_eq!(status(format!("{ours}@{a}"), None), None);
    let volume = Some(format!("{app}@{a}"));
    assert_eq!(status(format!("{ours}@{}", digest("b")), volume), Some(a));
    assert_eq!(status(digest("b"), None), None);
}

#[test]
fn why_a_pull_fails_is_told_in_the_kubelets_words() {
    let refused = "failed to pull and unpack image \"registry.test/app:1\": 401 Unauthorized";
    for (reason, message, expected, attempt) in [
        ("ErrImagePull", refused, Reason::Unauthorized, true),
        (
            "ImagePullBackOff",
            "Back-off pulling image \"registry.test/app:1\": ErrImagePull: registry.test/app:1: not found",
            Reason::ImageNotFound,
            false,
        ),
        (
            "InvalidImageName",
            "couldn't parse image reference",
            Reason::InvalidReference,
            true,
        ),
        ("RegistryUnavailable", "", Reason::ConnectionFailed, true),
        (
            "SignatureValidationFailed",
            "no",
            Reason::InvalidImage,
            true,
        ),
        ("ErrImageNeverPull", "", Reason::ImageNotFound, true),
        ("CreateContainerError", "it does not", Reason::Unknown, true),
    ] {
        let state = json!({ "waiting": { "reason": reason, "message": message } });
        let (failure, new) = failure_of(of_state(state));
        assert_eq!((failure.reason, new), (expected, attempt), "{reason}");
        assert!(failure.message.starts_with(reason), "{failure}");
        assert!(failure.message.contains(message), "{failure}");
    }
}

#[test]
fn an_image_is_not_blamed_for_our_own() {
    let message = format!("failed to pull and unpack image \"{OURS}\": 401 Unauthorized");
    let state = json!({ "waiting": { "reason": "ErrImagePull", "message": message } });
    let (failure, _) = failure_of(of_state(state.clone()));
    assert_eq!(failure.reason, Reason::Unknown);
    assert!(failure.message.contains("Jobs themselves"), "{failure}");

    // As an init container too, while the others merely wait.
    let status = |init: Value| {
        json!({ "phase": "Pending",
            "initContainerStatuses": [{ "name": "copy", "state": init }],
            "containerStatuses": [{ "name": "c", "state": { "waiting": { "reason": "PodInitializing" } } }],
        })
    };
    let of = |init: Value| mk_pod(status(init)).verdict("c", &Goal::Begin(image()), &ours());
    let (failure, _) = failure_of(of(state));
    assert!(failure.message.contains("Jobs themselves"), "{failure}");
    let failed =
        json!({ "terminated": { "exitCode": 1, "reason": "Error", "message": "no room" } });
    let (failure, _) = failure_of(of(failed));
    assert!(failure.message.contains("no room"), "{failure}");
    let begun = json!({ "terminated": { "exitCode": 0, "reason": "Completed" } });
    for init in [begun, json!({ "running": {} })] {
        assert_eq!(of(init), Verdict::Open);
    }
}

#[test]
fn a_pod_that_fails_says_why() {
    let evicted = |message: &str| {
        let pod = mk_pod(json!({ "phase": "Failed", "reason": "Evicted", "message": message }));
        failure_of(pod.verdict("c", &Goal::Begin(image()), &ours())).0
    };
    let failure = evicted("The node was low on resource: memory.");
    assert_eq!(failure.reason, Reason::Unknown);
    assert!(failure.message.contains("low on resource"), "{failure}");
    let failure = evicted("The node was low on resource: ephemeral-storage.");
    assert_eq!(failure.reason, Reason::DiskFull);
}

#[test]
fn a_removal_is_over_when_its_container_has_ended() {
    let of = |state: Value| {
        let pod = mk_pod(json!({ "containerStatuses": [{ "name": "c", "state": state }] }));
        pod.verdict("c", &Goal::End, &ours())
    };
    assert_eq!(of(json!({ "running": {} })), Verdict::Open);
    let ended = json!({ "terminated": { "exitCode": 0, "reason": "Completed", "message": "{}" } });
    assert_eq!(of(ended), Verdict::Ended("{}".to_owned()));
    let failed =
        json!({ "terminated": { "exitCode": 101, "reason": "Error", "message": "no socket" } });
    let (failure, _) = failure_of(of(failed));
    assert!(failure.message.contains("101") && failure.message.contains("no socket"));
}

#[test]
fn where_a_pod_stands_is_told_by_whoever_keeps_it() {
    let unscheduled = json!({ "phase": "Pending", "conditions": [
        { "type": "Ready", "status": "False", "reason": "X", "message": "not ready" },
        { "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
          "message": "0/3 nodes are available: 3 Insufficient cpu." },
    ] });
    let text = mk_pod(unscheduled).describe();
    assert_eq!(
        text,
        "pod pod is Pending: Unschedulable: 0/3 nodes are available: 3 Insufficient cpu."
    );
    let creating = json!({ "phase": "Pending", "startTime": "2026-01-01T00:00:00Z",
        "containerStatuses": [{ "name": "c", "state": { "waiting": { "reason": "ContainerCreating" } } }] });
    let pod = mk_pod(creating);
    assert_eq!(pod.describe(), "pod pod is Pending: ContainerCreating");
    assert!(pod.is_taken());
    assert_eq!(pod.job(), Some("job"));
}

#[test]
fn a_pod_belongs_to_the_job_that_owns_it_in_its_own_namespace() {
    let pod: ReadPod = serde_json::from_value(serde_json::json!({
        "metadata": { "name": "p", "namespace": "shop", "ownerReferences": [
            { "apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "1", "controller": true },
        ] },
    }))
    .unwrap();
    for (namespace, uid, owned) in [
        ("shop", Some("1"), true),
        ("shop", None, true),
        ("shop", Some("2"), false),
        ("evil", Some("1"), false),
        ("evil", None, false),
    ] {
        assert_eq!(pod.is_of(namespace, uid), owned, "{namespace} {uid:?}");
    }
}
