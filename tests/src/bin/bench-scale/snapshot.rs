//! Counters of an API server at one moment.

use std::collections::BTreeMap;

use fledged_kube::crd::NodeImageCache;
use kube::api::ListParams;
use kube::{Api, Client};
use serde::Serialize;

use crate::meter::Kind;
use crate::prometheus::{Sample, samples};

/// Resources that controller and agents use. Requests for other resources are not counted.
const RESOURCES: [&str; 9] = [
    "imagecaches",
    "nodeimagecaches",
    "nodes",
    "events",
    "leases",
    "secrets",
    "serviceaccounts",
    "jobs",
    "pods",
];

/// An API server's metrics at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// Answered requests of all clients.
    pub(crate) requests: BTreeMap<Kind, u64>,
    /// Bytes of the bodies of writes.
    pub(crate) body_bytes: f64,
    /// Revision of the store, which counts all writes.
    pub(crate) revision: u64,
    /// Processor seconds and resident bytes of the API server's process.
    pub(crate) server: ServerUsage,
}

/// CPU time and memory of the API server's process.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct ServerUsage {
    pub(crate) cpu: f64,
    pub(crate) rss: f64,
}

impl Snapshot {
    /// Reads the metrics of an API server.
    pub(crate) async fn take(client: &Client) -> Result<Self, String> {
        let request = http::Request::get("/metrics").body(Vec::new());
        let request = request.map_err(|error| error.to_string())?;
        let text = client.request_text(request).await;
        let text = text.map_err(|e| format!("cannot read the API server's metrics: {e}"))?;
        let mut snapshot = Self {
            revision: revision(client).await?,
            ..Self::default()
        };
        for sample in samples(&text) {
            snapshot.add(&sample);
        }
        Ok(snapshot)
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count"
    )]
    fn add(&mut self, sample: &Sample<'_>) {
        let ours = RESOURCES.contains(&sample.label("resource"));
        match sample.name {
            // Requests of the API server to itself are not counted.
            "apiserver_request_total" if ours && sample.label("system_client").is_empty() => {
                let kind = Kind {
                    resource: sample.label("resource").to_owned(),
                    status: sample.label("subresource") == "status",
                    verb: sample.label("verb").to_owned(),
                };
                *self.requests.entry(kind).or_default() += sample.value as u64;
            }
            "apiserver_request_body_size_bytes_sum" if ours => self.body_bytes += sample.value,
            "process_cpu_seconds_total" => self.server.cpu = sample.value,
            "process_resident_memory_bytes" => self.server.rss = sample.value,
            _ => {}
        }
    }
}

/// The store's revision, the `resourceVersion` of a list.
async fn revision(client: &Client) -> Result<u64, String> {
    let records: Api<NodeImageCache> = Api::all(client.clone());
    let listed = records.list_metadata(&ListParams::default().limit(1)).await;
    let listed = listed.map_err(|e| format!("cannot list NodeImageCaches: {e}"))?;
    let version = listed.metadata.resource_version.unwrap_or_default();
    let revision = version.parse();
    revision.map_err(|_| format!("resourceVersion {version:?} is no number"))
}
