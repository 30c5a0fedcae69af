//! Nodes without a kubelet.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::cluster::LABEL;

/// A Node object without a kubelet.
#[derive(Clone)]
pub struct FakeNode {
    client: Client,
    name: String,
}

/// Returns a Linux node with this tag and these labels.
#[must_use]
pub fn node_object(name: &str, tag: &str, labels: &[(&str, &str)]) -> Value {
    let mut all = BTreeMap::from([(LABEL, tag), ("kubernetes.io/os", "linux")]);
    all.extend(labels.iter().copied());
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": all } })
}

impl FakeNode {
    /// Registers a node that is NotReady.
    pub async fn register(client: Client, name: &str, tag: &str, labels: &[(&str, &str)]) -> Self {
        let nodes: Api<Node> = Api::all(client.clone());
        let node = serde_json::from_value(node_object(name, tag, labels)).unwrap();
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let node = Self {
            client,
            name: name.to_owned(),
        };
        node.set_versions("v1.33.0", "memory://1").await;
        node
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// Sets its Ready condition, without a heartbeat: a kubelet's heartbeat comes with its list of images.
    pub async fn set_ready(&self, ready: bool) {
        let now = jiff::Timestamp::now();
        let now = jiff::Timestamp::from_second(now.as_second()).unwrap();
        let patch = json!({ "status": {
            "conditions": [{
                "type": "Ready",
                "status": if ready { "True" } else { "False" },
                "reason": "Test",
                "message": "set by a test",
                "lastTransitionTime": now.to_string(),
            }],
        } });
        self.patch_status(patch).await;
    }

    /// Writes the status that a kubelet writes besides Ready: 50 images, capacity, addresses.
    pub async fn describe(&self) {
        let images: Vec<Value> = (0..50)
            .map(|n| {
                let name = format!("registry.example.com/platform/component-{n:02}");
                json!({ "names": [format!("{name}@sha256:{n:064x}"), format!("{name}:v1.{n}.0")],
                    "sizeBytes": 40_000_000 + n })
            })
            .collect();
        let patch = json!({ "status": {
            "images": images,
            "addresses": [{ "type": "Hostname", "address": self.name }],
        } });
        self.patch_status(patch).await;
        self.set_room().await;
    }

    /// Writes allocatable resources, which a scheduler requires.
    pub(super) async fn set_room(&self) {
        let resources = json!({ "cpu": "16", "memory": "65842520Ki", "pods": "110",
            "ephemeral-storage": "203056560Ki" });
        let patch = json!({ "status": { "capacity": resources, "allocatable": resources } });
        self.patch_status(patch).await;
    }

    /// Writes these images and a heartbeat with the time `at`, as a kubelet does. Ignores a failed write.
    pub(super) async fn write_images(&self, images: Vec<Value>, at: &str) {
        let beat = json!({ "type": "Ready", "lastHeartbeatTime": at });
        let patch =
            Patch::Strategic(json!({ "status": { "images": images, "conditions": [beat] } }));
        let params = PatchParams::default();
        let nodes = self.nodes();
        let ready = nodes.get_opt(&self.name).await.ok().flatten();
        let ready = ready.and_then(|node| node.status?.conditions);
        // Without a condition Ready there is no heartbeat to renew.
        if ready.is_some_and(|conditions| !conditions.is_empty()) {
            let _ = nodes.patch_status(&self.name, &params, &patch).await;
        }
    }

    /// Writes the versions of kubelet and runtime.
    pub async fn set_versions(&self, kubelet: &str, runtime: &str) {
        let info = json!({
            "operatingSystem": "linux", "architecture": "amd64", "bootID": "", "machineID": "",
            "containerRuntimeVersion": runtime, "kernelVersion": "", "kubeletVersion": kubelet,
            "kubeProxyVersion": "", "osImage": "", "systemUUID": "",
        });
        self.patch_status(json!({ "status": { "nodeInfo": info } }))
            .await;
    }

    /// Renews the heartbeat, as a kubelet does every five minutes.
    pub async fn heartbeat(&self) {
        let now = jiff::Timestamp::now().as_second();
        let now = jiff::Timestamp::from_second(now).unwrap();
        let beat = json!({ "type": "Ready", "lastHeartbeatTime": now.to_string() });
        self.patch_status(json!({ "status": { "conditions": [beat] } }))
            .await;
    }

    async fn patch_status(&self, patch: Value) {
        let patch = Patch::Strategic(patch);
        let params = PatchParams::default();
        self.nodes()
            .patch_status(&self.name, &params, &patch)
            .await
            .unwrap();
    }

    /// Sets or removes a label.
    pub async fn label(&self, key: &str, value: Option<&str>) {
        let patch = json!({ "metadata": { "labels": { key: value } } });
        let patch = Patch::Merge(patch);
        self.nodes()
            .patch(&self.name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    /// Deletes the Node.
    pub async fn delete(&self) {
        let deleted = self
            .nodes()
            .delete(&self.name, &DeleteParams::default())
            .await;
        deleted.unwrap();
    }
}
