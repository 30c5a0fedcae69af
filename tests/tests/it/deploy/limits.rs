//! The limits of the chart's values: the chart refuses invalid ones, and the program accepts what the chart renders.

use fledged_tests::{Fledged, require};
use serde_json::Value;

use super::rendered::{deploy, label, of_kind, try_template};

/// Invalid values, and a part of the expected error, which names at least the key.
const REFUSED: &[(&str, &str)] = &[
    ("controllerReplicas=2", "controllerReplicas"),
    ("nodeDriver=jobs", "nodeDriver"),
    ("watchNamespace=Shop", "'Shop' does not match"),
    ("jobs.namespaces={a_b}", "'a_b' does not match"),
    ("image.digest=sha256:12", "image/digest"),
    ("image.repository=", "image.repository"),
    (
        "image.repository=foo/bar:v1",
        "image/repository': 'foo/bar:v1'",
    ),
    ("image.repository=foo/bar@sha256:12", "image/repository"),
    (
        "image.kubefledgedControllerRepository=foo/bar:v1",
        "kubefledgedControllerRepository': 'foo/bar:v1'",
    ),
    (
        "image.kubefledgedCRIClientRepository=foo/bar:v1",
        "kubefledgedCRIClientRepository': 'foo/bar:v1'",
    ),
    (
        "image.kubefledgedWebhookServerRepository=foo/bar:v1",
        "kubefledgedWebhookServerRepository': 'foo/bar:v1'",
    ),
    ("image.tag=a/b", "image/tag': 'a/b'"),
    (
        "imagePullSecrets[0].name=a_b",
        "imagePullSecrets/0/name': 'a_b'",
    ),
    (
        "args.controllerJobRetentionPolicy=keep",
        "controllerJobRetentionPolicy",
    ),
    (
        "args.controllerImagePullDeadlineDuration=5",
        "controllerImagePullDeadlineDuration",
    ),
    (
        "args.controllerImagePullDeadlineDuration=0",
        "controllerImagePullDeadlineDuration",
    ),
    (
        "args.controllerImagePullDeadlineDuration=0s",
        "args.controllerImagePullDeadlineDuration: \"0s\": must be at least 1s",
    ),
    (
        "args.controllerImagePullDeadlineDuration=0h999ms",
        "args.controllerImagePullDeadlineDuration: \"0h999ms\"",
    ),
    (
        "agent.inventoryInterval=0s",
        "agent.inventoryInterval: \"0s\": must be at least 1s",
    ),
    (
        "controller.maxConcurrentNodes=0",
        "maxConcurrentNodes': minimum: got 0",
    ),
    (
        "controller.maxConcurrentNodes=0%",
        "maxConcurrentNodes': '0%'",
    ),
    (
        "controller.maxConcurrentNodes=200%",
        "maxConcurrentNodes': '200%'",
    ),
    (
        "podDisruptionBudget.maxUnavailable=101%",
        "maxUnavailable': '101%'",
    ),
    ("args.webhookServerPort=0", "webhookServerPort"),
    (
        "args.webhookServerPort=8084",
        "args.webhookServerPort: 8084: ",
    ),
    (
        "args.webhookServerPort=8085",
        "args.webhookServerPort: 8085: ",
    ),
    (
        "args.controllerCRISocketPath=run/x.sock",
        "controllerCRISocketPath': 'run/x.sock'",
    ),
    ("agent.runtime=rkt", "agent/runtime"),
    ("agent.runtimeSocket=run/x.sock", "agent/runtimeSocket"),
    ("agent.maxParallelPulls=0", "maxParallelPulls"),
    ("agent.pull.via=fetcher", "agent/pull/via"),
    ("agent.pull.maxConnections=0", "maxConnections"),
    ("agent.pull.maxConnections=65", "maxConnections"),
    ("agent.pull.maxRate=fast", "agent/pull/maxRate"),
    ("agent.pull.configDirs={etc}", "agent/pull/configDirs"),
    (
        "agent.pull.via=auto,agent.pull.configDirs={/etc}",
        "agent.pull.configDirs: \"/etc\": ",
    ),
    (
        "agent.pull.via=auto,agent.pull.configDirs={/run/containerd}",
        "agent.pull.configDirs: \"/run/containerd\": ",
    ),
    (
        "agent.pull.via=auto,agent.pull.configDirs={/x},agent.imageFilesystem.mount=/x",
        "agent.pull.configDirs: \"/x\": ",
    ),
    (
        "agent.pull.via=auto,agent.pull.maxRate=1M,agent.runtime=docker",
        "agent.pull.maxRate: \"1M\": ",
    ),
    (
        "agent.imageFilesystem.highThreshold=101%",
        "imageFilesystem/highThreshold",
    ),
    (
        "agent.imageFilesystem.mount=var/lib/containerd",
        "imageFilesystem/mount",
    ),
    (
        "agent.imageFilesystem.mount=/var/../etc",
        "imageFilesystem/mount': '/var/../etc'",
    ),
    (
        "agent.imageFilesystem.mount=/usr/local/bin/",
        "agent.imageFilesystem.mount: \"/usr/local/bin/\": ",
    ),
    ("agent.runtimeSocket=/run/../x.sock", "agent/runtimeSocket"),
    (
        "agent.credentialProviders.files={/etc/./x}",
        "credentialProviders/files/0': '/etc/./x'",
    ),
    // A program accepts a flag only once.
    (
        "controller.extraArgs={--max-concurrent-nodes=5}",
        "controller.extraArgs: \"--max-concurrent-nodes=5\": the chart sets this flag itself",
    ),
    (
        "agent.extraArgs={-stderrthreshold,INFO}",
        "agent.extraArgs: \"-stderrthreshold\": ",
    ),
    (
        "webhookServer.enable=true,webhookServer.extraArgs={--port=1}",
        "webhookServer.extraArgs: \"--port=1\": ",
    ),
    ("agent.secretNamespaces={*}", "secretNamespaces"),
    (
        "agent.credentialProviders.config=etc/config.yaml",
        "credentialProviders/config': 'etc/config.yaml'",
    ),
    (
        "agent.credentialProviders.config=/etc/config.yaml",
        "agent.credentialProviders.binDir: \"\": must be ",
    ),
    (
        "agent.credentialProviders.binDir=/opt/plugins",
        "agent.credentialProviders.config: \"\": must be ",
    ),
    (
        "agent.credentialProviders.serviceAccountTokens=true",
        "agent.credentialProviders.serviceAccountTokens: true: ",
    ),
    (
        "agent.credentialProviders.files={/usr/local/bin/}",
        "agent.credentialProviders.files: \"/usr/local/bin/\": ",
    ),
    ("commonLabels.team=a b", "commonLabels/team': 'a b'"),
    (
        "commonLabels.app\\.kubernetes\\.io/name=foo",
        "commonLabels: \"app.kubernetes.io/name\": \"foo\"",
    ),
    (
        "commonLabels.app\\.kubernetes\\.io/part-of=foo",
        "commonLabels: \"app.kubernetes.io/part-of\": \"foo\"",
    ),
    (
        "plainLabels=true,commonLabels.kubefledged=foo",
        "commonLabels: \"kubefledged\": \"foo\"",
    ),
    (
        "networkPolicy.apiServerCIDRs={10.0.0.1}",
        "apiServerCIDRs/0': '10.0.0.1'",
    ),
    ("webhookServer.ownCertificate=true", "secret.name: \"\": "),
    (
        "webhookServer.ownCertificate=true,secret.name=a",
        "validatingWebhookCABundle: \"\": ",
    ),
    (
        "webhookServer.ownCertificate=true,secret.name=a,validatingWebhookCABundle=notbase64!",
        "validatingWebhookCABundle: \"notbase64!\": ",
    ),
    (
        "webhookServer.ownCertificate=true,secret.name=a,validatingWebhookCABundle=YQ==",
        "validatingWebhookCABundle: \"YQ==\": ",
    ),
    (
        "webhookServer.ownCertificate=true,webhookServer.certManager.enable=true",
        "webhookServer.ownCertificate: true: ",
    ),
    (
        "webhookServer.certManager.enable=true,args.webhookServerKeyFile=/b/tls.key",
        "args.webhookServerKeyFile: \"/b/tls.key\": ",
    ),
    (
        "webhookServer.certManager.enable=true,args.webhookServerCertFile=/a,args.webhookServerKeyFile=/b",
        "args.webhookServerCertFile: \"/a\": ",
    ),
];

