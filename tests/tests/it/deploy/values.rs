//! Values of kube-fledged's chart: each has its effect in this chart.

use fledged_tests::require;
use serde_json::{Value, json};

use super::effects::effects;
use super::rendered::{deploy, helm, named, of_kind, template, text};

/// Collects the paths of all values in a values file. A list counts as one value.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value.as_object().filter(|fields| !fields.is_empty()) {
        Some(fields) => {
            for (key, value) in fields {
                let path = match path {
                    "" => key.clone(),
                    path => format!("{path}.{key}"),
                };
                leaves(value, &path, found);
            }
        }
        None => found.push(path.to_owned()),
    }
}

fn values() -> Value {
    serde_saphyr::from_str(&text("chart/ci/kube-fledged-values.yaml")).unwrap()
}

#[test]
fn every_kube_fledged_value_has_its_effect() {
    if !require(&["helm"]) {
        return;
    }
    let argument = format!(
        "--values={}",
        deploy("chart/ci/kube-fledged-values.yaml").display()
    );
    let objects = template(&[&argument]);
    let effects = effects();
    let mut set = Vec::new();
    leaves(&values(), "", &mut set);
    set.sort();
    assert_eq!(set, effects.keys().copied().collect::<Vec<_>>());
    for (key, effects) in effects {
        for (kind, end, path, wanted) in effects {
            let object = named(&objects, kind, end);
            let container = &object["spec"]["template"]["spec"]["containers"][0];
            match path {
                "args" => {
                    let args = container["args"].as_array().unwrap();
                    assert!(args.contains(&wanted), "{key}: {wanted} is not in {args:?}");
                }
                "image" => {
                    let wanted =
                        format!("{}:{}", wanted.as_str().unwrap(), env!("CARGO_PKG_VERSION"));
                    assert_eq!(container["image"], wanted, "{key}");
                }
                path => {
                    let found = object.pointer(path).unwrap_or(&Value::Null);
                    assert_eq!(found, &wanted, "{key}: {path}");
                }
            }
        }
    }
}

/// kube-fledged's chart ignores both values, so only `ownCertificate` makes the pod mount the Secret.
#[test]
fn own_certificate_is_used_only_if_enabled() {
    if !require(&["helm"]) {
        return;
    }
    let set = [
        "--set=secret.name=of-another-part",
        "--set=validatingWebhookCABundle=notbase64!",
    ];
    assert_eq!(template(&set), template(&[]));

    let file = deploy("chart/ci/own-certificate-values.yaml");
    let objects = template(&[&format!("--values={}", file.display())]);
    let pod = &named(&objects, "Deployment", "-webhook-server")["spec"]["template"]["spec"];
    let secret = &pod["volumes"][0]["secret"];
    assert_eq!(secret["secretName"], "of-the-webhook");
    let container = &pod["containers"][0];
    assert_eq!(container["volumeMounts"][0]["mountPath"], "/etc/webhook");
    let args = container["args"].as_array().unwrap();
    for flag in [
        "--cert-file=/etc/webhook/server.crt",
        "--key-file=/etc/webhook/server.key",
    ] {
        assert!(args.contains(&json!(flag)), "{args:?}");
    }
    assert_eq!(of_kind(&objects, "Secret").count(), 0);
    let configuration = named(&objects, "ValidatingWebhookConfiguration", "");
    let bundle = &configuration["webhooks"][0]["clientConfig"]["caBundle"];
    let wanted: Value =
        serde_saphyr::from_str(&text("chart/ci/own-certificate-values.yaml")).unwrap();
    assert_eq!(bundle, &wanted["validatingWebhookCABundle"]);
}

/// The keys in cert-manager's Secret are mounted under the file names of the flags.
#[test]
fn cert_manager_certificate_is_mounted_at_the_flag_paths() {
    if !require(&["helm"]) {
        return;
    }
    let objects = template(&[
        "--set=webhookServer.certManager.enable=true",
        "--set=secret.name=of-another-part",
        "--set=args.webhookServerCertFile=/etc/webhook/a.pem",
        "--set=args.webhookServerKeyFile=/etc/webhook/b.pem",
    ]);
    let pod = &named(&objects, "Deployment", "-webhook-server")["spec"]["template"]["spec"];
    let secret = &pod["volumes"][0]["secret"];
    let certificate = named(&objects, "Certificate", "");
    assert_eq!(secret["secretName"], certificate["spec"]["secretName"]);
    assert_eq!(secret["secretName"], "kube-fledged-webhook-server");
    let items =
        json!([{ "key": "tls.crt", "path": "a.pem" }, { "key": "tls.key", "path": "b.pem" }]);
    assert_eq!(secret["items"], items);
}

