//! Simulates the real program from seeds, and prints figures.
//!
//! ```console
//! cargo run -p fledged-tests --bin simulate -- --seeds 200
//! cargo run -p fledged-tests --bin simulate -- --seed 42 --moves 0,3,8 --trace
//! cargo run -p fledged-tests --bin simulate -- --idle-hours 24
//! cargo run -p fledged-tests --bin simulate -- --planted-bugs
//! ```

mod args;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fledged_tests::arguments::CheckedArgs;
use fledged_tests::simulation::{
    IdleCluster, Outcome, PLANTED_BUGS, PlantedBug, RolloutWrites, Scenario, run, run_idle,
    run_with_bug, shrink,
};

use crate::args::{Args, Numbers};

fn main() -> ExitCode {
    let args = Args::from_command_line();
    match (args.idle_hours, args.seed) {
        (Some(hours), _) => idle(hours),
        (None, Some(seed)) => one(seed, &args),
        (None, None) if args.planted_bugs => find_bugs(&args),
        (None, None) => many(&args),
    }
}

/// Simulates idle clusters and prints what they write.
fn idle(hours: u32) -> ExitCode {
    let quiet = IdleCluster::new(Duration::from_secs(3600) * hours);
    let clusters = [
        ("mutable tags, no refreshes", quiet),
        ("refreshes, no mutable tags", quiet.with_refreshes(false)),
        ("mutable tags and refreshes", quiet.with_refreshes(true)),
    ];
    let mut code = ExitCode::SUCCESS;
    for (name, cluster) in clusters {
        let began = Instant::now();
        let outcome = run_idle(&cluster, false);
        let writes: u64 = outcome.writes.values().sum();
        println!(
            "{name}: {} nodes, {hours} simulated hours, {} steps in {:.1} s: {writes} writes but the Lease, at most {}",
            cluster.nodes,
            outcome.steps,
            began.elapsed().as_secs_f64(),
            outcome.allowed,
        );
        for (resource, count) in &outcome.writes {
            println!("  {count:>9}  {resource}");
        }
        for violation in &outcome.violations {
            println!("BROKEN: {}: {}", violation.invariant, violation.found);
            code = ExitCode::FAILURE;
        }
    }
    code
}

