//! Users of ImageCaches: their requests are sent one after another, each until it is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fledged_kube::crd::{ImageCache, PURGE_ANNOTATION, REFRESH_ANNOTATION};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::plan::{CACHES, NODES, Request};
use crate::kube::cache_object;

/// The label of a node that caches select it by; the value is its number.
pub(super) const NODE_LABEL: &str = "campaign-node";

/// Time limit of one attempt.
const ATTEMPT: Duration = Duration::from_secs(3);

/// Pause between attempts.
const PAUSE: Duration = Duration::from_millis(150);

/// Sends requests in order.
pub(super) struct Users {
    requests: mpsc::UnboundedSender<(usize, Request, Vec<String>)>,
    pending: Arc<AtomicUsize>,
}

/// Where ImageCaches are.
#[derive(Clone)]
pub(super) struct Caches {
    client: Client,
    namespaces: [String; 2],
    tag: String,
}

impl Caches {
    pub(super) fn new(client: Client, namespaces: [String; 2], tag: &str) -> Self {
        Self {
            client,
            namespaces,
            tag: tag.to_owned(),
        }
    }

    /// The namespace of a cache: the last one belongs to another tenant.
    fn namespace(&self, cache: usize) -> &str {
        &self.namespaces[usize::from(cache + 1 == CACHES.len())]
    }

    fn api(&self, cache: usize) -> Api<ImageCache> {
        Api::namespaced(self.client.clone(), self.namespace(cache))
    }

    /// The ImageCache, if it exists.
    pub(super) async fn get(&self, cache: usize) -> Result<Option<ImageCache>, String> {
        let api = self.api(cache);
        within(api.get_opt(CACHES[cache].0)).await
    }

    fn object(&self, cache: usize, images: &[String]) -> Value {
        let (name, nodes) = CACHES[cache];
        let mut group = json!({ "images": images });
        if nodes.len() < NODES {
            group["nodeSelector"] = json!({ NODE_LABEL: nodes[0].to_string() });
        }
        // Short, so that a pull that stalls is given up soon.
        let spec = json!({ "deadline": "15s", "cacheSpec": [group] });
        cache_object(self.namespace(cache), name, &self.tag, spec)
    }

    /// Makes one attempt; `true` if the request is done.
    async fn attempt(&self, cache: usize, request: &Request, images: &[String]) -> bool {
        let (api, name) = (self.api(cache), CACHES[cache].0);
        let Ok(found) = self.get(cache).await else {
            return false;
        };
        let ends = found
            .as_ref()
            .is_some_and(|c| c.metadata.deletion_timestamp.is_some());
        match request {
            // A new one has to wait until the old one is gone.
            Request::Apply { .. } if ends => false,
            Request::Apply { .. } => {
                let object = Patch::Apply(self.object(cache, images));
                let params = PatchParams::apply("user").force();
                within(api.patch(name, &params, &object)).await.is_ok()
            }
            _ if found.is_none() => true,
            Request::Refresh => self.annotate(cache, REFRESH_ANNOTATION).await,
            Request::Purge => self.annotate(cache, PURGE_ANNOTATION).await,
            Request::Delete { purge } => {
                let policy = if *purge { "Purge" } else { "Retain" };
                let policy = Patch::Merge(json!({ "spec": { "deletionPolicy": policy } }));
                let params = PatchParams::default();
                let Ok(patched) = within(api.patch(name, &params, &policy)).await else {
                    return false;
                };
                // The policy has an effect once the controller has set its finalizer.
                let finalizers = patched.metadata.finalizers.unwrap_or_default();
                if *purge && finalizers.is_empty() {
                    return false;
                }
                within(api.delete(name, &DeleteParams::default()))
                    .await
                    .is_ok()
            }
        }
    }

    async fn annotate(&self, cache: usize, annotation: &str) -> bool {
        let patch = Patch::Merge(json!({ "metadata": { "annotations": { annotation: "" } } }));
        let (api, params) = (self.api(cache), PatchParams::default());
        within(api.patch(CACHES[cache].0, &params, &patch))
            .await
            .is_ok()
    }
}

async fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    let answer = tokio::time::timeout(ATTEMPT, call).await;
    let answer = answer.map_err(|_| "no answer from the API server".to_owned())?;
    answer.map_err(|error| error.to_string())
}

/// Whether an annotation asks for an action that the controller has not begun.
pub(super) fn is_asked(cache: &ImageCache, annotation: &str) -> bool {
    let annotations = cache.metadata.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key(annotation))
}

impl Users {
    /// Starts the task that sends requests, on the current tokio runtime.
    pub(super) fn start(caches: Caches) -> Self {
        let (requests, mut received) = mpsc::unbounded_channel();
        let pending = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&pending);
        tokio::spawn(async move {
            while let Some((cache, request, images)) = received.recv().await {
                let images: Vec<String> = images;
                while !caches.attempt(cache, &request, &images).await {
                    tokio::time::sleep(PAUSE).await;
                }
                count.fetch_sub(1, Ordering::SeqCst);
            }
        });
        Self { requests, pending }
    }

    /// Sends a request after those before it.
    pub(super) fn ask(&self, cache: usize, request: Request, images: Vec<String>) {
        self.pending.fetch_add(1, Ordering::SeqCst);
        let _ = self.requests.send((cache, request, images));
    }

    /// Number of requests that are not done.
    pub(super) fn pending(&self) -> usize {
        self.pending.load(Ordering::SeqCst)
    }
}
