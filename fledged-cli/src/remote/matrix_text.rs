//! The matrix of `fledged status` as text: every node of a small cluster, the problems of a large one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use console::Style;
use jiff::Timestamp;

use super::matrix::{Cell, Matrix, NodeRow};
use super::node_state::State;
use super::overview::status_style;
use crate::output::{Align, Table, age, on_one_line, pluralised, span};

/// Messages shown below the matrix, so that it fits on a screen.
const MESSAGES_MAX: usize = 20;

/// The matrix, with at most `max_nodes` nodes shown one by one.
pub(crate) fn matrix_text(matrix: &Matrix, max_nodes: usize, now: Timestamp) -> String {
    let mut text = headline(matrix, now);
    if matrix.nodes.is_empty() {
        text.push_str("\nit selects no node\n");
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
    text.push_str(&messages(matrix, now));
    text
}

fn headline(matrix: &Matrix, now: Timestamp) -> String {
    let cache = &matrix.image_cache;
    let word = cache.word();
    let status = status_style(word).apply_to(word);
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
                "{status}: no controller has processed its newest version; last action: {action}"
            );
        }
        (_, None) => {
            let _ = write!(line, "{status}: no controller has processed it");
        }
    }
    if let Some(message) = &cache.message {
        let _ = write!(line, ": {}", on_one_line(message));
    }
    line.push('\n');
    line
}

/// What nodes that share a row have in common: the state of each column, and the reasons.
type RowContent = (Vec<Option<State>>, String);

fn table(matrix: &Matrix, max_nodes: usize, now: Timestamp) -> String {
    let numbers: Vec<String> = (1..=matrix.images.len()).map(|n| n.to_string()).collect();
    let mut columns = vec![("NODE", Align::Left)];
    columns.extend(numbers.iter().map(|n| (n.as_str(), Align::Left)));
    columns.push(("WHY", Align::Left));
    let mut table = Table::new(&columns);
    let mut more: BTreeMap<RowContent, usize> = BTreeMap::new();
    let mut healthy_rows: BTreeMap<RowContent, usize> = BTreeMap::new();
    let mut shown: Vec<&NodeRow> = Vec::new();
    if matrix.nodes.len() <= max_nodes {
        shown.extend(&matrix.nodes);
    } else {
        let (healthy, mut problems): (Vec<&NodeRow>, Vec<&NodeRow>) =
            matrix.nodes.iter().partition(|node| is_healthy(node));
        problems.sort_by_key(|node| (worst(node), &node.name));
        for node in problems.split_off(problems.len().min(max_nodes)) {
            let (states, _) = row_content(matrix, node, now);
            *more.entry((states, String::new())).or_default() += 1;
        }
        shown = problems;
        for node in healthy {
            *healthy_rows
                .entry(row_content(matrix, node, now))
                .or_default() += 1;
        }
    }
    for node in shown {
        add_row(
            &mut table,
            node.name.clone(),
            row_content(matrix, node, now),
        );
    }
    let mut add_counted = |rows: BTreeMap<RowContent, usize>, more: &str| {
        let mut rows: Vec<_> = rows.into_iter().collect();
        rows.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        for (content, count) in rows {
            let nodes = pluralised(count, &format!("{more}node"));
            add_row(&mut table, nodes, content);
        }
    };
    add_counted(more, "more ");
    add_counted(healthy_rows, "");
    table.render()
}

