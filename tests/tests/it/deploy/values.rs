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
