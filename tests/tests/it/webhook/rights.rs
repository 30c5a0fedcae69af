//! A client with the rights of the chart's webhook server.

use fledged_apiserver::{Failure, RequestFilter};
use fledged_tests::kube::{Kubectl, TestCluster};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Returns a client that may not create Secrets.
pub(crate) async fn without_making_secrets(cluster: &TestCluster) -> Client {
    if let Some(server) = cluster.embedded() {
        let filter = RequestFilter {
            verb: Some("create".to_owned()),
            resource: Some("secrets".to_owned()),
            field_manager: Some("fledged-webhook".to_owned()),
            ..RequestFilter::default()
        };
        server.fail_next(usize::MAX, filter, Failure::forbidden("not in a test"));
        return cluster.client();
    }
    let user = format!("{}-webhook", cluster.namespace());
    let rules = format!(
        "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: webhook}}
rules: [{{apiGroups: [''], resources: [secrets], resourceNames: [webhook-tls], verbs: [get, update]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: webhook}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: webhook}}
subjects: [{{kind: User, name: {user}}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: {user}}}
rules: [{{apiGroups: [admissionregistration.k8s.io], resources: [validatingwebhookconfigurations], verbs: [get, patch]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {user}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {user}}}
subjects: [{{kind: User, name: {user}}}]
"
    );
    let kubectl = Kubectl::new(cluster);
    let _ = kubectl
        .run_with(&["apply", "-f", "-"], &rules, &[])
        .await
        .ok();
    let file = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
    let options = KubeConfigOptions::default();
    let mut config = Config::from_custom_kubeconfig(file, &options)
        .await
        .unwrap();
    config.auth_info.impersonate = Some(user);
    Client::try_from(config).unwrap()
}