fn add_row(table: &mut Table, name: String, (states, why): RowContent) {
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

/// Whether the node needs no row of its own.
fn is_healthy(node: &NodeRow) -> bool {
    let healthy = [State::Cached, State::Waiting, State::Removed, State::InUse];
    node.images.iter().all(|cell| healthy.contains(&cell.state))
}

fn worst(node: &NodeRow) -> Option<State> {
    node.images.iter().map(|cell| cell.state).min()
}

fn row_content(matrix: &Matrix, node: &NodeRow, now: Timestamp) -> RowContent {
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
    for cell in node.images.iter().filter(|cell| has_reason(cell)) {
        let reason = cell.reason.as_deref().unwrap_or("Unknown");
        let columns = reasons.entry(reason).or_default();
        columns.push((cell.column + 1).to_string());
    }
    reasons
        .into_iter()
        .map(|(reason, columns)| format!("{} {reason}", columns.join(",")))
        .collect::<Vec<_>>()
        .join("; ")
}

/// Whether the reason for the state is shown.
fn has_reason(cell: &Cell) -> bool {
    matches!(cell.state, State::Failed | State::BackingOff | State::InUse)
}

fn legend(matrix: &Matrix) -> String {
    let states: BTreeSet<State> = matrix
        .nodes
        .iter()
        .flat_map(|node| &node.images)
        .map(|cell| cell.state)
        .collect();
    let words = |state: State| match state {
        State::Failed => "failed",
        State::Unreachable => "unreachable",
        State::BackingOff => "failing, retrying",
        State::Pulling => "pulling",
        State::Removing => "being removed",
        State::Waiting => "waiting",
        State::InUse => "kept, in use",
        State::Removed => "removed",
        State::Cached => "cached",
    };
    let mut symbols: Vec<String> = states
        .into_iter()
        .rev()
        .map(|state| format!("{} {}", symbol(state), words(state)))
        .collect();
    let all = matrix.images.len();
    if matrix.nodes.iter().any(|node| node.images.len() < all) {
        symbols.push(". not for this node".to_owned());
    }
    format!("{}\n", symbols.join(", "))
}

/// Each message once, with the nodes that reported it.
fn messages(matrix: &Matrix, now: Timestamp) -> String {
    type Message<'a> = (usize, &'a str, &'a str);
    let mut messages: BTreeMap<Message<'_>, Vec<(&NodeRow, &Cell)>> = BTreeMap::new();
    for node in &matrix.nodes {
        for cell in node.images.iter().filter(|cell| has_reason(cell)) {
            let reason = cell.reason.as_deref().unwrap_or("Unknown");
            let message = cell.message.as_deref().unwrap_or_default();
            let key = (cell.column + 1, reason, message);
            messages.entry(key).or_default().push((node, cell));
        }
    }
    let mut text = String::new();
    for ((column, reason, message), nodes) in messages.iter().take(MESSAGES_MAX) {
        let Some((first, cell)) = nodes.first() else {
            continue;
        };
        let on = match nodes.len() {
            1 => first.name.clone(),
            count => format!("{}, for example {}", pluralised(count, "node"), first.name),
        };
        let _ = write!(text, "{column} on {on}: {reason}");
        if !message.is_empty() {
            let _ = write!(text, ": {}", on_one_line(message));
        }
        if let (1, Some(next)) = (nodes.len(), cell.next_attempt) {
            let attempts = pluralised(cell.attempts.unwrap_or(1) as usize, "attempt");
            let left = span(next.as_second().saturating_sub(now.as_second()));
            let _ = write!(text, " ({attempts}, next in {left})");
        }
        text.push('\n');
    }
    if let Some(more) = messages
        .len()
        .checked_sub(MESSAGES_MAX)
        .filter(|more| *more > 0)
    {
        let _ = writeln!(text, "and {}", pluralised(more, "other message"));
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
mod tests {
    use fledged_operator::crd::ReadCache;
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-01-01T00:10:00Z";

    fn mk_node(name: &str, ready: bool) -> Value {
        let ready = if ready { "True" } else { "Unknown" };
        let condition = json!({ "type": "Ready", "status": ready, "reason": "NodeStatusUnknown",
            "lastTransitionTime": "2026-01-01T00:07:00Z" });
        json!({ "metadata": { "name": name, "uid": name }, "status": { "conditions": [condition] } })
    }

    fn mk_record(name: &str, phases: [&str; 2]) -> Value {
        let status = |(image, phase): (&str, &str)| match phase {
            "Failed" => json!({ "image": image, "phase": phase, "reason": "ImageNotFound",
                "message": "manifest unknown", "attempts": 1, "started": "2026-01-01T00:09:00Z",
                "nextAttempt": "2026-01-01T00:10:45Z" }),
            _ => json!({ "image": image, "phase": phase }),
        };
        let images = ["registry.test/app:1", "registry.test/db:1"];
        let assigned = images.map(|image| json!({ "image": image }));
        let reported: Vec<Value> = images.into_iter().zip(phases).map(status).collect();
        json!({
            "metadata": { "name": name, "generation": 1 },
            "spec": { "images": assigned },
            "status": { "observedGeneration": 1, "images": reported },
        })
    }

    fn mk_matrix(nodes: Vec<(String, bool, [&str; 2])>) -> Matrix {
        let cache = json!({
            "metadata": { "namespace": "shop", "name": "web", "uid": "1", "generation": 1 },
            "spec": { "cacheSpec": [{ "images": ["registry.test/app:1", "registry.test/db:1"] }] },
            "status": { "status": "Failed", "reason": "ImageCacheCreate", "observedGeneration": 1,
                "message": "5 of 8 cached on 4 nodes, 1 failed", "startTime": "2026-01-01T00:00:00Z",
                "completionTime": "2026-01-01T00:09:00Z" },
        });
        let of = |value: Value| serde_json::from_value(value).unwrap();
        let cache = serde_json::from_value(cache).unwrap();
        let objects: Vec<_> = nodes
            .iter()
            .map(|(name, ready, _)| of(mk_node(name, *ready)))
            .collect();
        let records: Vec<_> = nodes
            .iter()
            .map(|(name, _, phases)| serde_json::from_value(mk_record(name, *phases)).unwrap())
            .collect();
        Matrix::new(&cache, &[], &objects, &records, NOW.parse().unwrap())
    }

    fn shown(matrix: &Matrix, max_nodes: usize) -> String {
        super::matrix_text(matrix, max_nodes, NOW.parse().unwrap())
    }

    #[test]
    fn every_node_of_a_small_cluster_is_shown() {
        let matrix = mk_matrix(vec![
            ("node-a".to_owned(), true, ["Cached", "Failed"]),
            ("node-b".to_owned(), true, ["Cached", "Cached"]),
            ("node-c".to_owned(), false, ["Cached", "Cached"]),
            ("node-d".to_owned(), true, ["Pulling", "Pending"]),
        ]);
        assert_eq!(
            shown(&matrix, 20),
            "\
ImageCache shop/web: ImageCacheCreate Failed 60s ago: 5 of 8 cached on 4 nodes, 1 failed

  1  registry.test/app:1
  2  registry.test/db:1

NODE     1   2   WHY
node-a   C   F   2 ImageNotFound
node-b   C   C
node-c   U   U   NotReady for 3m
node-d   P   W

C cached, W waiting, P pulling, U unreachable, F failed
2 on node-a: ImageNotFound: manifest unknown (1 attempt, next in 45s)
"
        );
    }

    #[test]
    fn equal_nodes_of_a_large_cluster_are_counted() {
        let mut nodes: Vec<(String, bool, [&str; 2])> = (0..480)
            .map(|n| (format!("good-{n:03}"), true, ["Cached", "Cached"]))
            .collect();
        nodes.extend((0..12).map(|n| (format!("bad-{n:02}"), true, ["Cached", "Failed"])));
        nodes.extend((0..3).map(|n| (format!("away-{n}"), false, ["Cached", "Cached"])));
        nodes.extend((0..5).map(|n| (format!("late-{n}"), true, ["Cached", "Pending"])));
        let matrix = mk_matrix(nodes);
        assert_eq!(matrix.nodes.len(), 500);
        assert_eq!(
            shown(&matrix, 3),
            "\
ImageCache shop/web: ImageCacheCreate Failed 60s ago: 5 of 8 cached on 4 nodes, 1 failed

  1  registry.test/app:1
  2  registry.test/db:1

NODE           1   2   WHY
bad-00         C   F   2 ImageNotFound
bad-01         C   F   2 ImageNotFound
bad-02         C   F   2 ImageNotFound
9 more nodes   C   F
3 more nodes   U   U
480 nodes      C   C
5 nodes        C   W

C cached, W waiting, U unreachable, F failed
2 on 12 nodes, for example bad-00: ImageNotFound: manifest unknown
"
        );
    }

    #[test]
    fn a_document_contains_every_node() {
        let matrix = mk_matrix(vec![
            ("node-a".to_owned(), true, ["Cached", "Failed"]),
            ("node-c".to_owned(), false, ["Cached", "Cached"]),
        ]);
        let document = serde_json::to_value(&matrix).unwrap();
        assert_eq!(
            document["nodes"],
            json!([
                { "name": "node-a", "unreachable": null, "unreachableSince": null, "images": [
                    { "image": "registry.test/app:1", "state": "Cached", "reason": null, "message": null,
                        "attempts": 0, "nextAttempt": null, "digest": null },
                    { "image": "registry.test/db:1", "state": "Failed", "reason": "ImageNotFound",
                        "message": "manifest unknown", "attempts": 1,
                        "nextAttempt": "2026-01-01T00:10:45Z", "digest": null },
                ] },
                { "name": "node-c", "unreachable": "NotReady", "unreachableSince": "2026-01-01T00:07:00Z",
                    "images": [
                    { "image": "registry.test/app:1", "state": "Unreachable", "reason": null,
                        "message": null, "attempts": 0, "nextAttempt": null, "digest": null },
                    { "image": "registry.test/db:1", "state": "Unreachable", "reason": null,
                        "message": null, "attempts": 0, "nextAttempt": null, "digest": null },
                ] },
            ])
        );
    }

    #[test]
    fn a_cache_without_room_on_a_node_has_failed() {
        let mk_cache = |name: &str, images: Vec<String>, failures: Value| {
            let cache = json!({
                "metadata": { "namespace": "shop", "name": name, "uid": name, "generation": 1 },
                "spec": { "cacheSpec": [{ "images": images }] },
                "status": { "status": "Processing", "reason": "ImageCacheCreate", "message": "",
                    "observedGeneration": 1, "startTime": "2026-01-01T00:00:00Z",
                    "failures": failures },
            });
            serde_json::from_value(cache).unwrap()
        };
        let many = |name: &str, count: usize| {
            let path = "x".repeat(200);
            (0..count)
                .map(|n| format!("registry.test/{name}/{path}:{n}"))
                .collect()
        };
        let node = serde_json::from_value(mk_node("node-a", true)).unwrap();
        let nodes = [node];
        let now = NOW.parse().unwrap();
        // Larger than the other ImageCache of the namespace, with which it exceeds 512 KiB.
        let large: ReadCache = mk_cache("large", many("large", 900), json!({}));
        let small: ReadCache = mk_cache("small", many("small", 800), json!({}));
        let matrix = Matrix::new(&large, &[small, large.clone()], &nodes, &[], now);
        let cell = &matrix.nodes[0].images[0];
        assert_eq!(cell.state, State::Failed);
        assert_eq!(cell.reason.as_deref(), Some("NodeRecordFull"));
        let alone = Matrix::new(&large, &[], &nodes, &[], now);
        assert_eq!(alone.nodes[0].images[0].state, State::Waiting);

        // The controller knows of less room.
        let image = "registry.test/app:1";
        let failure = json!({ "node": "node-a", "reason": "NodeRecordFull", "message": "full" });
        let failures = json!({ image: [failure] });
        let reported = mk_cache("reported", vec![image.to_owned()], failures);
        let matrix = Matrix::new(&reported, &[], &nodes, &[], now);
        let text = shown(&matrix, 20);
        let row = "node-a   F   1 NodeRecordFull\n";
        assert!(text.contains(row), "{text}");
        let message = "1 on node-a: NodeRecordFull: the record of the node has no room";
        assert!(text.contains(message), "{text}");
    }

    #[test]
    fn an_invalid_cache_shows_the_images_on_nodes() {
        let cache = json!({
            "metadata": { "namespace": "shop", "name": "web", "uid": "1", "generation": 1 },
            "spec": { "cacheSpec": [{ "images": ["UPPER:1"] }] },
        });
        let mut record = mk_record("node-a", ["Cached", "Cached"]);
        record["spec"]["caches"] = json!([{ "namespace": "shop", "name": "web", "uid": "1" }]);
        let cache = serde_json::from_value(cache).unwrap();
        let node = serde_json::from_value(mk_node("node-a", true)).unwrap();
        let record = serde_json::from_value(record).unwrap();
        let matrix = Matrix::new(&cache, &[], &[node], &[record], NOW.parse().unwrap());
        assert_eq!(matrix.images, ["registry.test/app:1", "registry.test/db:1"]);
        let states = matrix.nodes[0].images.iter().map(|cell| cell.state);
        assert!(states.eq([State::Cached, State::Cached]));
    }
}
