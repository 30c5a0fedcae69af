//! A driver that records its calls, and a cluster for it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use fledged_apiserver::Server;
use fledged_core::model::{
    AssignedImage, Assignment, DesiredState, ImagePhase, ImageReport, NodeName, NodeReport,
};
use fledged_core::planner::ClusterEvent;
use fledged_core::port::WriteFailure;
use fledged_kube::crd::{ImageCache, install};
use fledged_operator::controller::{DriverError, NodeDriver, NodeTarget};
use futures_util::stream::{self, BoxStream, StreamExt};
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub(crate) const NODE: &str = "node-1";

#[derive(Default)]
struct State {
    calls: Vec<String>,
    assigned: BTreeMap<NodeName, Assignment>,
    failures: Vec<WriteFailure>,
    listener: Option<mpsc::UnboundedSender<ClusterEvent>>,
}

/// A driver that reports every assignment as done at once.
pub(crate) struct Recording {
    state: Mutex<State>,
    /// Whether a controller that starts gets the earlier assignments.
    keeps_record: bool,
    /// Whether assignments are accepted, or wait.
    open: watch::Sender<bool>,
    /// The result with which the background work ends.
    end: watch::Sender<Option<Result<(), DriverError>>>,
}

impl Recording {
    pub(crate) fn new(keeps_record: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            keeps_record,
            open: watch::Sender::new(true),
            end: watch::Sender::new(None),
        })
    }

    /// The calls so far, as text.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.lock().unwrap().calls.clone()
    }

    /// Waits until there were `count` calls.
    pub(crate) async fn calls_when(&self, count: usize) -> Vec<String> {
        eventually("calls", || async {
            let calls = self.calls();
            (calls.len() >= count)
                .then(|| calls.clone())
                .ok_or(format!("{calls:?}"))
        })
        .await
    }

    /// Makes the next assignments fail, with the last failure first.
    pub(crate) fn fail(&self, failures: Vec<WriteFailure>) {
        self.state.lock().unwrap().failures = failures;
    }

    /// Holds assignments, or resumes them.
    pub(crate) fn hold(&self, hold: bool) {
        self.open.send_replace(!hold);
    }

    /// Ends the background work with this result.
    pub(crate) fn end(&self, result: Result<(), DriverError>) {
        self.end.send_replace(Some(result));
    }

    /// Ends the stream of events.
    pub(crate) fn end_events(&self) {
        self.state.lock().unwrap().listener = None;
    }

    /// Sends an event to the controller.
    pub(crate) fn send(&self, event: ClusterEvent) {
        let state = self.state.lock().unwrap();
        state.listener.as_ref().unwrap().send(event).unwrap();
    }

    fn note(&self, call: String) {
        self.state.lock().unwrap().calls.push(call);
    }
}

/// Returns the report of a node on which the assignment is done.
pub(crate) fn settled(generation: u64, images: &[AssignedImage]) -> NodeReport {
    let images = images.iter().map(|image| {
        let phase = match image.state {
            DesiredState::Present => ImagePhase::Cached,
            DesiredState::Absent => ImagePhase::Removed,
        };
        let mut report = ImageReport::new(image.image.clone(), phase);
        report.revision = Some(image.revision);
        report
    });
    NodeReport::new(generation, images)
}

