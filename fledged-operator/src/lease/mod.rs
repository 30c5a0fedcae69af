//! Leader election by a Lease (`coordination.k8s.io/v1`), as client-go does it.
//!
//! What to do next is decided by a pure machine, [`Election`]; [`Elector`] reads and writes the Lease.

mod election;
mod elector;
mod identity;

pub use election::{Election, LeaseRecord, LeaseTimes, Step};
pub use elector::{Elector, LeaseError, LeaseName};
pub use identity::identity;

/// Name of the Lease that the controllers of a cluster are elected by. Whatever runs one has to take the
/// same, in the same namespace, so that no two act side by side.
pub const CONTROLLER_LEASE: &str = "kubefledged-controller";
/// Namespace of that Lease where nothing else is said.
pub const CONTROLLER_NAMESPACE: &str = "kube-fledged";
