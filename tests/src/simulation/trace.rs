//! What happened in a simulation: a hash of every step, counts of moves and faults, and the last steps as text.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The number of steps that are kept as text.
const TAIL: usize = 300;

/// The trace of one simulation. Clones write to the same trace.
#[derive(Clone)]
pub(super) struct Trace {
    origin: Instant,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    hasher: DefaultHasher,
    steps: u64,
    moves: BTreeMap<&'static str, u64>,
    faults: BTreeMap<&'static str, u64>,
    tail: VecDeque<String>,
    printed: bool,
}

impl Trace {
    /// An empty trace that starts now. `printed`: each step is also printed to stderr.
    pub(super) fn new(printed: bool) -> Self {
        let state = State {
            printed,
            ..State::default()
        };
        Self {
            origin: Instant::now(),
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// The start of the simulation.
    pub(super) fn origin(&self) -> Instant {
        self.origin
    }

    /// The simulated time since the start.
    pub(super) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Adds a step.
    pub(super) fn step(&self, text: fmt::Arguments<'_>) {
        let line = format!("{:>9.3} {text}", self.now().as_secs_f64());
        let mut state = self.state();
        state.hasher.write(line.as_bytes());
        state.steps += 1;
        if state.printed {
            eprintln!("{line}");
        }
        if state.tail.len() == TAIL {
            state.tail.pop_front();
        }
        state.tail.push_back(line);
    }

    /// Counts a move of this kind.
    pub(super) fn moved(&self, kind: &'static str) {
        *self.state().moves.entry(kind).or_default() += 1;
    }

    /// Counts a fault of this kind that a request or a watch met.
    pub(super) fn fault(&self, kind: &'static str) {
        *self.state().faults.entry(kind).or_default() += 1;
    }

    /// The number of steps, and their hash. Equal hashes mean equal histories.
    pub(super) fn sum(&self) -> (u64, u64) {
        let state = self.state();
        (state.steps, state.hasher.finish())
    }

    /// The counts of moves.
    pub(super) fn moves(&self) -> BTreeMap<&'static str, u64> {
        self.state().moves.clone()
    }

    /// The counts of faults that requests and watches met.
    pub(super) fn faults(&self) -> BTreeMap<&'static str, u64> {
        self.state().faults.clone()
    }

    /// The last steps.
    pub(super) fn tail(&self) -> Vec<String> {
        self.state().tail.iter().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
