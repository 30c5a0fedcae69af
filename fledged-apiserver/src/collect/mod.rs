//! What controllers of a cluster do about deletion: garbage collection, namespaces, CRDs.

mod collector;
mod definitions;
mod finalizers;
mod namespaces;
mod owners;

pub(crate) use collector::collect;
