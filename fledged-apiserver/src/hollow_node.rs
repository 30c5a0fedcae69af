//! A Node without a kubelet.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// The interval at which a kubelet reports an unchanged status (`nodeStatusReportFrequency`).
const REPORT_INTERVAL: Duration = Duration::from_secs(300);

/// The labels that a kubelet sets.
const HOSTNAME: &str = "kubernetes.io/hostname";
const OS: &str = "kubernetes.io/os";
const ARCHITECTURE: &str = "kubernetes.io/arch";

/// The operating system of every hollow node, by its Go name.
const LINUX: &str = "linux";

/// The taint of a NotReady node. An API server sets it on every new node (`TaintNodesByCondition`).
const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// A Linux Node without a kubelet. The caller sets whether it is Ready, and sends its heartbeats.
///
/// Clones write the same Node.
#[derive(Debug, Clone)]
pub struct HollowNode {
    nodes: Api<Node>,
    name: String,
}

impl HollowNode {
    /// The labels of a Node of that name: `labels` and those that a kubelet sets.
    #[must_use]
    pub fn labels(name: &str, mut labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let own = [
            (HOSTNAME, name),
            (OS, LINUX),
            (ARCHITECTURE, architecture()),
        ];
        labels.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
        labels
    }

    /// Creates a NotReady Node with these [labels](Self::labels) and those that a kubelet sets.
    ///
    /// # Errors
    ///
    /// Errors of the API server, for example if a Node of that name exists.
    pub async fn register(
        client: Client,
        name: &str,
        labels: BTreeMap<String, String>,
    ) -> kube::Result<Self> {
        let node = json!({
            "metadata": { "name": name, "labels": Self::labels(name, labels) },
        });
        let node: Node = serde_json::from_value(node).map_err(kube::Error::SerdeError)?;
        let nodes = Api::all(client);
        nodes.create(&PostParams::default(), &node).await?;
        let node = Self {
            nodes,
            name: name.to_owned(),
        };
        node.set_ready(false).await?;
        Ok(node)
    }

    /// Sets the Ready condition, and the taint that the node controller sets on NotReady nodes.
    ///
    /// # Errors
    ///
    /// Errors of the API server.
    pub async fn set_ready(&self, ready: bool) -> kube::Result<()> {
        let now = now();
        let (status, reason) = match ready {
            true => ("True", "KubeletReady"),
            false => ("False", "KubeletNotReady"),
        };
        let condition = json!({
            "type": "Ready", "status": status, "reason": reason, "message": "this node has no kubelet",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        });
        let info = json!({
            "operatingSystem": LINUX, "architecture": architecture(),
            "bootID": "", "machineID": "", "systemUUID": "", "containerRuntimeVersion": "",
            "kernelVersion": "", "kubeletVersion": "hollow", "kubeProxyVersion": "", "osImage": "",
        });
        self.patch(json!({ "conditions": [condition], "nodeInfo": info }))
            .await?;
        self.taint(!ready).await
    }

    async fn taint(&self, not_ready: bool) -> kube::Result<()> {
        let (name, params) = (self.name.as_str(), PatchParams::default());
        let read = self.nodes.get(name).await?;
        let before = read.spec.and_then(|spec| spec.taints).unwrap_or_default();
        let mut taints = before.clone();
        taints.retain(|taint| taint.key != NOT_READY);
        if not_ready {
            taints.push(Taint {
                key: NOT_READY.to_owned(),
                effect: "NoSchedule".to_owned(),
                ..Taint::default()
            });
        }
        if taints == before {
            return Ok(());
        }
        let patch = Patch::Merge(json!({ "spec": { "taints": taints } }));
        self.nodes.patch(name, &params, &patch).await.map(drop)
    }

    /// Sends one heartbeat: the Ready condition with a new time.
    ///
    /// # Errors
    ///
    /// Errors of the API server.
    pub async fn heartbeat(&self) -> kube::Result<()> {
        let condition = json!({ "type": "Ready", "lastHeartbeatTime": now() });
        self.patch(json!({ "conditions": [condition] })).await
    }

    /// Sends a heartbeat every five minutes, as a kubelet does, until the future is dropped. A heartbeat that fails
    /// is skipped.
    pub async fn beat(&self) {
        loop {
            tokio::time::sleep(REPORT_INTERVAL).await;
            if let Err(error) = self.heartbeat().await {
                tracing::warn!(node = %self.name, %error, "a heartbeat failed");
            }
        }
    }

    async fn patch(&self, status: Value) -> kube::Result<()> {
        // A strategic patch changes only the conditions that it names.
        let patch = Patch::Strategic(json!({ "status": status }));
        let (name, params) = (self.name.as_str(), PatchParams::default());
        let patched = self.nodes.patch_status(name, &params, &patch).await;
        patched.map(drop)
    }
}

/// The current time in whole seconds, as Kubernetes writes it.
fn now() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second())
        .unwrap_or(now)
        .to_string()
}

/// The architecture of this machine, by its Go name.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}
