//! Liveness and readiness of the controller and of agents, for the probes of their pods.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fledged_core::port::Clock;
use fledged_core::time::between;
use jiff::Timestamp;

/// Interval of an agent's heartbeat.
pub(crate) const BEAT: Duration = Duration::from_secs(10);
/// Time without a heartbeat after which a loop counts as stuck. It is six beats of an agent, so that one on a node
/// without free CPU is not restarted; planning the largest cluster takes well under a second.
const SILENCE: Duration = Duration::from_secs(60);

/// A state with the time of the last heartbeat of the loop that updates it.
struct Heartbeat<S> {
    clock: Arc<dyn Clock>,
    state: Mutex<(S, Timestamp)>,
}

impl<S> Heartbeat<S> {
    fn new(clock: Arc<dyn Clock>, state: S) -> Self {
        let state = Mutex::new((state, clock.now()));
        Self { clock, state }
    }

    fn lock(&self) -> MutexGuard<'_, (S, Timestamp)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn beat(&self) {
        self.lock().1 = self.clock.now();
    }

    fn live(&self) -> Result<(), String> {
        let silence = between(self.lock().1, self.clock.now());
        if silence > SILENCE {
            let seconds = silence.as_secs();
            return Err(format!("no heartbeat of the loop for {seconds} s"));
        }
        Ok(())
    }
}

/// Liveness and readiness of an [`Agent`](crate::agent::Agent). Clones share the state.
#[derive(Clone)]
pub struct AgentHealth(Arc<Heartbeat<AgentState>>);

#[derive(Debug, Default)]
struct AgentState {
    synced: bool,
    /// Result of the last inventory read; `None` before the first.
    inventory: Option<Result<(), String>>,
}

impl fmt::Debug for AgentHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AgentHealth").field(&*self.0.lock()).finish()
    }
}

impl AgentHealth {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Heartbeat::new(clock, AgentState::default())))
    }

    /// Whether the agent's loop is running.
    ///
    /// # Errors
    ///
    /// The time since the last heartbeat.
    pub fn live(&self) -> Result<(), String> {
        self.0.live()
    }

    /// Whether the agent has received its assignment, and its last inventory read succeeded.
    ///
    /// # Errors
    ///
    /// The problem, in words.
    pub fn ready(&self) -> Result<(), String> {
        let state = &self.0.lock().0;
        match &state.inventory {
            _ if !state.synced => Err("waiting for the assignment from the API server".to_owned()),
            None => Err("waiting for the first inventory of the runtime".to_owned()),
            Some(Err(problem)) => Err(format!(
                "the inventory of the runtime cannot be read: {problem}"
            )),
            Some(Ok(())) => Ok(()),
        }
    }

    /// The first list is complete.
    pub(crate) fn synced(&self) {
        self.0.lock().0.synced = true;
    }

    /// Records the result of an inventory read.
    pub(crate) fn inventory(&self, result: Result<(), String>) {
        self.0.lock().0.inventory = Some(result);
    }

    /// Records a heartbeat.
    pub(crate) fn beat(&self) {
        self.0.beat();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not started, or ended.
    Idle,
    /// Another controller leads.
    Standby,
    /// Leading; the first lists are not complete.
    Syncing,
    /// Leading and reconciling.
    Leading,
}

/// Liveness and readiness of a [`Controller`](crate::controller::Controller). Clones share the state.
#[derive(Clone)]
pub struct ControllerHealth(Arc<Heartbeat<Stage>>);

impl fmt::Debug for ControllerHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = *self.0.lock();
        f.debug_tuple("ControllerHealth").field(&state).finish()
    }
}

impl ControllerHealth {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Heartbeat::new(clock, Stage::Idle)))
    }

    pub(crate) fn set(&self, stage: Stage) {
        *self.0.lock() = (stage, self.0.clock.now());
    }

    /// Records a heartbeat.
    pub(crate) fn beat(&self) {
        self.0.beat();
    }

    fn stage(&self) -> Stage {
        self.0.lock().0
    }

    /// Whether the loop is running.
    ///
    /// # Errors
    ///
    /// The time since the last heartbeat.
    pub fn live(&self) -> Result<(), String> {
        match self.stage() {
            Stage::Idle => Ok(()),
            _ => self.0.live(),
        }
    }

    /// Whether the controller reconciles or stands by.
    ///
    /// # Errors
    ///
    /// The problem, in words.
    pub fn ready(&self) -> Result<(), String> {
        match self.stage() {
            Stage::Idle => Err("the controller is not running".to_owned()),
            Stage::Syncing => Err("waiting for the first lists of caches and nodes".to_owned()),
            Stage::Standby | Stage::Leading => self.live(),
        }
    }
}

#[cfg(test)]
mod tests {
    use fledged_core::sim::SimClock;

    use super::*;

    #[test]
    fn ready_after_assignment_and_inventory() {
        let health = AgentHealth::new(Arc::new(SimClock::new()));
        assert!(health.ready().unwrap_err().contains("API server"));
        health.synced();
        assert!(health.ready().unwrap_err().contains("first inventory"));
        health.inventory(Err("socket gone".to_owned()));
        assert!(health.ready().unwrap_err().contains("socket gone"));
        health.inventory(Ok(()));
        assert_eq!(health.ready(), Ok(()));
    }

    #[test]
    fn not_live_without_heartbeat() {
        let clock = SimClock::new();
        let health = AgentHealth::new(Arc::new(clock.clone()));
        let pass = |time| clock.block_on(clock.sleep(time)).unwrap();
        pass(SILENCE);
        assert_eq!(health.live(), Ok(()));
        pass(Duration::from_secs(1));
        assert!(health.live().unwrap_err().contains("no heartbeat"));
        health.beat();
        assert_eq!(health.live(), Ok(()));
    }
}