#[async_trait]
impl NodeDriver for Recording {
    fn events(&self) -> BoxStream<'static, ClusterEvent> {
        let (listener, mut events) = mpsc::unbounded_channel();
        let mut state = self.state.lock().unwrap();
        if self.keeps_record {
            for (node, assignment) in state.assigned.clone() {
                let (generation, images) = (assignment.generation, assignment.images.clone());
                let report = settled(generation, &images);
                let recorded = node.clone();
                let recorded = ClusterEvent::AssignmentRecorded {
                    node: recorded,
                    assignment,
                };
                listener.send(recorded).unwrap();
                let reported = ClusterEvent::Reported { node, report };
                listener.send(reported).unwrap();
            }
        }
        listener.send(ClusterEvent::Synced).unwrap();
        state.listener = Some(listener);
        stream::poll_fn(move |context| events.poll_recv(context)).boxed()
    }

    async fn assign(
        &self,
        node: &NodeTarget,
        images: &[AssignedImage],
    ) -> Result<u64, WriteFailure> {
        let names: Vec<&str> = images.iter().map(|image| image.image.as_str()).collect();
        assert!(!node.uid.is_empty());
        self.note(format!("assign {} {}", node.name, names.join(" ")));
        let held = !*self.open.borrow();
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open).await.unwrap();
        let mut state = self.state.lock().unwrap();
        if let Some(failure) = state.failures.pop() {
            return Err(failure);
        }
        let assigned = state.assigned.entry(node.name.clone()).or_default();
        if assigned.images != images {
            assigned.generation += 1;
            assigned.images = images.to_vec();
        }
        let generation = assigned.generation;
        let report = settled(generation, images);
        let node = node.name.clone();
        let listener = state.listener.as_ref().unwrap();
        listener
            .send(ClusterEvent::Reported { node, report })
            .unwrap();
        if held {
            state.calls.push("answered".to_owned());
        }
        Ok(generation)
    }

    async fn release(&self, node: &NodeName) -> Result<(), WriteFailure> {
        self.note(format!("release {node}"));
        self.state.lock().unwrap().assigned.remove(node);
        Err(WriteFailure::Gone("released before".to_owned()))
    }

    async fn run(&self, shutdown: CancellationToken) -> Result<(), DriverError> {
        self.note("run".to_owned());
        let mut work = Work {
            driver: self,
            ended: false,
        };
        let mut end = self.end.subscribe();
        let result = tokio::select! {
            end = end.wait_for(Option::is_some) => end.unwrap().clone().unwrap(),
            () = shutdown.cancelled() => Ok(()),
        };
        work.ended = true;
        self.note("run ended".to_owned());
        result
    }
}

/// The background work; dropping it before its end is recorded.
struct Work<'a> {
    driver: &'a Recording,
    ended: bool,
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.driver.note("run dropped".to_owned());
        }
    }
}

/// Starts an API server with a Ready node.
pub(crate) async fn cluster() -> (Server, Client) {
    let ready = json!({ "conditions": [{ "type": "Ready", "status": "True" }] });
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE }, "status": ready });
    let server = Server::builder().seed([node]).start().await;
    let server = server.unwrap();
    let client = server.client().unwrap();
    install(&client).await.unwrap();
    (server, client)
}

/// Creates a cache of one image for all nodes.
pub(crate) async fn cache(client: &Client, name: &str, image: &str) {
    cache_of(client, name, json!({ "images": [image] })).await;
}

/// Creates a cache with one group.
pub(crate) async fn cache_of(client: &Client, name: &str, group: Value) {
    let spec = serde_json::from_value(json!({ "cacheSpec": [group] })).unwrap();
    let caches: Api<ImageCache> = Api::default_namespaced(client.clone());
    let cache = ImageCache::new(name, spec);
    caches.create(&PostParams::default(), &cache).await.unwrap();
}

/// Waits until a cache has this status.
pub(crate) async fn status_is(client: &Client, name: &str, wanted: &str) {
    let caches: Api<ImageCache> = Api::default_namespaced(client.clone());
    eventually(&format!("{name} to be {wanted}"), || async {
        let status = caches.get(name).await.unwrap().status;
        let is = status
            .as_ref()
            .is_some_and(|status| status.status == wanted);
        is.then_some(()).ok_or(format!("{status:?}"))
    })
    .await;
}

/// Polls until the condition returns a value.
pub(crate) async fn eventually<T, F: Future<Output = Result<T, String>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let start = Instant::now();
    loop {
        let seen = match look().await {
            Ok(seen) => return seen,
            Err(seen) => seen,
        };
        let waited = start.elapsed();
        assert!(
            waited < Duration::from_secs(60),
            "waited {waited:?} for {what}; last seen: {seen}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
