//! Renders the chart and reads the plain YAML as objects.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Folder of the chart's values files, with each of which the tests render the chart.
const VALUES: &str = "chart/ci";

/// Returns a path below `deploy/`.
pub(crate) fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(path)
}

/// The text of a file in `deploy/`.
pub(crate) fn text(path: &str) -> String {
    let path = deploy(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Runs helm.
pub(crate) fn helm(args: &[&str]) -> Output {
    // The user's own Helm settings must not matter.
    let home = tempfile::tempdir().unwrap();
    let variables = ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"];
    let mut command = Command::new("helm");
    command.args(args);
    for variable in variables {
        command.env(variable, home.path());
    }
    command.output().unwrap()
}

/// Renders the chart with these arguments, or returns helm's error.
pub(crate) fn try_template(args: &[&str]) -> Result<Vec<Value>, String> {
    let chart = deploy("chart");
    let start = [
        "template",
        "kube-fledged",
        chart.to_str().unwrap(),
        "--namespace=kube-fledged",
    ];
    let output = helm(&[&start, args].concat());
    match output.status.success() {
        true => Ok(documents(&String::from_utf8(output.stdout).unwrap())),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Renders the chart with these arguments.
pub(crate) fn template(args: &[&str]) -> Vec<Value> {
    try_template(args).unwrap_or_else(|problem| panic!("helm template {args:?}: {problem}"))
}

/// The objects of a YAML text.
pub(crate) fn documents(yaml: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    documents.into_iter().filter(|d| !d.is_null()).collect()
}

/// The chart's own values files.
pub(crate) fn values_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(deploy(VALUES))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 4, "{files:?}");
    files
}

/// Returns the objects of the chart with its defaults, with each values file, and of the plain YAML, by name.
pub(crate) fn every_installation() -> Vec<(String, Vec<Value>)> {
    let mut all = vec![("defaults".to_owned(), template(&[]))];
    for file in values_files() {
        let argument = format!("--values={}", file.display());
        all.push((file.display().to_string(), template(&[&argument])));
    }
    all.push(("plain YAML".to_owned(), plain()));
    all
}

/// Returns the objects of the plain YAML, including the webhook server.
pub(crate) fn plain() -> Vec<Value> {
    let files = [
        "kubefledged-namespace.yaml",
        "kubefledged-crd.yaml",
        "kubefledged.yaml",
        "webhook/kubefledged-webhook.yaml",
    ];
    files.map(|file| documents(&text(file))).concat()
}

/// Returns the objects that install the Helm operator.
pub(crate) fn helm_operator() -> Vec<Value> {
    let mut all = Vec::new();
    for folder in [
        "kubefledged-operator/deploy",
        "kubefledged-operator/deploy/crds",
    ] {
        for entry in fs::read_dir(deploy(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "yaml") {
                all.extend(documents(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    all
}

/// Returns the objects of a kind.
pub(crate) fn of_kind<'o>(objects: &'o [Value], kind: &'o str) -> impl Iterator<Item = &'o Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

/// Returns the object of `kind` whose name ends with `end`; panics unless there is exactly one.
pub(crate) fn named<'o>(objects: &'o [Value], kind: &'o str, end: &str) -> &'o Value {
    let found: Vec<&Value> = of_kind(objects, kind)
        .filter(|object| object["metadata"]["name"].as_str().unwrap().ends_with(end))
        .collect();
    assert_eq!(found.len(), 1, "{kind} {end}: {found:?}");
    found[0]
}

/// `Kind namespace/name`, for messages.
pub(crate) fn label(object: &Value) -> String {
    let metadata = &object["metadata"];
    let part = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, namespace) = (part(&object["kind"]), part(&metadata["namespace"]));
    format!("{kind} {namespace}/{}", part(&metadata["name"]))
}
