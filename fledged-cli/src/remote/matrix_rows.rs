//! The matrix of `fledged status -w` without a terminal: a row for each change of an image on a node.

use std::collections::{BTreeMap, BTreeSet};

use console::Style;
use jiff::{SignedDuration, Timestamp};

use super::matrix::{Cell, Matrix};
use super::matrix_text::{style, words};
use super::node_state::State;
use crate::output::{Align, Table, Widths};

/// Shortest time between two rows about the bytes of the same pull.
const BYTES_INTERVAL: SignedDuration = SignedDuration::from_secs(10);

/// What was printed last of an image on a node.
struct Printed {
    state: State,
    reason: Option<String>,
    bytes: Option<u64>,
    at: Timestamp,
}

/// Prints what has changed.
#[derive(Default)]
pub(super) struct MatrixRows {
    printed: BTreeMap<(String, String), Printed>,
    /// Whether the present problem was printed.
    problem: bool,
    widths: Option<Widths>,
}

impl MatrixRows {
    /// The rows of what has changed since the last call. All images at first.
    pub(super) fn changes(&mut self, matrix: &Matrix, now: Timestamp) -> String {
        let mut table = table();
        let nodes = matrix.nodes.iter();
        let cells = nodes.flat_map(|node| node.images.iter().map(move |cell| (&node.name, cell)));
        let cells: Vec<(&String, &Cell)> = cells.collect();
        for (node, cell) in &cells {
            if self.is_new(node, cell, now) {
                add(&mut table, node, cell);
            }
        }
        let problem = matrix.bytes_unavailable.as_ref();
        let mut text = String::new();
        if self.widths.is_none() {
            let widths = widths(&cells);
            text.push_str(&table.header(&widths));
            self.widths = Some(widths);
        }
        if let Some(widths) = &self.widths {
            text.push_str(&table.body(widths));
        }
        if let Some(why) = problem.filter(|_| !self.problem) {
            text.push_str(&format!("bytes of pulls are missing: {why}\n"));
        }
        self.problem = problem.is_some();
        let names = cells
            .iter()
            .map(|(node, cell)| (node.as_str(), cell.image.as_str()));
        let names: BTreeSet<(&str, &str)> = names.collect();
        self.printed
            .retain(|(node, image), _| names.contains(&(node.as_str(), image.as_str())));
        text
    }

    /// Whether there is something to print of the cell. Notes it as printed.
    fn is_new(&mut self, node: &str, cell: &Cell, now: Timestamp) -> bool {
        let bytes = cell.pull.as_ref().map(|pull| pull.done_bytes);
        let reason = cell.reason.clone();
        let key = (node.to_owned(), cell.image.clone());
        let new = self.printed.get(&key).is_none_or(|last| {
            let progressed = bytes.is_some() && bytes != last.bytes;
            let is_due = last.bytes.is_none() || now.duration_since(last.at) >= BYTES_INTERVAL;
            (last.state, &last.reason) != (cell.state, &reason) || (progressed && is_due)
        });
        if new {
            let state = cell.state;
            let at = now;
            let printed = Printed {
                state,
                reason,
                bytes,
                at,
            };
            self.printed.insert(key, printed);
        }
        new
    }
}

fn table() -> Table {
    Table::new(&[
        ("NODE", Align::Left),
        ("IMAGE", Align::Left),
        ("STATE", Align::Left),
        ("WHY", Align::Left),
        ("BYTES", Align::Left),
    ])
}

fn add(table: &mut Table, node: &str, cell: &Cell) {
    let plain = |text: String| (text, Style::new());
    table.styled_row([
        plain(node.to_owned()),
        plain(cell.image.clone()),
        (words(cell.state).to_owned(), style(cell.state)),
        plain(cell.reason.clone().unwrap_or_else(|| "-".to_owned())),
        plain(
            cell.pull
                .as_ref()
                .map_or_else(String::new, |pull| pull.text()),
        ),
    ]);
}

/// Widths for the nodes and images of the first matrix, and for the usual words.
fn widths(cells: &[(&String, &Cell)]) -> Widths {
    let mut all = table();
    for (node, cell) in cells {
        add(&mut all, node, cell);
    }
    let usual = words(State::BackingOff).to_owned();
    all.row([
        String::new(),
        String::new(),
        usual,
        "ImageNotFound".to_owned(),
        "-".to_owned(),
    ]);
    all.widths()
}

#[cfg(test)]
mod tests {
    use fledged_kube::crd::ReadCache;

    use super::*;
    use crate::remote::matrix::NodeRow;
    use crate::remote::pull_bytes::PullBytes;

    fn mk_matrix(state: State, bytes: Option<u64>) -> Matrix {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut matrix = Matrix::new(&ReadCache::default(), &[], &[], &[], now);
        let pull = bytes.map(|done| PullBytes {
            started_at: now,
            done_bytes: done,
            total_bytes: Some(100),
            bytes_per_second: None,
            seconds_left: None,
        });
        let cell = Cell {
            column: 0,
            image: "app:1".to_owned(),
            state,
            reason: None,
            message: None,
            attempts: None,
            next_attempt: None,
            digest: None,
            pull,
        };
        matrix.nodes = vec![NodeRow {
            name: "a".to_owned(),
            unreachable: None,
            unreachable_since: None,
            images: vec![cell],
        }];
        matrix
    }

    #[test]
    fn a_row_is_printed_for_each_change() {
        let mut rows = MatrixRows::default();
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut seen = |state, bytes, second| {
            let now = start + SignedDuration::from_secs(second);
            rows.changes(&mk_matrix(state, bytes), now)
        };
        assert_eq!(
            seen(State::Waiting, None, 0),
            "NODE   IMAGE   STATE               WHY             BYTES\n\
             a      app:1   waiting             -\n"
        );
        assert_eq!(seen(State::Waiting, None, 2), "");
        let pulling = "a      app:1   pulling             -               10 B of 100 B\n";
        assert_eq!(seen(State::Pulling, Some(10), 4), pulling);
        assert_eq!(seen(State::Pulling, Some(20), 6), "", "too soon");
        assert!(seen(State::Pulling, Some(30), 14).contains("30 B of 100 B"));
        assert_eq!(seen(State::Pulling, Some(30), 60), "", "no progress");
        assert!(seen(State::Cached, None, 61).contains("cached"));
        let mut matrix = mk_matrix(State::Cached, None);
        matrix.bytes_unavailable = Some("forbidden".to_owned());
        let text = "bytes of pulls are missing: forbidden\n";
        assert_eq!(rows.changes(&matrix, start), text);
        assert_eq!(rows.changes(&matrix, start), "");
    }
}
