//! The real `kubectl`, with its default flags.
use crate::support::{Cluster, has_kubectl, widget_yaml};

behaviours![
    on sockets:
    kubectl_works_with_custom_resources,
    kubectl_works_with_built_in_kinds
];

async fn kubectl_works_with_custom_resources(cluster: &Cluster) {
    if !has_kubectl() {
        return;
    }
    let group = "kubectl.example.com";
    let run = async |line: &str, input: &str| {
        cluster
            .kubectl(&line.split_whitespace().collect::<Vec<_>>(), input)
            .await
    };
    let crd = widget_yaml(group);
    assert_eq!(
        run("apply -f -", &crd).await.ok().trim(),
        format!("customresourcedefinition.apiextensions.k8s.io/widgets.{group} created")
    );
    assert!(
        run("apply -f -", &crd)
            .await
            .ok()
            .trim()
            .ends_with("unchanged")
    );
    run(
        &format!("wait --for=condition=Established crd/widgets.{group} --timeout=30s"),
        "",
    )
    .await
    .ok();
    cluster
        .until(&format!("/apis/{group}/v1/widgets"), |_| true)
        .await;
    let ns = cluster.namespace("kubectl").await;
    let widget = |spec: &str| {
        format!(
            "apiVersion: {group}/v1\nkind: Widget\nmetadata:\n  name: w\n  namespace: {ns}\nspec: {spec}\n"
        )
    };
    let refused = run("apply -f -", &widget("{size: 1, more: 1}"))
        .await
        .refused();
    assert!(
        refused.contains("strict decoding error: unknown field \"spec.more\""),
        "{refused}"
    );
    let warned = run("create --validate=warn -f -", &widget("{size: 0, more: 1}"))
        .await
        .refused();
    assert!(
        warned.contains("Warning: unknown field \"spec.more\""),
        "{warned}"
    );
    assert!(
        warned.contains("spec.size in body should be greater than or equal to 1"),
        "{warned}"
    );
    assert!(
        run("apply -f -", &widget("{size: 1}"))
            .await
            .ok()
            .trim()
            .ends_with("created")
    );
    assert!(
        run("apply -f -", &widget("{size: 2, rules: [{key: a}]}"))
            .await
            .ok()
            .trim()
            .ends_with("configured")
    );
    assert!(
        run("apply -f -", &widget("{size: 2}"))
            .await
            .ok()
            .trim()
            .ends_with("configured")
    );
    let diff = run(&format!("get -n {ns} wd w -o jsonpath={{.spec}}"), "")
        .await
        .ok();
    assert_eq!(diff, "{\"policy\":\"Always\",\"size\":2}");
    let table = run(&format!("get -n {ns} widgets"), "").await.ok();
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        (&lines[0][..], &lines[1][..2]),
        (&["NAME", "SIZE", "READY", "AGE"][..], &["w", "2"][..])
    );
    assert!(
        run(&format!("get -n {ns} wd -o wide"), "")
            .await
            .ok()
            .contains("MODE")
    );
    assert!(
        run(&format!("get all -n {ns}"), "")
            .await
            .ok()
            .contains(&format!("widget.{group}/w"))
    );
    assert!(
        run(&format!("describe -n {ns} wd w"), "")
            .await
            .ok()
            .contains("Size:")
    );
    run(&format!("annotate -n {ns} wd w a=b"), "").await.ok();
    run(&format!("label -n {ns} wd w tier=x"), "").await.ok();
    run(
        &format!("patch -n {ns} wd w --type=merge -p {{\"spec\":{{\"size\":3}}}}"),
        "",
    )
    .await
    .ok();
    let status = "{\"status\":{\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\"}]}}";
    run(
        &format!("patch -n {ns} wd w --subresource=status --type=merge -p {status}"),
        "",
    )
    .await
    .ok();
    run(
        &format!("wait -n {ns} wd w --for=condition=Ready --timeout=30s"),
        "",
    )
    .await
    .ok();
    let applied = run(
        "apply --server-side --field-manager=other -f -",
        &widget("{size: 9}"),
    )
    .await
    .refused();
    assert!(
        applied.contains("Apply failed with 1 conflict"),
        "{applied}"
    );
    run(
        "apply --server-side --force-conflicts --field-manager=other -f -",
        &widget("{size: 9}"),
    )
    .await
    .ok();
    assert!(
        run("apply --dry-run=server -f -", &widget("{size: 4}"))
            .await
            .ok()
            .contains("server dry run")
    );
    let whole = run(&format!("get -n {ns} wd w -o yaml"), "").await.ok();
    run("replace -f -", &whole.replace("size: 9", "size: 8"))
        .await
        .ok();
    assert!(
        run("replace -f -", &whole)
            .await
            .refused()
            .contains("the object has been modified")
    );
    let explained = run(
        &format!("explain widgets.spec --api-version={group}/v1"),
        "",
    )
    .await
    .ok();
    assert!(
        explained.contains("What a widget is like.") && explained.contains("size"),
        "{explained}"
    );
    let resources = run(&format!("api-resources --api-group={group}"), "")
        .await
        .ok();
    assert!(
        resources.contains("widgets") && resources.contains("wd"),
        "{resources}"
    );
    run(&format!("delete -n {ns} wd w"), "").await.ok();
    assert!(
        run(&format!("get -n {ns} wd w"), "")
            .await
            .refused()
            .contains("not found")
    );
    run(&format!("delete crd widgets.{group}"), "").await.ok();
}

