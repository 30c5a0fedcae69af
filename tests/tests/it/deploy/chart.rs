//! Checks of the chart: lint, version, generated YAML, flags, mounted paths.

use std::collections::BTreeSet;

use fledged_tests::{Fledged, require};
use serde_json::Value;

use super::rendered::{
    deploy, documents, every_installation, helm, label, named, of_kind, plain, template, text,
    values_files,
};

#[test]
fn helm_lint_passes_for_all_values_files() {
    if !require(&["helm"]) {
        return;
    }
    let chart = deploy("chart");
    let mut lint = vec![vec!["lint", "--strict", chart.to_str().unwrap()]];
    let files: Vec<String> = values_files()
        .iter()
        .map(|file| format!("--values={}", file.display()))
        .collect();
    for file in &files {
        lint.push([lint[0].as_slice(), &[file.as_str()]].concat());
    }
    for args in lint {
        let output = helm(&args);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{args:?}: {stdout}");
        assert!(!stdout.contains("[WARNING]"), "{args:?}: {stdout}");
    }
}

#[test]
fn chart_version_is_the_workspace_version() {
    let line = format!("version: {}\n", env!("CARGO_PKG_VERSION"));
    let chart = text("chart/Chart.yaml");
    assert!(chart.contains(&format!("\n{line}")), "{chart}");
    let app = format!("\nappVersion: {}\n", env!("CARGO_PKG_VERSION"));
    assert!(chart.contains(&app), "{chart}");
}

#[test]
fn plain_yaml_equals_the_rendered_chart() {
    if !require(&["helm"]) {
        return;
    }
    let values = format!("--values={}", deploy("plain-values.yaml").display());
    let args = [values.as_str(), "--set=webhookServer.enable=true"];
    let mut rendered: Vec<Value> = template(&args);
    let mut written: Vec<Value> = plain();
    written.retain(|object| {
        object["kind"] != "CustomResourceDefinition" && object["kind"] != "Namespace"
    });
    rendered.sort_by_key(label);
    written.sort_by_key(label);
    assert_eq!(rendered, written);
}

#[test]
fn chart_ships_the_crds_of_the_program_and_keeps_them() {
    if !require(&["helm"]) {
        return;
    }
    let of_program: Vec<Value> = documents(&fledged_kube::crd::definitions_yaml().unwrap());
    let mut of_chart: Vec<Value> = of_kind(&template(&[]), "CustomResourceDefinition")
        .cloned()
        .collect();
    of_chart.sort_by_key(label);
    for definition in &mut of_chart {
        let annotations = definition["metadata"].as_object_mut().unwrap();
        let annotations = annotations.remove("annotations").unwrap();
        assert_eq!(
            annotations,
            serde_json::json!({"helm.sh/resource-policy": "keep"})
        );
    }
    assert_eq!(of_chart, of_program);
    assert_eq!(documents(&text("kubefledged-crd.yaml")), of_program);
    let without = template(&["--set=crds.install=false"]);
    assert_eq!(of_kind(&without, "CustomResourceDefinition").count(), 0);
}

/// Runs the program with the arguments of every rendered container and `--help`: each must exit with 0.
#[test]
fn program_accepts_every_rendered_argument() {
    if !require(&["helm"]) {
        return;
    }
    let help = Fledged::operator().args(["--help"]).run();
    let mut seen = BTreeSet::new();
    for (installation, objects) in every_installation() {
        let workloads = of_kind(&objects, "Deployment").chain(of_kind(&objects, "DaemonSet"));
        for workload in workloads {
            let container = &workload["spec"]["template"]["spec"]["containers"][0];
            let args: Vec<&str> = container["args"]
                .as_array()
                .unwrap()
                .iter()
                .map(|arg| arg.as_str().unwrap())
                .collect();
            let subcommand = args[0];
            let line = format!("\n  {subcommand} ");
            assert!(help.stdout.contains(&line), "there is no {subcommand}");
            let checked = args.iter().copied().chain(["--help"]);
            let output = Fledged::operator().args(checked).run();
            assert_eq!(
                output.code,
                Some(0),
                "{installation}: {}: {output}",
                label(workload)
            );
            seen.insert(subcommand.to_owned());
        }
    }
    assert!(
        seen.contains("controller") && seen.contains("agent"),
        "{seen:?}"
    );
}

#[test]
fn agent_mounts_only_the_folder_of_the_socket() {
    if !require(&["helm"]) {
        return;
    }
    for (set, argument, paths) in [
        (
            "agent.runtime=auto",
            "",
            vec!["/run/containerd", "/run/k3s/containerd", "/run/crio"],
        ),
        (
            "agent.runtime=containerd",
            "unix:///run/containerd/containerd.sock",
            vec!["/run/containerd"],
        ),
        (
            "agent.runtime=crio",
            "unix:///var/run/crio/crio.sock",
            vec!["/var/run/crio"],
        ),
        (
            "agent.runtime=k3s",
            "unix:///run/k3s/containerd/containerd.sock",
            vec!["/run/k3s/containerd"],
        ),
        (
            "agent.runtime=cri-dockerd",
            "unix:///run/cri-dockerd.sock",
            vec!["/run/cri-dockerd.sock"],
        ),
        (
            "agent.runtime=docker",
            "docker:///var/run/docker.sock",
            vec!["/var/run/docker.sock"],
        ),
        (
            "agent.runtimeSocket=/opt/x/y.sock",
            "unix:///opt/x/y.sock",
            vec!["/opt/x"],
        ),
        (
            "agent.runtimeSocket=/var/snap/microk8s/common/run/containerd.sock",
            "unix:///var/snap/microk8s/common/run/containerd.sock",
            vec!["/var/snap/microk8s/common/run"],
        ),
        (
            "agent.runtimeSocket=/run/k0s/containerd.sock",
            "unix:///run/k0s/containerd.sock",
            vec!["/run/k0s"],
        ),
        (
            "args.controllerCRISocketPath=/opt/x/y.sock",
            "unix:///opt/x/y.sock",
            vec!["/opt/x"],
        ),
        (
            "args.controllerCRISocketPath=unix:///opt/x/y.sock",
            "unix:///opt/x/y.sock",
            vec!["/opt/x"],
        ),
    ] {
        let objects = template(&["--set", set]);
        let pod = &named(&objects, "DaemonSet", "-agent")["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let args = container["args"].as_array().unwrap();
        let mut runtime = args
            .iter()
            .filter_map(|arg| arg.as_str()?.strip_prefix("--runtime="));
        assert_eq!(runtime.next_back().unwrap_or_default(), argument, "{set}");
        let hosts: Vec<&Value> = pod["volumes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|volume| &volume["hostPath"]["path"])
            .collect();
        assert_eq!(hosts, paths, "{set}");
        for (mount, path) in container["volumeMounts"]
            .as_array()
            .unwrap()
            .iter()
            .zip(paths)
        {
            assert_eq!(mount["mountPath"], path, "{set}");
            assert_eq!(mount["readOnly"], true, "{set}");
        }
    }
}
