//! Shrinks a failing scenario: drops moves while it fails in the same way.

use super::ledger::Violation;
use super::moves::Scenario;
use super::run::run_with_bug;

/// The numbers of the moves of a smaller list with which the same invariant is broken. `bug` is the planted one.
///
/// It drops ever smaller parts of the list (delta debugging), until none can be dropped or `attempts` runs are made.
#[must_use]
pub fn shrink(
    scenario: &Scenario,
    bug: Option<&'static str>,
    violation: &Violation,
    attempts: usize,
) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..scenario.moves.len()).collect();
    let mut attempts = attempts;
    let mut part = kept.len().div_ceil(2);
    while part > 0 {
        let mut dropped = false;
        let mut from = 0;
        while from < kept.len() {
            if attempts == 0 {
                return kept;
            }
            attempts -= 1;
            let end = (from + part).min(kept.len());
            let rest: Vec<usize> = [&kept[..from], &kept[end..]].concat();
            let outcome = run_with_bug(&scenario.with_only(&rest), bug, false);
            let mut found = outcome.violations.iter();
            if found.any(|other| other.invariant == violation.invariant) {
                kept = rest;
                dropped = true;
            } else {
                from = end;
            }
        }
        if part == 1 && !dropped {
            break;
        }
        part = match part {
            1 => 1,
            part => part.div_ceil(2),
        };
    }
    kept
}
