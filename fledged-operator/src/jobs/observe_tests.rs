use serde_json::{Value, json};

use super::super::job_object::{JobPlan, PullImage, PullPlan, RemovalPlan};
use super::super::pod::ObservedPod;
use super::*;

const OWN: &str = "registry.test/ours:1";
const APP: &str = "registry.test/app:1";

fn mk_options() -> JobOptions {
    JobOptions::new(OWN.parse().unwrap(), "operator")
}

fn app() -> ImageRef {
    APP.parse().unwrap()
}

fn mk_key(namespace: &str, kind: JobKind) -> JobKey {
    let node = NodeName::new("node").unwrap();
    JobKey {
        namespace: namespace.to_owned(),
        name: format!("{}00000001", name_prefix(kind, &node)),
    }
}

fn mk_pull(method: Method) -> JobPlan {
    JobPlan::Pull(PullPlan {
        key: mk_key("shop", JobKind::Pull),
        node: NodeName::new("node").unwrap(),
        method,
        images: vec![PullImage {
            image: app(),
            always: false,
            revision: 4,
        }],
        secrets: vec!["login".to_owned()],
        accounts: Vec::new(),
        caches: Vec::new(),
        cache: None,
        deadline: Duration::from_secs(300),
    })
}

fn mk_removal(namespace: &str) -> JobPlan {
    JobPlan::Remove(RemovalPlan {
        key: mk_key(namespace, JobKind::Remove),
        node: NodeName::new("node").unwrap(),
        images: vec![app()],
        keep: vec!["registry.test/app:2".parse().unwrap()],
        socket: ObservedNode::default().socket(None),
        deadline: Duration::from_secs(300),
    })
}

