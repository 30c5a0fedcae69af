//! Whole manifests: what is accepted, and the error for each mistake.

use fledged_core::model::{DeletionPolicy, ImagePullPolicy};

use super::{ManifestError, Manifests, parse};

fn parse_text(text: &str) -> Result<Manifests, ManifestError> {
    parse(&[("images.yaml".to_owned(), text.to_owned())])
}

fn error_of(text: &str) -> String {
    match parse_text(text) {
        Ok(manifests) => panic!("was accepted: {manifests:#?}"),
        Err(error) => error.to_string(),
    }
}

/// The sample of kube-fledged (`deploy/kubefledged-imagecache.yaml`), unchanged.
const KUBE_FLEDGED: &str = r#"---
apiVersion: kubefledged.io/v1alpha2
kind: ImageCache
metadata:
  # Name of the image cache. A cluster can have multiple image cache objects
  name: imagecache1
  namespace: kube-fledged
  # The kubernetes namespace to be used for this image cache. You can choose a different namepace as per your preference
  labels:
    app: kubefledged
    kubefledged: imagecache
spec:
  # The "cacheSpec" field allows a user to define a list of images and onto which worker nodes those images should be cached (i.e. pre-pulled).
  cacheSpec:
  # Specifies a list of images (nginx:1.23.1) with no node selector, hence these images will be cached in all the nodes in the cluster
  - images:
    - ghcr.io/jitesoft/nginx:1.23.1
  # Specifies a list of images (cassandra:v7 and etcd:3.5.4-0) with a node selector, hence these images will be cached only on the nodes selected by the node selector
  - images:
    - us.gcr.io/k8s-artifacts-prod/cassandra:v7
    - us.gcr.io/k8s-artifacts-prod/etcd:3.5.4-0
    nodeSelector:
      tier: backend
  # Specifies a list of image pull secrets to pull images from private repositories into the cache
  imagePullSecrets:
  - name: myregistrykey
"#;

#[test]
fn a_kube_fledged_manifest_is_accepted_unchanged() {
    let manifests = parse_text(KUBE_FLEDGED).unwrap();
    assert_eq!(manifests.warnings, []);
    let [cache] = manifests.caches.as_slice() else {
        panic!("one cache: {manifests:#?}")
    };
    assert_eq!(cache.id.to_string(), "kube-fledged/imagecache1");
    assert_eq!(cache.groups.len(), 2);
    assert_eq!(cache.groups[1].images.len(), 2);
    assert_eq!(cache.groups[1].node_selector["tier"], "backend");
    assert_eq!(
        cache.pull_secrets[0].to_string(),
        "kube-fledged/myregistrykey"
    );
}

#[test]
fn every_field_is_accepted() {
    let manifests = parse_text(
        r#"
apiVersion: kubefledged.io/v1alpha2
kind: ImageCache
metadata: {name: full}
spec:
  serviceAccountName: puller
  deletionPolicy: Purge
  rollout: {maxConcurrentNodes: "25%", maxPullRatePerNode: 20Mi}
  cacheSpec:
  - images: [nginx]
    imagePullPolicy: Always
    tolerations: [{key: a, operator: Exists, effect: NoSchedule, tolerationSeconds: 3}]
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
        - matchExpressions: [{key: gpu, operator: In, values: ["true"]}]
status: {status: Succeeded, anything: [1]}
"#,
    )
    .unwrap();
    assert_eq!(manifests.warnings, []);
    let cache = &manifests.caches[0];
    assert_eq!(cache.id.to_string(), "default/full");
    assert_eq!(cache.deletion_policy, DeletionPolicy::Purge);
    assert_eq!(cache.groups[0].pull_policy, Some(ImagePullPolicy::Always));
    assert_eq!(cache.max_pull_rate.unwrap().bytes(), 20 << 20);
}

#[test]
fn json_and_lists_are_accepted() {
    let json = "{\n\t\"apiVersion\": \"kubefledged.io/v1alpha2\",\n\t\"kind\": \"ImageCache\",\n\t\"metadata\": {\"name\": \"a\"},\n\t\"spec\": {\"cacheSpec\": [{\"images\": [\"nginx:1\"]}]}\n}\n";
    assert_eq!(parse_text(json).unwrap().caches.len(), 1);
    let item = |name: &str| {
        format!(
            "{{apiVersion: kubefledged.io/v1alpha2, kind: ImageCache, metadata: {{name: {name}, uid: x}}, spec: {{cacheSpec: [{{images: [a]}}]}}}}"
        )
    };
    for head in [
        "apiVersion: v1\nkind: List",
        "apiVersion: kubefledged.io/v1alpha2\nkind: ImageCacheList",
    ] {
        let list = format!(
            "{head}\nmetadata: {{resourceVersion: \"\"}}\nitems: [{}, {}]\n",
            item("a"),
            item("b")
        );
        assert_eq!(parse_text(&list).unwrap().caches.len(), 2, "{list}");
    }
}

