//! A warmer with a manual clock: each step applies one event, polls and returns the commands.
//!
//! Each test file uses other parts of this module.
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{
    AssignedImage, Assignment, ByteSize, ImagePhase, ImageRef, ImageReport, ObjectName,
};
use fledged_core::port::{Removal, RemovalScope, RuntimeImage};
use fledged_core::warmer::{
    Inventory, InventoryId, NodeCommand, NodeEvent, PullId, Warmer, WarmerConfig,
};
use jiff::Timestamp;

pub(crate) fn mk_ref(text: &str) -> ImageRef {
    text.parse().unwrap()
}

pub(crate) fn mk_present(text: &str) -> AssignedImage {
    AssignedImage::present(mk_ref(text))
}

pub(crate) fn mk_absent(text: &str) -> AssignedImage {
    AssignedImage::absent(mk_ref(text))
}

pub(crate) fn mk_secret(name: &str) -> ObjectName {
    ObjectName::new("default", name)
}

/// Returns an image with these names; its ID is the first name.
pub(crate) fn mk_image(names: &[&str]) -> RuntimeImage {
    let first = names.first().expect("an image has a name");
    RuntimeImage::new(*first, names.iter().map(|name| mk_ref(name))).with_size(ByteSize::new(1_000))
}

/// Returns the inventory of a runtime that removes whole images, each with one name.
pub(crate) fn mk_inventory(names: &[&str]) -> Inventory {
    let images = names.iter().map(|name| mk_image(&[name])).collect();
    Inventory::new(images, [], RemovalScope::Image)
}

pub(crate) fn mk_failure(reason: Reason) -> Failure {
    Failure::new(reason, format!("the runtime failed with {reason}"))
}

pub(crate) fn mk_throttled(seconds: u64) -> Failure {
    mk_failure(Reason::TooManyRequests).with_retry_after(Some(Duration::from_secs(seconds)))
}

/// Returns the defaults without jitter, so that delays are exact.
pub(crate) fn mk_config(parallel: usize) -> WarmerConfig {
    let mut config = WarmerConfig::default();
    config.max_parallel_pulls = NonZeroUsize::new(parallel).unwrap();
    config.backoff.jitter = 0.0;
    config
}

/// The commands of one poll.
#[derive(Debug, PartialEq)]
pub(crate) struct Asked(pub Vec<NodeCommand>);

impl Asked {
    pub(crate) fn pulls(&self) -> Vec<String> {
        let pulls = self.0.iter().filter_map(|command| match command {
            NodeCommand::Pull { credentials, .. } => Some(credentials.image.to_string()),
            _ => None,
        });
        pulls.collect()
    }

    pub(crate) fn removals(&self) -> Vec<String> {
        let removals = self.0.iter().filter_map(|command| match command {
            NodeCommand::Remove { image } => Some(image.to_string()),
            _ => None,
        });
        removals.collect()
    }

    pub(crate) fn cancels(&self) -> usize {
        let cancel = |command: &&NodeCommand| matches!(command, NodeCommand::CancelPull { .. });
        self.0.iter().filter(cancel).count()
    }

    pub(crate) fn reads(&self) -> bool {
        let read = |command: &NodeCommand| matches!(command, NodeCommand::ReadInventory { .. });
        self.0.iter().any(read)
    }

    pub(crate) fn phases(&self) -> Vec<(String, ImagePhase)> {
        let reports = self.0.iter().filter_map(|command| match command {
            NodeCommand::Report(report) => Some((report.image.to_string(), report.phase)),
            _ => None,
        });
        reports.collect()
    }
}

pub(crate) struct TestNode {
    pub warmer: Warmer,
    pub now: Timestamp,
    start: Timestamp,
    generation: u64,
    pulls: BTreeMap<ImageRef, PullId>,
    reading: Option<InventoryId>,
}

impl TestNode {
    pub(crate) fn new(parallel: usize) -> Self {
        Self::with(mk_config(parallel))
    }

    pub(crate) fn with(config: WarmerConfig) -> Self {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        Self {
            warmer: Warmer::new(config, 1),
            now: start,
            start,
            generation: 0,
            pulls: BTreeMap::new(),
            reading: None,
        }
    }

    /// Returns a node with assigned `images` after a reading of `held`.
    pub(crate) fn warmed(
        parallel: usize,
        images: Vec<AssignedImage>,
        held: &[&str],
    ) -> (Self, Asked) {
        let mut node = Self::new(parallel);
        node.assign(images);
        let asked = node.read(mk_inventory(held));
        (node, asked)
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.now.duration_since(self.start).as_secs_f64()
    }

    pub(crate) fn at(&self, seconds: i64) -> Timestamp {
        self.start + Duration::from_secs(u64::try_from(seconds).unwrap())
    }

