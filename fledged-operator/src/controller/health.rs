//! Liveness and readiness of a controller.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fledged_core::port::Clock;
use jiff::Timestamp;

/// Interval of the heartbeat.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);
/// Age of the last heartbeat above which the loop is stuck. Planning the largest cluster takes well under a second.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not started, or ended.
    Idle,
    /// Another controller leads.
    Standby,
    /// Leading; the first lists are not complete.
    Syncing,
    /// Leading and reconciling.
    Leading,
}

/// Liveness and readiness of a [`Controller`](super::Controller), for probes. Clones share the state.
#[derive(Clone)]
pub struct ControllerHealth {
    clock: Arc<dyn Clock>,
    state: Arc<Mutex<(Stage, Timestamp)>>,
}

impl fmt::Debug for ControllerHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ControllerHealth")
            .field(&self.read())
            .finish()
    }
}

impl ControllerHealth {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let now = clock.now();
        Self {
            clock,
            state: Arc::new(Mutex::new((Stage::Idle, now))),
        }
    }

    fn read(&self) -> (Stage, Timestamp) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, stage: Stage) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (stage, self.clock.now());
    }

    pub(super) fn beat(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.1 = self.clock.now();
    }

    /// Whether the loop is running.
    ///
    /// # Errors
    ///
    /// The age of the last heartbeat.
    pub fn live(&self) -> Result<(), String> {
        let (stage, at) = self.read();
        let age = self.clock.now().duration_since(at);
        let age = Duration::try_from(age).unwrap_or_default();
        if stage != Stage::Idle && age > HEARTBEAT_LIMIT {
            return Err(format!("no heartbeat of the loop for {} s", age.as_secs()));
        }
        Ok(())
    }

    /// Whether the controller reconciles or stands by.
    ///
    /// # Errors
    ///
    /// The problem, in words.
    pub fn ready(&self) -> Result<(), String> {
        match self.read().0 {
            Stage::Idle => Err("the controller is not running".to_owned()),
            Stage::Syncing => Err("waiting for the first lists of caches and nodes".to_owned()),
            Stage::Standby | Stage::Leading => self.live(),
        }
    }
}
