//! Copies of the objects that an installation of kube-fledged creates in a cluster.

use std::fs;
use std::path::Path;

use k8s_openapi::ByteString;
use serde_json::json;

use super::install::DEFINITIONS;

/// Path of the definition in kube-fledged's chart.
pub(crate) const DEFINITION: &str = "crds/crd.yaml";

/// Writes a chart that installs those objects of kube-fledged's chart that matter for an upgrade: a definition without
/// `/status` that helm does not own, a Deployment with kube-fledged's selector, a webhook configuration with `bundle`.
pub(crate) fn chart(folder: &Path, bundle: Option<&str>) {
    let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": DEFINITIONS[0] },
        "spec": {
            "group": "kubefledged.io", "scope": "Namespaced",
            "names": { "kind": "ImageCache", "plural": "imagecaches", "singular": "imagecache", "shortNames": ["ic"] },
            "versions": [{ "name": "v1alpha2", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } }],
        },
    });
    let labels = json!({
        "app.kubernetes.io/name": "kube-fledged", "app.kubernetes.io/instance": "kube-fledged",
        "app.kubernetes.io/part-of": "kube-fledged-controller",
    });
    let container = json!({ "name": "kube-fledged", "image": "registry.test/controller:v0.10.0" });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "kube-fledged-controller" },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": { "containers": [container] } },
        },
    });
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": "kube-fledged-webhook-server" },
        "webhooks": [{
            "name": "validate-image-cache.kubefledged.io", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            // No webhook answers in a test.
            "failurePolicy": "Ignore", "timeoutSeconds": 1,
            "clientConfig": {
                "caBundle": bundle.map(|bundle| ByteString(bundle.as_bytes().to_vec())),
                "service": { "namespace": "{{ .Release.Namespace }}", "name": "kube-fledged-webhook-server", "path": "/" },
            },
            "rules": [{ "operations": ["CREATE", "UPDATE"], "apiGroups": ["kubefledged.io"],
                "apiVersions": ["v1alpha2"], "resources": ["imagecaches"], "scope": "Namespaced" }],
        }],
    });
    let chart = "apiVersion: v2\nname: kube-fledged\nversion: v0.10.0\nappVersion: v0.10.0\n";
    for (file, content) in [
        ("Chart.yaml", chart.to_owned()),
        (DEFINITION, definition.to_string()),
        (
            "templates/validatingwebhook.yaml",
            configuration.to_string(),
        ),
        (
            "templates/deployment-controller.yaml",
            deployment.to_string(),
        ),
    ] {
        let file = folder.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }
}

/// Returns kube-fledged's plain YAML of the webhook server, reduced to what the migration has to replace: selectors,
/// rights over every webhook configuration, the subject `system:nodes`, an init container, a volume.
pub(crate) fn webhook_manifests(namespace: &str) -> String {
    let name = "kubefledged-webhook-server";
    let labels = format!("{{app: kubefledged, kubefledged: {name}}}");
    format!(
        "
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: {namespace}, labels: {labels}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: {name}, labels: {labels}}}
rules: [{{apiGroups: [admissionregistration.k8s.io], resources: [validatingwebhookconfigurations], verbs: [get, update]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {name}, labels: {labels}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {name}}}
subjects:
- {{kind: ServiceAccount, name: {name}, namespace: {namespace}}}
- {{kind: Group, name: 'system:nodes', apiGroup: rbac.authorization.k8s.io}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}, labels: {labels}}}
spec:
  selector: {{matchLabels: {{kubefledged: {name}}}}}
  template:
    metadata: {{labels: {labels}}}
    spec:
      serviceAccountName: {name}
      initContainers: [{{name: init, image: 'registry.test/webhook:v0.10.0', args: [--init-server]}}]
      containers:
      - name: webhook-server
        image: registry.test/webhook:v0.10.0
        command: [/opt/bin/webhook]
        volumeMounts: [{{name: certkey-volume, mountPath: /certificate}}]
      volumes: [{{name: certkey-volume, emptyDir: {{}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}, labels: {labels}}}
spec:
  ports: [{{name: webhook-server, port: 3443, protocol: TCP, targetPort: 443}}]
  selector: {{kubefledged: {name}}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {{name: {name}, labels: {labels}}}
webhooks:
- name: validate-image-cache.kubefledged.io
  admissionReviewVersions: [v1]
  failurePolicy: Fail
  sideEffects: None
  timeoutSeconds: 1
  clientConfig: {{service: {{name: {name}, namespace: {namespace}, path: /validate-image-cache, port: 3443}}}}
  rules: [{{operations: [CREATE, UPDATE], apiGroups: [kubefledged.io], apiVersions: [v1alpha2], resources: [imagecaches]}}]
"
    )
}
