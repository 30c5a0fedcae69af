//! The bytes of running pulls below the rows of `fledged get -w`.

use std::collections::{BTreeMap, BTreeSet};

use fledged_core::model::{CacheId, ImagePhase, ImageRef};
use fledged_kube::crd::ReadNodeCache;
use fledged_kube::request_error::with_causes;
use fledged_kube::watch::{Change, ListedKeys, try_watch};
use futures_util::StreamExt as _;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt as _};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, MissedTickBehavior};

use super::kubeconfig::Connection;
use super::node_state::NodeDetails;
use super::pull_bytes::{PullRound, PullSource, PullSums};
use super::status_command::ROUND;
use crate::output::{Pane, Terminal};

/// Interval between lines about the same pulls, without a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Shows the pulls of ImageCaches on stderr until it is dropped: redrawn at the bottom of a terminal, elsewhere a line now
/// and then.
pub(super) struct LivePulls {
    pulling: watch::Sender<BTreeSet<CacheId>>,
    task: JoinHandle<()>,
}

impl LivePulls {
    /// Nothing is requested before an ImageCache pulls.
    pub(super) fn start(connection: &Connection, terminal: &Terminal) -> Self {
        let (pulling, receiver) = watch::channel(BTreeSet::new());
        let (connection, terminal) = (connection.clone(), terminal.clone());
        let task = tokio::spawn(run(connection, terminal, receiver));
        Self { pulling, task }
    }

    /// Sets which ImageCaches pull.
    pub(super) fn set(&self, caches: BTreeSet<CacheId>) {
        self.pulling.send_if_modified(|pulling| {
            let changed = *pulling != caches;
            *pulling = caches;
            changed
        });
    }
}

impl Drop for LivePulls {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    connection: Connection,
    terminal: Terminal,
    mut pulling: watch::Receiver<BTreeSet<CacheId>>,
) {
    let first = pulling.wait_for(|pulling| !pulling.is_empty());
    if first.await.is_err() {
        return;
    }
    let records = Api::<ReadNodeCache>::all(connection.client.clone());
    let mut events = try_watch(records, watcher::Config::default()).boxed();
    let (mut nodes, mut interrupted) = (PullingNodes::default(), false);
    let mut source = PullSource::new(&connection);
    let mut display = Display::new(&terminal);
    let mut ticks = tokio::time::interval(ROUND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(event) = events.next() => match event {
                Ok(event) => {
                    interrupted &= matches!(event, Event::Init);
                    nodes.apply(event);
                }
                Err(error) => if !std::mem::replace(&mut interrupted, true) {
                    display.missing(&with_causes(&error));
                }
            },
            _ = ticks.tick() => {
                let caches = pulling.borrow().clone();
                let round = source.round(&nodes.of(&caches)).await;
                display.show(&nodes.sums(&caches, &round));
                match &round.problem {
                    Some(problem) => display.missing(problem),
                    None => display.problem = false,
                }
            }
        }
    }
}

/// The images that nodes pull, with the ImageCaches that they are for.
#[derive(Default)]
struct PullingNodes {
    keys: ListedKeys<String>,
    nodes: BTreeMap<String, Vec<(ImageRef, BTreeSet<CacheId>)>>,
}

impl PullingNodes {
    fn apply(&mut self, event: Event<ReadNodeCache>) {
        match self.keys.apply(event, |record| Some(record.name_any())) {
            Change::Applied(node, record) => {
                let images = pulled(&record);
                match images.is_empty() {
                    true => self.nodes.remove(&node),
                    false => self.nodes.insert(node, images),
                };
            }
            Change::Gone(nodes) => nodes.iter().for_each(|node| {
                self.nodes.remove(node);
            }),
        }
    }

    /// The nodes that pull for one of these ImageCaches.
    fn of(&self, caches: &BTreeSet<CacheId>) -> BTreeSet<String> {
        let pulls = |images: &[(ImageRef, BTreeSet<CacheId>)]| {
            let mut images = images.iter();
            images.any(|(_, wanted_by)| !wanted_by.is_disjoint(caches))
        };
        let nodes = self.nodes.iter().filter(|(_, images)| pulls(images));
        nodes.map(|(node, _)| node.clone()).collect()
    }

