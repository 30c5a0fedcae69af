//! What probes are told.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fledged_core::port::Clock;
use jiff::Timestamp;

/// How often the loop shows that it goes on.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);
/// A loop that was not seen for that long hangs: a plan of the largest cluster takes well under a
/// second.
const SILENCE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It was not run yet, or has ended.
    Idle,
    /// Somebody else leads.
    Standby,
    /// It leads, and has not heard of everything yet.
    Syncing,
    /// It acts.
    Leading,
}

/// How a [`Controller`](super::Controller) fares.
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

    /// Whether it goes on.
    ///
    /// # Errors
    ///
    /// Since when it hangs.
    pub fn live(&self) -> Result<(), String> {
        let (stage, at) = self.read();
        let silent = self.clock.now().duration_since(at);
        let silent = Duration::try_from(silent).unwrap_or_default();
        if stage != Stage::Idle && silent > SILENCE_MAX {
            return Err(format!("the loop hangs since {} s", silent.as_secs()));
        }
        Ok(())
    }

    /// Whether it does what it is there for: acting, or standing by.
    ///
    /// # Errors
    ///
    /// What it waits for.
    pub fn ready(&self) -> Result<(), String> {
        match self.read().0 {
            Stage::Idle => Err("the controller does not run".to_owned()),
            Stage::Syncing => Err("waiting for the lists of caches and nodes".to_owned()),
            Stage::Standby | Stage::Leading => self.live(),
        }
    }
}
