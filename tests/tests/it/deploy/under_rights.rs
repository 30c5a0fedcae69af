//! Controller and agent with the rights that the chart grants them, on a real API server with RBAC.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use fledged_kube::crd::{NodeImageCache, REFRESH_ANNOTATION};
use fledged_kube::lease::LeaseName;
use fledged_operator::controller::{Candidate, Controller, ControllerConfig};
use fledged_operator::jobs::{JobDriver, JobOptions};
use fledged_tests::kube::{Kubectl, ServerKind, TestCluster, Way, World, WorldOptions, eventually};
use fledged_tests::{require, skipped};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use super::rendered::{deploy, helm};

const APP: &str = "registry.test/private/app:1";

/// Installs the chart with the arguments `set`, in which OWN stands for the release's namespace. Returns nothing on the embedded API server, which has no RBAC.
async fn installed(set: &[&str]) -> Option<TestCluster> {
    if !require(&["helm", "kubectl"]) {
        return None;
    }
    let cluster = TestCluster::start().await;
    if cluster.kind() == ServerKind::Embedded {
        skipped("RBAC needs a real API server: KUBEBUILDER_ASSETS or TEST_KUBECONFIG");
        return None;
    }
    let chart = deploy("chart");
    let (kubeconfig, namespace) = (
        format!("--kubeconfig={}", cluster.kubeconfig().display()),
        format!("--namespace={}", cluster.namespace()),
    );
    let set = set
        .iter()
        .map(|arg| arg.replace("OWN", cluster.namespace()));
    let set: Vec<String> = set.collect();
    let output = tokio::task::spawn_blocking(move || {
        let chart = chart.to_str().unwrap();
        // The fixture has installed the definitions.
        let args = [
            "install",
            "kube-fledged",
            chart,
            "--set=crds.install=false",
            &kubeconfig,
            &namespace,
        ];
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        helm(&[args.as_slice(), &set].concat())
    });
    let output = output.await.unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(cluster)
}

async fn uninstall(cluster: &TestCluster) {
    let kubeconfig = format!("--kubeconfig={}", cluster.kubeconfig().display());
    let namespace = format!("--namespace={}", cluster.namespace());
    let output = tokio::task::spawn_blocking(move || {
        helm(&["uninstall", "kube-fledged", &kubeconfig, &namespace])
    });
    assert!(output.await.unwrap().status.success());
}

/// Returns a client with a token of a ServiceAccount, bound to `pod` if there is one.
async fn client_of(cluster: &TestCluster, account: &str, pod: Option<&Pod>) -> Client {
    let mut spec = json!({ "audiences": [], "expirationSeconds": 3600 });
    if let Some(metadata) = pod.map(|pod| &pod.metadata) {
        spec["boundObjectRef"] = json!({ "apiVersion": "v1", "kind": "Pod", "name": metadata.name, "uid": metadata.uid });
    }
    let ask =
        json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec });
    let path = format!(
        "/api/v1/namespaces/{}/serviceaccounts/{account}/token",
        cluster.namespace()
    );
    let request = http::Request::post(path).header("content-type", "application/json");
    let request = request.body(ask.to_string().into_bytes()).unwrap();
    let answer: Value = cluster.client().request(request).await.unwrap();
    let mut file = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
    let token = answer["status"]["token"].as_str().unwrap();
    for user in &mut file.auth_infos {
        user.auth_info = Some(serde_json::from_value(json!({ "token": token })).unwrap());
    }
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// Creates the Pod object of an agent on `node`. No container runs.
async fn agent_pod(cluster: &TestCluster, node: &str) -> Pod {
    let pod = json!({
        "metadata": { "name": format!("agent-on-{node}") },
        "spec": {
            "nodeName": node, "serviceAccountName": "kube-fledged-agent",
            "containers": [{ "name": "agent", "image": "registry.test/agent:1" }],
        },
    });
    let pods: Api<Pod> = Api::namespaced(cluster.client(), cluster.namespace());
    pods.create(
        &PostParams::default(),
        &serde_json::from_value(pod).unwrap(),
    )
    .await
    .unwrap()
}