/// Returns the Job that the API server creates from a plan of this driver.
fn created(plan: &JobPlan) -> Value {
    let mut job = plan.manifest(&mk_options());
    job["metadata"]["uid"] = "1".into();
    job["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    job["metadata"]["managedFields"] = json!([{ "manager": FIELD_MANAGER, "operation": "Update" }]);
    job
}

fn read(job: Value) -> Option<ObservedJob> {
    ObservedJob::read(&serde_json::from_value(job).unwrap(), &mk_options(), None)
}

#[test]
fn jobs_of_the_driver_are_read() {
    for method in [Method::ImageVolume, Method::Container] {
        let job = read(created(&mk_pull(method))).unwrap();
        assert_eq!(job.work, JobWork::Pull([PullSlot::new(app(), 4)].into()));
        assert_eq!(job.secrets, ["login"]);
        assert_eq!(job.deadline, Duration::from_secs(300));
        assert_eq!((job.end, job.deleting), (None, false));
    }
    let job = read(created(&mk_removal("operator"))).unwrap();
    assert_eq!(job.work, JobWork::Remove([app()].into()));
}

#[test]
fn jobs_of_other_creators_are_ignored() {
    let pull = || created(&mk_pull(Method::ImageVolume));
    let strangers: [(&str, Value); 10] = [
        ("another manager", {
            let mut job = pull();
            job["metadata"]["managedFields"][0]["manager"] = "kubectl-create".into();
            job
        }),
        ("a writer of its status", {
            let mut job = pull();
            job["metadata"]["managedFields"][0]["subresource"] = "status".into();
            job
        }),
        ("no manager", {
            let mut job = pull();
            job["metadata"]["managedFields"] = Value::Null;
            job
        }),
        ("another name", {
            let mut job = pull();
            job["metadata"]["name"] = "left-behind".into();
            job
        }),
        ("another node's name", {
            let mut job = pull();
            job["metadata"]["annotations"][NODE] = "other".into();
            job
        }),
        ("pods on another node", {
            let mut job = pull();
            let affinity = &mut job["spec"]["template"]["spec"]["affinity"]["nodeAffinity"];
            let required = &mut affinity["requiredDuringSchedulingIgnoredDuringExecution"];
            required["nodeSelectorTerms"][0]["matchFields"][0]["values"] = json!(["other"]);
            job
        }),
        ("a computed name with another image", {
            let mut job = pull();
            let volumes = &mut job["spec"]["template"]["spec"]["volumes"];
            volumes[0]["image"]["reference"] = "registry.test/other:1".into();
            job
        }),
        ("no deadline", {
            let mut job = pull();
            job["spec"]["activeDeadlineSeconds"] = Value::Null;
            job
        }),
        ("suspended", {
            let mut job = pull();
            job["spec"]["suspend"] = true.into();
            job
        }),
        ("a removal elsewhere", created(&mk_removal("shop"))),
    ];
    for (what, job) in strangers {
        assert_eq!(read(job), None, "{what}");
    }
}

#[test]
fn a_recorded_uid_replaces_the_manager() {
    let mut job = created(&mk_pull(Method::ImageVolume));
    job["metadata"]["managedFields"] = Value::Null;
    let job: Job = serde_json::from_value(job).unwrap();
    for (recorded, expected) in [(Some("1"), true), (Some("2"), false), (None, false)] {
        let read = ObservedJob::read(&job, &mk_options(), recorded);
        assert_eq!(read.is_some(), expected, "{recorded:?}");
    }
}

#[test]
fn only_pods_that_the_job_owns_and_defines_count() {
    for plan in [mk_pull(Method::ImageVolume), mk_removal("operator")] {
        let body = created(&plan);
        let job = read(body.clone()).unwrap();
        let mk = |change: &dyn Fn(&mut Value)| -> ObservedPod {
            let mut pod = body["spec"]["template"].clone();
            pod["metadata"]["namespace"] = job.key.namespace.as_str().into();
            pod["metadata"]["ownerReferences"] = json!([{ "apiVersion": "batch/v1", "kind": "Job",
                "name": job.key.name, "uid": "1", "controller": true }]);
            pod["spec"]["nodeName"] = "node".into();
            change(&mut pod);
            serde_json::from_value::<ObservedPod>(pod).unwrap().pruned()
        };
        let counts = |pod: &ObservedPod| pod.is_owned_by(&job.key.namespace, "1") && pod.runs(&job);
        assert!(counts(&mk(&|_| {})));
        assert!(counts(&mk(&|pod| pod["spec"]["nodeName"] = Value::Null)));
        let changes: [&dyn Fn(&mut Value); 5] = [
            &|pod| pod["metadata"]["namespace"] = "evil".into(),
            &|pod| pod["metadata"]["ownerReferences"][0]["uid"] = "2".into(),
            &|pod| pod["metadata"]["ownerReferences"][0]["kind"] = "ReplicaSet".into(),
            &|pod| pod["spec"]["nodeName"] = "other".into(),
            &|pod| {
                let other: Value = "registry.test/other:1".into();
                let container = &mut pod["spec"]["containers"][0];
                container["args"] = json!(["job", "remove", "--", other]);
                pod["spec"]["volumes"][0]["image"] = json!({ "reference": other });
            },
        ];
        for (number, change) in changes.iter().enumerate() {
            assert!(!counts(&mk(change)), "{number}");
        }
    }
}

fn mk_node(kubelet: &str, runtime: &str) -> ObservedNode {
    let node = json!({
        "metadata": { "name": "a" },
        "status": {
            "conditions": [
                { "type": "DiskPressure", "status": "False" },
                { "type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z" },
            ],
            "nodeInfo": { "kubeletVersion": kubelet, "containerRuntimeVersion": runtime },
            "images": [
                { "names": ["nginx@sha256:".to_owned() + &"a".repeat(64), "nginx:1".to_owned()],
                  "sizeBytes": 7 },
                { "names": null },
                { "names": ["<none>@<none>", "<none>:<none>"], "sizeBytes": 7 },
            ],
        },
    });
    ObservedNode::read(serde_json::from_value(node).unwrap())
}

#[test]
fn the_method_follows_the_versions_of_kubelet_and_runtime() {
    for (kubelet, runtime, volumes) in [
        ("v1.35.0", "containerd://2.1.0", true),
        ("v1.36.2+k3s1", "containerd://2.2.1-k3s1", true),
        ("v1.35.0-gke.100", "cri-o://1.33.0", true),
        ("v1.34.9", "containerd://2.1.0", false),
        ("v1.35.0", "containerd://2.0.5", false),
        ("v1.35.0", "containerd://1.7.27", false),
        ("v1.35.0", "cri-o://1.32.4", false),
        ("v1.35.0", "docker://28.0.1", false),
        ("", "", false),
        ("v1", "containerd://x", false),
    ] {
        let node = mk_node(kubelet, runtime);
        let auto = node.method(PullMethod::Auto, false);
        assert_eq!(auto == Method::ImageVolume, volumes, "{kubelet} {runtime}");
        assert_eq!(node.method(PullMethod::Auto, true), Method::Container);
        let volume = node.method(PullMethod::ImageVolume, true);
        assert_eq!(volume, Method::ImageVolume);
        let container = node.method(PullMethod::Container, false);
        assert_eq!(container, Method::Container);
    }
}

#[test]
fn the_socket_follows_the_runtime_unless_set() {
    let socket = |runtime: &str, given: Option<&str>| {
        let socket = mk_node("v1.30.0", runtime).socket(given);
        (socket.path, socket.docker)
    };
    let path = |path: &str| path.to_owned();
    let containerd = socket("containerd://2.0.0", None);
    assert_eq!(containerd, (path("/run/containerd/containerd.sock"), false));
    let crio = socket("cri-o://1.30.0", None);
    assert_eq!(crio, (path("/var/run/crio/crio.sock"), false));
    for version in ["containerd://1.7.23-k3s2", "containerd://2.1.4-k3s1.33"] {
        let bundled = socket(version, None);
        assert_eq!(
            bundled,
            (path("/run/k3s/containerd/containerd.sock"), false)
        );
    }
    let docker = socket("docker://28.0.1", None);
    assert_eq!(docker, (path("/var/run/docker.sock"), true));
    let dockerd = socket("docker://28.0.1", Some("/run/cri-dockerd.sock"));
    assert_eq!(dockerd, (path("/run/cri-dockerd.sock"), false));
}

#[test]
fn all_names_of_listed_images_are_read() {
    let node = mk_node("", "");
    assert!(node.ready && node.listed_at.is_some());
    let first = node.images.first().unwrap();
    let names: Vec<&str> = first.references.iter().map(|r| r.as_str()).collect();
    assert!(names.contains(&"docker.io/library/nginx:1"), "{names:?}");
    assert!(first.digest.is_some());
    // An image without a name counts towards the length of the list.
    assert_eq!((node.images.len(), node.listed), (2, 3));
}

#[test]
fn a_list_of_five_names_may_be_incomplete() {
    let digest = "a".repeat(64);
    let node = |names: &[&str]| {
        let named = names
            .iter()
            .map(|name| name.replace('@', &format!("@sha256:{digest}")));
        let image = ContainerImage {
            names: Some(named.collect()),
            size_bytes: Some(7),
        };
        ObservedNode::mk(Timestamp::UNIX_EPOCH, vec![image])
    };
    let app = "a.test/app:9".parse().unwrap();
    let of = |repository: &str, names: &[&str]| -> Vec<String> {
        names
            .iter()
            .map(|name| format!("{repository}{name}"))
            .collect()
    };
    let digests = ["a", "b", "c", "d", "e"].map(|name| format!("{name}.test/x@"));
    for (names, hides) in [
        (of("a.test/app", &["@", ":1", ":2", ":3"]), false),
        (of("a.test/app", &["@", ":1", ":2", ":3", ":4"]), true),
        (of("a.test/x", &["@", ":1", ":2", ":3", ":4"]), false),
        (digests.to_vec(), true),
        (of("a.test/x", &[":1", ":2", ":3", ":4", ":5"]), true),
    ] {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(node(&names).may_hide(&app), hides, "{names:?}");
    }
}
