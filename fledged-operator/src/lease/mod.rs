//! Leader election by a Lease (`coordination.k8s.io/v1`), as client-go does it.
//!
//! What to do next is decided by a pure machine, [`Election`]; [`Elector`] reads and writes the Lease.

mod election;
mod elector;

pub use election::{Election, LeaseRecord, LeaseTimes, Step};
pub use elector::{Elector, LeaseError, LeaseName};
