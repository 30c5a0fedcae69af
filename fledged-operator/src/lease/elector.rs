//! Reads and writes the Lease.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::port::Clock;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tracing::{debug, info, warn};

use crate::problem::problem;

use super::CONTROLLER_LEASE;
use super::election::{Election, LeaseRecord, LeaseTimes, Step};

/// Longest that giving a lease back may take; a pod is given 30 s to end.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// Which Lease is fought for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl LeaseName {
    /// The Lease of that name in that namespace.
    #[must_use]
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The Lease of `fledged-operator controller` in that namespace: [`CONTROLLER_LEASE`].
    #[must_use]
    pub fn of_controller(namespace: impl Into<String>) -> Self {
        Self::new(namespace, CONTROLLER_LEASE)
    }
}

impl fmt::Display for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Why a leader leads no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// It could not be renewed in time, or somebody else took it.
    #[error("the lease {lease} was lost: {problem}")]
    Lost {
        /// Which lease.
        lease: LeaseName,
        /// The last thing that went wrong.
        problem: String,
    },
}

/// Acquires and keeps a Lease.
pub struct Elector {
    leases: Api<Lease>,
    lease: LeaseName,
    election: Election,
    clock: Arc<dyn Clock>,
    /// The Lease as it was last read or written.
    object: Option<Lease>,
}

impl fmt::Debug for Elector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Elector")
            .field("lease", &self.lease)
            .field("election", &self.election)
            .finish_non_exhaustive()
    }
}

impl Elector {
    /// A candidate for that lease. No other candidate may have the same identity.
    #[must_use]
    pub fn new(
        client: Client,
        lease: LeaseName,
        identity: impl Into<String>,
        times: LeaseTimes,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            leases: Api::namespaced(client, &lease.namespace),
            lease,
            election: Election::new(identity, times),
            clock,
            object: None,
        }
    }

    /// Returns once we lead. Failures are logged and tried again for ever.
    pub async fn acquire(&mut self) {
        info!(lease = %self.lease, identity = self.election.identity(), "waiting for the lease");
        loop {
            let limit = self.election.times().renew_deadline;
            match self.attempt_within(limit).await {
                Ok(None) => break,
                Ok(Some(wait)) => self.clock.sleep(wait).await,
                Err(problem) => {
                    warn!(lease = %self.lease, problem, "cannot acquire the lease");
                    self.pause().await;
                }
            }
        }
        info!(lease = %self.lease, identity = self.election.identity(), "leading");
    }

    /// Keeps the lease; returns when it is lost.
    pub async fn keep(&mut self) -> LeaseError {
        let problem = loop {
            self.pause().await;
            let left = self.election.time_left(self.clock.now());
            let problem = match self.attempt_within(left).await {
                Ok(None) => continue,
                Ok(Some(_)) => break "somebody else holds it".to_owned(),
                Err(problem) => problem,
            };
            warn!(lease = %self.lease, problem, "cannot renew the lease");
            if self.election.time_left(self.clock.now()).is_zero() {
                break problem;
            }
        };
        LeaseError::Lost {
            lease: self.lease.clone(),
            problem,
        }
    }

    /// Gives the lease back if we hold it, so that the next leader need not wait for it to run out.
    pub async fn release(&mut self) {
        let clock = Arc::clone(&self.clock);
        let result = tokio::select! {
            result = self.give_back() => result,
            () = clock.sleep(RELEASE_LIMIT) => Err("the API server does not answer".to_owned()),
        };
        match result {
            Ok(()) => debug!(lease = %self.lease, "the lease is free"),
            Err(problem) => warn!(lease = %self.lease, problem, "cannot give the lease back"),
        }
    }

    /// What stands there is read anew: an attempt may have been given up in the middle.
    async fn give_back(&mut self) -> Result<(), String> {
        self.object = self.read().await?;
        let Some(held) = self.object.as_ref().map(record_of) else {
            return Ok(());
        };
        match self.election.released(&held) {
            Some(record) => self.write(&record).await,
            None => Ok(()),
        }
    }

    async fn pause(&self) {
        self.clock.sleep(self.election.times().retry_period).await;
    }

    async fn attempt_within(&mut self, limit: Duration) -> Result<Option<Duration>, String> {
        let clock = Arc::clone(&self.clock);
        tokio::select! {
            result = self.attempt() => result,
            () = clock.sleep(limit) => Err("the API server does not answer".to_owned()),
        }
    }

    /// One attempt to acquire or renew: `None` when we lead, else how long to wait.
    async fn attempt(&mut self) -> Result<Option<Duration>, String> {
        let began = self.clock.now();
        // A leader knows what it wrote and need not read it.
        let leads = !self.election.time_left(began).is_zero();
        if !leads || self.object.is_none() {
            self.object = self.read().await?;
        }
        let found = self.object.as_ref().map(record_of);
        match self.election.evaluate(found.as_ref(), self.clock.now()) {
            Step::Wait(wait) => Ok(Some(wait)),
            Step::Write(record) => {
                if let Err(problem) = self.write(&record).await {
                    // Whatever stands there now is read before the next attempt.
                    self.object = None;
                    return Err(problem);
                }
                self.election.written(record, began);
                Ok(None)
            }
        }
    }

    async fn read(&self) -> Result<Option<Lease>, String> {
        let found = self.leases.get_opt(&self.lease.name).await;
        found.map_err(|error| problem(&error))
    }

    async fn write(&mut self, record: &LeaseRecord) -> Result<(), String> {
        let params = PostParams {
            field_manager: Some(crate::cluster::FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let before = self.object.take();
        let lease = lease_of(&self.lease, before.as_ref(), record, self.clock.now());
        let written = match before {
            None => self.leases.create(&params, &lease).await,
            Some(_) => self.leases.replace(&self.lease.name, &params, &lease).await,
        };
        self.object = Some(written.map_err(|error| problem(&error))?);
        Ok(())
    }
}

fn record_of(lease: &Lease) -> LeaseRecord {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or_default());
    LeaseRecord {
        holder: spec.holder_identity.unwrap_or_default(),
        duration: Duration::from_secs(seconds.unwrap_or_default()),
        renewed: spec.renew_time.map(|MicroTime(at)| at),
        transitions: spec.lease_transitions.unwrap_or_default(),
    }
}

fn lease_of(
    name: &LeaseName,
    before: Option<&Lease>,
    record: &LeaseRecord,
    now: Timestamp,
) -> Lease {
    let known = before.and_then(|lease| lease.spec.clone());
    let held = known.as_ref().and_then(|spec| spec.holder_identity.clone());
    let acquired = known.as_ref().and_then(|spec| spec.acquire_time.clone());
    let goes_on = held.as_deref() == Some(record.holder.as_str()) && acquired.is_some();
    // A holder that is written must not be empty.
    let holder = Some(record.holder.clone()).filter(|holder| !holder.is_empty());
    Lease {
        metadata: before.map_or_else(
            || ObjectMeta {
                name: Some(name.name.clone()),
                namespace: Some(name.namespace.clone()),
                ..ObjectMeta::default()
            },
            |lease| lease.metadata.clone(),
        ),
        spec: Some(LeaseSpec {
            acquire_time: if goes_on {
                acquired
            } else {
                Some(MicroTime(now))
            },
            lease_duration_seconds: i32::try_from(record.duration.as_secs()).ok(),
            lease_transitions: Some(record.transitions),
            renew_time: record.renewed.map(MicroTime),
            holder_identity: holder,
            ..known.unwrap_or_default()
        }),
    }
}
