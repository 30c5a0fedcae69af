//! The RBAC rights of each part: exactly those in docs/security.md.

use std::collections::BTreeMap;

use fledged_tests::require;
use serde_json::{Value, json};

use super::rendered::{
    documents, every_installation, helm_operator, label, named, of_kind, plain, template, text,
};

fn words<'v>(value: &'v Value, field: &str) -> Vec<&'v str> {
    let list = value[field]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    list.iter().map(|word| word.as_str().unwrap()).collect()
}

fn rules(role: &Value) -> &[Value] {
    role["rules"].as_array().unwrap()
}

/// Returns the rights and subjects of an object that no part may have.
fn forbidden_rights(object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    match object["kind"].as_str().unwrap() {
        "Role" | "ClusterRole" => {
            assert!(object.get("aggregationRule").is_none(), "{}", label(object));
            for rule in rules(object) {
                for field in [
                    "apiGroups",
                    "resources",
                    "verbs",
                    "resourceNames",
                    "nonResourceURLs",
                ] {
                    for word in words(rule, field) {
                        if word.contains('*') {
                            found.push(format!("{field} {word}"));
                        }
                    }
                }
                for verb in ["escalate", "bind", "impersonate", "deletecollection"] {
                    if words(rule, "verbs").contains(&verb) {
                        found.push(format!("verb {verb}"));
                    }
                }
                let of_pods = [
                    "pods/exec",
                    "pods/attach",
                    "nodes/proxy",
                    "serviceaccounts/token",
                ];
                for resource in words(rule, "resources") {
                    if of_pods.contains(&resource) {
                        found.push(format!("resource {resource}"));
                    }
                }
                let everywhere = object["kind"] == "ClusterRole";
                for resource in ["secrets", "configmaps", "leases", "serviceaccounts"] {
                    // A ServiceAccount holds no secret, only the names of its pull secrets; the job driver reads it by name.
                    let named = resource == "serviceaccounts" && words(rule, "verbs") == ["get"];
                    if everywhere && !named && words(rule, "resources").contains(&resource) {
                        found.push(format!("{resource} in every namespace"));
                    }
                }
            }
        }
        "RoleBinding" | "ClusterRoleBinding" => {
            for subject in object["subjects"].as_array().unwrap() {
                if subject["kind"] != "ServiceAccount" {
                    found.push(format!("subject {subject}"));
                }
            }
        }
        _ => {}
    }
    found
}

#[test]
fn roles_have_no_wildcards_and_bind_only_accounts() {
    if !require(&["helm"]) {
        return;
    }
    let mut all = every_installation();
    all.push(("the Helm operator".to_owned(), helm_operator()));
    for (installation, objects) in all {
        assert!(
            of_kind(&objects, "ClusterRole").count() > 0,
            "{installation}"
        );
        for object in &objects {
            let found = forbidden_rights(object);
            assert!(
                found.is_empty(),
                "{installation}: {}: {found:?}",
                label(object)
            );
        }
    }
}

#[test]
fn forbidden_rights_are_found() {
    let role = |rule: Value| json!({ "kind": "ClusterRole", "metadata": { "name": "a" }, "rules": [rule] });
    for (object, wanted) in [
        (
            role(json!({ "apiGroups": ["*"], "resources": ["nodes"], "verbs": ["get"] })),
            "apiGroups *",
        ),
        (
            role(json!({ "apiGroups": [""], "resources": ["nodes/*"], "verbs": ["get"] })),
            "resources nodes/*",
        ),
        (
            role(json!({ "apiGroups": [""], "resources": ["nodes"], "verbs": ["*"] })),
            "verbs *",
        ),
        (
            role(json!({ "apiGroups": [""], "resources": ["secrets"], "verbs": ["get"] })),
            "secrets in every namespace",
        ),
        (
            role(json!({ "apiGroups": [""], "resources": ["users"], "verbs": ["impersonate"] })),
            "verb impersonate",
        ),
    ] {
        assert_eq!(forbidden_rights(&object), [wanted]);
    }
    let nodes = json!({ "kind": "Group", "name": "system:nodes" });
    let binding = json!({ "kind": "ClusterRoleBinding", "metadata": {}, "subjects": [nodes] });
    assert!(forbidden_rights(&binding)[0].contains("system:nodes"));
}

