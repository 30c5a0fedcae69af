//! Whether an agent is alive and ready.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fledged_core::port::Clock;
use jiff::Timestamp;

use crate::report::after;

/// How often the loop shows that it lives.
pub(super) const BEAT: Duration = Duration::from_secs(10);
/// Silence of the loop that is taken for its end: six beats, so that a node short of CPU does not
/// have its agent restarted on top.
const SILENCE: Duration = Duration::from_secs(60);

/// How an agent is doing; clones tell of the same agent. For the probes of its pod.
#[derive(Clone)]
pub struct AgentHealth(Arc<State>);

struct State {
    clock: Arc<dyn Clock>,
    synced: AtomicBool,
    facts: Mutex<Facts>,
}

struct Facts {
    /// How the last reading of the inventory went; `None` before the first.
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

    /// Whether the agent's loop goes on.
    ///
    /// # Errors
    ///
    /// What is wrong, in words.
    pub fn live(&self) -> Result<(), String> {
        let beat = self.with(|facts| facts.beat);
        match self.0.clock.now() > after(beat, SILENCE) {
            true => Err(format!("the loop has stood still since {beat}")),
            false => Ok(()),
        }
    }

    /// Whether the agent knows what its node is to hold, and its runtime answered when it was last
    /// asked what it holds.
    ///
    /// # Errors
    ///
    /// What is wrong, in words.
    pub fn ready(&self) -> Result<(), String> {
        if !self.0.synced.load(Ordering::Relaxed) {
            return Err("the API server has not said yet what the node is to hold".to_owned());
        }
        match self.with(|facts| facts.inventory.clone()) {
            None => Err("the runtime has not been asked yet what it holds".to_owned()),
            Some(Err(problem)) => Err(format!("the runtime can't be read: {problem}")),
            Some(Ok(())) => Ok(()),
        }
    }

    /// The watch has told everything once.
    pub(super) fn synced(&self) {
        self.0.synced.store(true, Ordering::Relaxed);
    }

    /// How a reading of the inventory went.
    pub(super) fn inventory(&self, result: Result<(), String>) {
        self.with(|facts| facts.inventory = Some(result));
    }

    /// The loop is alive.
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
    fn an_agent_is_ready_once_it_knows_both_sides() {
        let health = AgentHealth::new(Arc::new(SimClock::new()));
        assert!(health.ready().unwrap_err().contains("API server"));
        health.synced();
        assert!(health.ready().unwrap_err().contains("not been asked"));
        health.inventory(Err("socket gone".to_owned()));
        assert!(health.ready().unwrap_err().contains("socket gone"));
        health.inventory(Ok(()));
        assert_eq!(health.ready(), Ok(()));
    }

    #[test]
    fn a_loop_that_stands_still_is_dead_until_it_goes_on() {
        let clock = SimClock::new();
        let health = AgentHealth::new(Arc::new(clock.clone()));
        let pass = |time| clock.block_on(clock.sleep(time)).unwrap();
        pass(SILENCE);
        assert_eq!(health.live(), Ok(()));
        pass(Duration::from_secs(1));
        assert!(health.live().unwrap_err().contains("stood still"));
        health.beat();
        assert_eq!(health.live(), Ok(()));
    }
}
