//! The Helm operator: its rights cover the objects of the chart.

use std::collections::BTreeSet;

use fledged_tests::require;
use serde_json::Value;

use super::rendered::{deploy, documents, helm_operator, label, named, of_kind, template, text};

/// Returns all rights of a role as tuples of group, resource, name and verb.
fn grants(role: &Value) -> BTreeSet<[String; 4]> {
    let mut all = BTreeSet::new();
    for rule in role["rules"].as_array().unwrap() {
        let list = |field: &str| -> Vec<String> {
            let words = rule[field].as_array().into_iter().flatten();
            words
                .map(|word| word.as_str().unwrap().to_owned())
                .collect()
        };
        let names = match list("resourceNames") {
            names if names.is_empty() => vec![String::new()],
            names => names,
        };
        for group in list("apiGroups") {
            for resource in list("resources") {
                for name in &names {
                    for verb in list("verbs") {
                        all.insert([group.clone(), resource.clone(), name.clone(), verb]);
                    }
                }
            }
        }
    }
    all
}

/// Returns whether `wanted` is granted for its name or for all names.
fn allowed(held: &BTreeSet<[String; 4]>, wanted: &[String; 4]) -> bool {
    let mut any = wanted.clone();
    any[2] = String::new();
    held.contains(wanted) || held.contains(&any)
}

/// Values with which the chart creates all its kinds of objects.
const ALL: &[&str] = &[
    "--set=webhookServer.enable=true",
    "--set=networkPolicy.enabled=true",
    "--set=priorityClass.create=true",
    "--set=controllerReplicaCount=2",
    "--set=metrics.serviceMonitor.enabled=true",
    "--set=metrics.podMonitor.enabled=true",
    "--set=metrics.dashboard.enabled=true",
];

/// The API server allows a subject to grant only rights that the subject has.
#[test]
fn operator_has_every_right_that_it_grants() {
    if !require(&["helm"]) {
        return;
    }
    let own = helm_operator();
    let everywhere = grants(named(&own, "ClusterRole", "kubefledged-operator"));
    let mut here = grants(named(&own, "Role", "kubefledged-operator"));
    here.extend(everywhere.clone());
    for driver in ["agent", "job"] {
        let argument = format!("--set=nodeDriver={driver}");
        let objects = template(&[ALL, &[argument.as_str()]].concat());
        for (kind, held) in [("ClusterRole", &everywhere), ("Role", &here)] {
            for role in of_kind(&objects, kind) {
                for grant in grants(role) {
                    assert!(allowed(held, &grant), "{}: {grant:?}", label(role));
                }
            }
        }
    }
}

#[test]
fn operator_may_manage_every_object_of_the_chart() {
    if !require(&["helm"]) {
        return;
    }
    let own = helm_operator();
    let everywhere = grants(named(&own, "ClusterRole", "kubefledged-operator"));
    let mut here = grants(named(&own, "Role", "kubefledged-operator"));
    here.extend(everywhere.clone());
    for objects in [
        template(ALL),
        template(&[ALL, &["--set=webhookServer.certManager.enable=true"]].concat()),
    ] {
        for object in &objects {
            let version = object["apiVersion"].as_str().unwrap();
            let group = version.split_once('/').map_or("", |(group, _)| group);
            let kind = object["kind"].as_str().unwrap().to_lowercase();
            let plural = match kind.strip_suffix('y') {
                Some(start) => format!("{start}ies"),
                None if kind.ends_with('s') => format!("{kind}es"),
                None => format!("{kind}s"),
            };
            let name = object["metadata"]["name"].as_str().unwrap();
            let held = match object["metadata"]["namespace"].as_str() {
                Some(namespace) => {
                    assert_eq!(namespace, "kube-fledged", "{}", label(object));
                    &here
                }
                None => &everywhere,
            };
            let kept = object["kind"] == "CustomResourceDefinition";
            for verb in [
                "create", "list", "watch", "get", "update", "patch", "delete",
            ] {
                if kept && verb == "delete" {
                    continue;
                }
                let wanted = [group, &plural, name, verb].map(str::to_owned);
                assert!(allowed(held, &wanted), "{}: {wanted:?}", label(object));
            }
        }
    }
}

#[test]
fn operator_watches_the_resource_of_kube_fledged() {
    let own = helm_operator();
    let definition = named(&own, "CustomResourceDefinition", "");
    assert_eq!(
        definition["metadata"]["name"],
        "kubefledgeds.charts.helm.kubefledged.io"
    );
    let names = &definition["spec"]["names"];
    let version = &definition["spec"]["versions"][0]["name"];
    let sample = named(&own, "KubeFledged", "kube-fledged");
    let (group, kind) = ("charts.helm.kubefledged.io", &names["kind"]);
    assert_eq!(
        sample["apiVersion"],
        format!("{group}/{}", version.as_str().unwrap())
    );
    assert_eq!(&sample["kind"], kind);
    let watches = &documents(&text("kubefledged-operator/watches.yaml"))[0][0];
    assert_eq!(watches["group"], group);
    assert_eq!(&watches["version"], version);
    assert_eq!(&watches["kind"], kind);
    // The Dockerfile copies the chart to the path in watches.yaml.
    let image = text("kubefledged-operator/build/Dockerfile");
    let chart = watches["chart"].as_str().unwrap();
    assert!(
        image.contains(&format!("COPY chart ${{HOME}}/{chart}\n")),
        "{image}"
    );
    assert!(deploy("chart/Chart.yaml").is_file());
}

/// The spec of the sample is a valid values file and changes no default.
#[test]
fn sample_spec_renders_the_default_chart() {
    if !require(&["helm"]) {
        return;
    }
    let own = helm_operator();
    let spec = &named(&own, "KubeFledged", "kube-fledged")["spec"];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("values.json");
    std::fs::write(&file, spec.to_string()).unwrap();
    let objects = template(&[&format!("--values={}", file.display())]);
    assert_eq!(objects, template(&[]));
}
