//! The identity of a state: its text without what decides nothing, and with times relative to now.

use std::fmt::Write;
use std::hash::{DefaultHasher, Hasher};

use jiff::Timestamp;

use super::model::Model;

/// The beginning of every time of the model, and of every revision, which is a time in milliseconds.
const TIMES: [&str; 2] = ["2026-01-", "17672"];
/// Parts that decide nothing, or that follow from others: the first text of each, and the text after it.
const SKIPPED: [(&str, &str); 4] = [
    // Copies of equal values, and results that are computed again.
    ("interner: ", "slots: "),
    // The same in every state.
    ("config: ", "rng: "),
    // Without jitter, the numbers that are drawn decide nothing that the rules are about.
    ("rng: ", ", "),
    // Every write is acknowledged at once.
    ("ticket: ", "invalidated: "),
];

/// The hash of the normalised state.
pub(super) fn key(model: &Model) -> u64 {
    let mut text = String::with_capacity(64 * 1024);
    let mut debug = |value: &dyn std::fmt::Debug| write!(text, "{value:?}").unwrap();
    debug(&model.planner);
    debug(&model.caches);
    debug(&model.records);
    debug(&model.machines);
    let mut hasher = DefaultHasher::new();
    let mut parts: Vec<(usize, usize, i128)> = Vec::new();
    for (begin, end) in SKIPPED {
        for (at, _) in text.match_indices(begin) {
            let length = text[at..].find(end).unwrap();
            parts.push((at, length, 0));
        }
    }
    for begin in TIMES {
        for (at, _) in text.match_indices(begin) {
            parts.extend(time(&text[at..], model.now).map(|(length, offset)| (at, length, offset)));
        }
    }
    parts.sort_unstable();
    let mut hashed = 0;
    for (at, length, offset) in parts.into_iter().filter(|part| part.1 > 0) {
        // Parts may be within a part that is skipped.
        if at >= hashed {
            hasher.write(&text.as_bytes()[hashed..at]);
            hasher.write_i128(offset);
            hashed = at + length;
        }
    }
    hasher.write(&text.as_bytes()[hashed..]);
    hasher.finish()
}

/// The length of a time in the text, and its distance from now.
fn time(text: &str, now: Timestamp) -> Option<(usize, i128)> {
    if text.starts_with(TIMES[0]) {
        let length = text.find('Z')? + 1;
        let at: Timestamp = text[..length].parse().ok()?;
        return Some((length, at.duration_since(now).as_nanos()));
    }
    let length = text.find(|c: char| !c.is_ascii_digit())?;
    let at: i128 = text[..length].parse().ok()?;
    Some((length, at - i128::from(now.as_millisecond())))
}
