//! What is shown, one after another.

mod args;
mod cluster;
mod join;
mod purge;
mod repair;
mod rollout;
mod stay;
mod tally;

pub(super) use cluster::cluster;
pub(super) use join::join;
pub(super) use purge::purge;
pub(super) use repair::repair;
#[cfg(test)]
pub(super) use rollout::apply;
pub(super) use rollout::rollout;
pub(super) use stay::stay;
pub(super) use tally::Tally;