#[test]
fn jobs_use_the_pull_secrets_of_the_chart() {
    if !require(&["helm"]) {
        return;
    }
    let arguments = |set: &[&str]| -> Vec<String> {
        let objects = template(set);
        let pod = &named(&objects, "Deployment", "-controller")["spec"]["template"]["spec"];
        let args = pod["containers"][0]["args"].as_array().unwrap().iter();
        args.map(|arg| arg.as_str().unwrap().to_owned()).collect()
    };
    let named_twice = [
        "--set=nodeDriver=job",
        "--set=imagePullSecrets[0].name=a",
        "--set=imagePullSecrets[1].name=b",
    ];
    let flag = "--job-image-pull-secrets";
    let given = arguments(&named_twice);
    assert!(given.contains(&format!("{flag}=a,b")), "{given:?}");
    for without in [&named_twice[..1], &named_twice[1..]] {
        let given = arguments(without);
        assert!(!given.iter().any(|arg| arg.starts_with(flag)), "{given:?}");
    }
}

#[test]
fn selinux_type_of_removal_jobs_can_be_set() {
    if !require(&["helm"]) {
        return;
    }
    let objects = template(&[
        "--set=nodeDriver=job",
        "--set=jobs.removalSELinuxType=spc_t",
    ]);
    let pod = &named(&objects, "Deployment", "-controller")["spec"]["template"]["spec"];
    let args = pod["containers"][0]["args"].as_array().unwrap();
    let flag = json!("--job-removal-selinux-type=spc_t");
    assert!(args.contains(&flag), "{args:?}");
}

/// Pods without their ServiceAccount are refused. Removal Jobs run in the operator's namespace.
#[test]
fn jobs_have_a_service_account_in_each_namespace() {
    if !require(&["helm"]) {
        return;
    }
    for set in ["watchNamespace=shop", "jobs.namespaces={shop}"] {
        let objects = template(&["--set=nodeDriver=job", "--set", set]);
        let accounts = of_kind(&objects, "ServiceAccount");
        let jobs = accounts.filter(|account| account["metadata"]["name"] == "kube-fledged-jobs");
        let namespaces: Vec<&Value> = jobs
            .map(|account| &account["metadata"]["namespace"])
            .collect();
        assert_eq!(namespaces, ["shop", "kube-fledged"], "{set}");
    }
}

