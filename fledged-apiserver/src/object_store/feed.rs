//! The writes to one resource as they are sent to watchers: the recent history and the open watches.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::object::{Change, Event, Key, Object};

/// A bounded history of writes, for watches and lists of earlier versions.
#[derive(Debug, Default)]
pub(crate) struct History {
    events: VecDeque<(Key, Arc<Event>)>,
    /// The revision of the last event that was dropped.
    forgotten: u64,
}

impl History {
    pub(crate) fn push(&mut self, key: Key, event: Arc<Event>, length: usize) {
        self.events.push_back((key, event));
        while self.events.len() > length {
            if let Some((_, event)) = self.events.pop_front() {
                self.forgotten = event.revision();
            }
        }
    }

    /// Drops everything up to `revision`.
    pub(crate) fn forget(&mut self, revision: u64) {
        self.events.retain(|(_, event)| event.revision() > revision);
        self.forgotten = self.forgotten.max(revision);
    }

    /// The events after `revision`.
    ///
    /// # Errors
    ///
    /// The oldest revision that can be resumed from, if `revision` is older.
    pub(crate) fn since(&self, revision: u64) -> Result<impl Iterator<Item = &Arc<Event>>, u64> {
        if revision < self.forgotten {
            return Err(self.forgotten);
        }
        let from = self
            .events
            .partition_point(|(_, event)| event.revision() <= revision);
        Ok(self.events.iter().skip(from).map(|(_, event)| event))
    }

    /// The objects as they were at `revision`, found by undoing later events.
    ///
    /// # Errors
    ///
    /// The oldest known revision, if `revision` is older.
    pub(crate) fn rewind(
        &self,
        now: &BTreeMap<Key, Arc<Object>>,
        revision: u64,
    ) -> Result<BTreeMap<Key, Arc<Object>>, u64> {
        if revision < self.forgotten {
            return Err(self.forgotten);
        }
        let mut objects = now.clone();
        let later = self.events.iter().rev();
        for (key, event) in later.take_while(|(_, event)| event.revision() > revision) {
            match &event.previous {
                Some(previous) => objects.insert(key.clone(), Arc::clone(previous)),
                None => objects.remove(key),
            };
        }
        Ok(objects)
    }
}

/// The objects that a watcher selects.
pub(crate) trait Interest: Send + Sync {
    /// Whether an object is in the selection.
    fn selects(&self, object: &Object) -> bool;
    /// The only name that the selection can match, if there is one.
    fn only_name(&self) -> Option<&str>;
}

/// An event for one watcher.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) change: Change,
    pub(crate) event: Arc<Event>,
}

struct Watcher {
    interest: Arc<dyn Interest>,
    /// The watcher knows the events up to this revision.
    after: u64,
    sender: mpsc::Sender<Delivery>,
}

/// The watchers of a resource, indexed by the name that they select, so that an event is not checked against
/// a thousand watchers of one object each.
#[derive(Default)]
pub(crate) struct Watchers {
    everything: Vec<Watcher>,
    by_name: BTreeMap<String, Vec<Watcher>>,
}

/// An open watch.
pub(crate) struct OpenWatch {
    /// The events, in order. The channel closes when the watcher is too slow, or is cut off.
    pub(crate) events: mpsc::Receiver<Delivery>,
}

impl Watchers {
    pub(crate) fn add(
        &mut self,
        interest: Arc<dyn Interest>,
        after: u64,
        room: usize,
    ) -> OpenWatch {
        let (sender, events) = mpsc::channel(room);
        let name = interest.only_name().map(str::to_owned);
        let watcher = Watcher {
            interest,
            after,
            sender,
        };
        let list = match name {
            Some(name) => self.by_name.entry(name).or_default(),
            None => &mut self.everything,
        };
        // `publish` never removes closed watchers of objects that do not change.
        list.retain(|watcher| !watcher.sender.is_closed());
        list.push(watcher);
        OpenWatch { events }
    }

    pub(crate) fn publish(&mut self, name: &str, event: &Arc<Event>) {
        self.everything.retain(|watcher| watcher.send(event));
        if let Some(list) = self.by_name.get_mut(name) {
            list.retain(|watcher| watcher.send(event));
            if list.is_empty() {
                self.by_name.remove(name);
            }
        }
    }

    /// Ends every watch after the events that are already queued.
    pub(crate) fn clear(&mut self) {
        self.everything.clear();
        self.by_name.clear();
    }
}

impl Watcher {
    /// Sends an event if it is selected. Returns false if the watcher is to be removed.
    fn send(&self, event: &Arc<Event>) -> bool {
        if event.revision() <= self.after {
            return !self.sender.is_closed();
        }
        let Some(change) = change_for(self.interest.as_ref(), event) else {
            return !self.sender.is_closed();
        };
        let event = Arc::clone(event);
        // A watcher that can't keep up is cut off, and resumes from its last version.
        self.sender.try_send(Delivery { change, event }).is_ok()
    }
}

/// The change that a watcher sees: an object that enters its selection is added, one that leaves it is
/// deleted.
pub(crate) fn change_for(interest: &dyn Interest, event: &Event) -> Option<Change> {
    let before = event.previous.as_ref().is_some_and(|o| interest.selects(o));
    let after = event.change != Change::Deleted && interest.selects(&event.object);
    match (before, after) {
        (false, false) => None,
        (false, true) => Some(Change::Added),
        (true, true) => Some(Change::Modified),
        (true, false) => Some(Change::Deleted),
    }
}
