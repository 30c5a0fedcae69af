//! Objects in memory under one revision counter: reads at a revision, writes that take the next one.

mod feed;
mod object;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::mpsc;

use feed::{History, Watchers, change_for};

pub(crate) use feed::{Delivery, Interest, OpenWatch};
pub(crate) use object::{Change, Event, Key, Object, ObjectRef, watch_line};

/// The table of CRDs.
pub(crate) const CRDS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// Work for the garbage collector after a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FollowUp {
    /// An object has new owners.
    Owned(ObjectRef),
    /// An object that is marked for deletion was written.
    Deleting(ObjectRef),
    /// A CRD was written.
    Defined(String),
    /// An object was removed.
    Gone {
        table: Arc<str>,
        key: Key,
        uid: String,
        owners: Vec<String>,
    },
}

/// The object changed or was removed since it was read.
#[derive(Debug)]
pub(crate) struct CommitError;

/// Objects at a revision.
pub(crate) struct Listed {
    pub(crate) objects: Vec<Arc<Object>>,
    pub(crate) revision: u64,
}

/// The state of a resource to list.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Snapshot {
    Now,
    At(u64),
}

#[derive(Default)]
struct State {
    revision: u64,
    tables: BTreeMap<Arc<str>, Table>,
    by_uid: BTreeMap<String, ObjectRef>,
    dependents: BTreeMap<String, BTreeSet<ObjectRef>>,
}

/// All objects.
pub(crate) struct Store {
    state: Mutex<State>,
    history: usize,
    follow_ups: mpsc::UnboundedSender<FollowUp>,
}