async fn record(cluster: &TestCluster, node: &str) {
    let records: Api<NodeImageCache> = Api::all(cluster.client());
    let record = json!({ "metadata": { "name": node }, "spec": { "images": [] } });
    let record = serde_json::from_value(record).unwrap();
    records
        .create(&PostParams::default(), &record)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_may_only_write_the_record_of_their_node() {
    let set = &[
        "--set=agent.secretNamespaces={default}",
        "--set=agent.secretNames={registry-key}",
    ];
    let Some(cluster) = installed(set).await else {
        return;
    };
    let nodes = ["a", "b"].map(|name| format!("{}-{name}", cluster.tag()));
    for node in &nodes {
        record(&cluster, node).await;
    }
    let pod = agent_pod(&cluster, &nodes[0]).await;
    let bound = client_of(&cluster, "kube-fledged-agent", Some(&pod)).await;
    let loose = client_of(&cluster, "kube-fledged-agent", None).await;
    let status = Patch::Merge(json!({ "status": { "observedGeneration": 1 } }));
    let write = |client: &Client, node: &str| {
        let records: Api<NodeImageCache> = Api::all(client.clone());
        let (node, status) = (node.to_owned(), status.clone());
        async move {
            match records
                .patch_status(&node, &PatchParams::default(), &status)
                .await
            {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(refusal)) => Err(refusal.message),
                Err(error) => panic!("{error}"),
            }
        }
    };
    assert_eq!(write(&bound, &nodes[0]).await, Ok(()));
    // An API server enforces a policy a moment after it was created.
    eventually("the policy to be in force", || async {
        match write(&bound, &nodes[1]).await {
            Err(message) if message.contains("its own node") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    let refusal = write(&loose, &nodes[0]).await.unwrap_err();
    assert!(refusal.contains("its own node"), "{refusal}");
    assert_eq!(write(&bound, &nodes[0]).await, Ok(()));
    assert_eq!(write(&cluster.client(), &nodes[1]).await, Ok(()));
    // Agents may not write the spec: RBAC refuses it, and with more rights the policy does.
    let records: Api<NodeImageCache> = Api::all(bound.clone());
    let spec = Patch::Merge(json!({ "spec": { "images": [] } }));
    let refusal = records
        .patch(&nodes[0], &PatchParams::default(), &spec)
        .await
        .unwrap_err();
    assert!(refusal.to_string().contains("cannot patch"), "{refusal}");
    let kubectl = Kubectl::new(&cluster);
    let account = format!(
        "--serviceaccount={}:kube-fledged-agent",
        cluster.namespace()
    );
    let binding = format!("{}-too-much", cluster.namespace());
    let _ = kubectl
        .run(&[
            "create",
            "clusterrolebinding",
            &binding,
            "--clusterrole=cluster-admin",
            &account,
        ])
        .await
        .ok();
    eventually("the policy to refuse what RBAC no longer does", || async {
        let refusal = records
            .patch(&nodes[0], &PatchParams::default(), &spec)
            .await
            .unwrap_err()
            .to_string();
        refusal
            .contains("may write only the status of a NodeImageCache")
            .then_some(())
            .ok_or(refusal)
    })
    .await;
    let refusal = records
        .delete(&nodes[0], &DeleteParams::default())
        .await
        .unwrap_err();
    assert!(refusal.to_string().contains("the status"), "{refusal}");
    let _ = kubectl
        .run(&["delete", "clusterrolebinding", &binding])
        .await
        .ok();
    // An agent may get the listed Secrets of the listed namespaces, and no others, also not in its own namespace.
    let agent = format!(
        "--as=system:serviceaccount:{}:kube-fledged-agent",
        cluster.namespace()
    );
    for (verb, secret, namespace, may) in [
        ("get", "secrets/registry-key", "default", "yes"),
        ("get", "secrets/other", "default", "no"),
        ("list", "secrets", "default", "no"),
        ("get", "secrets/registry-key", cluster.namespace(), "no"),
    ] {
        let namespace = format!("--namespace={namespace}");
        let answer = kubectl
            .run(&["auth", "can-i", verb, secret, &agent, &namespace])
            .await;
        assert_eq!(answer.stdout.trim(), may, "{verb} {secret} {namespace}");
    }
    uninstall(&cluster).await;
}

/// A cache is created and deleted with the Job driver, with only the rights that the chart grants.
#[tokio::test(flavor = "multi_thread")]
async fn granted_rights_suffice_for_jobs() {
    let Some(cluster) = installed(&["--set=nodeDriver=job"]).await else {
        return;
    };
    let client = client_of(&cluster, "kube-fledged-controller", None).await;
    let image = "registry.test/fledged-operator:1".parse().unwrap();
    let mut options = JobOptions::new(image, cluster.namespace());
    // Removal Jobs are kept until the kubelet's image list is this much newer.
    options.list_margin = Duration::from_secs(1);
    let driver = JobDriver::new(client.clone(), options);
    let mut config = ControllerConfig::default();
    config.planner.refresh_interval = Duration::ZERO;
    config.driver = Some(Arc::new(driver));
    let controller = Controller::new(client, config);
    let controller = tokio::spawn(controller.run(std::future::pending()));

    let world = World::on(cluster, WorldOptions::by(Way::Jobs));
    world.publish(&[APP]);
    let puller = json!({ "metadata": { "name": "puller" } });
    world.create::<ServiceAccount>(puller).await;
    let a = world.node("a").await;
    let spec = json!({
        "cacheSpec": [{ "images": [APP] }],
        "serviceAccountName": "puller", "deletionPolicy": "Purge",
    });
    world.apply_spec("web", spec).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    a.holds_exactly(&[APP]).await;
    world.delete("web").await;
    world.gone("web").await;
    a.holds_exactly(&[]).await;
    eventually("the Jobs to be deleted", || async {
        let jobs: Api<Job> = Api::namespaced(world.cluster().client(), world.cluster().namespace());
        let left = jobs.list(&ListParams::default()).await.unwrap().items.len();
        (left == 0).then_some(()).ok_or(format!("{left} Jobs"))
    })
    .await;
    controller.abort();
    uninstall(world.cluster()).await;
}

/// A cache is created, refreshed and deleted with agents, with only the rights that the chart grants.
#[tokio::test(flavor = "multi_thread")]
async fn granted_rights_suffice_for_agents() {
    let Some(cluster) = installed(&["--set=agent.secretNamespaces={OWN}"]).await else {
        return;
    };
    let node = format!("{}-a", cluster.tag());
    let pod = agent_pod(&cluster, &node).await;
    let agent = client_of(&cluster, "kube-fledged-agent", Some(&pod)).await;
    let controller = client_of(&cluster, "kube-fledged-controller", None).await;
    let lease = LeaseName::of_controller(cluster.namespace());
    let mut config = ControllerConfig::default();
    config.planner.refresh_interval = Duration::ZERO;
    config.election = Some(Candidate::new(lease, "a-candidate"));
    let controller = Controller::new(controller, config);
    let controller = tokio::spawn(controller.run(std::future::pending()));

    let world = World::on(cluster, WorldOptions::default()).with_agents_client(agent);
    world.publish(&[APP]);
    world.registry().protect(APP, "robot", "hunter2");
    let auth = base64::engine::general_purpose::STANDARD.encode("robot:hunter2");
    let login = json!({ "auths": { "registry.test": { "auth": auth } } }).to_string();
    let secret = json!({
        "metadata": { "name": "login" }, "type": "kubernetes.io/dockerconfigjson",
        "stringData": { ".dockerconfigjson": login },
    });
    world.create::<Secret>(secret).await;
    let puller = json!({ "metadata": { "name": "puller" } });
    world.create::<ServiceAccount>(puller).await;
    let a = world.node("a").await;
    assert_eq!(a.name(), node);
    let spec = json!({
        "cacheSpec": [{ "images": [APP] }], "imagePullSecrets": [{ "name": "login" }],
        "serviceAccountName": "puller", "deletionPolicy": "Purge",
    });
    world.apply_spec("web", spec).await;
    world.ended("web", "ImageCacheCreate", "Succeeded").await;
    a.holds_exactly(&[APP]).await;
    world.annotate("web", REFRESH_ANNOTATION).await;
    world.ended("web", "ImageCacheRefresh", "Succeeded").await;
    world.delete("web").await;
    world.gone("web").await;
    a.holds_exactly(&[]).await;
    controller.abort();
    uninstall(world.cluster()).await;
}
