//! The expected effect of each value of kube-fledged's chart on the rendered objects.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Kind and name suffix of an object, a JSON pointer into it (or `args`, `image`), and the expected value.
pub(crate) type Effect = (&'static str, &'static str, &'static str, Value);

/// Maps every key of kube-fledged's values.yaml to its effects. The list is empty for a key without an effect: one
/// that kube-fledged ignores as well, or that has no counterpart in this chart.
pub(crate) fn effects() -> BTreeMap<&'static str, Vec<Effect>> {
    let deployment =
        |end: &'static str, path: &'static str, value: Value| ("Deployment", end, path, value);
    let controller = |path, value| deployment("-controller", path, value);
    let webhook = |path, value| deployment("-webhook-server", path, value);
    let flag = |value: &str| ("Deployment", "-controller", "args", json!(value));
    let webhook_flag = |value: &str| ("Deployment", "-webhook-server", "args", json!(value));
    BTreeMap::from([
        (
            "controllerReplicaCount",
            vec![controller("/spec/replicas", json!(2))],
        ),
        (
            "webhookServerReplicaCount",
            vec![webhook("/spec/replicas", json!(3))],
        ),
        (
            "controller.hostNetwork",
            vec![controller("/spec/template/spec/hostNetwork", json!(true))],
        ),
        (
            "controller.priorityClassName",
            vec![controller(
                "/spec/template/spec/priorityClassName",
                json!("of-the-controller"),
            )],
        ),
        (
            "webhookServer.enable",
            vec![webhook(
                "/metadata/name",
                json!("other-fullname-webhook-server"),
            )],
        ),
        (
            "webhookServer.hostNetwork",
            vec![webhook("/spec/template/spec/hostNetwork", json!(true))],
        ),
        (
            "webhookServer.priorityClassName",
            vec![webhook(
                "/spec/template/spec/priorityClassName",
                json!("of-the-webhook"),
            )],
        ),
        (
            "image.kubefledgedControllerRepository",
            vec![controller(
                "image",
                json!("registry.example.com/controller"),
            )],
        ),
        ("image.kubefledgedCRIClientRepository", vec![]),
        (
            "image.kubefledgedWebhookServerRepository",
            vec![webhook(
                "image",
                json!("registry.example.com/webhook-server"),
            )],
        ),
        ("image.busyboxImageRepository", vec![]),
        ("image.busyboxImageVersion", vec![]),
        (
            "image.pullPolicy",
            vec![controller(
                "/spec/template/spec/containers/0/imagePullPolicy",
                json!("IfNotPresent"),
            )],
        ),
        (
            "command.kubefledgedControllerCommand",
            vec![controller(
                "/spec/template/spec/containers/0/command",
                Value::Null,
            )],
        ),
        (
            "command.kubefledgedWebhookServerCommand",
            vec![webhook(
                "/spec/template/spec/containers/0/command",
                Value::Null,
            )],
        ),
        (
            "args.controllerLogLevel",
            vec![flag("--stderrthreshold=WARNING")],
        ),
        (
            "args.controllerImagePullDeadlineDuration",
            vec![flag("--image-pull-deadline-duration=7m")],
        ),
        (
            "args.controllerImageCacheRefreshFrequency",
            vec![flag("--image-cache-refresh-frequency=1h30m")],
        ),
        (
            "args.controllerImagePullPolicy",
            vec![flag("--image-pull-policy=Always")],
        ),
        (
            "args.controllerServiceAccountName",
            vec![flag("--service-account-name=of-the-jobs")],
        ),
        (
            "args.controllerImageDeleteJobHostNetwork",
            vec![flag("--image-delete-job-host-network=true")],
        ),
        (
            "args.controllerJobPriorityClassName",
            vec![flag("--job-priority-class-name=of-the-jobs")],
        ),
        (
            "args.controllerJobRetentionPolicy",
            vec![flag("--job-retention-policy=retain")],
        ),
        (
            "args.controllerCRISocketPath",
            vec![flag("--cri-socket-path=/run/other/containerd.sock")],
        ),
        (
            "args.webhookServerLogLevel",
            vec![webhook_flag("--stderrthreshold=ERROR")],
        ),
        ("args.webhookServerCertFile", vec![]),
        ("args.webhookServerKeyFile", vec![]),
        ("args.webhookServerPort", vec![webhook_flag("--port=8443")]),
        (
            "validatingWebhookCABundle",
            vec![(
                "ValidatingWebhookConfiguration",
                "",
                "/webhooks/0/clientConfig/caBundle",
                Value::Null,
            )],
        ),
        (
            "imagePullSecrets",
            vec![controller(
                "/spec/template/spec/imagePullSecrets/0/name",
                json!("pull"),
            )],
        ),
        (
            "nameOverride",
            vec![controller(
                "/spec/selector/matchLabels/app.kubernetes.io~1name",
                json!("other-name"),
            )],
        ),
        (
            "fullnameOverride",
            vec![controller(
                "/metadata/name",
                json!("other-fullname-controller"),
            )],
        ),
        (
            "serviceAccount.create",
            vec![(
                "ServiceAccount",
                "-controller",
                "/kind",
                json!("ServiceAccount"),
            )],
        ),
        (
            "serviceAccount.name",
            vec![controller(
                "/spec/template/spec/serviceAccountName",
                json!("other-account-controller"),
            )],
        ),
        (
            "clusterRole.create",
            vec![("ClusterRole", "-controller", "/kind", json!("ClusterRole"))],
        ),
        (
            "clusterRole.name",
            vec![(
                "ClusterRole",
                "-controller",
                "/metadata/name",
                json!("other-role-controller"),
            )],
        ),
        (
            "clusterRoleBinding.create",
            vec![(
                "ClusterRoleBinding",
                "-controller",
                "/kind",
                json!("ClusterRoleBinding"),
            )],
        ),
        (
            "clusterRoleBinding.name",
            vec![(
                "ClusterRoleBinding",
                "-controller",
                "/metadata/name",
                json!("other-binding-controller"),
            )],
        ),
        (
            "validatingWebhook.create",
            vec![(
                "ValidatingWebhookConfiguration",
                "",
                "/kind",
                json!("ValidatingWebhookConfiguration"),
            )],
        ),
        (
            "validatingWebhook.name",
            vec![(
                "ValidatingWebhookConfiguration",
                "",
                "/metadata/name",
                json!("other-webhook"),
            )],
        ),
        (
            "secret.name",
            vec![webhook("/spec/template/spec/volumes", Value::Null)],
        ),
        (
            "podSecurityContext.fsGroup",
            vec![controller(
                "/spec/template/spec/securityContext/fsGroup",
                json!(2000),
            )],
        ),
        (
            "securityContext.runAsUser",
            vec![controller(
                "/spec/template/spec/containers/0/securityContext/runAsUser",
                json!(1000),
            )],
        ),
        ("service.type", vec![]),
        ("service.port", vec![]),
        (
            "webhookService.create",
            vec![("Service", "", "/kind", json!("Service"))],
        ),
        (
            "webhookService.type",
            vec![("Service", "", "/spec/type", json!("ClusterIP"))],
        ),
        (
            "webhookService.port",
            vec![
                ("Service", "", "/spec/ports/0/port", json!(3444)),
                (
                    "ValidatingWebhookConfiguration",
                    "",
                    "/webhooks/0/clientConfig/service/port",
                    json!(3444),
                ),
            ],
        ),
        (
            "webhookService.targetPort",
            vec![("Service", "", "/spec/ports/0/targetPort", json!("webhook"))],
        ),
        (
            "webhookService.name",
            vec![
                ("Service", "", "/metadata/name", json!("other-service")),
                (
                    "ValidatingWebhookConfiguration",
                    "",
                    "/webhooks/0/clientConfig/service/name",
                    json!("other-service"),
                ),
            ],
        ),
        ("ingress.enabled", vec![]),
        ("ingress.annotations", vec![]),
        ("ingress.hosts", vec![]),
        ("ingress.tls", vec![]),
        (
            "resources.requests.cpu",
            vec![controller(
                "/spec/template/spec/containers/0/resources/requests/cpu",
                json!("11m"),
            )],
        ),
        (
            "nodeSelector.tier",
            vec![controller(
                "/spec/template/spec/nodeSelector/tier",
                json!("control"),
            )],
        ),
        (
            "tolerations",
            vec![controller(
                "/spec/template/spec/tolerations/0/key",
                json!("control"),
            )],
        ),
        (
            "affinity.nodeAffinity",
            vec![controller(
                "/spec/template/spec/affinity/nodeAffinity",
                json!({}),
            )],
        ),
    ])
}
