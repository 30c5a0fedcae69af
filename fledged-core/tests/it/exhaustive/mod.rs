//! Every interleaving of a bounded number of steps, for two nodes, two images and two caches.
//!
//! The states are searched breadth first, each once. Every rule is checked at every step. From every state, everything
//! converges once faults end; of the states after the last step, only the rules are checked.

mod key;
mod model;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use self::key::key;
use self::model::{Checked, Model, Step};

/// Time within which everything converges after the last fault: the longest back-off of a registry's failure, and
/// a round of readings.
const CONVERGENCE: Duration = Duration::from_secs(90 * 60);

#[derive(Debug, Default)]
struct Figures {
    states: usize,
    transitions: usize,
    converged: usize,
    slowest: Duration,
}

struct Search {
    seen: HashSet<u64>,
    /// States without faults from which everything converges.
    converges: HashSet<u64>,
    figures: Figures,
}

type State = (Model, Vec<Step>);

impl Search {
    fn new() -> Self {
        Self {
            seen: HashSet::new(),
            converges: HashSet::new(),
            figures: Figures::default(),
        }
    }

    /// All states up to that number of steps.
    fn run(&mut self, from: Model, steps: usize) {
        self.seen.insert(key(&from));
        let mut level = vec![(from, Vec::new())];
        for left in (0..steps).rev() {
            let mut next = Vec::new();
            for (model, path) in &level {
                for step in model.steps() {
                    let state = self.step(model, path, step);
                    self.figures.transitions += 1;
                    if left > 0 && self.seen.insert(key(&state.0)) {
                        self.converge(&state);
                        next.push(state);
                    }
                }
            }
            level = next;
        }
        self.figures.states = self.seen.len();
    }

    fn step(&self, model: &Model, path: &[Step], step: Step) -> State {
        let mut path = path.to_vec();
        path.push(step);
        let mut next = model.clone();
        if let Err(broken) = next.take(step) {
            panic!("{broken}\nafter {path:?}");
        }
        (next, path)
    }

    fn converge(&mut self, (model, path): &State) {
        let mut model = model.clone();
        if let Err(broken) = self.settle(&mut model) {
            let unfinished = model.unfinished();
            panic!("{broken}: {unfinished:?}\nwithout faults after {path:?}\n{model:#?}");
        }
    }

    /// Runs without faults until everything has converged. Then nothing is written while time passes.
    fn settle(&mut self, model: &mut Model) -> Checked {
        let began = model.now;
        model.end_faults()?;
        loop {
            finish_due_steps(model)?;
            if !self.converges.insert(key(model)) {
                return Ok(());
            }
            if model.unfinished().is_none() {
                break;
            }
            model.take(Step::Wait)?;
            if model.now.duration_since(began).unsigned_abs() > CONVERGENCE {
                return Err("does not converge".to_owned());
            }
        }
        let took = model.now.duration_since(began).unsigned_abs();
        self.figures.converged += 1;
        self.figures.slowest = self.figures.slowest.max(took);
        // A status whose counts alone changed is written a second later.
        model.take(Step::Wait)?;
        finish_due_steps(model)?;
        let writes = model.writes;
        model.take(Step::Wait)?;
        finish_due_steps(model)?;
        if model.writes != writes {
            return Err("something is written while nothing changes".to_owned());
        }
        Ok(())
    }
}

/// `FLEDGED_MODEL_STEPS` sets another number of steps.
fn check(name: &str, from: Model, steps: usize) {
    let began = Instant::now();
    let mut search = Search::new();
    let given = std::env::var("FLEDGED_MODEL_STEPS").ok();
    let steps = given.map_or(steps, |steps| steps.parse().expect("a number of steps"));
    search.run(from, steps);
    let Figures {
        states,
        transitions,
        converged,
        slowest,
    } = search.figures;
    println!(
        "{name}: {steps} steps, {states} states, {transitions} transitions, {converged} ends, slowest {slowest:?}, \
         {:.1} s",
        began.elapsed().as_secs_f64()
    );
    assert!(states > steps, "{states} states");
}

#[test]
fn every_interleaving_from_an_empty_cluster() {
    check("empty cluster", Model::new(), 4);
}

#[test]
fn every_interleaving_from_a_converged_cluster() {
    let mut model = Model::new();
    for (cache, images) in [(0, &[0, 1][..]), (1, &[1])] {
        model.take(Step::Apply(cache, images)).unwrap();
    }
    Search::new().settle(&mut model).unwrap();
    check("converged cluster", model, 3);
}

fn finish_due_steps(model: &mut Model) -> Checked {
    for _ in 0..100 {
        let Some(step) = model.due_steps().first().copied() else {
            return Ok(());
        };
        model.take(step)?;
    }
    Err("does not come to rest".to_owned())
}
