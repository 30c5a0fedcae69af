//! Who watches a resource.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Change, Event, Object};

/// What a watcher wants to be told.
pub(crate) trait Interest: Send + Sync {
    /// Whether an object is in the selection.
    fn selects(&self, object: &Object) -> bool;
    /// The only name that can be in the selection, if there is but one.
    fn only_name(&self) -> Option<&str>;
}

/// An event, as one watcher is told it.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) change: Change,
    pub(crate) event: Arc<Event>,
}

struct Watcher {
    interest: Arc<dyn Interest>,
    /// Events up to here are known to the watcher.
    after: u64,
    sender: mpsc::Sender<Delivery>,
}

/// The watchers of a resource, apart by the name they are restricted to: a thousand watchers of one object
/// each must not be asked about every object.
#[derive(Default)]
pub(crate) struct Watchers {
    everything: Vec<Watcher>,
    by_name: BTreeMap<String, Vec<Watcher>>,
}

/// An open watch.
pub(crate) struct Watching {
    /// The events, in order. It ends when the watcher is too slow, or is cut off.
    pub(crate) events: mpsc::Receiver<Delivery>,
}

impl Watchers {
    pub(crate) fn add(&mut self, interest: Arc<dyn Interest>, after: u64, room: usize) -> Watching {
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
        // Watchers of objects that never change are not seen by `publish`; they go here.
        list.retain(|watcher| !watcher.sender.is_closed());
        list.push(watcher);
        Watching { events }
    }

    pub(crate) fn publish(&mut self, name: &str, event: &Arc<Event>) {
        self.everything.retain(|watcher| watcher.tell(event));
        if let Some(list) = self.by_name.get_mut(name) {
            list.retain(|watcher| watcher.tell(event));
            if list.is_empty() {
                self.by_name.remove(name);
            }
        }
    }

    /// Ends every watch, after what it was already sent.
    pub(crate) fn clear(&mut self) {
        self.everything.clear();
        self.by_name.clear();
    }
}

impl Watcher {
    /// Whether the watcher stays.
    fn tell(&self, event: &Arc<Event>) -> bool {
        if event.revision() <= self.after {
            return !self.sender.is_closed();
        }
        let Some(change) = seen(self.interest.as_ref(), event) else {
            return !self.sender.is_closed();
        };
        let event = Arc::clone(event);
        // One that can't keep up is cut off, and comes back from where it was.
        self.sender.try_send(Delivery { change, event }).is_ok()
    }
}

/// What an event is to a watcher: to one who selects, an object that is changed into the selection is new,
/// and one that is changed out of it is gone.
pub(crate) fn seen(interest: &dyn Interest, event: &Event) -> Option<Change> {
    let before = event.previous.as_ref().is_some_and(|o| interest.selects(o));
    let after = event.change != Change::Deleted && interest.selects(&event.object);
    match (before, after) {
        (false, false) => None,
        (false, true) => Some(Change::Added),
        (true, true) => Some(Change::Modified),
        (true, false) => Some(Change::Deleted),
    }
}
