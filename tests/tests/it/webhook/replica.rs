//! Replicas of the webhook server, and a clock that tests advance by days.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fledged_core::port::Clock;
use fledged_tests::kube::{TestCluster, eventually};
use fledged_webhook::{CertificateSource, PATH, SelfIssued, Webhook, WebhookConfig};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const SERVICE: &str = "webhook";

/// A clock that shows real time plus an offset, and records the requested sleeps in seconds.
pub(crate) struct Shifted(watch::Sender<SignedDuration>, pub(crate) Mutex<Vec<u64>>);

impl Shifted {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(
            watch::Sender::new(SignedDuration::ZERO),
            Mutex::default(),
        ))
    }

    pub(crate) fn pass(&self, days: i64) {
        self.add(SignedDuration::from_hours(24 * days));
    }

    pub(crate) fn pass_a_minute(&self) {
        self.add(SignedDuration::from_mins(1));
    }

    fn add(&self, time: SignedDuration) {
        self.0.send_modify(|added| *added += time);
    }
}

#[async_trait::async_trait]
impl Clock for Shifted {
    fn now(&self) -> Timestamp {
        Timestamp::now() + *self.0.borrow()
    }

    async fn sleep(&self, duration: Duration) {
        self.1.lock().unwrap().push(duration.as_secs());
        let until = self.now() + SignedDuration::try_from(duration).unwrap();
        let mut added = self.0.subscribe();
        while self.now() < until {
            let left = Duration::try_from(until.duration_since(self.now())).unwrap_or_default();
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                _ = added.changed() => {}
            }
        }
    }
}

/// A running webhook server.
pub(crate) struct Replica {
    pub(crate) port: u16,
    pub(crate) ready: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Replica {
    pub(crate) async fn start(
        cluster: &TestCluster,
        source: CertificateSource,
        clock: Arc<Shifted>,
    ) -> Self {
        Self::start_as(cluster.client(), source, clock).await
    }

    pub(crate) async fn start_as(
        client: Client,
        source: CertificateSource,
        clock: Arc<Shifted>,
    ) -> Self {
        let mut config = WebhookConfig::default();
        config.certificate = source;
        config.refresh_interval = Duration::from_secs(86_400);
        config.clock = clock;
        let webhook = Webhook::new(client, config);
        let health = webhook.health();
        let server = webhook.bind(0).await.unwrap();
        let port = server.address().port();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move { server.run(stopped.cancelled()).await.unwrap() });
        Self {
            port,
            ready: Box::new(move || health.ready()),
            stop,
            task,
        }
    }

    pub(crate) async fn is_ready(&self) {
        eventually("the webhook to have a certificate", || async {
            (self.ready)()
        })
        .await;
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// Sends a POST request as an API server that trusts this CA bundle.
    pub(crate) async fn ask(
        &self,
        bundle: &str,
        path: &str,
        body: String,
    ) -> Result<(u16, String), String> {
        let mut config = Config::new(format!("https://localhost:{}", self.port).parse().unwrap());
        let certificates = pem(bundle);
        config.root_cert = Some(certificates);
        config.default_retry = false;
        let client = Client::try_from(config).unwrap();
        let request = http::Request::post(path).body(body.into_bytes()).unwrap();
        let response = client
            .send(request.map(Into::into))
            .await
            .map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let body = http_body_util::BodyExt::collect(response.into_body()).await;
        let body = body.map_err(|e| e.to_string())?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    pub(crate) async fn review(&self, bundle: &str, spec: Value) -> Value {
        let group = |last: &str, value: &str| json!({ "group": "kubefledged.io", "version": "v1alpha2", last: value });
        let object = json!({ "apiVersion": "kubefledged.io/v1alpha2", "kind": "ImageCache",
            "metadata": { "name": "web", "namespace": "shop" }, "spec": spec });
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": { "uid": "1", "kind": group("kind", "ImageCache"),
                "resource": group("resource", "imagecaches"), "name": "web", "namespace": "shop",
                "operation": "CREATE", "userInfo": { "username": "me" }, "object": object },
        });
        let (status, body) = self.ask(bundle, PATH, review.to_string()).await.unwrap();
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()["response"].clone()
    }
}

/// Returns the certificates of a PEM text in DER.
fn pem(text: &str) -> Vec<Vec<u8>> {
    use base64::Engine as _;
    let blocks = text.split("-----BEGIN CERTIFICATE-----").skip(1);
    let bodies = blocks.map(|block| block.split("-----END").next().unwrap().replace('\n', ""));
    bodies
        .map(|body| {
            base64::engine::general_purpose::STANDARD
                .decode(body)
                .unwrap()
        })
        .collect()
}

pub(crate) fn self_issued(cluster: &TestCluster) -> SelfIssued {
    let mut issued = SelfIssued::new(cluster.namespace(), SERVICE);
    issued.names = vec!["localhost".to_owned()];
    issued
}

pub(crate) fn secrets(cluster: &TestCluster) -> Api<Secret> {
    Api::namespaced(cluster.client(), cluster.namespace())
}

pub(crate) async fn kept(cluster: &TestCluster, key: &str) -> String {
    let secret = secrets(cluster).get("webhook-tls").await.unwrap();
    String::from_utf8(secret.data.unwrap()[key].0.clone()).unwrap()
}

pub(crate) async fn add_node(cluster: &TestCluster, tier: &str) {
    let name = format!("{}-webhook", cluster.tag());
    let labels = json!({ "fledged-test": cluster.tag(), "tier": tier });
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": labels } });
    let nodes: Api<Node> = Api::all(cluster.client());
    let params = PatchParams::apply("fledged-tests").force();
    nodes
        .patch(&name, &params, &Patch::Apply(node))
        .await
        .unwrap();
}
