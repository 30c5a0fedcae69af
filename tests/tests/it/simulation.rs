//! Simulations of the real program. `docs/testing.md` has what they promise, and how to run more of them.

use fledged_tests::simulation::{Scenario, run};

/// Seeds that every run of the tests simulates. The program `simulate` takes any number.
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
    let scenario = Scenario::new(1);
    assert_eq!(scenario, Scenario::new(1));
    assert_ne!(scenario.moves, Scenario::new(2).moves);
    let (first, second) = (run(&scenario, false), run(&scenario, false));
    assert_eq!((first.steps, first.hash), (second.steps, second.hash));
    let other = run(&scenario.with_only(&[0]), false);
    assert_ne!(first.hash, other.hash);
}
