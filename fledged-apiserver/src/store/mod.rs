//! Objects in memory under one revision counter, their recent history, and who watches them.

mod event;
mod history;
mod object;
mod table;
mod watchers;
mod write;

pub(crate) use event::{Change, Event, watch_line};
pub(crate) use object::{Key, Object, ObjectRef};
pub(crate) use watchers::{Delivery, Interest, Watching};
pub(crate) use write::{Aftermath, Snapshot, Store};
