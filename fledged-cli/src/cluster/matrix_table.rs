//! A matrix for people: every node of a small cluster, what matters of a large one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use console::Style;
use jiff::Timestamp;

use super::age::{age, span};
use super::matrix::{Cell, Matrix, NodeRow};
use super::overview::style_of;
use super::record::State;
use crate::output::{Align, Table, pluralised};
use crate::printable::on_one_line;

/// Texts of failures that are told below a matrix, which keeps it within a screen.
const FAILURES_MAX: usize = 20;

/// The whole of it, with at most `max_nodes` nodes one by one.
pub(crate) fn text(matrix: &Matrix, max_nodes: usize, now: Timestamp) -> String {
    let mut text = headline(matrix, now);
    if matrix.nodes.is_empty() {
        text.push_str("\nno node is meant by it\n");
        return text;
    }
    text.push('\n');
    let digits = matrix.images.len().to_string().len();
    for (at, image) in matrix.images.iter().enumerate() {
        let _ = writeln!(text, "  {:>digits$}  {}", at + 1, on_one_line(image));
    }
    text.push('\n');
    text.push_str(&table(matrix, max_nodes, now));
    text.push('\n');
    text.push_str(&legend(matrix));
    text.push_str(&failures(matrix, now));
    text
}

fn headline(matrix: &Matrix, now: Timestamp) -> String {
    let cache = &matrix.image_cache;
    let word = cache.word();
    let status = style_of(word).apply_to(word);
    let mut line = format!("ImageCache {}/{}: ", cache.namespace, cache.name);
    match (cache.taken_up, &cache.action) {
        (true, Some(action)) => {
            let ended = cache.completion_time;
            let _ = match (ended, cache.start_time) {
                (Some(at), _) => write!(line, "{action} {status} {} ago", age(at, now)),
                (None, Some(at)) => write!(line, "{action} {status} for {}", age(at, now)),
                (None, None) => write!(line, "{action} {status}"),
            };
        }
        (false, Some(action)) => {
            let _ = write!(
                line,
                "{status}: no controller has looked at its newest spec; before, {action}"
            );
        }
        (_, None) => {
            let _ = write!(line, "{status}: no controller has looked at it");
        }
    }
    if let Some(message) = &cache.message {
        let _ = write!(line, ": {}", on_one_line(message));
    }
    line.push('\n');
    line
}

/// What is the same of nodes that share a row: the state of each column, and why.
type Alike = (Vec<Option<State>>, String);

fn table(matrix: &Matrix, max_nodes: usize, now: Timestamp) -> String {
    let numbers: Vec<String> = (1..=matrix.images.len()).map(|n| n.to_string()).collect();
    let mut columns = vec![("NODE", Align::Left)];
    columns.extend(numbers.iter().map(|n| (n.as_str(), Align::Left)));
    columns.push(("WHY", Align::Left));
    let mut table = Table::new(&columns);
    let mut rest: BTreeMap<Alike, usize> = BTreeMap::new();
    let mut alike: BTreeMap<Alike, usize> = BTreeMap::new();
    let mut shown: Vec<&NodeRow> = Vec::new();
    if matrix.nodes.len() <= max_nodes {
        shown.extend(&matrix.nodes);
    } else {
        let (quiet, mut troubled): (Vec<&NodeRow>, Vec<&NodeRow>) =
            matrix.nodes.iter().partition(|node| is_quiet(node));
        troubled.sort_by_key(|node| (worst(node), &node.name));
        let told = troubled.len().min(max_nodes);
        for node in troubled.split_off(told) {
            let (states, _) = shape(matrix, node, now);
            *rest.entry((states, String::new())).or_default() += 1;
        }
        shown = troubled;
        for node in quiet {
            *alike.entry(shape(matrix, node, now)).or_default() += 1;
        }
    }
    for node in shown {
        add(&mut table, node.name.clone(), shape(matrix, node, now));
    }
    let mut counted = |groups: BTreeMap<Alike, usize>, more: &str| {
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        for (alike, count) in groups {
            let nodes = pluralised(count, &format!("{more}node"));
            add(&mut table, nodes, alike);
        }
    };
    counted(rest, "more ");
    counted(alike, "");
    table.render()
}

fn add(table: &mut Table, name: String, (states, why): Alike) {
    let mut cells = vec![(name, Style::new())];
    for state in states {
        cells.push(match state {
            Some(state) => (symbol(state).to_owned(), style(state)),
            None => (".".to_owned(), Style::new().dim()),
        });
    }
    cells.push((why, Style::new()));
    table.styled_row(cells);
}

/// Whether nothing about it is worth a row of its own.
fn is_quiet(node: &NodeRow) -> bool {
    let quiet = [State::Cached, State::Waiting, State::Removed, State::InUse];
    node.images.iter().all(|cell| quiet.contains(&cell.state))
}