/// An ImageCache of that name in the middle of other objects, as `helm template` writes it.
fn with_other_kinds(name: &str) -> String {
    format!(
        "---\n# Source: a\napiVersion: v1\nkind: Namespace\nmetadata: {{name: warm}}\n---\n---\n\
         apiVersion: kubefledged.io/v1alpha2\nkind: ImageCache\nmetadata: {{name: {name}}}\n\
         spec: {{cacheSpec: [{{images: [nginx:1.27]}}]}}\n---\n# nothing\n---\nnull\n---\n\
         apiVersion: v1\nkind: List\nitems:\n- {{apiVersion: apps/v1, kind: Deployment}}\n\
         - {{apiVersion: apps/v1, kind: Deployment}}\n"
    )
}

#[test]
fn objects_of_other_kinds_are_skipped_with_a_note() {
    let manifests = parse_text(&with_other_kinds("a")).unwrap();
    assert_eq!(manifests.caches.len(), 1);
    assert_eq!(manifests.warnings, []);
    assert_eq!(
        manifests.notes,
        ["images.yaml: objects of other kinds skipped: Deployment (2), Namespace"]
    );
    let files = ["a", "b"].map(|name| (name.to_owned(), with_other_kinds(name)));
    let manifests = parse(&files).unwrap();
    assert_eq!((manifests.caches.len(), manifests.notes.len()), (2, 2));
    assert!(parse_text(KUBE_FLEDGED).unwrap().notes.is_empty());
}

#[test]
fn every_file_must_contain_an_image_cache() {
    let error = parse(&[
        ("one".to_owned(), KUBE_FLEDGED.to_owned()),
        (
            "two".to_owned(),
            "kind: ConfigMap\n---\nkind: Pod\n".to_owned(),
        ),
    ])
    .unwrap_err()
    .to_string();
    assert!(
        error.starts_with("two contains no ImageCache, only ConfigMap, Pod;"),
        "{error}"
    );
}

#[test]
fn a_list_in_a_list_is_read() {
    let list = |items: &str| format!("{{apiVersion: v1, kind: List, items: [{items}]}}");
    let cache = "{apiVersion: kubefledged.io/v1alpha2, kind: ImageCache, metadata: {name: a}, spec: {cacheSpec: [{images: [a]}]}}";
    let nested = list(&format!("{}, {{kind: Pod}}", list(cache)));
    assert_eq!(parse_text(&nested).unwrap().caches.len(), 1);
}

#[test]
fn line_ends_of_windows_are_accepted() {
    let text = with_other_kinds("a").replace('\n', "\r\n");
    let manifests = parse_text(&text).unwrap();
    assert_eq!(manifests.caches.len(), 1);
    assert_eq!(manifests.caches[0].groups[0].images.len(), 1);
    let sample = parse_text(&KUBE_FLEDGED.replace('\n', "\r\n")).unwrap();
    assert_eq!(sample.caches, parse_text(KUBE_FLEDGED).unwrap().caches);
}

#[test]
fn a_misplaced_field_gives_a_hint() {
    let manifests = parse_text(
        "apiVersion: kubefledged.io/v1alpha2\nkind: ImageCache\nmetadata: {name: a}\n\
         imagePullSecrets: []\n\
         spec:\n  nodeSelector: {a: b}\n  maxPullRatePerNode: 1Mi\n  cacheSpec:\n\
         \x20 - images: [r.example/a:1]\n    imagePullSecrets: [{name: s}]\n",
    )
    .unwrap();
    let warnings: Vec<String> = manifests.warnings.iter().map(ToString::to_string).collect();
    let in_spec = "it belongs into spec, for all entries of cacheSpec";
    for (path, hint) in [
        ("imagePullSecrets", in_spec),
        ("spec.cacheSpec[0].imagePullSecrets", in_spec),
        (
            "spec.nodeSelector",
            "it belongs into an entry of spec.cacheSpec",
        ),
        ("spec.maxPullRatePerNode", "it belongs into spec.rollout"),
    ] {
        let line = format!("(ImageCache default/a): {path}: unknown field, ignored; {hint}");
        assert!(
            warnings.iter().any(|warning| warning.ends_with(&line)),
            "{line:?} is not in {warnings:?}"
        );
    }
}

