//! Whether an agent is alive and ready.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fledged_core::port::Clock;
use jiff::Timestamp;

use fledged_core::time::after;

/// Interval of the heartbeat.
pub(super) const BEAT: Duration = Duration::from_secs(10);
/// Time without a heartbeat after which the loop counts as dead: six beats, so that an agent on a node without
/// free CPU is not restarted.
const SILENCE: Duration = Duration::from_secs(60);

/// Liveness and readiness of an agent, for the probes of its pod. Clones share the state.
#[derive(Clone)]
pub struct AgentHealth(Arc<State>);

struct State {
    clock: Arc<dyn Clock>,
    synced: AtomicBool,
    facts: Mutex<Facts>,
}

struct Facts {
    /// Result of the last inventory read; `None` before the first.
    inventory: Option<Result<(), String>>,
    beat: Timestamp,
}

impl fmt::Debug for AgentHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentHealth")
            .field("live", &self.live())
            .field("ready", &self.ready())
            .finish()
    }
}

impl AgentHealth {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let beat = clock.now();
        Self(Arc::new(State {
            clock,
            synced: AtomicBool::new(false),
            facts: Mutex::new(Facts {
                inventory: None,
                beat,
            }),
        }))
    }

    /// Whether the agent's loop is running.
    ///
    /// # Errors
    ///
    /// The problem, in words.
    pub fn live(&self) -> Result<(), String> {
        let beat = self.with(|facts| facts.beat);
        if self.0.clock.now() > after(beat, SILENCE) {
            Err(format!("no heartbeat of the loop since {beat}"))
        } else {
            Ok(())
        }
    }

    /// Whether the agent has received its assignment, and its last inventory read succeeded.
    ///
    /// # Errors
    ///
    /// The problem, in words.
    pub fn ready(&self) -> Result<(), String> {
        if !self.0.synced.load(Ordering::Relaxed) {
            return Err("waiting for the assignment from the API server".to_owned());
        }
        match self.with(|facts| facts.inventory.clone()) {
            None => Err("waiting for the first inventory of the runtime".to_owned()),
            Some(Err(problem)) => Err(format!(
                "the inventory of the runtime cannot be read: {problem}"
            )),
            Some(Ok(())) => Ok(()),
        }
    }

    /// The first list is complete.
    pub(super) fn synced(&self) {
        self.0.synced.store(true, Ordering::Relaxed);
    }

    /// Records the result of an inventory read.
    pub(super) fn inventory(&self, result: Result<(), String>) {
        self.with(|facts| facts.inventory = Some(result));
    }

    /// Records a heartbeat.
    pub(super) fn beat(&self) {
        let now = self.0.clock.now();
        self.with(|facts| facts.beat = now);
    }

    fn with<T>(&self, f: impl FnOnce(&mut Facts) -> T) -> T {
        f(&mut self.0.facts.lock().unwrap_or_else(PoisonError::into_inner))
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
