//! The whole operator in a test: an API server, a controller, nodes with agents or kubelets.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::planner::PlannerConfig;
use fledged_kube::crd::{ImageCache, ImageCacheStatus, NodeImageCache};
use fledged_operator::controller::NodeDriver;
use fledged_operator::controller::{Controller, ControllerConfig};
use fledged_operator::jobs::Retention;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::cluster::{LABEL, ServerKind, TestCluster};
use super::job_controller;
use super::memory::{MemoryRegistry, MemoryRuntime};
use super::nodes::FakeNode;
use super::running::Running;
use super::test_node::TestNode;
use super::wait::eventually;
use super::way::Way;

/// The configuration of a [`World`].
#[derive(Debug, Clone)]
pub struct WorldOptions {
    /// Limits of the controller.
    pub planner: PlannerConfig,
    /// Duration of a pull.
    pub pull: Duration,
    /// Interval at which agents read the inventory.
    pub inventory: Duration,
    /// Concurrent pulls of an agent.
    pub parallel: NonZeroUsize,
    /// The node driver.
    pub way: Way,
    /// Whether finished Jobs are kept.
    pub retention: Retention,
    /// Time after which finished Jobs are deleted.
    pub ttl: Duration,
    /// With Jobs, the interval at which a kubelet reports its images.
    pub image_report_interval: Duration,
    /// Whether to run a stand-in for the Job controller. By default it runs except in a whole cluster, which has its
    /// own Job controller and scheduler.
    pub job_controller: Option<bool>,
    /// A kubelet's configuration of credential providers and the directory of their plugins, for agents.
    pub credential_providers: Option<(PathBuf, PathBuf)>,
}

impl WorldOptions {
    /// Returns the defaults with this node driver.
    #[must_use]
    pub fn by(way: Way) -> Self {
        Self {
            way,
            ..Self::default()
        }
    }
}

impl Default for WorldOptions {
    fn default() -> Self {
        let mut planner = PlannerConfig::default();
        planner.refresh_interval = Duration::ZERO;
        Self {
            planner,
            pull: Duration::from_millis(20),
            inventory: Duration::from_secs(1),
            parallel: NonZeroUsize::MIN.saturating_add(2),
            way: Way::default(),
            retention: Retention::default(),
            ttl: Duration::from_secs(3600),
            image_report_interval: Duration::from_millis(500),
            job_controller: None,
            credential_providers: None,
        }
    }
}

/// An API server, a registry, nodes and, if started, a controller.
pub struct World {
    cluster: TestCluster,
    registry: MemoryRegistry,
    options: WorldOptions,
    controller: Option<Running>,
    /// The stand-in for the Job controller, if it runs.
    _jobs: Option<Running>,
    /// The client of agents that are started later, if it is not the test's.
    agents: Option<Client>,
}

impl World {
    /// Starts a world with a running controller.
    pub async fn start() -> Self {
        Self::start_with(WorldOptions::default()).await
    }

    /// Starts a world with a running controller and this node driver.
    pub async fn start_by(way: Way) -> Self {
        Self::start_with(WorldOptions::by(way)).await
    }

    /// Starts a world with a running controller and these options.
    pub async fn start_with(options: WorldOptions) -> Self {
        let mut world = Self::without_controller(options).await;
        world.start_controller();
        world
    }

    /// Starts a world without a controller.
    pub async fn without_controller(options: WorldOptions) -> Self {
        Self::on(TestCluster::start().await, options)
    }

    /// Returns a world on an existing API server, without a controller.
    #[must_use]
    pub fn on(cluster: TestCluster, options: WorldOptions) -> Self {
        let client = cluster.client();
        // Two Job controllers would create two pods for each Job.
        let stands_in = options
            .job_controller
            .unwrap_or(cluster.kind() != ServerKind::Cluster);
        let jobs = (stands_in && options.way == Way::Jobs)
            .then(|| Running::start(|stop| job_controller::run(client, stop)));
        Self {
            cluster,
            registry: MemoryRegistry::default(),
            options,
            controller: None,
            _jobs: jobs,
            agents: None,
        }
    }

