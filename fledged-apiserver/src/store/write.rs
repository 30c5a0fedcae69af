//! The store: reads at a revision, writes that take the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::mpsc;

use super::table::Table;
use super::watchers::seen;
use super::{Delivery, Interest, Key, Object, ObjectRef, Watching};

/// What a write left to be done by the garbage collector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Aftermath {
    /// An object with owners came, or its owners changed.
    Owned(ObjectRef),
    /// An object is marked for deletion, or one that is marked has changed.
    Deleting(ObjectRef),
    /// A CRD was written.
    Defined(String),
    /// An object is gone.
    Gone {
        table: Arc<str>,
        key: Key,
        uid: String,
        owners: Vec<String>,
    },
}

/// Why a write was not done: somebody else wrote first, or the object is gone.
#[derive(Debug)]
pub(crate) struct CommitError;

/// Objects at a revision.
pub(crate) struct Listed {
    pub(crate) objects: Vec<Arc<Object>>,
    pub(crate) revision: u64,
}

/// Which state of a resource is asked for.
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
    aftermath: mpsc::UnboundedSender<Aftermath>,
}

impl Store {
    /// An empty store that remembers the last `history` writes of each resource, and tells `aftermath` what
    /// its writes leave to be done.
    pub(crate) fn new(history: usize, aftermath: mpsc::UnboundedSender<Aftermath>) -> Self {
        Self {
            state: Mutex::default(),
            history: history.max(1),
            aftermath,
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
    /// The oldest revision that is still known, if the one asked for is not.
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

    /// Opens a watch of what happens after a revision, and replays what has happened since.
    ///
    /// # Errors
    ///
    /// The oldest revision that can be watched from.
    pub(crate) fn watch(
        &self,
        table: &Arc<str>,
        interest: Arc<dyn Interest>,
        after: u64,
    ) -> Result<(Vec<Delivery>, Watching), u64> {
        let mut state = self.lock();
        let table = state.tables.entry(Arc::clone(table)).or_default();
        let replay = table.history.since(after)?;
        let replay = replay
            .filter_map(|event| {
                let change = seen(interest.as_ref(), event)?;
                let event = Arc::clone(event);
                Some(Delivery { change, event })
            })
            .collect();
        Ok((replay, table.watchers.add(interest, after, self.room())))
    }

    /// Opens a watch that begins with the present state, at the revision returned.
    pub(crate) fn watch_from_now(
        &self,
        table: &Arc<str>,
        namespace: &str,
        interest: Arc<dyn Interest>,
    ) -> (Listed, Watching) {
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

    /// As many events as a watcher may lag behind: what the history would let it resume anyway.
    fn room(&self) -> usize {
        self.history.clamp(128, 16_384)
    }

    /// The revision up to which that watch has delivered everything; `None` if some of it is still under way.
    pub(crate) fn delivered(&self, events: &mpsc::Receiver<Delivery>) -> Option<u64> {
        let state = self.lock();
        events.is_empty().then_some(state.revision)
    }

    /// Puts an object in place of the state it was made from (none for a new one).
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
            (_, true) => self.leave(Aftermath::Deleting(at.clone())),
            ("customresourcedefinitions.apiextensions.k8s.io", false) => {
                self.leave(Aftermath::Defined(at.key.name.clone()));
            }
            _ => {}
        }
        if !object.owners().is_empty() && from.is_none_or(|old| old.owners() != object.owners()) {
            self.leave(Aftermath::Owned(at.clone()));
        }
        Ok(object)
    }

    /// Removes an object, whose last state was `value`.
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
        self.leave(Aftermath::Gone {
            table: Arc::clone(&at.table),
            key: at.key.clone(),
            uid: from.uid().to_owned(),
            owners: owner_uids(from).map(str::to_owned).collect(),
        });
        Ok(last)
    }

    fn leave(&self, aftermath: Aftermath) {
        // Without a collector (on shutdown) nothing is collected.
        let _ = self.aftermath.send(aftermath);
    }

    /// What names the object of that uid as an owner.
    pub(crate) fn dependents(&self, uid: &str) -> Vec<ObjectRef> {
        let state = self.lock();
        let dependents = state.dependents.get(uid);
        dependents.into_iter().flatten().cloned().collect()
    }

    /// The object of that uid.
    pub(crate) fn by_uid(&self, uid: &str) -> Option<(ObjectRef, Arc<Object>)> {
        let state = self.lock();
        let at = state.by_uid.get(uid)?;
        let object = state.tables.get(&at.table)?.objects.get(&at.key)?;
        Some((at.clone(), Arc::clone(object)))
    }

    /// Forgets the history of everything: what was read before can't be watched from any more.
    pub(crate) fn compact(&self) {
        let mut state = self.lock();
        // As if something else had been written, so that even the latest reader is behind.
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