    /// Polls, and checks the invariants of every poll.
    pub(crate) fn poll(&mut self) -> Asked {
        let commands = self.warmer.poll(self.now);
        assert_eq!(
            self.warmer.poll(self.now),
            [],
            "a second poll did something"
        );
        let wakeup = self.warmer.next_wakeup();
        assert!(
            wakeup.is_none_or(|at| at > self.now),
            "the loop would spin: {wakeup:?} at {}",
            self.now
        );
        let mut pulling = Vec::new();
        for command in &commands {
            match command {
                NodeCommand::Pull {
                    id,
                    credentials,
                    deadline,
                    ..
                } => {
                    assert!(*deadline > self.now);
                    assert!(
                        pulling.contains(&credentials.image),
                        "pulled before reported"
                    );
                    self.pulls.insert(credentials.image.clone(), *id);
                }
                NodeCommand::ReadInventory { id, .. } => {
                    assert_eq!(self.reading, None, "two readings at once");
                    self.reading = Some(*id);
                }
                NodeCommand::CancelPull { id } => self.pulls.retain(|_, pull| pull != id),
                NodeCommand::Report(report) if report.phase == ImagePhase::Pulling => {
                    pulling.push(report.image.clone());
                }
                _ => {}
            }
        }
        Asked(commands)
    }

    pub(crate) fn send(&mut self, event: NodeEvent) -> Asked {
        self.warmer.apply(event, self.now);
        self.poll()
    }

    pub(crate) fn assign(&mut self, images: Vec<AssignedImage>) -> Asked {
        self.generation += 1;
        self.send(NodeEvent::Assigned(Assignment::new(
            self.generation,
            images,
        )))
    }

    /// Answers the running reading.
    pub(crate) fn answer(&mut self, result: Result<Inventory, Failure>) -> Asked {
        let id = self.reading.take().expect("no reading is running");
        self.send(NodeEvent::InventoryRead { id, result })
    }

    pub(crate) fn read(&mut self, inventory: Inventory) -> Asked {
        self.answer(Ok(inventory))
    }

    /// Waits for the next periodic reading and answers it.
    pub(crate) fn read_next(&mut self, inventory: Inventory) -> Asked {
        while self.reading.is_none() {
            self.wake();
        }
        self.read(inventory)
    }

    pub(crate) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// Drops running pulls and readings, as a dropped loop does.
    pub(crate) fn forget(&mut self) {
        self.reading = None;
        self.pulls.clear();
    }

    pub(crate) fn ended(&mut self, name: &str, result: Result<RuntimeImage, Failure>) -> Asked {
        let pull = self.pulls.remove(&mk_ref(name));
        let id = pull.unwrap_or_else(|| panic!("{name} is not being pulled"));
        self.send(NodeEvent::PullEnded {
            id,
            result,
            unused_credentials: None,
        })
    }

    /// The pull of an image has succeeded although a pull secret is missing.
    pub(crate) fn pulled_without(&mut self, name: &str, secret: &str) -> Asked {
        let id = self.pulls.remove(&mk_ref(name)).unwrap();
        self.send(NodeEvent::PullEnded {
            id,
            result: Ok(mk_image(&[name])),
            unused_credentials: Some(format!("pull secret {secret}: not found")),
        })
    }

    /// The running pull of an image has received this number of bytes.
    pub(crate) fn received(&mut self, name: &str, bytes: u64) -> Asked {
        let id = self.pulls[&mk_ref(name)];
        let done = ByteSize::new(bytes);
        self.send(NodeEvent::PullProgressed { id, done })
    }

    pub(crate) fn pulled(&mut self, name: &str) -> Asked {
        self.ended(name, Ok(mk_image(&[name])))
    }

    pub(crate) fn failed(&mut self, name: &str, reason: Reason) -> Asked {
        self.ended(name, Err(mk_failure(reason)))
    }

    pub(crate) fn removal(&mut self, name: &str, result: Result<Removal, Failure>) -> Asked {
        let image = mk_ref(name);
        self.send(NodeEvent::RemovalEnded { image, result })
    }

    pub(crate) fn refresh(&mut self) -> Asked {
        self.send(NodeEvent::RefreshRequested)
    }

    /// Sends the event that the inventory may have changed.
    pub(crate) fn inventory_changed(&mut self) -> Asked {
        self.send(NodeEvent::ResyncRequested)
    }

    /// Advances the clock, then polls once.
    pub(crate) fn pass(&mut self, seconds: u64) -> Asked {
        self.now += Duration::from_secs(seconds);
        self.poll()
    }

    /// Advances the clock to the warmer's next wakeup.
    pub(crate) fn wake(&mut self) -> Asked {
        self.now = self
            .warmer
            .next_wakeup()
            .expect("the warmer has no next wakeup");
        self.poll()
    }

    /// Wakes the warmer until it starts pulls; answers readings with `held`. Returns the elapsed time and the pulls.
    pub(crate) fn until_pull(&mut self, held: &[&str]) -> (Duration, Vec<String>) {
        let from = self.now;
        for _ in 0..10_000 {
            let asked = match self.is_reading() {
                true => self.read(mk_inventory(held)),
                false => self.wake(),
            };
            if !asked.pulls().is_empty() {
                let waited = Duration::try_from(self.now.duration_since(from)).unwrap();
                return (waited, asked.pulls());
            }
        }
        panic!("nothing is pulled any more: {:?}", self.warmer);
    }

    pub(crate) fn report(&self, name: &str) -> ImageReport {
        let image = mk_ref(name);
        let report = self.warmer.report();
        let found = report.images.into_iter().find(|r| r.image == image);
        found.unwrap_or_else(|| panic!("{name} is not reported"))
    }

    pub(crate) fn phase(&self, name: &str) -> ImagePhase {
        self.report(name).phase
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.warmer.is_settled()
    }
}