/// Tries seeds for each planted bug until an invariant breaks, and prints which.
fn find_bugs(args: &Args) -> ExitCode {
    // A bug may make a process panic, which is one of the invariants.
    std::panic::set_hook(Box::new(|_| {}));
    let bugs: Vec<&PlantedBug> = match args.bugs.is_empty() {
        true => PLANTED_BUGS.iter().collect(),
        false => args.bugs.clone(),
    };
    let all = bugs.len() as u64;
    let next = Mutex::new(bugs.into_iter());
    let missed = AtomicU64::new(0);
    println!(
        "{:<32} {:<16} {:>5} {:>7}  invariant",
        "bug", "area", "seed", "steps"
    );
    std::thread::scope(|scope| {
        for _ in 0..args.threads {
            scope.spawn(|| {
                loop {
                    let Some(bug) = lock(&next).next() else {
                        return;
                    };
                    if !find_bug(bug, args) {
                        missed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let missed = missed.into_inner();
    println!("{} of {all} found", all - missed);
    match missed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Tries seeds until one finds the bug, and prints a line of the table.
fn find_bug(bug: &PlantedBug, args: &Args) -> bool {
    for seed in args.seeds() {
        let scenario = Scenario::new(seed);
        let outcome = run_with_bug(&scenario, Some(bug.name), false);
        let Some(violation) = outcome.violations.first() else {
            continue;
        };
        let mut line = format!(
            "{:<32} {:<16} {seed:>5} {:>7}  {}",
            bug.name, bug.area, outcome.steps, violation.invariant
        );
        if let Some(attempts) = args.shrink {
            let kept = shrink(&scenario, Some(bug.name), violation, attempts);
            line.push_str(&format!(", with moves {kept:?}"));
        }
        println!("{line}");
        return true;
    }
    let (name, area) = (bug.name, bug.area);
    println!("{name:<32} {area:<16}     -       -  not found");
    false
}

/// Simulates one seed and prints its moves and its end.
fn one(seed: u64, args: &Args) -> ExitCode {
    let whole = Scenario::new(seed);
    let all = whole.moves.len();
    let numbers = match &args.moves {
        Some(Numbers(numbers)) => numbers.clone(),
        None => (0..all).collect(),
    };
    if let Some(unknown) = numbers.iter().find(|number| **number >= all) {
        eprintln!(
            "--moves: seed {seed} has no move {unknown}, only 0 to {}",
            all.saturating_sub(1)
        );
        return ExitCode::from(2);
    }
    let scenario = whole.with_only(&numbers);
    println!("seed {seed}: {:?}", scenario.setup);
    for (number, timed) in numbers.iter().zip(&scenario.moves) {
        println!(
            "  {number:>3} {:>9.3} {:?}",
            timed.at.as_secs_f64(),
            timed.act
        );
    }
    let bug = args.bugs.first();
    if let Some(bug) = bug {
        println!("planted: {}: {}", bug.name, bug.what);
    }
    let outcome = run_with_bug(&scenario, bug.map(|bug| bug.name), args.trace);
    if outcome.has_failed() && !args.trace {
        outcome.tail.iter().for_each(|step| println!("  {step}"));
    }
    print(&outcome);
    match outcome.has_failed() {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

fn print(outcome: &Outcome) {
    let convergence = match outcome.convergence {
        Some(after) => format!("converged after {} s", after.as_secs()),
        None => "did not converge".to_owned(),
    };
    println!(
        "{} steps, hash {:016x}, {:.1} simulated hours, {convergence}",
        outcome.steps,
        outcome.hash,
        outcome.simulated.as_secs_f64() / 3600.0,
    );
    for violation in &outcome.violations {
        let (at, invariant) = (violation.at.as_secs_f64(), violation.invariant);
        println!("BROKEN at {at:.3}: {invariant}: {}", violation.found);
    }
}

/// Numbers by kind.
type Counts = BTreeMap<&'static str, u64>;

#[derive(Default)]
struct Figures {
    seeds: u64,
    steps: u64,
    simulated: Duration,
    moves: Counts,
    /// Faults that requests and watches met.
    faults: Counts,
    convergences: Vec<(Duration, u64)>,
    rollouts: Vec<RolloutWrites>,
    failed: BTreeMap<u64, Outcome>,
    /// How many minutes have been reported.
    minutes: u64,
}

fn many(args: &Args) -> ExitCode {
    let began = Instant::now();
    let next = Mutex::new(args.seeds());
    let figures = Mutex::new(Figures::default());
    std::thread::scope(|scope| {
        for _ in 0..args.threads {
            scope.spawn(|| {
                loop {
                    let late = args.budget.is_some_and(|s| began.elapsed().as_secs() >= s);
                    let failed = !lock(&figures).failed.is_empty();
                    if late || (failed && !args.keep_going) {
                        return;
                    }
                    let Some(seed) = lock(&next).next() else {
                        return;
                    };
                    let outcome = run(&Scenario::new(seed), false);
                    let mut figures = lock(&figures);
                    figures.add(seed, outcome);
                    figures.report(began.elapsed());
                }
            });
        }
    });
    let figures = figures.into_inner().unwrap_or_else(PoisonError::into_inner);
    figures.print(began.elapsed());
    let asked = args.seeds();
    let all = asked.end - asked.start;
    if figures.seeds < all {
        println!("ended early, after {} of {all} seeds", figures.seeds);
    }
    let failed = figures.failed.iter();
    let failed = failed.filter_map(|(seed, outcome)| Some((seed, outcome.violations.first()?)));
    for (seed, violation) in failed.clone() {
        println!(
            "seed {seed}: BROKEN: {}: {}",
            violation.invariant, violation.found
        );
    }
    let Some((seed, violation)) = failed.clone().next() else {
        return ExitCode::SUCCESS;
    };
    let kept = shrink(
        &Scenario::new(*seed),
        None,
        violation,
        args.shrink.unwrap_or(150),
    );
    let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
    println!("replay it, with {} of its moves, with:", kept.len());
    println!(
        "cargo run -p fledged-tests --bin simulate -- --seed {seed} --moves={} --trace",
        kept.join(",")
    );
    ExitCode::FAILURE
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Figures {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.steps += outcome.steps;
        self.simulated += outcome.simulated;
        add(&mut self.moves, &outcome.moves);
        add(&mut self.faults, &outcome.faults);
        let converged = outcome.convergence.map(|after| (after, seed));
        self.convergences.extend(converged);
        self.rollouts.extend(outcome.rollout);
        if outcome.has_failed() {
            self.failed.insert(seed, outcome);
        }
    }

    /// Prints once a minute how far it is.
    fn report(&mut self, took: Duration) {
        let minutes = took.as_secs() / 60;
        if minutes > self.minutes {
            self.minutes = minutes;
            let (seeds, failed) = (self.seeds, self.failed.len());
            eprintln!("{minutes} min: {seeds} seeds, {failed} failed");
        }
    }

    fn print(&self, took: Duration) {
        let mut convergences = self.convergences.clone();
        convergences.sort_unstable();
        println!("seeds             {}", self.seeds);
        println!("failed seeds      {}", self.failed.len());
        println!("steps             {}", self.steps);
        println!(
            "simulated hours   {:.1}",
            self.simulated.as_secs_f64() / 3600.0
        );
        println!("wall time         {:.1} s", took.as_secs_f64());
        if let (Some(median), Some((worst, seed))) = (
            convergences.get(convergences.len() / 2),
            convergences.last(),
        ) {
            let (median, worst) = (median.0.as_secs(), worst.as_secs());
            println!("convergence       median {median} s, worst {worst} s (seed {seed})");
        }
        let most = |of: fn(&RolloutWrites) -> u64| self.rollouts.iter().map(of).max().unwrap_or(0);
        if !self.rollouts.is_empty() {
            println!(
                "rollouts          {}, at most {} specs and {} reports of a node, {} statuses for each node",
                self.rollouts.len(),
                most(|writes| writes.specs),
                most(|writes| writes.reports),
                most(|writes| writes.statuses),
            );
        }
        print_counts("moves", &self.moves);
        print_counts("faults met", &self.faults);
    }
}

fn add(sums: &mut Counts, counts: &Counts) {
    for (kind, count) in counts {
        *sums.entry(kind).or_default() += count;
    }
}

/// Prints the sum of the counts, then each of them.
fn print_counts(title: &str, counts: &Counts) {
    println!("{title:<17} {}", counts.values().sum::<u64>());
    for (kind, count) in counts {
        println!("  {count:>9}  {kind}");
    }
}
