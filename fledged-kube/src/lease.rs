//! Leader election by a Lease (`coordination.k8s.io/v1`), as client-go does it.
//!
//! `Election` is a pure state machine that decides the next step; [`Elector`] reads and writes the Lease.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use fledged_core::port::Clock;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tracing::{debug, info, warn};

use crate::request_error::problem;

/// Name of the Lease of the controllers of a cluster. Every controller of a cluster must use the same name and
/// namespace, so that at most one acts.
pub const CONTROLLER_LEASE: &str = "kubefledged-controller";
/// Default namespace of [`CONTROLLER_LEASE`].
pub const CONTROLLER_NAMESPACE: &str = "kube-fledged";

/// Durations of an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseTimes {
    /// How long other candidates wait after the last observed renewal. Whole seconds. Default 15 s.
    pub lease_duration: Duration,
    /// How long a leader retries a renewal before it stops; less than `lease_duration`. Default 10 s.
    pub renew_deadline: Duration,
    /// Time between attempts to acquire or renew. Default 2 s.
    pub retry_period: Duration,
}

impl Default for LeaseTimes {
    /// The defaults of Kubernetes' controllers (`component-base/config`).
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// The content of a Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
struct LeaseRecord {
    /// Identity of the holder; empty if the lease is free.
    holder: String,
    /// Validity after a renewal.
    duration: Duration,
    /// Time of the last renewal by the holder's clock. It is compared for equality only.
    renewed: Option<Timestamp>,
    /// Number of changes of the holder.
    transitions: i32,
}

/// The next step of a candidate.
#[derive(Debug, PartialEq, Eq)]
enum ElectionStep {
    /// Write this record to become or stay the leader.
    Write(LeaseRecord),
    /// Another candidate leads; evaluate again after this time.
    Wait(Duration),
}

/// One candidate's view of an election.
///
/// Clocks of different machines are never compared: a lease has expired when it did not change for its
/// duration, measured by the local clock.
#[derive(Debug)]
struct Election {
    identity: String,
    times: LeaseTimes,
    observed: Option<(LeaseRecord, Timestamp)>,
    renewed_at: Option<Timestamp>,
}

impl Election {
    fn new(identity: String, times: LeaseTimes) -> Self {
        Self {
            identity,
            times,
            observed: None,
            renewed_at: None,
        }
    }

    /// The next step, given the current content of the Lease; `None` if it does not exist.
    fn evaluate(&mut self, found: Option<&LeaseRecord>, now: Timestamp) -> ElectionStep {
        let known = self.observed.as_ref().map(|(record, _)| record);
        if known != found {
            self.observed = found.map(|record| (record.clone(), now));
        }
        let transitions = match found {
            None => 0,
            Some(record) if record.holder == self.identity => record.transitions,
            Some(record) if record.holder.is_empty() => record.transitions.saturating_add(1),
            Some(record) => {
                let seen_at = self.observed.as_ref().map_or(now, |(_, at)| *at);
                let early = fledged_core::planted::is("lease-taken-too-early")
                    .then_some(self.times.retry_period);
                let left = remaining(seen_at, early.unwrap_or(record.duration), now);
                if !left.is_zero() {
                    return ElectionStep::Wait(left.min(self.times.retry_period));
                }
                record.transitions.saturating_add(1)
            }
        };
        ElectionStep::Write(LeaseRecord {
            holder: self.identity.clone(),
            duration: self.times.lease_duration,
            renewed: Some(now),
            transitions,
        })
    }

    /// Records a successful write whose attempt started at `at`.
    fn written(&mut self, record: LeaseRecord, at: Timestamp) {
        self.observed = Some((record, at));
        self.renewed_at = Some(at);
    }

    /// How long this candidate may act as the leader; zero means stop. Counted from the start of the last renewal,
    /// and always shorter than other candidates wait.
    fn time_left(&self, now: Timestamp) -> Duration {
        match self.renewed_at {
            None => Duration::ZERO,
            Some(at) => remaining(at, self.times.renew_deadline, now),
        }
    }

