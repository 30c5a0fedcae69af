//! A warmer, and a node whose runtime executes commands at once.

use std::time::Duration;

use fledged_core::model::{Assignment, ByteSize, ImageRef};
use fledged_core::port::{RemovalScope, RuntimeImage};
use fledged_core::warmer::{Inventory, InventoryId, NodeCommand, NodeEvent, PullId, Warmer};
use jiff::Timestamp;

use super::{mk_ref, start};

/// A warmer on a node with a runtime.
pub struct Machine {
    warmer: Warmer,
    now: Timestamp,
    images: usize,
    /// Under way, the oldest last.
    pulls: Vec<(PullId, ImageRef)>,
    reading: Option<InventoryId>,
    pulled: usize,
}

impl Machine {
    /// A node that is assigned that many images, of which its runtime is known to have none: the
    /// first pulls are under way.
    pub fn cold(images: usize) -> Self {
        let mut machine = Self {
            warmer: Warmer::new(Default::default(), 1),
            now: start(),
            images,
            pulls: Vec::new(),
            reading: None,
            pulled: 0,
        };
        let assignment = Assignment::present((0..images).map(mk_ref));
        machine.apply(NodeEvent::Assigned(assignment));
        machine.read(Inventory::new(Vec::new(), [], RemovalScope::Image));
        assert!(!machine.pulls.is_empty());
        machine
    }

    /// A node that has everything it is assigned.
    pub fn warm(images: usize) -> Self {
        let mut machine = Self::cold(images);
        machine.drive();
        machine
    }

    /// Ends pulls until nothing is left to do.
    pub fn drive(&mut self) {
        while let Some(event) = self.next_pull() {
            self.apply(event);
        }
        // What was pulled is held against a reading.
        self.read(self.inventory());
        assert_eq!(self.pulled, self.images);
        assert!(self.warmer.is_settled());
    }

    /// The end of a running pull.
    pub fn next_pull(&mut self) -> Option<NodeEvent> {
        let (id, image) = self.pulls.pop()?;
        self.pulled += 1;
        self.now += Duration::from_millis(10);
        let result = Ok(mk_image(image));
        Some(NodeEvent::PullEnded {
            id,
            result,
            unused_credentials: None,
        })
    }

    /// All that is assigned.
    pub fn inventory(&self) -> Inventory {
        let images = (0..self.images).map(|image| mk_image(mk_ref(image)));
        Inventory::new(images.collect(), [], RemovalScope::Image)
    }

    /// Waits for the next reading and begins it.
    pub fn until_reading(&mut self) {
        self.now = self.warmer.next_wakeup().unwrap();
        self.poll();
        assert!(self.reading.is_some());
    }

    /// Answers the running reading and returns the number of commands that follow.
    pub fn read(&mut self, inventory: Inventory) -> usize {
        let id = self.reading.take().unwrap();
        let result = Ok(inventory);
        self.apply(NodeEvent::InventoryRead { id, result })
    }

    /// One event as the loop around a warmer handles it; how many commands follow.
    pub fn apply(&mut self, event: NodeEvent) -> usize {
        self.warmer.apply(event, self.now);
        self.poll()
    }

    fn poll(&mut self) -> usize {
        let commands = self.warmer.poll(self.now);
        let wakeup = self.warmer.next_wakeup();
        assert!(wakeup.is_none_or(|at| at > self.now));
        let count = commands.len();
        for command in commands {
            match command {
                NodeCommand::Pull {
                    id, credentials, ..
                } => self.pulls.insert(0, (id, credentials.image)),
                NodeCommand::ReadInventory { id, .. } => self.reading = Some(id),
                _ => {}
            }
        }
        count
    }
}

fn mk_image(image: ImageRef) -> RuntimeImage {
    RuntimeImage::new(image.to_string(), [image]).with_size(ByteSize::new(1_000_000))
}
