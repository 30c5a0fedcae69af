//! The controller, which reconciles one namespace after each change in it.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use fledged_kube::crd::ReadCache;
use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use tracing::{info, warn};

use crate::derive::{Derived, derive};
use crate::step::{CACHE, MANAGED_BY, Step, step};

/// Label that selects namespaces, and its value.
const WANTED: (&str, &str) = ("fledged.example/cache-deployments", "true");
/// Field manager of this controller.
const FIELD_MANAGER: &str = "images-of-deployments";
/// Delay before a retry after a failure. Watches are retried independently.
const RETRY: Duration = Duration::from_secs(15);
/// Concurrently reconciled namespaces, to hide latencies at the start, when all of them are due.
const AT_ONCE: u16 = 8;

/// A failure to reconcile a namespace.
#[derive(Debug, thiserror::Error)]
enum ReconcileError {
    #[error("cannot list the deployments of namespace {namespace}: {source}")]
    ListDeployments {
        namespace: String,
        source: kube::Error,
    },
    #[error("cannot read image cache {namespace}/{CACHE}: {source}")]
    ReadCache {
        namespace: String,
        source: kube::Error,
    },
    #[error("cannot apply image cache {namespace}/{CACHE}: {source}")]
    ApplyCache {
        namespace: String,
        source: kube::Error,
    },
    #[error("cannot delete image cache {namespace}/{CACHE}: {source}")]
    DeleteCache {
        namespace: String,
        source: kube::Error,
    },
}

/// Keeps the caches of all namespaces until `stop` resolves.
pub(crate) async fn run(client: Client, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    let everything = watcher::Config::default;
    let (label, value) = MANAGED_BY;
    let ours = everything().labels(&format!("{label}={value}"));
    let deployments: Api<Deployment> = Api::all(client.clone());
    // A spec that does not fit the types must not end the watch, so it is not read.
    let caches: Api<ReadCache> = Api::all(client.clone());
    let namespaces = Controller::new(Api::<Namespace>::all(client.clone()), everything());
    let (of_deployments, of_caches) = (namespaces.store(), namespaces.store());
    let results = namespaces
        .watches(deployments, everything(), move |deployment| {
            meant(&of_deployments, deployment.namespace())
        })
        .watches(caches, ours, move |cache| {
            meant(&of_caches, cache.namespace())
        })
        // No debounce, which would delay all work during a rollout. Changes during a reconciliation cause one more,
        // which takes two reads.
        .with_config(Config::default().concurrency(AT_ONCE))
        .graceful_shutdown_on(stop)
        .run(
            |namespace, client| reconcile(namespace, (*client).clone()),
            |_, _, _| Action::requeue(RETRY),
            Arc::new(client),
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

/// Returns the namespace of a changed object if it is selected. A namespace that is created or labelled later causes
/// an event of its own.
fn meant(known: &Store<Namespace>, namespace: Option<String>) -> Option<ObjectRef<Namespace>> {
    let namespace = ObjectRef::new(&namespace?);
    known
        .get(&namespace)
        .is_some_and(|n| wants(&n))
        .then_some(namespace)
}

fn wants(namespace: &Namespace) -> bool {
    let (label, value) = WANTED;
    let labelled = namespace.labels().get(label).is_some_and(|v| v == value);
    labelled && namespace.metadata.deletion_timestamp.is_none()
}

/// Reconciles the cache of one namespace with its Deployments.
async fn reconcile(namespace: Arc<Namespace>, client: Client) -> Result<Action, ReconcileError> {
    let name = namespace.name_any();
    let derived = match wants(&namespace) {
        true => derive_of(&name, client.clone()).await?,
        false => Derived::default(),
    };
    for problem in &derived.invalid {
        warn!(namespace = name, %problem, "an image is left out");
    }
    let caches: Api<ReadCache> = Api::namespaced(client, &name);
    let namespace = || name.clone();
    let found = caches.get_opt(CACHE).await;
    let found = found.map_err(|source| ReconcileError::ReadCache {
        namespace: namespace(),
        source,
    })?;
    match step(found.as_ref(), derived.spec.as_ref()) {
        Step::Nothing => {}
        Step::NotOurs => {
            if derived.spec.is_some() {
                warn!(
                    namespace = name,
                    cache = CACHE,
                    "an ImageCache of another owner is left unchanged"
                );
            }
        }
        Step::Apply(object) => {
            let params = PatchParams::apply(FIELD_MANAGER).force();
            let applied = caches
                .patch_metadata(CACHE, &params, &Patch::Apply(object))
                .await;
            applied.map_err(|source| ReconcileError::ApplyCache {
                namespace: namespace(),
                source,
            })?;
            info!(namespace = name, cache = CACHE, "applied");
        }
        Step::Delete(uid) => {
            let preconditions = Preconditions {
                uid,
                resource_version: None,
            };
            let params = DeleteParams::default().preconditions(preconditions);
            match caches.delete(CACHE, &params).await {
                Ok(_) => info!(namespace = name, cache = CACHE, "deleted"),
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(source) => {
                    return Err(ReconcileError::DeleteCache {
                        namespace: namespace(),
                        source,
                    });
                }
            }
        }
    }
    Ok(Action::await_change())
}

async fn derive_of(namespace: &str, client: Client) -> Result<Derived, ReconcileError> {
    let deployments: Api<Deployment> = Api::namespaced(client, namespace);
    let list = deployments.list(&ListParams::default()).await;
    let list = list.map_err(|source| ReconcileError::ListDeployments {
        namespace: namespace.to_owned(),
        source,
    })?;
    Ok(derive(&list.items))
}