/// Maps `namespace resource names` to the verbs of an account. An empty namespace means all namespaces.
fn rights(objects: &[Value], account: &str) -> BTreeMap<String, Vec<String>> {
    let mut rights: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let bindings = of_kind(objects, "RoleBinding").chain(of_kind(objects, "ClusterRoleBinding"));
    for binding in bindings {
        let subjects = binding["subjects"].as_array().unwrap();
        if !subjects.iter().any(|subject| subject["name"] == account) {
            continue;
        }
        let role = objects.iter().find(|object| {
            object["kind"] == binding["roleRef"]["kind"]
                && object["metadata"]["name"] == binding["roleRef"]["name"]
                && object["metadata"]["namespace"] == binding["metadata"]["namespace"]
        });
        let namespace = binding["metadata"]["namespace"]
            .as_str()
            .unwrap_or_default();
        for rule in rules(role.unwrap_or_else(|| panic!("{} leads nowhere", label(binding)))) {
            let names = words(rule, "resourceNames").join(",");
            for resource in words(rule, "resources") {
                let verbs = words(rule, "verbs").into_iter().map(str::to_owned);
                let key = format!("{namespace} {resource} {names}");
                rights
                    .entry(key.trim_end().to_owned())
                    .or_default()
                    .extend(verbs);
            }
        }
    }
    rights
}

fn table(rows: &[(&str, &str)]) -> BTreeMap<String, Vec<String>> {
    rows.iter()
        .map(|(key, verbs)| {
            (
                (*key).to_owned(),
                verbs.split_whitespace().map(str::to_owned).collect(),
            )
        })
        .collect()
}

/// Compares the rights of each part with the table in docs/security.md.
#[test]
fn each_part_has_exactly_its_documented_rights() {
    if !require(&["helm"]) {
        return;
    }
    let objects = template(&[
        "--set=agent.secretNamespaces={shop}",
        "--set=webhookServer.enable=true",
    ]);
    let controller = table(&[
        (" imagecaches", "get list watch patch"),
        (" imagecaches/status", "patch"),
        (" nodeimagecaches", "list watch create patch delete"),
        (" nodes", "list watch"),
        (" events", "create"),
        ("kube-fledged leases", "create"),
        ("kube-fledged leases kubefledged-controller", "get update"),
    ]);
    assert_eq!(rights(&objects, "kube-fledged-controller"), controller);
    let agent = table(&[
        (" nodeimagecaches", "list watch"),
        (" nodeimagecaches/status", "patch"),
        ("shop secrets", "get"),
        ("shop serviceaccounts", "get"),
    ]);
    assert_eq!(rights(&objects, "kube-fledged-agent"), agent);
    let with_tokens = template(&[
        "--set=agent.secretNamespaces={shop}",
        "--set=agent.credentialProviders.config=/etc/providers.yaml",
        "--set=agent.credentialProviders.binDir=/opt/providers",
        "--set=agent.credentialProviders.serviceAccountTokens=true",
    ]);
    let mut agent = agent;
    let right = "shop serviceaccounts/token".to_owned();
    agent.insert(right, vec!["create".to_owned()]);
    assert_eq!(rights(&with_tokens, "kube-fledged-agent"), agent);
    let webhook = table(&[
        (" nodes", "list watch"),
        (
            " validatingwebhookconfigurations kube-fledged-webhook-server",
            "get patch",
        ),
        (
            "kube-fledged secrets kube-fledged-webhook-server",
            "get update",
        ),
    ]);
    assert_eq!(rights(&objects, "kube-fledged-webhook-server"), webhook);
    // With a certificate of cert-manager, the webhook server needs neither Secret nor configuration.
    let others = template(&[
        "--set=webhookServer.enable=true",
        "--set=webhookServer.certManager.enable=true",
    ]);
    let webhook = table(&[(" nodes", "list watch")]);
    assert_eq!(rights(&others, "kube-fledged-webhook-server"), webhook);
}

