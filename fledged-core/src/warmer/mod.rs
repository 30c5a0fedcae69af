//! The node side: what one machine should hold against what its runtime really holds.
//!
//! [`Warmer`] is a pure state machine: [`Warmer::apply`] takes what happened, [`Warmer::poll`] says
//! what to do now, [`Warmer::next_wakeup`] when to ask again. [`crate::runner`] is the loop around
//! it.

mod agenda;
mod assign;
mod config;
mod entries;
mod entry;
mod event;
mod hold;
mod inventory;
mod obstacle;
mod pulling;
mod reading;
mod removing;
mod warmer;

pub use crate::backoff::{Backoff, Schedule};
pub(crate) use crate::time;
pub use config::WarmerConfig;
pub use event::{InventoryId, NodeCommand, NodeEvent, PullId};
pub use inventory::Inventory;
pub use warmer::Warmer;