#[test]
fn documents_and_files_are_combined() {
    let one = KUBE_FLEDGED.to_owned();
    let two = format!(
        "# only a comment\n---\n---\n{}\n---\n",
        one.replace("imagecache1", "b").trim_start_matches("---")
    );
    let manifests = parse(&[("one".to_owned(), one), ("two".to_owned(), two)]).unwrap();
    let names: Vec<&str> = manifests
        .caches
        .iter()
        .map(|c| c.id.name.as_str())
        .collect();
    assert_eq!(names, ["imagecache1", "b"]);
}

#[test]
fn unknown_fields_give_a_warning_with_their_path() {
    let manifests = parse_text(
        r#"
apiVersion: kubefledged.io/v1alpha2
kind: ImageCache
metadata: {name: a, whatever: 1}
specs: {}
spec:
  cachespec: []
  cacheSpec:
  - images: [nginx:1]
    imagez: [x]
    nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: []}
"#,
    )
    .unwrap();
    let warnings: Vec<String> = manifests.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "specs",
            "spec.cacheSpec[0].imagez",
            "spec.cacheSpec[0].nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution",
            "spec.cachespec",
        ]
        .map(|path| format!(
            "images.yaml: document 1 (ImageCache default/a): {path}: unknown field, ignored"
        ))
    );
}

#[test]
fn every_mistake_is_listed_with_place_and_value() {
    let error = error_of(
        r#"
apiVersion: kubefledged.io/v1alpha2
kind: ImageCache
metadata: {name: a}
spec:
  cacheSpec:
  - images: ["ngi nx", "nginx:1", "nginx:1"]
  - images: []
---
apiVersion: kubefledged.io/v1alpha2
kind: ImageCache
metadata: {name: b}
spec:
  cacheSpec: [{images: ["$(reboot)"]}]
"#,
    );
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 5, "{error}");
    assert_eq!(lines[0], "the manifest has 4 mistakes:");
    for (line, parts) in lines[1..].iter().zip([
        [
            "document 1 (ImageCache default/a)",
            "spec.cacheSpec[0].images[0]",
            "\"ngi nx\"",
        ],
        [
            "document 1 (ImageCache default/a)",
            "spec.cacheSpec[0].images[2]",
            "named twice",
        ],
        [
            "document 1 (ImageCache default/a)",
            "spec.cacheSpec[1].images",
            "at least one image",
        ],
        [
            "document 2 (ImageCache default/b)",
            "spec.cacheSpec[0].images[0]",
            "\"$(reboot)\"",
        ],
    ]) {
        assert!(line.trim_start().starts_with("images.yaml: "), "{line}");
        for part in parts {
            assert!(line.contains(part), "{part:?} is not in {line}");
        }
    }
}