/// Values at the limits of what is valid, and empty values, which kube-fledged's values files contain.
const TAKEN: &[&str] = &[
    "args.controllerImagePullDeadlineDuration=1s",
    "args.controllerImagePullDeadlineDuration=0.5h",
    "args.controllerImagePullDeadlineDuration=1500ms",
    "args.controllerImagePullDeadlineDuration=0h0m1.5s",
    "args.controllerImagePullDeadlineDuration=",
    "args.controllerImageCacheRefreshFrequency=0s",
    "args.controllerImageCacheRefreshFrequency=1ns",
    "args.controllerImageCacheRefreshFrequency=",
    "args.controllerImagePullPolicy=",
    "args.controllerJobRetentionPolicy=",
    "args.controllerLogLevel=,args.webhookServerLogLevel=,agent.logLevel=",
    "args.controllerLogLevel=TRACE,args.webhookServerLogLevel=DEBUG,agent.logLevel=ERROR",
    "args.controllerCRISocketPath=/run/x.sock",
    "args.controllerCRISocketPath=unix:///run/x.sock",
    "args.webhookServerPort=1",
    "args.webhookServerPort=65535",
    "agent.inventoryInterval=1s",
    "agent.inventoryInterval=",
    "agent.maxParallelPulls=1",
    "agent.pull.via=auto",
    "agent.pull=null",
    "agent.pull.via=auto,agent.pull.maxRate=20Mi,agent.pull.maxConnections=64",
    "agent.pull.via=auto,agent.pull.maxRate=1000000",
    "agent.pull.via=auto,agent.pull.maxConnections=null,agent.pull.configDirs=null,agent.pull.egress=null",
    "agent.imageFilesystem.highThreshold=0%",
    "agent.imageFilesystem.mount=/var/lib/..x/.y/containerd/",
    "agent.imageFilesystem=null",
    "controller.extraArgs={--max-image-pull-deadline=3h}",
    "webhookServer.enable=true,webhookServer.extraArgs={--max-image-pull-deadline,3h}",
    "agent.runtimeSocket=unix:///run/x.sock",
    "controller.maxConcurrentNodes=1",
    "controller.maxConcurrentNodes=1%",
    "controller.maxConcurrentNodes=100%",
    "image.repository=registry.example.com:5000/a/b-c__d.e",
    "image.tag=V1_2.3-x",
    "watchNamespace=a-1,jobs.namespaces={b}",
    "commonLabels.team=A_b.c-1",
    "secret.name=a,validatingWebhookCABundle=notbase64!",
    "webhookServer.certManager.enable=true,args.webhookServerCertFile=/a/x.crt,args.webhookServerKeyFile=/a/x.key",
];

