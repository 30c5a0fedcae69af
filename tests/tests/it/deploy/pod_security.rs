//! Pod Security: all pods meet the level `restricted`, except those of the agent, which mount the runtime's socket.

use fledged_tests::require;
use serde_json::{Value, json};

use super::rendered::{every_installation, helm_operator, label, of_kind};

/// Safe sysctls that the pods use.
const SAFE: &[&str] = &["net.ipv4.ip_unprivileged_port_start"];

/// Returns the violations of the level `restricted` of the Pod Security Standards of Kubernetes 1.36.
fn violations(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if pod[field] == true {
            found.push(field.to_owned());
        }
    }
    let context = &pod["securityContext"];
    for sysctl in context["sysctls"].as_array().into_iter().flatten() {
        if !SAFE.contains(&sysctl["name"].as_str().unwrap()) {
            found.push(format!("sysctl {}", sysctl["name"]));
        }
    }
    let allowed = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
        "image",
    ];
    for volume in pod["volumes"].as_array().into_iter().flatten() {
        for kind in volume.as_object().unwrap().keys() {
            if kind != "name" && !allowed.contains(&kind.as_str()) {
                found.push(format!("volume {kind}"));
            }
        }
    }
    let lists = ["containers", "initContainers"].map(|list| pod[list].as_array());
    for container in lists.into_iter().flatten().flatten() {
        let own = &container["securityContext"];
        let either = |field: &str| match &own[field] {
            Value::Null => context[field].clone(),
            value => value.clone(),
        };
        let mut require_that = |holds: bool, what: &str| {
            if !holds {
                found.push(what.to_owned());
            }
        };
        require_that(own["privileged"] != true, "privileged");
        require_that(
            own["allowPrivilegeEscalation"] == false,
            "allowPrivilegeEscalation",
        );
        require_that(
            own["capabilities"]["drop"] == json!(["ALL"]),
            "capabilities.drop",
        );
        let added = own["capabilities"]["add"].as_array();
        let harmless = |name: &Value| name == "NET_BIND_SERVICE";
        require_that(
            added.is_none_or(|added| added.iter().all(harmless)),
            "capabilities.add",
        );
        require_that(either("runAsNonRoot") == true, "runAsNonRoot");
        require_that(either("runAsUser") != 0, "runAsUser");
        let profile = either("seccompProfile");
        let profiles = ["RuntimeDefault", "Localhost"];
        require_that(
            profile["type"]
                .as_str()
                .is_some_and(|kind| profiles.contains(&kind)),
            "seccompProfile",
        );
        require_that(
            own["seLinuxOptions"].is_null() && context["seLinuxOptions"].is_null(),
            "seLinuxOptions",
        );
        let ports = container["ports"].as_array().into_iter().flatten();
        require_that(
            ports.into_iter().all(|port| port.get("hostPort").is_none()),
            "hostPort",
        );
    }
    found
}

#[test]
fn all_pods_but_the_agents_are_restricted() {
    if !require(&["helm"]) {
        return;
    }
    let mut all = every_installation();
    all.push(("the Helm operator".to_owned(), helm_operator()));
    for (installation, objects) in all {
        let workloads = of_kind(&objects, "Deployment").chain(of_kind(&objects, "DaemonSet"));
        for workload in workloads {
            let pod = &workload["spec"]["template"]["spec"];
            let mut found = violations(pod);
            // Violations that a values file sets on purpose.
            let asked = |what: &String| {
                let by_everything = installation.ends_with("everything-values.yaml")
                    && (what == "hostNetwork" || what == "seLinuxOptions");
                by_everything
                    || (installation.ends_with("kube-fledged-values.yaml") && what == "hostNetwork")
            };
            found.retain(|what| !asked(what));
            found.dedup();
            let name = label(workload);
            if workload["kind"] == "DaemonSet" {
                assert_eq!(
                    found,
                    ["volume hostPath", "runAsNonRoot", "runAsUser"],
                    "{installation}: {name}"
                );
            } else {
                assert!(found.is_empty(), "{installation}: {name}: {found:?}");
            }
            let operator = installation == "the Helm operator";
            for container in pod["containers"].as_array().unwrap() {
                // The Helm operator unpacks charts into its root file system.
                let read_only = &container["securityContext"]["readOnlyRootFilesystem"];
                assert!(operator || read_only == true, "{installation}: {name}");
                let resources = &container["resources"];
                assert!(
                    resources["requests"]["cpu"].is_string(),
                    "{installation}: {name}: {resources}"
                );
                for probe in ["livenessProbe", "readinessProbe"] {
                    assert_eq!(
                        container[probe]["httpGet"]["port"], "probes",
                        "{installation}: {name}"
                    );
                }
            }
        }
    }
}

#[test]
fn violations_are_found() {
    let bad = json!({
        "hostPID": true,
        "volumes": [{ "name": "a", "hostPath": { "path": "/" } }],
        "containers": [{ "securityContext": { "privileged": true, "capabilities": { "add": ["SYS_ADMIN"] } } }],
    });
    let found = violations(&bad);
    for what in [
        "hostPID",
        "volume hostPath",
        "privileged",
        "capabilities.add",
        "capabilities.drop",
        "runAsNonRoot",
        "seccompProfile",
    ] {
        assert!(found.iter().any(|found| found == what), "{what}: {found:?}");
    }
}
