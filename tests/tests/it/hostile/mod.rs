//! One namespace that does its worst, and another one that has to be served meanwhile.
//!
//! The attacker creates and edits what a tenant may: ImageCaches and, where a test says so, Secrets and Jobs. Each test
//! asserts that the ImageCaches of the victim converge within [`BOUND`] while the attacker's objects are there.
//! The tests run on the embedded API server or on a real one, as those of [`crate::operator`] do.

mod credentials;
mod disk;
mod fairness;
mod jobs;
mod layout;
mod layout_node;
mod progress;
mod records;
mod removal;
mod reports;
mod scripted_registry;

use std::time::{Duration, Instant};

use fledged_kube::crd::{ImageCache, ImageCacheStatus};
use fledged_tests::kube::{World, cache_object, eventually};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// Within this time a victim is served. Without an attacker it takes two seconds; the rest is for a loaded machine.
const BOUND: Duration = Duration::from_secs(30);

/// The image that victims want.
const APP: &str = "registry.test/app:1";

/// A namespace with its ImageCaches.
struct Tenant {
    client: Client,
    namespace: String,
    tag: String,
}

impl Tenant {
    /// Two namespaces. The attacker's name is the first in every sorted list.
    async fn attacker_and_victim(world: &World) -> (Self, Self) {
        let first = world.cluster().namespace().to_owned();
        let second = format!("{first}-victim");
        let client = world.cluster().client();
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let object = json!({ "metadata": { "name": second } });
        let object = serde_json::from_value(object).unwrap();
        namespaces
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
        let tenant = |namespace| Self {
            client: client.clone(),
            namespace,
            tag: world.cluster().tag().to_owned(),
        };
        (tenant(first), tenant(second))
    }

    fn caches(&self) -> Api<ImageCache> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates an ImageCache, or says why the API server refuses it.
    async fn try_create(&self, name: &str, spec: Value) -> Result<(), kube::core::Status> {
        self.try_create_with(name, spec, json!({})).await
    }

    /// Creates an ImageCache with annotations, or says why the API server refuses it.
    async fn try_create_with(
        &self,
        name: &str,
        spec: Value,
        annotations: Value,
    ) -> Result<(), kube::core::Status> {
        let mut object = cache_object(&self.namespace, name, &self.tag, spec);
        object["metadata"]["annotations"] = annotations;
        // Untyped, because the attacker also sends what the types cannot hold.
        let resource = kube::api::ApiResource::erase::<ImageCache>(&());
        let api: Api<kube::api::DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let object = serde_json::from_value(object).unwrap();
        match api.create(&PostParams::default(), &object).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) => Err(*status),
            Err(error) => panic!("{name}: {error}"),
        }
    }

    async fn create(&self, name: &str, spec: Value) {
        let created = self.try_create(name, spec).await;
        created.unwrap_or_else(|status| panic!("{name}: {}", status.message));
    }

    async fn create_images(&self, name: &str, images: &[&str]) {
        self.create(name, json!({ "cacheSpec": [{ "images": images }] }))
            .await;
    }

    /// Replaces the images of an ImageCache, which has one group.
    async fn edit(&self, name: &str, images: &[&str]) {
        let spec = json!({ "cacheSpec": [{ "images": images }] });
        let mut object = cache_object(&self.namespace, name, &self.tag, spec);
        object["metadata"] = json!({});
        let patch = Patch::Merge(object);
        let (caches, params) = (self.caches(), PatchParams::default());
        caches.patch(name, &params, &patch).await.unwrap();
    }

    async fn annotate(&self, name: &str, annotation: &str) {
        let patch = json!({ "metadata": { "annotations": { annotation: "" } } });
        let patch = Patch::Merge(patch);
        let (caches, params) = (self.caches(), PatchParams::default());
        caches.patch(name, &params, &patch).await.unwrap();
    }

    /// Waits until the status of an ImageCache is for its newest generation and satisfies a condition.
    async fn status_when(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&ImageCacheStatus) -> bool,
    ) -> ImageCacheStatus {
        eventually(&format!("{name} to be {what}"), || async {
            let cache = self.caches().get(name).await.map_err(|e| e.to_string())?;
            let newest = cache.metadata.generation;
            match cache.status {
                Some(status) if status.observed_generation == newest && wanted(&status) => {
                    Ok(status)
                }
                seen => Err(format!("generation {newest:?}, {seen:#?}")),
            }
        })
        .await
    }

    async fn ended(&self, name: &str, reason: &str, status: &str) -> ImageCacheStatus {
        let what = format!("{status} after {reason}");
        self.status_when(name, &what, |seen| {
            seen.reason == reason && seen.status == status && seen.completion_time.is_some()
        })
        .await
    }

    /// Waits until an ImageCache has succeeded with all its images, and asserts that it took no longer than [`BOUND`].
    async fn converges(&self, name: &str) -> ImageCacheStatus {
        let began = Instant::now();
        let status = self
            .status_when(name, "complete", |seen| {
                let all = seen.counts.as_ref();
                seen.status == "Succeeded" && all.is_some_and(|all| all.cached == all.desired)
            })
            .await;
        assert!(began.elapsed() < BOUND, "{name}: {:?}", began.elapsed());
        status
    }

    /// Creates an object from JSON in this namespace.
    async fn create_object<K>(&self, object: Value)
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        let object: K = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
    }
}

/// The size of an object as JSON, in bytes.
fn size(object: &impl serde::Serialize) -> usize {
    serde_json::to_vec(object).unwrap().len()
}

/// The failures of a status in one text.
fn failures(status: &ImageCacheStatus) -> String {
    serde_json::to_string(&status.failures).unwrap()
}