impl Store {
    /// An empty store with a history of `history` writes to each resource. `follow_ups` receives the work for the
    /// garbage collector.
    pub(crate) fn new(history: usize, follow_ups: mpsc::UnboundedSender<FollowUp>) -> Self {
        Self {
            state: Mutex::default(),
            history: history.max(1),
            follow_ups,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn revision(&self) -> u64 {
        self.lock().revision
    }

    pub(crate) fn get(&self, table: &str, key: &Key) -> Option<Arc<Object>> {
        let state = self.lock();
        state.tables.get(table)?.objects.get(key).cloned()
    }

    /// The objects of a table, of one namespace or (empty) of all.
    ///
    /// # Errors
    ///
    /// The oldest known revision, if the one asked for is older.
    pub(crate) fn list(&self, table: &str, namespace: &str, at: Snapshot) -> Result<Listed, u64> {
        let state = self.lock();
        let (revision, rewound);
        let none = BTreeMap::new();
        let table = state.tables.get(table);
        let mut objects = table.map_or(&none, |table| &table.objects);
        match (at, table) {
            (Snapshot::At(asked), Some(table)) => {
                rewound = table.history.rewind(objects, asked)?;
                objects = &rewound;
                revision = asked;
            }
            (Snapshot::At(asked), None) => revision = asked,
            (Snapshot::Now, _) => revision = state.revision,
        }
        let objects = match namespace {
            "" => objects.values().cloned().collect(),
            namespace => objects
                .range(Key::new(namespace, "")..)
                .take_while(|(key, _)| key.namespace == namespace)
                .map(|(_, object)| Arc::clone(object))
                .collect(),
        };
        Ok(Listed { objects, revision })
    }

    /// Opens a watch of events after a revision, and returns those that are already in the history.
    ///
    /// # Errors
    ///
    /// The oldest revision that can be watched from.
    pub(crate) fn watch(
        &self,
        table: &Arc<str>,
        interest: Arc<dyn Interest>,
        after: u64,
    ) -> Result<(Vec<Delivery>, OpenWatch), u64> {
        let mut state = self.lock();
        let table = state.tables.entry(Arc::clone(table)).or_default();
        let replay = table.history.since(after)?;
        let replay = replay
            .filter_map(|event| {
                let change = change_for(interest.as_ref(), event)?;
                let event = Arc::clone(event);
                Some(Delivery { change, event })
            })
            .collect();
        Ok((replay, table.watchers.add(interest, after, self.room())))
    }

    /// Opens a watch that begins with the present objects, at the revision returned.
    pub(crate) fn watch_from_now(
        &self,
        table: &Arc<str>,
        namespace: &str,
        interest: Arc<dyn Interest>,
    ) -> (Listed, OpenWatch) {
        let mut state = self.lock();
        let revision = state.revision;
        let table = state.tables.entry(Arc::clone(table)).or_default();
        let objects = table.objects.iter();
        let objects = objects
            .filter(|(key, _)| namespace.is_empty() || key.namespace == namespace)
            .filter(|(_, object)| interest.selects(object))
            .map(|(_, object)| Arc::clone(object))
            .collect();
        let watching = table.watchers.add(interest, revision, self.room());
        (Listed { objects, revision }, watching)
    }

    /// The number of events that a watcher may lag behind: those that it could resume from the history.
    fn room(&self) -> usize {
        self.history.clamp(128, 16_384)
    }

    /// The revision up to which the watch has delivered everything; `None` while events are queued.
    pub(crate) fn delivered(&self, events: &mpsc::Receiver<Delivery>) -> Option<u64> {
        let state = self.lock();
        events.is_empty().then_some(state.revision)
    }

    /// Writes an object that was made from the state `from` (none for a new object).
    pub(crate) fn put(
        &self,
        at: &ObjectRef,
        from: Option<&Object>,
        value: Value,
    ) -> Result<Arc<Object>, CommitError> {
        let mut state = self.lock();
        state.check(at, from)?;
        state.revision += 1;
        let object = Arc::new(Object::new(value, state.revision));
        state.unindex(at, from);
        state.index(at, &object);
        let table = state.tables.entry(Arc::clone(&at.table)).or_default();
        table.put(&at.key, Arc::clone(&object), self.history);
        match (&*at.table, object.is_deleting()) {
            (_, true) => self.queue(FollowUp::Deleting(at.clone())),
            (CRDS, false) => {
                self.queue(FollowUp::Defined(at.key.name.clone()));
            }
            _ => {}
        }
        if !object.owners().is_empty() && from.is_none_or(|old| old.owners() != object.owners()) {
            self.queue(FollowUp::Owned(at.clone()));
        }
        Ok(object)
    }

    /// Removes an object; `value` is its last state.
    pub(crate) fn remove(
        &self,
        at: &ObjectRef,
        from: &Object,
        value: Value,
    ) -> Result<Arc<Object>, CommitError> {
        let mut state = self.lock();
        state.check(at, Some(from))?;
        state.revision += 1;
        let last = Arc::new(Object::new(value, state.revision));
        state.unindex(at, Some(from));
        let table = state.tables.entry(Arc::clone(&at.table)).or_default();
        table.remove(&at.key, Arc::clone(&last), self.history);
        self.queue(FollowUp::Gone {
            table: Arc::clone(&at.table),
            key: at.key.clone(),
            uid: from.uid().to_owned(),
            owners: owner_uids(from).map(str::to_owned).collect(),
        });
        Ok(last)
    }

    fn queue(&self, follow_ups: FollowUp) {
        // The collector is gone on shutdown.
        let _ = self.follow_ups.send(follow_ups);
    }

    /// The objects that have the object of this UID as an owner.
    pub(crate) fn dependents(&self, uid: &str) -> Vec<ObjectRef> {
        let state = self.lock();
        let dependents = state.dependents.get(uid);
        dependents.into_iter().flatten().cloned().collect()
    }

    /// The object of this UID.
    pub(crate) fn by_uid(&self, uid: &str) -> Option<(ObjectRef, Arc<Object>)> {
        let state = self.lock();
        let at = state.by_uid.get(uid)?;
        let object = state.tables.get(&at.table)?.objects.get(&at.key)?;
        Some((at.clone(), Arc::clone(object)))
    }

    /// Drops the history of every resource. Versions read earlier can't be watched from.
    pub(crate) fn compact(&self) {
        let mut state = self.lock();
        // A revision without a write makes even the latest reader too old.
        state.revision += 1;
        let revision = state.revision;
        for table in state.tables.values_mut() {
            table.history.forget(revision);
        }
    }

    /// Ends every watch.
    pub(crate) fn cut_watches(&self) {
        for table in self.lock().tables.values_mut() {
            table.watchers.clear();
        }
    }

    /// Ends the watches of one resource.
    pub(crate) fn cut_watches_of(&self, table: &str) {
        if let Some(table) = self.lock().tables.get_mut(table) {
            table.watchers.clear();
        }
    }
}

fn owner_uids(object: &Object) -> impl Iterator<Item = &str> {
    object
        .owners()
        .iter()
        .filter_map(|owner| owner.get("uid")?.as_str())
}

impl State {
    fn check(&self, at: &ObjectRef, from: Option<&Object>) -> Result<(), CommitError> {
        let table = self.tables.get(&at.table);
        let now = table.and_then(|table| table.objects.get(&at.key));
        match now.map(|object| object.revision) == from.map(|object| object.revision) {
            true => Ok(()),
            false => Err(CommitError),
        }
    }

    fn index(&mut self, at: &ObjectRef, object: &Object) {
        self.by_uid.insert(object.uid().to_owned(), at.clone());
        for owner in owner_uids(object) {
            let dependents = self.dependents.entry(owner.to_owned()).or_default();
            dependents.insert(at.clone());
        }
    }

    fn unindex(&mut self, at: &ObjectRef, object: Option<&Object>) {
        let Some(object) = object else { return };
        self.by_uid.remove(object.uid());
        for owner in owner_uids(object) {
            if let Some(dependents) = self.dependents.get_mut(owner) {
                dependents.remove(at);
                if dependents.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
    }
}

/// The objects of one resource, with their history and their watchers.
#[derive(Default)]
struct Table {
    objects: BTreeMap<Key, Arc<Object>>,
    history: History,
    watchers: Watchers,
}

impl Table {
    fn put(&mut self, key: &Key, object: Arc<Object>, length: usize) {
        let previous = self.objects.insert(key.clone(), Arc::clone(&object));
        let change = match previous {
            Some(_) => Change::Modified,
            None => Change::Added,
        };
        self.record(key, Event::new(change, object, previous), length);
    }

    /// Removes an object whose last state is `last`.
    fn remove(&mut self, key: &Key, last: Arc<Object>, length: usize) {
        let previous = self.objects.remove(key);
        self.record(key, Event::new(Change::Deleted, last, previous), length);
    }

    fn record(&mut self, key: &Key, event: Event, length: usize) {
        let event = Arc::new(event);
        self.watchers.publish(&key.name, &event);
        self.history.push(key.clone(), event, length);
    }
}
