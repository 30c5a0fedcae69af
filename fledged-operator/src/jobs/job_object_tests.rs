use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::*;

fn mk_options() -> JobOptions {
    JobOptions::new("registry.test/ours:1".parse().unwrap(), "operator")
}

fn mk_key(namespace: &str, name: &str) -> JobKey {
    JobKey {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn mk_image(image: &str, always: bool, revision: u64) -> PullImage {
    PullImage {
        image: image.parse().unwrap(),
        always,
        revision,
    }
}

fn mk_socket() -> Socket {
    Socket {
        path: "/run/containerd/containerd.sock".to_owned(),
        docker: false,
    }
}

fn mk_plan(method: Method) -> PullPlan {
    let cache = |name: &str| CacheId::new("shop", name, format!("uid-{name}"));
    PullPlan {
        key: mk_key("shop", "fledged-pull-x"),
        node: NodeName::new("node-1.example").unwrap(),
        method,
        images: vec![
            mk_image("nginx:1", false, 0),
            mk_image("registry.test/app", true, 3),
        ],
        secrets: vec!["login".to_owned()],
        accounts: Vec::new(),
        caches: vec![cache("web"), cache("db")],
        cache: Some("c".repeat(80)),
        deadline: Duration::from_secs(700),
    }
}

/// Reads a Job as the API server does: unknown fields are dropped.
fn read(body: &Value) -> (Job, PodSpec) {
    let job: Job = serde_json::from_value(body.clone()).unwrap();
    let pod = job.spec.clone().unwrap().template.spec.unwrap();
    (job, pod)
}

fn image_of(container: &Container) -> &str {
    container.image.as_deref().unwrap()
}

/// Asserts the requirements of the Pod Security Standard `restricted` for these pods.
fn assert_restricted(pod: &PodSpec) {
    let of_pod = pod.security_context.clone().unwrap();
    assert_eq!(of_pod.run_as_non_root, Some(true));
    assert_eq!(of_pod.seccomp_profile.unwrap().type_, "RuntimeDefault");
    assert_ne!(pod.host_network, Some(true));
    let allowed = pod.volumes.iter().flatten();
    for volume in allowed {
        assert!(volume.host_path.is_none(), "{volume:?}");
    }
    let inits = pod.init_containers.iter().flatten();
    for container in pod.containers.iter().chain(inits) {
        let context = container.security_context.clone().unwrap();
        assert_eq!(context.allow_privilege_escalation, Some(false));
        assert_eq!(context.read_only_root_filesystem, Some(true));
        assert_eq!(context.capabilities.unwrap().drop.unwrap(), ["ALL"]);
        assert_eq!(context.run_as_user, None);
    }
}

#[test]
fn image_volumes_mount_images_without_running_them() {
    let (job, pod) = read(&pull_job(&mk_plan(Method::ImageVolume), &mk_options()));
    assert_restricted(&pod);
    let volumes = pod.volumes.unwrap();
    let images: Vec<_> = volumes.iter().map(|v| v.image.clone().unwrap()).collect();
    assert_eq!(
        images[0].reference.as_deref(),
        Some("docker.io/library/nginx:1")
    );
    assert_eq!(images[0].pull_policy.as_deref(), Some("IfNotPresent"));
    assert_eq!(
        images[1].reference.as_deref(),
        Some("registry.test/app:latest")
    );
    assert_eq!(images[1].pull_policy.as_deref(), Some("Always"));
    for (container, volume) in pod.containers.iter().zip(&volumes) {
        assert_eq!(image_of(container), "registry.test/ours:1");
        assert_eq!(container.args.clone().unwrap(), ["job", "noop"]);
        assert_eq!(
            container.volume_mounts.as_ref().unwrap()[0].name,
            volume.name
        );
    }
    assert!(pod.init_containers.is_none());
    let spec = job.spec.unwrap();
    assert_eq!(spec.backoff_limit, Some(0));
    assert_eq!(spec.active_deadline_seconds, Some(700));
    assert_eq!(spec.ttl_seconds_after_finished, Some(3600));
}

#[test]
fn containers_run_the_job_program_as_their_command() {
    let (_, pod) = read(&pull_job(&mk_plan(Method::Container), &mk_options()));
    assert_restricted(&pod);
    let init = &pod.init_containers.as_ref().unwrap()[0];
    assert_eq!(image_of(init), "registry.test/ours:1");
    assert_eq!(init.args.clone().unwrap()[..2], ["job", "copy"]);
    let images: Vec<&str> = pod.containers.iter().map(image_of).collect();
    assert_eq!(
        images,
        ["docker.io/library/nginx:1", "registry.test/app:latest"]
    );
    for container in &pod.containers {
        // An argument vector: no shell, and not the image's entry point.
        let command = container.command.clone().unwrap();
        assert_eq!(command, [PROGRAM, "job", "noop"]);
        assert!(container.args.is_none());
    }
    assert_eq!(
        pod.containers[1].image_pull_policy.as_deref(),
        Some("Always")
    );
}

#[test]
fn a_pod_tolerates_all_taints_of_its_node_and_is_labelled() {
    let mut options = mk_options();
    options.priority_class = Some("low".to_owned());
    options.service_account = Some("puller".to_owned());
    let (job, pod) = read(&pull_job(&mk_plan(Method::ImageVolume), &options));
    let affinity = pod.affinity.unwrap().node_affinity.unwrap();
    let required = affinity.required_during_scheduling_ignored_during_execution;
    let terms = required.unwrap().node_selector_terms;
    let field = &terms[0].match_fields.as_ref().unwrap()[0];
    assert_eq!(field.key, "metadata.name");
    assert_eq!(field.values.as_ref().unwrap(), &["node-1.example"]);
    let tolerations = pod.tolerations.unwrap();
    assert_eq!(tolerations.len(), 1);
    assert_eq!(tolerations[0].operator.as_deref(), Some("Exists"));
    assert_eq!(tolerations[0].key, None);
    assert_eq!(pod.restart_policy.as_deref(), Some("Never"));
    assert_eq!(pod.termination_grace_period_seconds, Some(1));
    assert_eq!(pod.automount_service_account_token, Some(false));
    assert_eq!(pod.enable_service_links, Some(false));
    assert_eq!(pod.priority_class_name.as_deref(), Some("low"));
    assert_eq!(pod.service_account_name.as_deref(), Some("puller"));
    assert_eq!(pod.image_pull_secrets.unwrap()[0].name, "login");

    let template = job.spec.unwrap().template.metadata.unwrap();
    for labels in [job.metadata.labels.unwrap(), template.labels.unwrap()] {
        assert_eq!(labels["app"], "kubefledged");
        assert_eq!(labels["kubefledged"], "kubefledged-image-manager");
        assert_eq!(labels["kubefledged.io/job"], "pull");
        assert_eq!(labels["kubefledged.io/node"], "node-1.example");
        assert!(labels["imagecache"].len() <= 63);
    }
    let annotations = template.annotations.unwrap();
    assert_eq!(annotations["kubefledged.io/node"], "node-1.example");
    assert_eq!(annotations["kubefledged.io/imagecaches"], "web,db");
    assert_eq!(annotations["kubefledged.io/revisions"], "0,3");
    let owners = job.metadata.owner_references.unwrap();
    let owners: Vec<&str> = owners.iter().map(|owner| owner.uid.as_str()).collect();
    assert_eq!(owners, ["uid-web", "uid-db"]);
}

#[test]
fn secrets_of_the_job_image_follow_those_of_the_caches() {
    let names = |pod: PodSpec| -> Vec<String> {
        let secrets = pod.image_pull_secrets.unwrap_or_default();
        secrets.into_iter().map(|secret| secret.name).collect()
    };
    let mut options = mk_options();
    options.image_pull_secrets = vec!["ours".to_owned(), "login".to_owned()];
    for method in [Method::ImageVolume, Method::Container] {
        let (_, pod) = read(&pull_job(&mk_plan(method), &options));
        assert_eq!(names(pod), ["login", "ours"]);
    }
    let (_, pod) = read(&removal_job(&mk_removal(), &options));
    assert_eq!(names(pod), ["ours", "login"]);
    let (_, pod) = read(&removal_job(&mk_removal(), &mk_options()));
    assert!(pod.image_pull_secrets.is_none());
}

#[test]
fn only_removal_jobs_have_the_selinux_type() {
    let type_of = |pod: PodSpec| {
        let context = pod.security_context.unwrap();
        assert_eq!(context.seccomp_profile.unwrap().type_, "RuntimeDefault");
        context
            .se_linux_options
            .map(|options| options.type_.unwrap())
    };
    let mut options = mk_options();
    options.removal_selinux_type = Some("spc_t".to_owned());
    let (_, pod) = read(&removal_job(&mk_removal(), &options));
    assert_eq!(type_of(pod).as_deref(), Some("spc_t"));
    let (_, pod) = read(&removal_job(&mk_removal(), &mk_options()));
    assert_eq!(type_of(pod), None);
    let (_, pod) = read(&pull_job(&mk_plan(Method::ImageVolume), &options));
    assert_eq!(type_of(pod), None);
}

fn mk_removal() -> RemovalPlan {
    RemovalPlan {
        key: mk_key("operator", "fledged-remove-x"),
        node: NodeName::new("node-1.example").unwrap(),
        images: vec!["nginx:1".parse().unwrap()],
        keep: Vec::new(),
        socket: mk_socket(),
        deadline: Duration::from_secs(100),
    }
}

#[test]
fn a_removal_job_runs_one_argument_vector_on_the_socket() {
    let nasty = "registry.test/a:1";
    let plan = RemovalPlan {
        key: mk_key("operator", "fledged-remove-x"),
        node: NodeName::new("n".repeat(200)).unwrap(),
        images: vec![nasty.parse().unwrap(), "nginx:1".parse().unwrap()],
        keep: vec!["nginx:2".parse().unwrap()],
        socket: mk_socket(),
        deadline: Duration::from_secs(100),
    };
    let mut options = mk_options();
    let (job, pod) = read(&removal_job(&plan, &options));
    let container = &pod.containers[0];
    assert!(container.command.is_none());
    assert_eq!(
        container.args.clone().unwrap(),
        [
            "job",
            "remove",
            "--runtime",
            "unix:///run/fledged/runtime.sock",
            "--keep",
            "docker.io/library/nginx:2",
            "--protect",
            "*/pause",
            "--protect",
            "*/mirrored-pause",
            "--protect",
            "*/fledged-operator",
            "--protect",
            options.image.name(),
            "--",
            nasty,
            "docker.io/library/nginx:1",
        ]
    );
    let context = container.security_context.clone().unwrap();
    assert_eq!(
        (context.run_as_user, context.run_as_non_root),
        (Some(0), Some(false))
    );
    assert_eq!(context.allow_privilege_escalation, Some(false));
    assert_eq!(context.capabilities.unwrap().drop.unwrap(), ["ALL"]);
    let volume = pod.volumes.as_ref().unwrap()[0].host_path.clone().unwrap();
    assert_eq!(volume.path, "/run/containerd/containerd.sock");
    assert_eq!(volume.type_.as_deref(), Some("Socket"));
    assert_eq!(pod.host_network, Some(false));
    assert!(job.metadata.labels.unwrap()["kubefledged.io/node"].len() <= 63);
    options.removal_host_network = true;
    let (_, pod) = read(&removal_job(&plan, &options));
    assert_eq!(pod.host_network, Some(true));
}

#[test]
fn label_values_are_valid_and_unique_for_long_names() {
    let long = format!("{}.example.com", "n".repeat(200));
    let longer = format!("{long}x");
    assert_eq!(label_value("node-1"), "node-1");
    for name in [&long, &longer] {
        let label = label_value(name);
        assert!(
            label.len() <= LABEL_MAX && label.starts_with("nnn"),
            "{label}"
        );
    }
    assert_ne!(label_value(&long), label_value(&longer));
    // A cut must not leave a dot before the hash.
    let dotted = format!("{}.{}", "n".repeat(45), "m".repeat(40));
    assert!(
        !label_value(&dotted).contains(".-"),
        "{}",
        label_value(&dotted)
    );
}

#[test]
fn container_names_depend_only_on_the_image() {
    let name = |text: &str| container_name(&text.parse().unwrap());
    assert!(name("quay.io/team/x:1").starts_with("x-1-"));
    assert_eq!(name("nginx"), name("docker.io/library/nginx:latest"));
    assert_ne!(name("a.test/x:1"), name("b.test/x:1"));
    let digest = format!(
        "registry.test/{}@sha256:{}",
        "y".repeat(120),
        "0".repeat(64)
    );
    for name in [name(&digest), name("registry.test/x_y:_1.2")] {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(name.len() <= LABEL_MAX && name.chars().all(plain), "{name}");
        assert!(!name.starts_with('-'), "{name}");
    }
}

#[test]
fn a_job_name_fits_into_a_label() {
    let node = NodeName::new("n".repeat(253)).unwrap();
    let name = job_name(JobKind::Remove, &node, u32::MAX);
    assert!(name.len() <= LABEL_MAX, "{name}");
    assert_ne!(name, job_name(JobKind::Remove, &node, 0));
}

#[test]
fn pods_take_resources_user_and_marks_of_the_options() {
    let mut options = mk_options();
    let resources = json!({ "limits": { "cpu": "100m", "memory": "64Mi" } });
    options.resources = Some(serde_json::from_value(resources.clone()).unwrap());
    options.user = None;
    options.pod_labels = [("mesh", "off"), (APP.0, "other")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    for method in [Method::ImageVolume, Method::Container] {
        let body = pull_job(&mk_plan(method), &options);
        let (job, pod) = read(&body);
        assert_restricted(&pod);
        let context = pod.security_context.clone().unwrap();
        assert_eq!((context.run_as_user, context.run_as_group), (None, None));
        let inits = pod.init_containers.iter().flatten();
        for container in pod.containers.iter().chain(inits) {
            assert_eq!(json!(container.resources), resources);
        }
        let template = job.spec.unwrap().template.metadata.unwrap();
        let labels = template.labels.unwrap();
        // The driver's own labels have precedence.
        assert_eq!((&*labels["mesh"], &*labels[APP.0]), ("off", APP.1));
        let of_job = job.metadata.labels.unwrap();
        assert!(!of_job.contains_key("mesh"), "{of_job:?}");
    }
}

#[test]
fn pods_have_no_sidecar_by_default() {
    let (job, _) = read(&pull_job(&mk_plan(Method::ImageVolume), &mk_options()));
    let template = job.spec.unwrap().template.metadata.unwrap();
    let (labels, annotations) = (template.labels.unwrap(), template.annotations.unwrap());
    assert_eq!(labels["sidecar.istio.io/inject"], "false");
    assert_eq!(annotations["sidecar.istio.io/inject"], "false");
    assert_eq!(annotations["linkerd.io/inject"], "disabled");
    assert_eq!(annotations[NODE], "node-1.example");
}
