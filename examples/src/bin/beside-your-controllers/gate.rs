//! The program's own controller: pauses a Deployment until its ImageCache is Ready.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fledged_kube::crd::ReadCache;
use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use serde_json::json;
use tracing::{info, warn};

/// Annotation of a Deployment: the name of the ImageCache that it waits for, in its namespace.
const WAIT_FOR: &str = "fledged.example/wait-for";
/// Field manager of this controller, which writes only `spec.paused`.
const FIELD_MANAGER: &str = "image-gate";
/// Delay before a retry after a failure.
const RETRY: Duration = Duration::from_secs(15);

/// A failure to reconcile a Deployment.
#[derive(Debug, thiserror::Error)]
enum GateError {
    #[error("cannot read image cache {namespace}/{name}: {source}")]
    ReadCache {
        namespace: String,
        name: String,
        source: kube::Error,
    },
    #[error("cannot set spec.paused of deployment {namespace}/{name} to {paused}: {source}")]
    Pause {
        namespace: String,
        name: String,
        paused: bool,
        source: kube::Error,
    },
}

/// The controller that pauses Deployments.
#[derive(Clone)]
pub(crate) struct Gate {
    client: Client,
    opened: Counter,
}

impl Gate {
    /// Returns a gate with metrics in `registry`.
    pub(crate) fn new(client: Client, registry: &mut Registry) -> Self {
        let opened = Counter::default();
        registry.register(
            "image_gate_opened",
            "Deployments that were let go because their images are on the nodes",
            opened.clone(),
        );
        Self { client, opened }
    }

    /// Runs the controller until `stop` resolves.
    pub(crate) async fn run(self, stop: impl Future<Output = ()> + Send + Sync + 'static) {
        let everything = watcher::Config::default;
        let deployments: Api<Deployment> = Api::all(self.client.clone());
        // A second watch besides that of fledged's controller. `ReadCache` accepts any spec, so a cache with an
        // unexpected one does not end the watch.
        let caches: Api<ReadCache> = Api::all(self.client.clone());
        let deployments = Controller::new(deployments, everything());
        let known = deployments.store();
        let results = deployments
            .watches(caches, everything(), move |cache| waiting(&known, &cache))
            .with_config(Config::default().concurrency(8))
            .graceful_shutdown_on(stop)
            .run(
                |deployment, gate| async move { gate.decide(&deployment).await },
                |_, _, _| Action::requeue(RETRY),
                Arc::new(self),
            );
        results
            .for_each(async |result| {
                if let Err(error) = result {
                    // Log the source as well, which the error's text does not contain.
                    let error: &(dyn Error + 'static) = &error;
                    warn!(error, "not reconciled");
                }
            })
            .await;
    }

    /// Pauses or resumes a Deployment.
    async fn decide(&self, deployment: &Deployment) -> Result<Action, GateError> {
        let Some(cache) = wanted(deployment) else {
            return Ok(Action::await_change());
        };
        let (name, namespace) = (
            deployment.name_any(),
            deployment.namespace().unwrap_or_default(),
        );
        let caches: Api<ReadCache> = Api::namespaced(self.client.clone(), &namespace);
        let found = caches.get_opt(cache).await;
        let found = found.map_err(|source| GateError::ReadCache {
            namespace: namespace.clone(),
            name: cache.to_owned(),
            source,
        })?;
        // A missing cache is not ready, so the Deployment stays paused.
        let paused = !found.as_ref().is_some_and(is_ready);
        let spec = deployment.spec.as_ref();
        if spec.and_then(|spec| spec.paused).unwrap_or_default() == paused {
            return Ok(Action::await_change());
        }
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &namespace);
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "spec": { "paused": paused },
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(object);
        let patched = deployments.patch_metadata(&name, &params, &patch).await;
        info!(namespace, deployment = name, cache, paused, "decided");
        patched.map_err(|source| GateError::Pause {
            namespace,
            name,
            paused,
            source,
        })?;
        if !paused {
            self.opened.inc();
        }
        Ok(Action::await_change())
    }
}

/// Returns the name of the cache that a Deployment waits for.
fn wanted(deployment: &Deployment) -> Option<&str> {
    deployment.annotations().get(WAIT_FOR).map(String::as_str)
}

/// Returns the Deployments that wait for a cache.
fn waiting(known: &Store<Deployment>, cache: &ReadCache) -> Vec<ObjectRef<Deployment>> {
    let (namespace, name) = (cache.namespace(), cache.name_any());
    let known = known.state();
    let waiting = known
        .iter()
        .filter(|deployment| deployment.namespace() == namespace)
        .filter(|deployment| wanted(deployment) == Some(&name));
    waiting.map(|found| ObjectRef::from_obj(&**found)).collect()
}

/// Whether the cache is Ready for its newest spec; a condition from before the last edit does not count.
fn is_ready(cache: &ReadCache) -> bool {
    let generation = cache.status.get("observedGeneration");
    let newest = generation.and_then(|seen| seen.as_i64()) == cache.metadata.generation;
    let conditions = cache.status.get("conditions");
    let mut conditions = conditions
        .and_then(|list| list.as_array())
        .into_iter()
        .flatten();
    newest && conditions.any(|c| c["type"] == "Ready" && c["status"] == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn mk_cache(generation: u64, observed: u64, ready: &str) -> ReadCache {
        let status = json!({
            "observedGeneration": observed,
            "conditions": [{ "type": "Progressing", "status": "True" }, { "type": "Ready", "status": ready }],
        });
        let metadata = json!({ "namespace": "shop", "name": "web", "generation": generation });
        serde_json::from_value(json!({ "metadata": metadata, "status": status })).unwrap()
    }

    #[test]
    fn ready_must_be_for_the_newest_generation() {
        assert!(is_ready(&mk_cache(2, 2, "True")));
        assert!(!is_ready(&mk_cache(2, 2, "False")));
        assert!(!is_ready(&mk_cache(3, 2, "True")));
        let mut fresh = mk_cache(1, 1, "True");
        fresh.status = Value::Null;
        assert!(!is_ready(&fresh));
    }
}