    /// Sets the client of agents that are started from now on.
    #[must_use]
    pub fn with_agents_client(mut self, client: Client) -> Self {
        self.agents = Some(client);
        self
    }

    /// The API server.
    #[must_use]
    pub fn cluster(&self) -> &TestCluster {
        &self.cluster
    }

    /// The API server, to stop and start it.
    #[must_use]
    pub fn cluster_mut(&mut self) -> &mut TestCluster {
        &mut self.cluster
    }

    /// The registry with the images that can be pulled.
    #[must_use]
    pub fn registry(&self) -> &MemoryRegistry {
        &self.registry
    }

    /// Publishes images, each with its own content.
    pub fn publish(&self, references: &[&str]) {
        for reference in references {
            self.registry.publish(reference, &format!("{reference} v1"));
        }
    }

    /// Starts a controller; replaces one that runs.
    pub fn start_controller(&mut self) {
        let mut config = ControllerConfig::default();
        config.planner = self.options.planner.clone();
        config.driver = Some(self.driver());
        let controller = Controller::new(self.cluster.client(), config);
        self.controller = Some(Running::start(|stop| async move {
            let stop = stop.cancelled_owned();
            controller
                .run(stop)
                .await
                .map_err(|error| error.to_string())
        }));
    }

    /// The node driver of a controller.
    #[must_use]
    pub fn driver(&self) -> Arc<dyn NodeDriver> {
        let (client, namespace) = (self.cluster.client(), self.cluster.namespace());
        let way = self.options.way;
        way.driver(client, namespace, &self.options)
    }

    /// The node driver.
    #[must_use]
    pub fn way(&self) -> Way {
        self.options.way
    }

    /// Stops the controller and waits for its end.
    pub async fn stop_controller(&mut self) {
        if let Some(controller) = self.controller.take() {
            controller.stop().await;
        }
    }

    /// Aborts the controller, as SIGKILL would.
    pub async fn kill_controller(&mut self) {
        if let Some(controller) = self.controller.take() {
            controller.kill().await;
        }
    }

    /// Registers a Ready node with an agent.
    pub async fn node(&self, name: &str) -> TestNode {
        self.node_with(name, &[]).await
    }

    /// Registers a Ready node with these labels and an agent.
    pub async fn node_with(&self, name: &str, labels: &[(&str, &str)]) -> TestNode {
        let mut node = self.unresponsive_node(name, labels).await;
        node.start_agent();
        node.object.set_ready(true).await;
        node
    }

    /// Registers a NotReady node whose agent does not run yet.
    pub async fn unresponsive_node(&self, name: &str, labels: &[(&str, &str)]) -> TestNode {
        let (client, tag) = (self.cluster.client(), self.cluster.tag());
        let name = format!("{tag}-{name}");
        let object = FakeNode::register(client.clone(), &name, tag, labels).await;
        if self.options.way == Way::Jobs && name.ends_with(['a', 'c', 'e', 'g']) {
            object.set_versions("v1.36.0", "containerd://2.1.0").await;
        }
        if self.options.way == Way::Jobs && self.cluster.kind() == ServerKind::Cluster {
            object.set_room().await;
        }
        TestNode {
            object,
            client: self.agents.clone().unwrap_or(client),
            runtime: MemoryRuntime::new(self.registry.clone(), self.options.pull),
            options: self.options.clone(),
            agent: None,
            pulls: None,
        }
    }

    /// ImageCaches of the test's namespace.
    #[must_use]
    pub fn caches(&self) -> Api<ImageCache> {
        Api::namespaced(self.cluster.client(), self.cluster.namespace())
    }

    /// Records of all nodes.
    #[must_use]
    pub fn records(&self) -> Api<NodeImageCache> {
        Api::all(self.cluster.client())
    }