async fn kubectl_works_with_built_in_kinds(cluster: &Cluster) {
    if !has_kubectl() {
        return;
    }
    let ns = cluster.namespace("builtins").await;
    let run = async |line: &str, input: &str| {
        cluster
            .kubectl(&line.split_whitespace().collect::<Vec<_>>(), input)
            .await
    };
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: kube1}\nstatus:\n  conditions:\n  - {type: Ready, status: \"True\"}\n";
    run("create -f -", node).await.ok();
    run("label node kube1 tier=x", "").await.ok();
    run("annotate node kube1 note=y", "").await.ok();
    run("taint node kube1 dedicated=x:NoSchedule", "")
        .await
        .ok();
    run("taint node kube1 dedicated:NoSchedule-", "").await.ok();
    run("cordon kube1", "").await.ok();
    let table = run("get nodes", "").await.ok();
    assert!(table.contains("Ready,SchedulingDisabled"), "{table}");
    assert!(
        run("describe node kube1", "")
            .await
            .ok()
            .contains("Unschedulable:      true")
    );
    run("uncordon kube1", "").await.ok();
    assert!(run("apply -f -", node).await.ok);
    // kubectl sends the objects that it generates in protobuf.
    let make = async |line: &str| run(&format!("create {line} -n {ns}"), "").await.ok();
    make("secret docker-registry pull --docker-server=r.example.com --docker-username=u --docker-password=p").await;
    let secrets = run(&format!("get secrets -n {ns}"), "").await.ok();
    assert!(
        secrets.contains("kubernetes.io/dockerconfigjson"),
        "{secrets}"
    );
    make("configmap c --from-literal=a=b").await;
    let deployment = format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: d, namespace: {ns}}}\nspec:\n  replicas: 2\n  selector: {{matchLabels: {{a: b}}}}\n  template:\n    metadata: {{labels: {{a: b}}}}\n    spec: {{containers: [{{name: i, image: \"i:1\"}}]}}\n"
    );
    run("create -f -", &deployment).await.ok();
    run(&format!("set image -n {ns} deployment/d i=i:2"), "")
        .await
        .ok();
    let deployments = run(&format!("get deploy -n {ns}"), "").await.ok();
    assert!(deployments.contains("0/2"), "{deployments}");
    let manifest = format!(
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: ds, namespace: {ns}}}\nspec:\n  selector: {{matchLabels: {{a: b}}}}\n  template:\n    metadata: {{labels: {{a: b}}}}\n    spec:\n      containers:\n      - {{name: c, image: \"i:1\", env: [{{name: A, value: \"1\"}}]}}\n"
    );
    run("apply -f -", &manifest).await.ok();
    let changed = manifest.replace("name: A", "name: B");
    assert!(
        run("apply -f -", &changed)
            .await
            .ok()
            .trim()
            .ends_with("configured")
    );
    let names = run(
        &format!("get ds ds -n {ns} -o jsonpath={{.spec.template.spec.containers[*].env[*].name}}"),
        "",
    )
    .await
    .ok();
    assert_eq!(names, "B");
    run(
        &format!("get events,leases,serviceaccounts,pods,jobs -n {ns}"),
        "",
    )
    .await
    .ok();
    assert!(
        run("explain node.spec.taints", "")
            .await
            .ok()
            .contains("effect")
    );
    make("serviceaccount a").await;
    run(&format!("create namespace {ns}-more"), "").await.ok();
    run(&format!("delete namespace {ns}-more --wait=false"), "")
        .await
        .ok();
    run(
        &format!("delete deploy,ds,configmap,job --all -n {ns} --wait=false"),
        "",
    )
    .await
    .ok();
    run("delete node kube1", "").await.ok();
    run(&format!("delete ns {ns} --wait=false"), "").await.ok();
}
