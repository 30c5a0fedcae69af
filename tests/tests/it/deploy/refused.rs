//! Kinds that only an installation uses: the embedded API server refuses and defaults them as a real one does.

use fledged_tests::kube::{Kubectl, TestCluster};
use fledged_tests::require;
use serde_json::{Value, json};

use super::rendered::documents;

const REFUSED: &str = include_str!("refused.yaml");

#[tokio::test(flavor = "multi_thread")]
async fn invalid_objects_are_refused_with_their_field() {
    if !require(&["kubectl"]) {
        return;
    }
    let cluster = TestCluster::start().await;
    let kubectl = Kubectl::new(&cluster);
    let mut count = 0;
    for document in REFUSED.split("---\n").skip(1) {
        let (first, object) = document.split_once('\n').unwrap();
        let field = first.strip_prefix("# refused: ").unwrap();
        let create = ["create", "--validate=false", "-f", "-"];
        let answer = kubectl.run_with(&create, object, &[]).await;
        let named = answer.stderr.contains(&format!(" {field}: "));
        assert!(!answer.success && named, "{field}: {answer:?}\n{object}");
        count += 1;
    }
    assert!(count > 30, "{count}");
}

async fn apply(kubectl: &Kubectl, object: &Value) -> Value {
    let apply = ["apply", "--server-side", "-f", "-", "-o", "json"];
    serde_json::from_str(
        &kubectl
            .run_with(&apply, &object.to_string(), &[])
            .await
            .ok(),
    )
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_fields_get_their_defaults() {
    if !require(&["kubectl"]) {
        return;
    }
    let cluster = TestCluster::start().await;
    let kubectl = Kubectl::new(&cluster);
    // A unique name, because cluster-scoped objects are shared by all tests.
    let name = cluster.namespace();
    let text = format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{ports: [{{port: 80}}], selector: {{a: b}}}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: {name}}}
spec: {{podSelector: {{}}, egress: [{{ports: [{{port: 53}}]}}]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {name}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: a}}
subjects: [{{kind: User, name: a}}, {{kind: ServiceAccount, name: a}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {{name: {name}}}
spec:
  validations: [{{expression: 'true'}}]
  matchConstraints:
    resourceRules: [{{operations: [CREATE], apiGroups: [example.com], apiVersions: [v1], resources: [things]}}]
"
    );
    let mut objects = Vec::new();
    for object in documents(&text) {
        objects.push(apply(&kubectl, &object).await);
    }
    let [service, network, binding, policy] = objects.try_into().unwrap();
    let spec = &service["spec"];
    let port = json!({ "port": 80, "protocol": "TCP", "targetPort": 80 });
    assert_eq!(spec["ports"], json!([port]));
    for (field, value) in [
        ("type", "ClusterIP"),
        ("sessionAffinity", "None"),
        ("internalTrafficPolicy", "Cluster"),
        ("ipFamilyPolicy", "SingleStack"),
    ] {
        assert_eq!(spec[field], value, "{field}");
    }
    assert!(
        spec["clusterIP"].as_str().unwrap().starts_with("10."),
        "{spec}"
    );
    assert_eq!(spec["clusterIPs"], json!([spec["clusterIP"]]));
    assert_eq!(service["status"], json!({ "loadBalancer": {} }));
    // Other changes keep clusterIP, and a change of clusterIP is refused.
    let mut changed = documents(&text)[0].clone();
    changed["spec"]["ports"][0]["port"] = 81.into();
    let again = apply(&kubectl, &changed).await;
    assert_eq!(again["spec"]["clusterIP"], spec["clusterIP"]);
    changed["spec"]["clusterIP"] = "10.0.0.77".into();
    let refused = kubectl
        .run_with(
            &["apply", "--server-side", "-f", "-"],
            &changed.to_string(),
            &[],
        )
        .await;
    assert!(
        refused.stderr.contains("may not change once set"),
        "{refused:?}"
    );

    assert_eq!(network["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(network["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
    assert_eq!(network["metadata"]["generation"], 1);
    let group = "rbac.authorization.k8s.io";
    assert_eq!(binding["subjects"][0]["apiGroup"], group);
    assert!(
        binding["subjects"][1].get("apiGroup").is_none(),
        "{binding}"
    );
    let other = json!({ "apiGroup": group, "kind": "Role", "name": "b" });
    let moved = json!({ "apiVersion": binding["apiVersion"], "kind": "RoleBinding", "metadata": { "name": name }, "roleRef": other });
    let refused = kubectl
        .run_with(
            &["apply", "--server-side", "-f", "-"],
            &moved.to_string(),
            &[],
        )
        .await;
    assert!(
        refused.stderr.contains("cannot change roleRef"),
        "{refused:?}"
    );

    let spec = &policy["spec"];
    assert_eq!(spec["failurePolicy"], "Fail");
    let matched = &spec["matchConstraints"];
    assert_eq!(matched["matchPolicy"], "Equivalent");
    assert_eq!(matched["namespaceSelector"], json!({}));
    assert_eq!(matched["resourceRules"][0]["scope"], "*");
    let _ = kubectl
        .run(&["delete", "validatingadmissionpolicy", name])
        .await
        .ok();
}