/// Agents are on every node, so a namespace's Secrets are theirs only if somebody asks for it.
#[test]
fn agents_read_secrets_only_in_listed_namespaces() {
    if !require(&["helm"]) {
        return;
    }
    let readable = |objects: &[Value], account: &str| -> Vec<String> {
        let rights = rights(objects, account);
        let readable = rights.into_keys().filter(|key| key.contains(" secrets"));
        readable.collect()
    };
    let agent = "kube-fledged-agent";
    for set in [&[][..], &["--set=watchNamespace=shop"]] {
        assert!(readable(&template(set), agent).is_empty(), "{set:?}");
    }
    assert!(readable(&plain(), "kubefledged-agent").is_empty());
    let objects = template(&["--set=agent.secretNamespaces={shop,kube-fledged}"]);
    assert_eq!(
        readable(&objects, agent),
        ["kube-fledged secrets", "shop secrets"]
    );
    let objects = template(&[
        "--set=agent.secretNamespaces={shop,shop}",
        "--set=agent.secretNames={registry-key,other}",
    ]);
    assert_eq!(
        readable(&objects, agent),
        ["shop secrets registry-key,other"]
    );
}

/// `kubectl apply -n NAMESPACE -f deploy/kubefledged-pull-secrets.yaml`
#[test]
fn plain_yaml_grants_secrets_of_one_namespace() {
    let grant = documents(&text("kubefledged-pull-secrets.yaml"));
    let kinds: Vec<&Value> = grant.iter().map(|object| &object["kind"]).collect();
    assert_eq!(kinds, ["Role", "RoleBinding"]);
    for object in &grant {
        assert!(object["metadata"].get("namespace").is_none(), "{object}");
    }
    let wanted = table(&[(" secrets", "get"), (" serviceaccounts", "get")]);
    assert_eq!(rights(&grant, "kubefledged-agent"), wanted);
    // The subject is the account that the agents of the plain YAML run as.
    let objects = plain();
    let agents = named(&objects, "DaemonSet", "-agent");
    let subject = &named(&grant, "RoleBinding", "")["subjects"][0];
    assert_eq!(
        subject["name"],
        agents["spec"]["template"]["spec"]["serviceAccountName"]
    );
    assert_eq!(subject["namespace"], agents["metadata"]["namespace"]);
}

#[test]
fn watch_namespace_limits_rights_to_that_namespace() {
    if !require(&["helm"]) {
        return;
    }
    let objects = template(&["--set=watchNamespace=shop", "--set=nodeDriver=job"]);
    let controller = table(&[
        (" nodeimagecaches", "list watch create patch delete"),
        (" nodeimagecaches/status", "patch"),
        (" nodes", "list watch"),
        ("kube-fledged leases", "create"),
        ("kube-fledged leases kubefledged-controller", "get update"),
        ("shop imagecaches", "get list watch patch"),
        ("shop imagecaches/status", "patch"),
        ("shop events", "create list"),
        ("shop jobs", "list watch create delete"),
        ("shop pods", "list watch"),
        ("shop serviceaccounts", "get"),
        // Removal Jobs run in the operator's namespace.
        ("kube-fledged events", "list"),
        ("kube-fledged jobs", "list watch create delete"),
        ("kube-fledged pods", "list watch"),
    ]);
    assert_eq!(rights(&objects, "kube-fledged-controller"), controller);
    assert_eq!(rights(&objects, "kube-fledged-jobs"), BTreeMap::new());
    let accounts: Vec<String> = of_kind(&objects, "ServiceAccount").map(label).collect();
    assert!(
        accounts.contains(&"ServiceAccount shop/kube-fledged-jobs".to_owned()),
        "{accounts:?}"
    );
    assert!(
        !accounts.iter().any(|account| account.contains("agent")),
        "{accounts:?}"
    );
}