/// The value is used only by the Job driver; agents need no CRI client image.
#[test]
fn jobs_run_the_cri_client_image() {
    if !require(&["helm"]) {
        return;
    }
    let objects = template(&[
        "--set=nodeDriver=job",
        "--set=image.kubefledgedCRIClientRepository=registry.example.com/cri-client",
    ]);
    let container =
        &named(&objects, "Deployment", "-controller")["spec"]["template"]["spec"]["containers"][0];
    let variables = container["env"].as_array().unwrap();
    let image = variables
        .iter()
        .find(|variable| variable["name"] == "KUBEFLEDGED_CRI_CLIENT_IMAGE")
        .unwrap();
    let wanted = format!(
        "registry.example.com/cri-client:{}",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(image["value"], wanted);
}

/// kube-fledged's images hold another program, so their repositories are ignored, with a note.
#[test]
fn repositories_of_kube_fledged_images_are_ignored() {
    if !require(&["helm"]) {
        return;
    }
    let ours = "--set=image.repository=registry.example.com/ours";
    for repository in [
        "docker.io/senthilrch/kubefledged-controller",
        "senthilrch/kubefledged-controller",
        "mirror.example.com/senthilrch/kubefledged-controller",
    ] {
        let theirs = format!("--set=image.kubefledgedControllerRepository={repository}");
        let objects = template(&[ours, &theirs]);
        for (kind, end) in [("Deployment", "-controller"), ("DaemonSet", "-agent")] {
            let image =
                &named(&objects, kind, end)["spec"]["template"]["spec"]["containers"][0]["image"];
            let wanted = format!("registry.example.com/ours:{}", env!("CARGO_PKG_VERSION"));
            assert_eq!(image, &wanted, "{repository}");
        }
        let chart = deploy("chart");
        let install = [
            "install",
            "kube-fledged",
            chart.to_str().unwrap(),
            "--dry-run=client",
            ours,
            &theirs,
        ];
        let notes = String::from_utf8(helm(&install).stdout).unwrap();
        assert!(
            notes.contains("Ignored, because")
                && notes.contains("image.kubefledgedControllerRepository"),
            "{notes}"
        );
    }
}

/// Selectors and role references are immutable, so an upgrade needs those of kube-fledged's chart.
#[test]
fn selectors_equal_those_of_kube_fledgeds_chart() {
    if !require(&["helm"]) {
        return;
    }
    let objects = template(&["--set=webhookServer.enable=true"]);
    for part in ["controller", "webhook-server"] {
        let deployment = named(&objects, "Deployment", &format!("-{part}"));
        assert_eq!(
            deployment["metadata"]["name"],
            format!("kube-fledged-{part}")
        );
        let wanted = json!({
            "app.kubernetes.io/name": "kube-fledged",
            "app.kubernetes.io/instance": "kube-fledged",
            "app.kubernetes.io/part-of": format!("kube-fledged-{part}"),
        });
        assert_eq!(deployment["spec"]["selector"]["matchLabels"], wanted);
    }
    for role in of_kind(&objects, "ClusterRoleBinding") {
        assert_eq!(role["roleRef"]["name"], role["metadata"]["name"]);
    }
}

/// By default an unreachable webhook server blocks no request.
#[test]
fn webhook_failure_policy_is_ignore_by_default() {
    if !require(&["helm"]) {
        return;
    }
    for (arguments, wanted) in [
        (vec![], "Ignore"),
        (vec!["--set=validatingWebhook.failurePolicy=Fail"], "Fail"),
    ] {
        let objects = template(&arguments);
        let webhook = named(
            &objects,
            "ValidatingWebhookConfiguration",
            "-webhook-server",
        );
        assert_eq!(webhook["webhooks"][0]["failurePolicy"], wanted);
    }
}

/// The arguments of the controller.
fn controller_args(set: &[&str]) -> Vec<String> {
    let objects = template(set);
    let pod = &named(&objects, "Deployment", "-controller")["spec"]["template"]["spec"];
    let args = pod["containers"][0]["args"].as_array().unwrap().iter();
    args.map(|arg| arg.as_str().unwrap().to_owned()).collect()
}

#[test]
fn agents_and_jobs_use_one_socket() {
    if !require(&["helm"]) {
        return;
    }
    let microk8s = "/var/snap/microk8s/common/run/containerd.sock";
    for (set, socket) in [
        (
            "agent.runtime=k3s".to_owned(),
            "/run/k3s/containerd/containerd.sock",
        ),
        (format!("agent.runtimeSocket={microk8s}"), microk8s),
        (format!("args.controllerCRISocketPath={microk8s}"), microk8s),
    ] {
        let set = format!("--set={set}");
        let args = controller_args(&["--set=nodeDriver=job", &set]);
        let flag = format!("--cri-socket-path={socket}");
        assert!(args.contains(&flag), "{set}: {args:?}");
        let objects = template(&[&set]);
        let agents = named(&objects, "DaemonSet", "-agent").to_string();
        assert!(agents.contains(&format!("--runtime=unix://{socket}")));
        // The directory, because a restarted runtime creates a new socket.
        let directory = socket.rsplit_once('/').unwrap().0;
        assert!(agents.contains(&format!(r#""path":"{directory}","type":"Directory""#)));
    }
    let args = controller_args(&["--set=nodeDriver=job"]);
    assert!(!args.iter().any(|arg| arg.starts_with("--cri-socket-path")));
}

#[test]
fn agents_that_fetch_layers_mount_the_settings_of_registries() {
    if !require(&["helm"]) {
        return;
    }
    let agent = |args: &[&str]| named(&template(args), "DaemonSet", "-agent").to_string();
    let without = agent(&[]);
    for part in ["--pull-via", "--max-connections", "runtime-config"] {
        assert!(!without.contains(part), "{without}");
    }
    let with = agent(&[
        "--set=agent.pull.via=auto",
        "--set=agent.pull.maxRate=20Mi",
        "--set=agent.pull.maxIOPressure=60%",
        "--set=agent.pull.configDirs={/etc/rt,/etc/more}",
    ]);
    for part in [
        r#""--pull-via=auto","--max-connections=8","--runtime-config-dirs=/etc/rt,/etc/more","--max-pull-rate=20Mi""#,
        r#""--max-io-pressure=60%","--max-memory-pressure=10%""#,
        r#""mountPath":"/etc/rt","name":"runtime-config-0","readOnly":true"#,
        r#""mountPath":"/etc/more","name":"runtime-config-1","readOnly":true"#,
        r#""path":"/etc/rt","type":"DirectoryOrCreate""#,
    ] {
        assert!(with.contains(part), "{part}: {with}");
    }
    // Numbers of a values file are floating-point numbers for Helm.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.yaml");
    let text = "agent: {pull: {via: auto, maxRate: 20971520, maxConnections: 64}}\n";
    std::fs::write(&file, text).unwrap();
    let with = agent(&[&format!("--values={}", file.display())]);
    for part in ["--max-pull-rate=20971520", "--max-connections=64"] {
        assert!(with.contains(&format!("{part:?}")), "{with}");
    }
    let rules = |args: &[&str]| {
        let objects = template(args);
        let policy = named(&objects, "NetworkPolicy", "-agent");
        policy["spec"]["egress"].as_array().unwrap().len()
    };
    let enabled = "--set=networkPolicy.enabled=true";
    let more = rules(&[enabled, "--set=agent.pull.via=auto"]);
    assert_eq!(more, rules(&[enabled]) + 1);
}

#[test]
fn agents_mount_the_image_file_system_only_on_request() {
    if !require(&["helm"]) {
        return;
    }
    let agent = |args: &[&str]| named(&template(args), "DaemonSet", "-agent").to_string();
    let without = agent(&[]);
    assert!(without.contains("--image-fs-high-threshold=80%"));
    assert!(!without.contains("image-filesystem"));
    let with = agent(&["--set=agent.imageFilesystem.mount=/var/lib/containerd"]);
    let mount = r#""mountPath":"/var/lib/containerd","name":"image-filesystem","readOnly":true"#;
    assert!(with.contains(mount), "{with}");
    assert!(with.contains(r#""path":"/var/lib/containerd","type":"Directory""#));
}

#[test]
fn job_pods_have_the_values_of_the_chart() {
    if !require(&["helm"]) {
        return;
    }
    let args = controller_args(&[
        "--set=nodeDriver=job",
        "--set=jobs.resources.limits.cpu=1",
        "--set=jobs.runAsUser=null",
        "--set=jobs.podLabels.mesh=off",
    ]);
    for flag in [
        r#"--job-resources={"limits":{"cpu":1}}"#,
        "--job-run-as-user=none",
        r#"--job-pod-labels={"mesh":"off","sidecar.istio.io/inject":"false"}"#,
        r#"--job-pod-annotations={"linkerd.io/inject":"disabled","sidecar.istio.io/inject":"false"}"#,
    ] {
        assert!(args.contains(&flag.to_owned()), "{flag}: {args:?}");
    }
    let args = controller_args(&["--set=nodeDriver=job"]);
    assert!(args.contains(&"--job-run-as-user=65532".to_owned()));
    assert!(!args.iter().any(|arg| arg.starts_with("--job-resources")));
}

#[test]
fn nulls_remove_users_for_openshift() {
    if !require(&["helm"]) {
        return;
    }
    let nulls = ["runAsUser", "runAsGroup", "fsGroup"]
        .map(|field| format!("--set=podSecurityContext.{field}=null"));
    let set: Vec<&str> = nulls.iter().map(String::as_str).collect();
    let objects = template(&set);
    for part in ["-controller", "-webhook-server"] {
        let pod = &named(&objects, "Deployment", part)["spec"]["template"]["spec"];
        let context = pod["securityContext"].as_object().unwrap();
        for field in ["runAsUser", "runAsGroup", "fsGroup"] {
            assert!(!context.contains_key(field), "{part} {field}");
        }
        assert_eq!(context["runAsNonRoot"], true);
    }
    for (driver, account) in [("agent", "kube-fledged-agent"), ("job", "default")] {
        let driver = format!("--set=nodeDriver={driver}");
        let objects = template(&[&driver, "--set=openshift.scc=privileged"]);
        let binding = named(&objects, "RoleBinding", "-scc");
        let role = &binding["roleRef"]["name"];
        assert_eq!(role, "system:openshift:scc:privileged");
        assert_eq!(binding["subjects"][0]["name"], account);
        assert_eq!(binding["metadata"]["namespace"], "kube-fledged");
    }
}

/// A DaemonSet pod on such a node stays Pending, and `helm --wait` never ends.
#[test]
fn agents_are_not_scheduled_onto_virtual_nodes() {
    if !require(&["helm"]) {
        return;
    }
    let objects = template(&[]);
    let pod = &named(&objects, "DaemonSet", "-agent")["spec"]["template"]["spec"];
    let required =
        &pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let terms = &required["nodeSelectorTerms"];
    assert_eq!(
        terms,
        &json!([{ "matchExpressions": [
            { "key": "eks.amazonaws.com/compute-type", "operator": "NotIn", "values": ["fargate"] },
            { "key": "type", "operator": "NotIn", "values": ["virtual-kubelet"] },
        ] }])
    );
}

#[test]
fn imagecaches_are_added_to_view_edit_and_admin() {
    if !require(&["helm"]) {
        return;
    }
    let objects = template(&[]);
    let label = |role: &str, to: &str| {
        let role = named(&objects, "ClusterRole", role);
        let label = format!("rbac.authorization.k8s.io/aggregate-to-{to}");
        role["metadata"]["labels"][label] == "true"
    };
    for (role, to, added) in [
        ("-view", "view", true),
        ("-view", "edit", true),
        ("-edit", "admin", true),
        ("-edit", "view", false),
    ] {
        assert_eq!(label(role, to), added, "{role} {to}");
    }
    let rules = |role| named(&objects, "ClusterRole", role)["rules"].clone();
    assert_eq!(rules("-view")[0]["verbs"], json!(["get", "list", "watch"]));
    assert_eq!(rules("-edit")[0]["resources"], json!(["imagecaches"]));
    let without = template(&["--set=clusterRole.aggregate=false"]);
    assert_eq!(
        of_kind(&without, "ClusterRole").count() + 2,
        of_kind(&objects, "ClusterRole").count()
    );
}

#[test]
fn metrics_and_probes_can_be_bound_to_one_address() {
    if !require(&["helm"]) {
        return;
    }
    let parts = [
        ("DaemonSet", "-agent", 8082, 8083),
        ("Deployment", "-controller", 8080, 8081),
        ("Deployment", "-webhook-server", 8084, 8085),
    ];
    let objects = template(&["--set=bindAddress=podIP"]);
    for (kind, part, metrics, probes) in parts {
        let pod = &named(&objects, kind, part)["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let args = container["args"].as_array().unwrap();
        for flag in [
            format!("--metrics-bind-address=[$(POD_IP)]:{metrics}"),
            format!("--health-probe-bind-address=[$(POD_IP)]:{probes}"),
        ] {
            assert_eq!(
                args.iter().filter(|arg| **arg == flag).count(),
                1,
                "{args:?}"
            );
        }
        let names = container["env"].as_array().unwrap().iter();
        assert_eq!(
            names
                .filter(|variable| variable["name"] == "POD_IP")
                .count(),
            1
        );
    }
    // Probes of a pod on its own network come from the node: only parts on the host network change.
    let objects = template(&["--set=bindAddress=loopback", "--set=agent.hostNetwork=true"]);
    let agent = named(&objects, "DaemonSet", "-agent").to_string();
    assert!(
        agent.contains("--metrics-bind-address=127.0.0.1:8082"),
        "{agent}"
    );
    assert_eq!(agent.matches(r#""host":"127.0.0.1""#).count(), 2);
    let controller = named(&objects, "Deployment", "-controller").to_string();
    assert!(!controller.contains("127.0.0.1"), "{controller}");
}
