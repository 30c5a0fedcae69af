use serde_json::{Value, json};

use super::super::job_object::container_name;
use super::*;

const OWN: &str = "registry.test/ours:1";

fn app() -> ImageRef {
    "registry.test/app:1".parse().unwrap()
}

fn own() -> ImageRef {
    OWN.parse().unwrap()
}

fn mk_pod(status: Value) -> ObservedPod {
    let pod = json!({ "metadata": { "name": "pod" }, "status": status });
    serde_json::from_value(pod).unwrap()
}

/// Returns the progress of a container in this state.
fn of_state(state: Value) -> Progress {
    let name = container_name(&app());
    let status = json!({ "phase": "Pending", "containerStatuses": [
        { "name": "other", "state": { "running": {} } },
        { "name": name, "imageID": "registry.test/ours@sha256:00", "state": state },
    ] });
    mk_pod(status).pull_progress(&PullSlot::new(app(), 0), &own())
}

fn failure_of(progress: Progress) -> Failure {
    match progress {
        Progress::Failing(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_waiting_container_is_no_progress() {
    for reason in ["ContainerCreating", "PodInitializing", ""] {
        let state = json!({ "waiting": { "reason": reason } });
        assert_eq!(of_state(state), Progress::Waiting, "{reason}");
    }
    assert_eq!(of_state(json!({})), Progress::Waiting);
    let pod = mk_pod(json!({}));
    assert_eq!(pod.removal_progress(&own()), Progress::Waiting);
    assert!(!pod.is_accepted());
}

#[test]
fn a_started_container_proves_its_image() {
    let start = "2026-01-01T00:00:00Z";
    let at = start.parse::<Timestamp>().ok();
    for (state, at) in [
        (json!({ "running": { "startedAt": start } }), at),
        (
            json!({ "terminated": { "exitCode": 0, "reason": "Completed" } }),
            None,
        ),
        (
            json!({ "terminated": { "exitCode": 128, "reason": "StartError", "finishedAt": start } }),
            at,
        ),
        (
            json!({ "terminated": { "exitCode": 1, "startedAt": start } }),
            at,
        ),
    ] {
        let digest = None;
        assert_eq!(
            of_state(state.clone()),
            Progress::Pulled { digest, at },
            "{state}"
        );
    }
    // A container that never existed is also reported as terminated.
    let state = json!({ "terminated": { "exitCode": 137, "reason": "ContainerStatusUnknown" } });
    assert!(matches!(of_state(state), Progress::Failing(_)));
}

#[test]
fn the_digest_is_not_that_of_the_job_image() {
    let digest = |c: &str| format!("sha256:{}", c.repeat(64));
    let status = |image_id: String, volume: Option<String>| {
        let name = container_name(&app());
        let mut container =
            json!({ "name": name, "imageID": image_id, "state": { "running": {} } });
        if let Some(volume) = volume {
            container["volumeMounts"] =
                json!([{ "name": "v", "volumeStatus": { "image": { "imageRef": volume } } }]);
        }
        let pod = mk_pod(json!({ "containerStatuses": [container] }));
        match pod.pull_progress(&PullSlot::new(app(), 0), &own()) {
            Progress::Pulled { digest, .. } => digest.map(|digest| digest.to_string()),
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
fn a_failing_pull_has_the_kubelets_message() {
    let refused = "failed to pull and unpack image \"registry.test/app:1\": 401 Unauthorized";
    for (reason, message, expected) in [
        ("ErrImagePull", refused, Reason::Unauthorized),
        (
            "ImagePullBackOff",
            "Back-off pulling image \"registry.test/app:1\": ErrImagePull: registry.test/app:1: not found",
            Reason::ImageNotFound,
        ),
        (
            "InvalidImageName",
            "couldn't parse image reference",
            Reason::InvalidReference,
        ),
        ("RegistryUnavailable", "", Reason::ConnectionFailed),
        (
            "RegistryUnavailable",
            "x509: certificate signed by unknown authority",
            Reason::RegistryMisconfigured,
        ),
        ("SignatureValidationFailed", "no", Reason::InvalidImage),
        ("ErrImageNeverPull", "", Reason::ImageNotFound),
        ("CreateContainerError", "exit status 1", Reason::Unknown),
    ] {
        let state = json!({ "waiting": { "reason": reason, "message": message } });
        let failure = failure_of(of_state(state));
        assert_eq!(failure.reason, expected, "{reason}");
        assert!(failure.message.starts_with(reason), "{failure}");
        assert!(failure.message.contains(message), "{failure}");
    }
}

#[test]
fn a_failure_of_the_job_image_is_not_the_images() {
    let message = format!("failed to pull and unpack image \"{OWN}\": 401 Unauthorized");
    let state = json!({ "waiting": { "reason": "ErrImagePull", "message": message } });
    let failure = failure_of(of_state(state.clone()));
    assert_eq!(failure.reason, Reason::Unknown);
    assert!(failure.message.contains("Jobs themselves"), "{failure}");

    // The init container fails while the others wait.
    let of = |init: Value| {
        let name = container_name(&app());
        let status = json!({ "phase": "Pending",
            "initContainerStatuses": [{ "name": "copy", "state": init }],
            "containerStatuses": [{ "name": name, "state": { "waiting": { "reason": "PodInitializing" } } }],
        });
        mk_pod(status).pull_progress(&PullSlot::new(app(), 0), &own())
    };
    let failure = failure_of(of(state));
    assert!(failure.message.contains("Jobs themselves"), "{failure}");
    let failed =
        json!({ "terminated": { "exitCode": 1, "reason": "Error", "message": "no room" } });
    let failure = failure_of(of(failed));
    assert!(failure.message.contains("no room"), "{failure}");
    let begun = json!({ "terminated": { "exitCode": 0, "reason": "Completed" } });
    for init in [begun, json!({ "running": {} })] {
        assert_eq!(of(init), Progress::Waiting);
    }
}

#[test]
fn a_failed_pod_is_reported_with_its_message() {
    let evicted = |message: &str| {
        let pod = mk_pod(json!({ "phase": "Failed", "reason": "Evicted", "message": message }));
        failure_of(pod.pull_progress(&PullSlot::new(app(), 0), &own()))
    };
    let failure = evicted("The node was low on resource: memory.");
    assert_eq!(failure.reason, Reason::Unknown);
    assert!(failure.message.contains("low on resource"), "{failure}");
    let failure = evicted("The node was low on resource: ephemeral-storage.");
    assert_eq!(failure.reason, Reason::DiskFull);
}

#[test]
fn a_removal_ends_with_its_container() {
    let of = |state: Value| {
        let pod = mk_pod(json!({ "containerStatuses": [{ "name": REMOVE, "state": state }] }));
        pod.removal_progress(&own())
    };
    assert_eq!(of(json!({ "running": {} })), Progress::Waiting);
    let ended = json!({ "terminated": { "exitCode": 0, "reason": "Completed", "message": "{}" } });
    let message = "{}".to_owned();
    assert_eq!(of(ended), Progress::Ended { message, at: None });
    let failed =
        json!({ "terminated": { "exitCode": 101, "reason": "Error", "message": "no socket" } });
    let failure = failure_of(of(failed));
    assert!(failure.message.contains("101") && failure.message.contains("no socket"));
}

#[test]
fn a_pending_pod_is_described_with_its_cause() {
    let unscheduled = json!({ "phase": "Pending", "conditions": [
        { "type": "Ready", "status": "False", "reason": "X", "message": "not ready" },
        { "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
          "message": "0/3 nodes are available: 3 Insufficient cpu." },
    ] });
    assert_eq!(
        mk_pod(unscheduled).describe(),
        "pod pod is Pending: Unschedulable: 0/3 nodes are available: 3 Insufficient cpu."
    );
    let creating = json!({ "phase": "Pending", "startTime": "2026-01-01T00:00:00Z",
        "containerStatuses": [{ "name": "c", "state": { "waiting": { "reason": "ContainerCreating" } } }] });
    let pod = mk_pod(creating);
    assert_eq!(pod.describe(), "pod pod is Pending: ContainerCreating");
    assert!(pod.is_accepted());
}
