//! The webhook server: certificates, reviews over TLS, and calls from a real API server.
//!
//! The embedded API server calls no webhook; the tests send the reviews themselves, and the webhook server uses only
//! its Secrets, Nodes and configurations.
mod replica;
mod rights;

use std::sync::Arc;

use fledged_tests::kube::{Kubectl, ServerKind, TestCluster, eventually};
use fledged_webhook::{CertificateSource, PATH};
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use replica::{Replica, Shifted, add_node, kept, secrets, self_issued};
use rights::without_making_secrets;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn reviews_deny_invalid_specs_and_warn() {
    let cluster = TestCluster::start().await;
    let tag = cluster.tag().to_owned();
    add_node(&cluster, &tag).await;
    let source = CertificateSource::SelfIssued(self_issued(&cluster));
    let webhook = Replica::start(&cluster, source, Shifted::new()).await;
    webhook.is_ready().await;
    let bundle = kept(&cluster, "ca.crt").await;

    let bad = json!({ "cacheSpec": [{ "images": ["app:1", "No image"] }] });
    let answer = webhook.review(&bundle, bad).await;
    assert_eq!(answer["allowed"], false);
    let message = answer["status"]["message"].as_str().unwrap();
    assert!(
        message.contains("spec.cacheSpec[0].images[1]: \"No image\""),
        "{message}"
    );

    let strange = json!({ "cacheSpec": [
        { "images": ["app"], "nodeSelector": { "tier": tag } },
        { "images": ["app:1"], "nodeSelector": { "tier": "nowhere" } },
    ]});
    eventually("the nodes to be known", || async {
        let answer = webhook.review(&bundle, strange.clone()).await;
        assert_eq!(answer["allowed"], true);
        let warnings = answer["warnings"].as_array().unwrap();
        assert!(
            warnings[0]
                .as_str()
                .unwrap()
                .contains("app is a mutable tag"),
            "{warnings:?}"
        );
        match warnings.get(1).and_then(Value::as_str) {
            Some(warning) if warning.contains("spec.cacheSpec[1]") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;

    for (path, body, status) in [
        (PATH, "no review", 400),
        (
            PATH,
            "{\"apiVersion\":\"admission.k8s.io/v1\",\"kind\":\"AdmissionReview\"}",
            400,
        ),
        ("/elsewhere", "", 404),
    ] {
        let (answered, text) = webhook.ask(&bundle, path, body.to_owned()).await.unwrap();
        assert_eq!(answered, status, "{text}");
    }
    webhook.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_and_renew_one_certificate() {
    let cluster = TestCluster::start().await;
    let clock = Shifted::new();
    let source = || CertificateSource::SelfIssued(self_issued(&cluster));
    let one = Replica::start(&cluster, source(), Arc::clone(&clock)).await;
    let two = Replica::start(&cluster, source(), Arc::clone(&clock)).await;
    one.is_ready().await;
    two.is_ready().await;
    let bundle = kept(&cluster, "ca.crt").await;
    let good = json!({ "cacheSpec": [{ "images": ["app:1"] }] });
    for replica in [&one, &two] {
        let answer = replica.review(&bundle, good.clone()).await;
        assert_eq!(answer["allowed"], true);
    }

    // The bundle of the new certificate also contains the previous authority.
    clock.pass(336);
    eventually("another certificate", || async {
        let now = kept(&cluster, "ca.crt").await;
        (now.ends_with(&bundle) && now.len() > bundle.len())
            .then_some(())
            .ok_or("the same".to_owned())
    })
    .await;
    // A client that trusts only the old bundle refuses the new certificate; so this shows that it is served.
    for replica in [&one, &two] {
        eventually("the new certificate to be served", || async {
            clock.pass_a_minute();
            let asked = replica.ask(&bundle, PATH, String::new()).await;
            asked.err().map(drop).ok_or("the same".to_owned())
        })
        .await;
    }

    // A deleted Secret is created again.
    secrets(&cluster)
        .delete("webhook-tls", &DeleteParams::default())
        .await
        .unwrap();
    clock.pass(1);
    eventually("the Secret to be there again", || async {
        let found = secrets(&cluster).get_opt("webhook-tls").await.unwrap();
        found.map(drop).ok_or("no Secret".to_owned())
    })
    .await;
    one.end().await;
    two.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_without_its_secret_is_unready_and_keeps_serving() {
    let cluster = TestCluster::start().await;
    let client = without_making_secrets(&cluster).await;
    let name = format!("{}-webhook", cluster.namespace());
    let empty = Secret {
        metadata: serde_json::from_value(json!({ "name": "webhook-tls" })).unwrap(),
        ..Secret::default()
    };
    let params = PostParams::default();
    secrets(&cluster).create(&params, &empty).await.unwrap();
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(cluster.client());
    let configuration = json!({
        "metadata": { "name": name },
        "webhooks": [{
            "name": "validate-image-cache.kubefledged.io", "admissionReviewVersions": ["v1"],
            "sideEffects": "None", "failurePolicy": "Ignore",
            "clientConfig": { "url": "https://localhost:1/" },
            "rules": [{ "apiGroups": ["kubefledged.io"], "apiVersions": ["v1alpha2"],
                "operations": ["CREATE"], "resources": ["imagecaches"] }],
        }],
    });
    let configuration = serde_json::from_value(configuration).unwrap();
    configurations
        .create(&params, &configuration)
        .await
        .unwrap();
    let clock = Shifted::new();
    let mut issued = self_issued(&cluster);
    issued.configuration = Some(name.clone());
    let source = CertificateSource::SelfIssued(issued);
    let webhook = Replica::start_as(client, source, Arc::clone(&clock)).await;
    webhook.is_ready().await;
    let (bundle, certificate) = (
        kept(&cluster, "ca.crt").await,
        kept(&cluster, "tls.crt").await,
    );

    secrets(&cluster)
        .delete("webhook-tls", &DeleteParams::default())
        .await
        .unwrap();
    // The configuration loses its bundle, as after another `kubectl apply`.
    let without_bundle = json!([{ "op": "remove", "path": "/webhooks/0/clientConfig/caBundle" }]);
    let patch = Patch::<Value>::Json(serde_json::from_value(without_bundle).unwrap());
    let params = PatchParams::default();
    configurations.patch(&name, &params, &patch).await.unwrap();
    clock.1.lock().unwrap().clear();
    eventually(
        "the missing Secret to be retried at growing intervals",
        || async {
            clock.pass(1);
            let sleeps = clock.1.lock().unwrap().clone();
            let pauses: Vec<u64> = sleeps.into_iter().skip_while(|pause| *pause != 5).collect();
            let problem = (webhook.ready)().err().unwrap_or_default();
            let named = problem.contains("webhook-tls does not exist and cannot be created");
            match pauses.starts_with(&[5, 10, 20, 40, 60, 60]) {
                true if named => Ok(()),
                _ => Err(format!("{problem:?} {pauses:?}")),
            }
        },
    )
    .await;
    let found = configurations.get(&name).await.unwrap();
    let found = found.webhooks.unwrap().remove(0).client_config.ca_bundle;
    assert_eq!(String::from_utf8(found.unwrap().0).unwrap(), bundle);
    let good = json!({ "cacheSpec": [{ "images": ["app:1"] }] });
    assert_eq!(webhook.review(&bundle, good).await["allowed"], true);

    let params = PostParams::default();
    secrets(&cluster).create(&params, &empty).await.unwrap();
    // The clock must pass after the current pause has begun.
    eventually("the Secret to be filled", || async {
        clock.pass_a_minute();
        (webhook.ready)()
    })
    .await;
    assert_eq!(kept(&cluster, "tls.crt").await, certificate);
    webhook.end().await;
    let params = DeleteParams::default();
    configurations.delete(&name, &params).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_certificate_files_are_read_again() {
    let cluster = TestCluster::start().await;
    let clock = Shifted::new();
    // Use the certificate of another webhook server.
    let source = CertificateSource::SelfIssued(self_issued(&cluster));
    let other = Replica::start(&cluster, source, Shifted::new()).await;
    other.is_ready().await;
    let bundle = kept(&cluster, "ca.crt").await;

    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let source = CertificateSource::Files {
        certificate: certificate.clone(),
        key: key.clone(),
    };
    let webhook = Replica::start(&cluster, source, Arc::clone(&clock)).await;
    eventually("the missing file to be reported", || async {
        match (webhook.ready)() {
            Err(problem) if problem.contains("tls.crt") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    std::fs::write(&certificate, kept(&cluster, "tls.crt").await).unwrap();
    std::fs::write(&key, "no key").unwrap();
    clock.pass(1);
    eventually("the bad key to be reported", || async {
        match (webhook.ready)() {
            Err(problem) if problem.contains("private key") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    std::fs::write(&key, kept(&cluster, "tls.key").await).unwrap();
    clock.pass(1);
    webhook.is_ready().await;
    let good = json!({ "cacheSpec": [{ "images": ["app:1"] }] });
    assert_eq!(webhook.review(&bundle, good).await["allowed"], true);
    webhook.end().await;
    other.end().await;
}

/// Needs a real API server, which calls webhooks.
#[tokio::test(flavor = "multi_thread")]
async fn api_server_calls_the_webhook_for_spec_changes_only() {
    let cluster = TestCluster::start().await;
    if cluster.kind() != ServerKind::Assets {
        // The embedded server calls no webhook, and a whole cluster can't reach this process.
        return;
    }
    let name = format!("{}-webhook", cluster.namespace());
    let mut issued = self_issued(&cluster);
    issued.configuration = Some(name.clone());
    let source = CertificateSource::SelfIssued(issued);
    let webhook = Replica::start(&cluster, source, Shifted::new()).await;
    let configurations: Api<ValidatingWebhookConfiguration> = Api::all(cluster.client());
    let in_namespace =
        json!({ "matchLabels": { "kubernetes.io/metadata.name": cluster.namespace() } });
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": name },
        "webhooks": [{
            "name": "validate-image-cache.kubefledged.io", "admissionReviewVersions": ["v1"],
            "sideEffects": "None", "failurePolicy": "Fail", "timeoutSeconds": 5,
            "namespaceSelector": in_namespace,
            "clientConfig": { "url": format!("https://localhost:{}{PATH}", webhook.port) },
            "rules": [{ "apiGroups": ["kubefledged.io"], "apiVersions": ["v1alpha2"],
                "operations": ["CREATE", "UPDATE"], "resources": ["imagecaches"], "scope": "Namespaced" }],
        }],
    });
    let params = PatchParams::apply("fledged-tests").force();
    let patch = Patch::Apply(configuration);
    configurations.patch(&name, &params, &patch).await.unwrap();
    webhook.is_ready().await;

    let kubectl = Kubectl::new(&cluster);
    let apply = |spec: Value, how: &'static str| {
        let object = json!({ "apiVersion": "kubefledged.io/v1alpha2", "kind": "ImageCache",
            "metadata": { "name": "web" }, "spec": spec });
        let kubectl = &kubectl;
        async move {
            let args = ["apply", "-f", "-", how];
            kubectl.run_with(&args, &object.to_string(), &[]).await
        }
    };
    // The definition's own rules accept this spec.
    let terms = json!([{ "matchExpressions": [{ "key": "tier", "operator": "In" }] }]);
    let affinity =
        json!({ "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } });
    let bad = json!({ "cacheSpec": [{ "images": ["nginx:1"], "nodeAffinity": affinity }] });
    let denied = || async {
        let answer = apply(bad.clone(), "--dry-run=server").await;
        let denial = "denied the request: spec.cacheSpec[0].nodeAffinity";
        (!answer.success && answer.stderr.contains(denial))
            .then_some(())
            .ok_or(format!("{answer:?}"))
    };
    eventually("the API server to call the webhook", denied).await;
    let answer = apply(
        json!({ "cacheSpec": [{ "images": ["nginx"] }] }),
        "--dry-run=none",
    )
    .await;
    assert!(answer.success, "{answer:?}");
    let warning = "Warning: spec.cacheSpec[0]: nginx is a mutable tag";
    assert!(answer.stderr.contains(warning), "{answer:?}");

    // Another certificate, whose authority joins the first one in the bundle.
    let mut issued = self_issued(&cluster);
    issued.names.push("another.test".to_owned());
    issued.configuration = Some(name.clone());
    let source = CertificateSource::SelfIssued(issued);
    let other = Replica::start(&cluster, source, Shifted::new()).await;
    other.is_ready().await;
    webhook.end().await;
    let bundle = kept(&cluster, "ca.crt").await;
    assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), 2);
    let url = format!("https://localhost:{}{PATH}", other.port);
    let operation =
        json!({ "op": "replace", "path": "/webhooks/0/clientConfig/url", "value": url });
    let patch = Patch::<Value>::Json(serde_json::from_value(json!([operation])).unwrap());
    let params = PatchParams::default();
    let patched = configurations.patch(&name, &params, &patch).await.unwrap();
    let found = patched.webhooks.unwrap().remove(0).client_config.ca_bundle;
    assert_eq!(found.unwrap().0, bundle.as_bytes());
    eventually("the API server to accept the other certificate", denied).await;

    // The webhook is not called for writes to the status, so these succeed while the webhook is down.
    other.end().await;
    let status = json!({ "status": "Succeeded", "reason": "ImageCacheCreate", "message": "m",
        "startTime": "2026-01-01T00:00:00Z" });
    let status = json!({ "status": status }).to_string();
    let how = ["--subresource=status", "--type=merge", "-p", &status];
    let patch = [&["patch", "ic", "web"][..], &how[..]].concat();
    let patched = kubectl.run(&patch).await.ok();
    assert!(patched.contains("patched"), "{patched}");
    configurations
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
}
