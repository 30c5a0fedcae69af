//! An answer for people.

use std::fmt::Write as _;

use console::Style;
use jiff::Timestamp;

use super::answer::Answer;
use crate::cluster::age::{age, span};
use crate::output::pluralised;
use crate::printable::on_one_line;

/// The answer in a sentence, then what it rests on.
pub(super) fn text(answer: &Answer, now: Timestamp) -> String {
    let (word, verb, style) = match answer.cached {
        true => ("yes", "is cached", Style::new().green().bold()),
        false => ("no", "is not cached", Style::new().red().bold()),
    };
    let sentence = format!(
        "{} {verb} on {}: {}",
        answer.image, answer.node, answer.because
    );
    let mut text = format!("{}: {}\n", style.apply_to(word), on_one_line(&sentence));
    if let Some(message) = &answer.message {
        let _ = writeln!(text, "  the runtime says: {}", on_one_line(message));
    }
    for evidence in &answer.evidence {
        let shown = format!(
            "  {} {}: {}",
            evidence.object, evidence.field, evidence.value
        );
        text.push_str(&on_one_line(&shown));
        if let Some(since) = evidence.since {
            let _ = write!(text, ", since {since} ({} ago)", age(since, now));
        }
        text.push('\n');
    }
    if let Some(attempts) = answer.attempts.filter(|attempts| *attempts > 0) {
        let _ = write!(text, "  {}", pluralised(attempts as usize, "attempt"));
        if let Some(next) = answer.next_attempt {
            let left = span(next.as_second().saturating_sub(now.as_second()));
            let _ = write!(text, ", the next at {next} (in {left})");
        }
        text.push('\n');
    }
    if let Some(advice) = &answer.advice {
        let _ = writeln!(text, "  what to do: {}", on_one_line(advice));
    }
    text
}
