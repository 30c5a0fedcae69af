//! Simulations of the real program. `docs/testing.md` has what they promise, and how to run more of them.

use std::time::Duration;

use fledged_tests::simulation::{IdleCluster, Scenario, run, run_idle};

/// Seeds that every run of the tests simulates; the third has Jobs in place of agents. The program `simulate` takes any number.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=4;

#[test]
fn invariants_hold_under_random_faults() {
    for seed in SEEDS {
        let outcome = run(&Scenario::new(seed), false);
        let replay = format!("cargo run -p fledged-tests --bin simulate -- --seed {seed} --trace");
        assert!(!outcome.has_failed(), "{:?}\n{replay}", outcome.violations);
        assert!(outcome.convergence.is_some());
        assert!(outcome.steps > 100, "{}", outcome.steps);
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