#[test]
fn each_error_names_the_place_and_the_cause() {
    let with = |head: &str, rest: &str| format!("{head}\nmetadata: {{name: a}}\n{rest}\n");
    let head = "apiVersion: kubefledged.io/v1alpha2\nkind: ImageCache";
    let spec = "spec: {cacheSpec: [{images: [a]}]}";
    for (text, parts) in [
        (
            with("apiVersion: v1\nkind: Pod", spec),
            vec!["images.yaml contains no ImageCache, only Pod;"],
        ),
        (
            "apiVersion: v2\nkind: List\nitems: []\n".to_owned(),
            vec!["document 1: apiVersion: \"v2\" of a List"],
        ),
        (
            with(
                "apiVersion: kubefledged.io/v1alpha1\nkind: ImageCache",
                spec,
            ),
            vec![
                "\"kubefledged.io/v1alpha1\"",
                "old kube-fledged",
                "change apiVersion",
            ],
        ),
        (
            with(
                "apiVersion: fledged.k8s.io/v1alpha1\nkind: ImageCache",
                spec,
            ),
            vec!["\"fledged.k8s.io/v1alpha1\"", "kubefledged.io/v1alpha2"],
        ),
        (
            with("apiVersion: kubefledged.io/v9\nkind: ImageCache", spec),
            vec!["\"kubefledged.io/v9\"", "only kubefledged.io/v1alpha2"],
        ),
        (
            with("kind: ImageCache", spec),
            vec!["apiVersion: is missing"],
        ),
        (
            format!("{head}\nmetadata: {{namespace: x}}\n{spec}"),
            vec!["metadata.name: is missing"],
        ),
        (
            format!("{head}\nmetadata: {{name: 7}}\n{spec}"),
            vec!["metadata.name: must be a string, not the number 7"],
        ),
        (
            format!("{head}\nmetadata: {{name: \"x\\e[31m\"}}\n{spec}"),
            vec![r#"metadata.name: "x\u{1b}[31m" is not a valid object name"#],
        ),
        (
            format!("{head}\nmetadata: {{name: a, namespace: a.b}}\n{spec}"),
            vec!["metadata.namespace: \"a.b\" is not a valid namespace name"],
        ),
        (
            with(
                head,
                "spec: {cacheSpec: [{images: [a], imagePullPolicy: \"N\\e[0m\\n\"}]}",
            ),
            vec![r"unknown variant `N\u{1b}[0m\n`"],
        ),
        (with(head, ""), vec!["spec: is missing"]),
        (
            with(head, "spec: [1]"),
            vec!["spec: must be an object, not a list"],
        ),
        (
            with(head, "spec: {}"),
            vec!["(ImageCache default/a): spec: missing field `cacheSpec`"],
        ),
        (
            with(head, "spec: {cacheSpec: [{images: [1.0]}]}"),
            vec!["spec.cacheSpec[0].images[0]: invalid type: floating point"],
        ),
        (
            with(
                head,
                "spec: {cacheSpec: [{images: [a], imagePullPolicy: Never}]}",
            ),
            vec![
                "spec.cacheSpec[0].imagePullPolicy: unknown variant `Never`",
                "IfNotPresent",
            ],
        ),
        (
            with(
                head,
                "spec: {cacheSpec: [{images: [a], nodeSelector: {x: true}}]}",
            ),
            vec!["spec.cacheSpec[0].nodeSelector.x: invalid type: boolean `true`"],
        ),
        (
            with(
                head,
                "spec: {cacheSpec: [{images: [a]}, {images: [b], nodeSelector: {'a b': c}}]}",
            ),
            vec!["spec.cacheSpec[1].nodeSelector: the key \"a b\" is not a label key"],
        ),
        (
            with(
                head,
                "spec: {cacheSpec: [{images: [a], nodeSelector: {x/y: 'c d', 'e ': f}}]}",
            ),
            vec![
                "2 mistakes",
                "spec.cacheSpec[0].nodeSelector.x/y: the value \"c d\" is not a label value",
                "the key \"e \"",
            ],
        ),
        (
            with(
                head,
                "spec: {cacheSpec: [{images: [a]}], rollout: {maxConcurrentNodes: -3}}",
            ),
            vec!["spec.rollout.maxConcurrentNodes: -3: must be a number from 1 up, or"],
        ),
        (
            with(
                head,
                "spec: {cacheSpec: [{images: [a]}], rollout: {maxConcurrentNodes: 0.5}}",
            ),
            vec!["spec.rollout.maxConcurrentNodes: 0.5: must be a number from 1 up, or"],
        ),
        (
            with(
                head,
                "spec: {cacheSpec: [{images: [a]}], rollout: {maxPullRatePerNode: -20Mi}}",
            ),
            vec!["spec.rollout.maxPullRatePerNode: \"-20Mi\": must be a number with or without"],
        ),
        (
            with(
                head,
                "spec: {cacheSpec: [{images: [a]}], rollout: {maxPullRatePerNode: 0}}",
            ),
            vec!["spec.rollout.maxPullRatePerNode: \"0\": must be at least 64Ki"],
        ),
        (
            "- a\n- b\n".to_owned(),
            vec!["document 1: must be an object", "a list"],
        ),
        (
            "apiVersion: v1\nkind: List\nitems: [{kind: Pod, apiVersion: v1}]\n".to_owned(),
            vec!["images.yaml contains no ImageCache, only Pod;"],
        ),
        (
            with(head, &format!("{spec}\nspec: {{}}")),
            vec!["images.yaml is not valid YAML or JSON", "duplicate", "spec"],
        ),
        (
            "a: [\n".to_owned(),
            vec!["images.yaml is not valid YAML or JSON"],
        ),
        (String::new(), vec!["images.yaml contains no ImageCache"]),
        (
            "---\n# nothing\n---\n".to_owned(),
            vec!["contains no ImageCache"],
        ),
        (
            "apiVersion: v1\nkind: List\nitems: []\n".to_owned(),
            vec!["contains no ImageCache"],
        ),
    ] {
        let error = error_of(&text);
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}\n{text}");
        }
    }
}

#[test]
fn names_must_be_unique() {
    let error = parse(&[
        ("one".to_owned(), KUBE_FLEDGED.to_owned()),
        ("two".to_owned(), KUBE_FLEDGED.to_owned()),
    ])
    .unwrap_err()
    .to_string();
    assert!(error.starts_with("two: document 1"), "{error}");
    assert!(error.contains("\"kube-fledged/imagecache1\""), "{error}");
    assert!(error.contains("one, document 1"), "{error}");
}

#[test]
fn names_are_unique_within_a_namespace() {
    let other = KUBE_FLEDGED.replace("namespace: kube-fledged", "namespace: other");
    let manifests = parse(&[
        ("one".to_owned(), KUBE_FLEDGED.to_owned()),
        ("two".to_owned(), other),
    ])
    .unwrap();
    assert_eq!(manifests.caches.len(), 2);
}