#[test]
fn invalid_values_are_refused_with_their_key() {
    if !require(&["helm"]) {
        return;
    }
    for (set, message) in REFUSED {
        let problem = try_template(&["--set", set]).expect_err(set);
        assert!(problem.contains(message), "{set}: {problem}");
    }
}

/// The program parses each rendered command line, and then fails only because there is no cluster.
#[test]
fn program_accepts_all_values_that_the_chart_accepts() {
    if !require(&["helm"]) {
        return;
    }
    for driver in ["agent", "job"] {
        let driver = format!("--set=nodeDriver={driver}");
        for set in TAKEN {
            let objects = try_template(&[&driver, "--set", set])
                .unwrap_or_else(|problem| panic!("{set}: {problem}"));
            for kind in ["Deployment", "DaemonSet"] {
                for workload in of_kind(&objects, kind) {
                    fails_only_without_a_cluster(set, workload);
                }
            }
        }
    }
}

fn fails_only_without_a_cluster(set: &str, workload: &Value) {
    let container = &workload["spec"]["template"]["spec"]["containers"][0];
    let args = container["args"].as_array().unwrap().iter();
    let args = args.map(|arg| arg.as_str().unwrap().to_owned());
    let mut command = Fledged::operator()
        .args(args)
        .args(["--kubeconfig=/nowhere/kubeconfig"]);
    for variable in container["env"].as_array().unwrap() {
        let value = variable["value"].as_str().unwrap_or("node-1");
        command = command.env(variable["name"].as_str().unwrap(), value);
    }
    let output = command.run();
    // Exit code 2 is for an invalid command line, 1 for the missing kubeconfig or runtime.
    assert_eq!(output.code, Some(1), "{set}: {}: {output}", label(workload));
}

/// Selectors are immutable, so the pods keep the labels of their selector whatever `commonLabels` adds.
#[test]
fn common_labels_do_not_change_selectors() {
    if !require(&["helm"]) {
        return;
    }
    for file in [
        "chart/ci/everything-values.yaml",
        "chart/ci/docker-values.yaml",
    ] {
        let file = format!("--values={}", deploy(file).display());
        let objects = try_template(&[&file, "--set=commonLabels.cost=a1"]).unwrap();
        for kind in ["Deployment", "DaemonSet"] {
            for workload in of_kind(&objects, kind) {
                let spec = &workload["spec"];
                let labels = &spec["template"]["metadata"]["labels"];
                assert_eq!(labels["cost"], "a1");
                for (key, value) in spec["selector"]["matchLabels"].as_object().unwrap() {
                    assert_eq!(&labels[key], value, "{}", label(workload));
                }
            }
        }
    }
}