    /// The sums of each of these ImageCaches.
    fn sums(&self, caches: &BTreeSet<CacheId>, round: &PullRound) -> Vec<(CacheId, PullSums)> {
        let sums = |cache: &CacheId| {
            let images = self.nodes.iter().flat_map(|(node, images)| {
                let images = images
                    .iter()
                    .filter(|(_, wanted_by)| wanted_by.contains(cache));
                images.filter_map(move |(image, _)| round.of(node, image))
            });
            PullSums::of(images)
        };
        let caches = caches.iter();
        let sums = caches.filter_map(|cache| Some((cache.clone(), sums(cache)?)));
        sums.collect()
    }
}

/// The images that the agent reports as being pulled.
fn pulled(record: &ReadNodeCache) -> Vec<(ImageRef, BTreeSet<CacheId>)> {
    let details = NodeDetails::new(Some(record));
    let pulls = |image: &ImageRef| {
        let report = details.report(image);
        report.is_some_and(|report| report.phase == ImagePhase::Pulling)
    };
    let entries = details.entries().filter(|entry| pulls(&entry.image));
    entries
        .map(|entry| {
            (
                entry.image.clone(),
                entry.wanted_by.iter().cloned().collect(),
            )
        })
        .collect()
}

/// Where the sums are shown.
struct Display {
    terminal: Terminal,
    /// On a terminal that can redraw, while there are pulls.
    pane: Option<Pane>,
    /// The last line of each ImageCache, and its time.
    lines: BTreeMap<CacheId, (PullSums, Instant)>,
    /// Whether the present problem was shown.
    problem: bool,
}

impl Display {
    fn new(terminal: &Terminal) -> Self {
        Self {
            terminal: terminal.clone(),
            pane: None,
            lines: BTreeMap::new(),
            problem: false,
        }
    }

    fn show(&mut self, sums: &[(CacheId, PullSums)]) {
        let line = |cache: &CacheId, sums: &PullSums| {
            format!("{}/{}: {}", cache.namespace, cache.name, sums.text())
        };
        if sums.is_empty() {
            self.pane = None;
        } else if self.pane.is_none() {
            self.pane = Pane::open(&self.terminal);
        }
        if let Some(pane) = &self.pane {
            let lines: Vec<String> = sums.iter().map(|(cache, sums)| line(cache, sums)).collect();
            pane.show(lines.join("\n"));
            return;
        }
        let now = Instant::now();
        self.lines
            .retain(|cache, _| sums.iter().any(|(other, _)| other == cache));
        for (cache, sums) in sums {
            let is_new = self
                .lines
                .get(cache)
                .is_none_or(|(last, at)| last != sums && now.duration_since(*at) >= LINE_INTERVAL);
            if is_new {
                self.terminal.line(line(cache, sums));
                self.lines.insert(cache.clone(), (sums.clone(), now));
            }
        }
    }

    /// Says why bytes are missing, once until they are complete again.
    fn missing(&mut self, why: &str) {
        if !std::mem::replace(&mut self.problem, true) {
            self.terminal
                .warn(format_args!("bytes of pulls are missing: {why}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_nodes_that_pull_for_a_shown_cache_are_asked() {
        let record = |name: &str, phase: &str| {
            let image = json!({ "image": "registry.test/app:1", "wantedBy": ["1"] });
            serde_json::from_value(json!({
                "metadata": { "name": name, "generation": 1 },
                "spec": { "caches": [{ "namespace": "shop", "name": "web", "uid": "1" }], "images": [image] },
                "status": { "observedGeneration": 1,
                    "images": [{ "image": "registry.test/app:1", "phase": phase }] },
            }))
            .unwrap()
        };
        let mut nodes = PullingNodes::default();
        nodes.apply(Event::Apply(record("a", "Pulling")));
        nodes.apply(Event::Apply(record("b", "Cached")));
        let web = CacheId::new("shop", "web", "1");
        let other = CacheId::new("shop", "other", "2");
        let of = |nodes: &PullingNodes, cache: &CacheId| nodes.of(&BTreeSet::from([cache.clone()]));
        assert_eq!(of(&nodes, &web), BTreeSet::from(["a".to_owned()]));
        assert_eq!(of(&nodes, &other), BTreeSet::new());
        nodes.apply(Event::Apply(record("a", "Cached")));
        assert_eq!(of(&nodes, &web), BTreeSet::new());
    }
}