fn worst(node: &NodeRow) -> Option<State> {
    node.images.iter().map(|cell| cell.state).min()
}

fn shape(matrix: &Matrix, node: &NodeRow, now: Timestamp) -> Alike {
    let mut states = vec![None; matrix.images.len()];
    for cell in &node.images {
        if let Some(state) = states.get_mut(cell.column) {
            *state = Some(cell.state);
        }
    }
    (states, why(node, now))
}

fn why(node: &NodeRow, now: Timestamp) -> String {
    if let Some(word) = node.unreachable {
        return match node.unreachable_since {
            Some(since) => format!("{word} for {}", age(since, now)),
            None => word.to_owned(),
        };
    }
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for cell in node.images.iter().filter(|cell| is_told(cell)) {
        let reason = cell.reason.as_deref().unwrap_or("Unknown");
        let columns = reasons.entry(reason).or_default();
        columns.push((cell.column + 1).to_string());
    }
    let reasons = reasons.into_iter();
    let reasons = reasons.map(|(reason, columns)| format!("{} {reason}", columns.join(",")));
    reasons.collect::<Vec<_>>().join("; ")
}

/// Whether the reason of its state is told.
fn is_told(cell: &Cell) -> bool {
    matches!(cell.state, State::Failed | State::BackingOff | State::InUse)
}

fn legend(matrix: &Matrix) -> String {
    let cells = matrix.nodes.iter().flat_map(|node| &node.images);
    let states: BTreeSet<State> = cells.map(|cell| cell.state).collect();
    let words = |state: State| match state {
        State::Failed => "failed",
        State::Unreachable => "unreachable",
        State::BackingOff => "failing, tried again",
        State::Pulling => "pulling",
        State::Removing => "being removed",
        State::Waiting => "waiting",
        State::InUse => "kept, in use",
        State::Removed => "removed",
        State::Cached => "cached",
    };
    let states = states.into_iter().rev();
    let known = states.map(|state| format!("{} {}", symbol(state), words(state)));
    let mut known: Vec<String> = known.collect();
    let all = matrix.images.len();
    if matrix.nodes.iter().any(|node| node.images.len() < all) {
        known.push(". not for that node".to_owned());
    }
    format!("{}\n", known.join(", "))
}

/// Each text once, with the nodes that gave it.
fn failures(matrix: &Matrix, now: Timestamp) -> String {
    type Told<'a> = (usize, &'a str, &'a str);
    let mut told: BTreeMap<Told<'_>, Vec<(&NodeRow, &Cell)>> = BTreeMap::new();
    for node in &matrix.nodes {
        for cell in node.images.iter().filter(|cell| is_told(cell)) {
            let reason = cell.reason.as_deref().unwrap_or("Unknown");
            let message = cell.message.as_deref().unwrap_or_default();
            let key = (cell.column + 1, reason, message);
            told.entry(key).or_default().push((node, cell));
        }
    }
    let mut text = String::new();
    for ((column, reason, message), nodes) in told.iter().take(FAILURES_MAX) {
        let Some((first, cell)) = nodes.first() else {
            continue;
        };
        let on = match nodes.len() {
            1 => first.name.clone(),
            count => format!("{}, {} for instance", pluralised(count, "node"), first.name),
        };
        let _ = write!(text, "{column} on {on}: {reason}");
        if !message.is_empty() {
            let _ = write!(text, ": {}", on_one_line(message));
        }
        if let (1, Some(next)) = (nodes.len(), cell.next_attempt) {
            let attempts = pluralised(cell.attempts.unwrap_or(1) as usize, "attempt");
            let left = span(next.as_second().saturating_sub(now.as_second()));
            let _ = write!(text, " ({attempts}, the next in {left})");
        }
        text.push('\n');
    }
    if let Some(more) = told
        .len()
        .checked_sub(FAILURES_MAX)
        .filter(|more| *more > 0)
    {
        let _ = writeln!(text, "and {}", pluralised(more, "other text"));
    }
    text
}

fn symbol(state: State) -> &'static str {
    match state {
        State::Failed => "F",
        State::Unreachable => "U",
        State::BackingOff => "B",
        State::Pulling => "P",
        State::Removing => "R",
        State::Waiting => "W",
        State::InUse => "K",
        State::Removed => "-",
        State::Cached => "C",
    }
}

fn style(state: State) -> Style {
    match state {
        State::Failed => Style::new().red().bold(),
        State::Unreachable | State::BackingOff => Style::new().red(),
        State::Pulling | State::Removing | State::Waiting | State::InUse => Style::new().yellow(),
        State::Removed => Style::new().dim(),
        State::Cached => Style::new().green(),
    }
}

#[cfg(test)]
#[path = "matrix_tests.rs"]
mod tests;
