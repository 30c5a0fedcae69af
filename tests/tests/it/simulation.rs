//! Simulations of the real program. `docs/testing.md` has what they promise, and how to run more of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use fledged_tests::simulation::{IdleCluster, PLANTED_BUGS, Scenario, run, run_idle, run_with_bug};

/// Seeds that every run of the tests simulates at least; the third has Jobs in place of agents.
const SEEDS: u64 = 4;
/// How long the tests simulate more seeds. The program `simulate` takes any number.
const BUDGET: Duration = Duration::from_secs(120);

#[test]
fn invariants_hold_under_random_faults() {
    let began = Instant::now();
    let seeds = (1..).take_while(|seed| *seed <= SEEDS || began.elapsed() < BUDGET);
    for seed in seeds {
        let scenario = Scenario::new(seed);
        let outcome = run(&scenario, false);
        let replay = format!("cargo run -p fledged-tests --bin simulate -- --seed {seed} --trace");
        assert!(!outcome.has_failed(), "{:?}\n{replay}", outcome.violations);
        assert!(outcome.convergence.is_some());
        assert!(outcome.steps > 100, "{}", outcome.steps);
        let moves: u64 = outcome.moves.values().sum();
        assert_eq!(moves, scenario.moves.len() as u64, "{:?}", outcome.moves);
    }
}

#[test]
fn a_seed_gives_the_same_history_each_time() {
    for seed in [1, 3] {
        let scenario = Scenario::new(seed);
        assert_eq!(scenario, Scenario::new(seed));
        assert_ne!(scenario.moves, Scenario::new(2).moves);
        assert_eq!(scenario.setup.jobs.is_some(), seed == 3);
        let (first, second) = (run(&scenario, false), run(&scenario, false));
        assert_eq!((first.steps, first.hash), (second.steps, second.hash));
        let other = run(&scenario.with_only(&[0]), false);
        assert_ne!(first.hash, other.hash);
    }
}

/// How long the tests of each change simulate an idle cluster.
const HALF_AN_HOUR: Duration = Duration::from_secs(1_800);

#[test]
fn an_idle_cluster_writes_only_its_lease() {
    let quiet = IdleCluster::new(HALF_AN_HOUR);
    for cluster in [quiet, quiet.with_refreshes(false)] {
        let outcome = run_idle(&cluster, false);
        assert_eq!(outcome.violations, []);
        assert_eq!(outcome.writes, [].into());
        // Leases are renewed, and watches begin again.
        assert!(outcome.steps > 500, "{}", outcome.steps);
        // An edit afterwards takes effect.
        let orders = outcome.writes_of_edit.get("nodeimagecaches");
        assert!(orders.is_some_and(|orders| *orders >= 1), "{outcome:?}");
    }
}

#[test]
fn refreshes_write_within_their_limit() {
    let outcome = run_idle(&IdleCluster::new(HALF_AN_HOUR).with_refreshes(true), false);
    assert_eq!(outcome.violations, []);
    let writes: u64 = outcome.writes.values().sum();
    assert!((1..=outcome.allowed).contains(&writes), "{outcome:?}");
}

#[test]
fn seeds_find_the_planted_bugs() {
    let pinned = PLANTED_BUGS
        .iter()
        .filter_map(|bug| Some((bug, bug.found?)));
    for (bug, (seed, invariant)) in pinned {
        let outcome = run_with_bug(&Scenario::new(seed), Some(bug.name), false);
        let broken = outcome.violations.first().map(|found| found.invariant);
        assert_eq!(broken, Some(invariant), "{}", bug.name);
    }
}

#[test]
fn seeds_of_planted_bugs_find_nothing_without_them() {
    let pinned = PLANTED_BUGS.iter().filter_map(|bug| bug.found);
    let pinned: BTreeSet<u64> = pinned.map(|(seed, _)| seed).collect();
    // The others are simulated above.
    for seed in pinned.into_iter().filter(|seed| *seed > SEEDS) {
        let outcome = run(&Scenario::new(seed), false);
        assert!(!outcome.has_failed(), "{seed}: {:?}", outcome.violations);
    }
}

#[test]
fn planted_bugs_and_their_marks_agree() {
    let mut marks = Vec::new();
    for part in ["core", "kube", "operator"] {
        let root = env!("CARGO_MANIFEST_DIR");
        marks_below(
            &Path::new(root).join(format!("../fledged-{part}/src")),
            &mut marks,
        );
    }
    let mut bugs: Vec<_> = PLANTED_BUGS.iter().map(|bug| bug.name.to_owned()).collect();
    marks.sort();
    bugs.sort();
    assert_eq!(marks, bugs);
}

/// Adds the names of the bugs that source files below a folder can plant.
fn marks_below(folder: &Path, marks: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            marks_below(&path, marks);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let calls = text.split("planted::is(").skip(1);
        marks.extend(calls.map(|call| call.split('"').nth(1).unwrap().to_owned()));
    }
}