    /// The record that releases the lease, if this candidate holds it. The next candidate may acquire it at once.
    fn released(&self, found: &LeaseRecord) -> Option<LeaseRecord> {
        (found.holder == self.identity).then(|| LeaseRecord {
            holder: String::new(),
            duration: Duration::from_secs(1),
            ..found.clone()
        })
    }
}

fn remaining(since: Timestamp, span: Duration, now: Timestamp) -> Duration {
    let passed = now.duration_since(since).max(SignedDuration::ZERO);
    span.saturating_sub(Duration::try_from(passed).unwrap_or_default())
}

/// Limit for releasing the lease. A pod has 30 s to terminate.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// The namespace and name of a Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl LeaseName {
    /// The Lease with this namespace and name.
    #[must_use]
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The Lease of `fledged-operator controller` in this namespace: [`CONTROLLER_LEASE`].
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

/// The lease was not renewed in time, or another candidate acquired it: the leader must stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the lease {lease} was lost: {problem}")]
#[non_exhaustive]
pub struct LeaseError {
    /// The lease.
    pub lease: LeaseName,
    /// The last failure.
    pub problem: String,
}

/// Acquires, renews and releases a Lease.
pub struct Elector {
    leases: Api<Lease>,
    lease: LeaseName,
    election: Election,
    clock: Arc<dyn Clock>,
    /// The Lease as last read or written.
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
    /// A candidate for this lease. The identity must be unique.
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
            election: Election::new(identity.into(), times),
            clock,
            object: None,
        }
    }

    /// Returns when this candidate leads. Failures are logged and retried without limit.
    pub async fn acquire(&mut self) {
        info!(lease = %self.lease, identity = self.election.identity, "waiting for the leader lease");
        loop {
            let limit = self.election.times.renew_deadline;
            match self.attempt_within(limit).await {
                Ok(None) => break,
                Ok(Some(wait)) => self.clock.sleep(wait).await,
                Err(problem) => {
                    warn!(lease = %self.lease, problem, "leader lease not acquired");
                    self.pause().await;
                }
            }
        }
        info!(lease = %self.lease, identity = self.election.identity, "leader lease acquired");
    }

    /// Renews the lease; returns when it is lost.
    pub async fn keep(&mut self) -> LeaseError {
        let problem = loop {
            self.pause().await;
            let left = self.election.time_left(self.clock.now());
            let problem = match self.attempt_within(left).await {
                Ok(None) => continue,
                Ok(Some(_)) if fledged_core::planted::is("lost-lease-ignored") => continue,
                Ok(Some(_)) => break "another candidate holds it".to_owned(),
                Err(problem) => problem,
            };
            warn!(lease = %self.lease, problem, "leader lease not renewed");
            if self.election.time_left(self.clock.now()).is_zero()
                && !fledged_core::planted::is("leads-past-the-deadline")
            {
                break problem;
            }
        };
        LeaseError {
            lease: self.lease.clone(),
            problem,
        }
    }

    /// Releases the lease if this candidate holds it, so that the next leader need not wait until it expires.
    pub async fn release(&mut self) {
        let clock = Arc::clone(&self.clock);
        let result = tokio::select! {
            biased;
            result = self.write_release() => result,
            () = clock.sleep(RELEASE_LIMIT) => Err("the API server does not respond".to_owned()),
        };
        match result {
            Ok(()) => debug!(lease = %self.lease, "leader lease released"),
            Err(problem) => warn!(lease = %self.lease, problem, "leader lease not released"),
        }
    }

    /// Reads the Lease first: the last attempt may have been dropped half-way.
    async fn write_release(&mut self) -> Result<(), String> {
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
        self.clock.sleep(self.election.times.retry_period).await;
    }

    async fn attempt_within(&mut self, limit: Duration) -> Result<Option<Duration>, String> {
        let clock = Arc::clone(&self.clock);
        tokio::select! {
            biased;
            result = self.attempt() => result,
            () = clock.sleep(limit) => Err("the API server does not respond".to_owned()),
        }
    }

    /// One attempt to acquire or renew: `None` if this candidate leads, else the time to wait.
    async fn attempt(&mut self) -> Result<Option<Duration>, String> {
        let began = self.clock.now();
        // A leader knows the content and need not read it.
        let leads = !self.election.time_left(began).is_zero();
        if !leads || self.object.is_none() {
            self.object = self.read().await?;
        }
        let found = self.object.as_ref().map(record_of);
        match self.election.evaluate(found.as_ref(), self.clock.now()) {
            ElectionStep::Wait(wait) => Ok(Some(wait)),
            ElectionStep::Write(record) => {
                if let Err(problem) = self.write(&record).await {
                    // The next attempt reads the Lease first.
                    self.object = None;
                    return Err(problem);
                }
                let at = if fledged_core::planted::is("renewal-dated-by-answer") {
                    self.clock.now()
                } else {
                    began
                };
                self.election.written(record, at);
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
            field_manager: Some(crate::CONTROLLER_FIELD_MANAGER.to_owned()),
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
            |lease| {
                let mut metadata = lease.metadata.clone();
                metadata
                    .resource_version
                    .take_if(|_| fledged_core::planted::is("lease-without-version"));
                metadata
            },
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

/// A name for this process that no other candidate has, restarted or not: `name`, or else the machine's,
/// which in a pod is the pod's, and something random.
#[must_use]
pub fn identity(name: Option<&str>) -> String {
    let machine = || {
        let text = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        text.trim().to_owned()
    };
    let name = name.filter(|name| !name.is_empty());
    let name = name.map_or_else(machine, str::to_owned);
    // Randomly keyed for each of these.
    let random = RandomState::new().build_hasher().finish();
    format!("{name}_{random:016x}")
}

#[cfg(test)]
mod election_tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn mk(identity: &str) -> Election {
        Election::new(identity.to_owned(), LeaseTimes::default())
    }

    fn write(step: ElectionStep) -> LeaseRecord {
        match step {
            ElectionStep::Write(record) => record,
            ElectionStep::Wait(left) => panic!("waits {left:?}"),
        }
    }

    #[test]
    fn a_free_lease_is_acquired_and_renewed() {
        let mut us = mk("a");
        let record = write(us.evaluate(None, at(0)));
        assert_eq!((record.holder.as_str(), record.transitions), ("a", 0));
        us.written(record.clone(), at(0));
        assert_eq!(us.time_left(at(4)), Duration::from_secs(6));
        let renewed = write(us.evaluate(Some(&record), at(4)));
        assert_eq!((renewed.renewed, renewed.transitions), (Some(at(4)), 0));
        us.written(renewed, at(4));
        assert_eq!(us.time_left(at(14)), Duration::ZERO);
    }

    #[test]
    fn a_held_lease_is_taken_after_its_unchanged_duration() {
        let (mut us, mut them) = (mk("a"), mk("b"));
        // Their clock is far behind ours: it does not matter.
        let first = write(them.evaluate(None, at(-5_000)));
        let wait = |seconds| ElectionStep::Wait(Duration::from_secs(seconds));
        assert_eq!(us.evaluate(Some(&first), at(0)), wait(2));
        assert_eq!(us.evaluate(Some(&first), at(14)), wait(1));
        let second = LeaseRecord {
            renewed: Some(at(-4_990)),
            ..first
        };
        assert_eq!(
            us.evaluate(Some(&second), at(14)),
            wait(2),
            "it was renewed"
        );
        assert_eq!(us.evaluate(Some(&second), at(28)), wait(1));
        let taken = write(us.evaluate(Some(&second), at(29)));
        assert_eq!((taken.holder.as_str(), taken.transitions), ("a", 1));
    }

    #[test]
    fn a_released_lease_is_taken_at_once() {
        let (mut us, mut them) = (mk("a"), mk("b"));
        let record = write(them.evaluate(None, at(0)));
        assert_eq!(us.released(&record), None, "it is not ours");
        let released = them.released(&record).unwrap();
        let taken = write(us.evaluate(Some(&released), at(1)));
        assert_eq!((taken.holder.as_str(), taken.transitions), ("a", 1));
    }

    #[test]
    fn a_leader_stops_before_others_may_acquire() {
        let times = LeaseTimes::default();
        assert!(times.renew_deadline < times.lease_duration);
        let mut us = mk("a");
        assert_eq!(us.time_left(at(0)), Duration::ZERO, "it was never held");
        let record = write(us.evaluate(None, at(0)));
        us.written(record, at(0));
        assert_eq!(us.time_left(at(10)), Duration::ZERO);
    }
}

#[cfg(test)]
mod identity_tests {
    use super::*;

    #[test]
    fn generated_identities_are_unique() {
        let (a, b) = (identity(Some("pod-1")), identity(Some("pod-1")));
        assert!(a.starts_with("pod-1_"), "{a}");
        assert_ne!(a, b);
        assert!(!identity(Some("")).starts_with('_'), "the machine's name");
    }
}