    /// Applies a cache of these images for all of the test's nodes.
    pub async fn apply(&self, name: &str, images: &[&str]) {
        self.apply_spec(name, json!({ "cacheSpec": [{ "images": images }] }))
            .await;
    }

    /// Applies a cache; groups without a selector are for all of the test's nodes.
    pub async fn apply_spec(&self, name: &str, spec: Value) {
        self.try_apply_spec(name, spec).await.unwrap();
    }

    /// The same, and returns the cache as it was after that.
    ///
    /// # Errors
    ///
    /// When the API server refuses it.
    pub async fn try_apply_spec(&self, name: &str, spec: Value) -> kube::Result<ImageCache> {
        let cache = cache_object(self.cluster.namespace(), name, self.cluster.tag(), spec);
        let params = PatchParams::apply("a-user").force();
        self.caches()
            .patch(name, &params, &Patch::Apply(cache))
            .await
    }

    /// Sets an annotation on a cache.
    pub async fn annotate(&self, name: &str, annotation: &str) {
        let patch = json!({ "metadata": { "annotations": { annotation: "" } } });
        let patch = Patch::Merge(patch);
        self.caches()
            .patch(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    /// Waits until the controller has removed an annotation from a cache.
    pub async fn annotation_gone(&self, name: &str, annotation: &str) {
        eventually("the annotation to be removed", || async {
            let cache = self.caches().get(name).await.map_err(|e| e.to_string())?;
            let annotations = cache.metadata.annotations.unwrap_or_default();
            match annotations.contains_key(annotation) {
                true => Err(format!("{annotations:?}")),
                false => Ok(()),
            }
        })
        .await;
    }

    /// Deletes a cache.
    pub async fn delete(&self, name: &str) {
        self.caches()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    /// Waits until a cache is deleted.
    pub async fn gone(&self, name: &str) {
        eventually(&format!("{name} to be gone"), || async {
            match self.caches().get_opt(name).await.unwrap() {
                None => Ok(()),
                Some(cache) => Err(format!("{:?}", cache.status)),
            }
        })
        .await;
    }

    /// Waits until the status of a cache is for its newest generation and satisfies a condition.
    pub async fn status_when(
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

    /// Waits until the status of a cache has this reason and status.
    pub async fn ended(&self, name: &str, reason: &str, status: &str) -> ImageCacheStatus {
        let what = format!("{status} after {reason}");
        self.status_when(name, &what, |seen| {
            seen.reason == reason && seen.status == status && seen.completion_time.is_some()
        })
        .await
    }

    /// Waits until the record of a node satisfies a condition.
    pub async fn record_when(
        &self,
        node: &TestNode,
        what: &str,
        wanted: impl Fn(&NodeImageCache) -> bool,
    ) -> NodeImageCache {
        eventually(
            &format!("the record of {} to be {what}", node.name()),
            || async {
                match self.records().get_opt(node.name()).await.unwrap() {
                    Some(record) if wanted(&record) => Ok(record),
                    seen => Err(format!("{seen:#?}")),
                }
            },
        )
        .await
    }

    /// Creates an object from JSON in the test's namespace.
    pub async fn create<K>(&self, object: Value)
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::Serialize
            + serde::de::DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.cluster.client(), self.cluster.namespace());
        let object: K = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
    }
}

/// Returns an ImageCache; groups without a selector select the nodes with this tag.
#[must_use]
pub fn cache_object(namespace: &str, name: &str, tag: &str, mut spec: Value) -> Value {
    for group in spec["cacheSpec"].as_array_mut().into_iter().flatten() {
        let selector = group.as_object_mut().unwrap().entry("nodeSelector");
        let selector = selector.or_insert_with(|| json!({}));
        selector[LABEL] = tag.into();
    }
    json!({
        "apiVersion": "kubefledged.io/v1alpha2",
        "kind": "ImageCache",
        "metadata": { "namespace": namespace, "name": name },
        "spec": spec,
    })
}
