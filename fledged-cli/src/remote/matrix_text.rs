//! The matrix of `fledged status` as text: every node and image of a small one, the problems of a large one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use console::{Style, Term};
use jiff::Timestamp;

use super::matrix::{Cell, Matrix, NodeRow};
use super::node_state::State;
use super::overview::status_style;
use super::pull_bytes::PullSums;
use crate::output::{Align, Table, age, on_one_line, pluralised, span};

/// Messages shown below the matrix, so that it fits on a screen.
const MESSAGES_MAX: usize = 20;
/// Running pulls that are shown one by one.
const PULLS_MAX: usize = 10;
/// Images with a column of their own; of more, equal images share one.
const IMAGES_MAX: usize = 20;
/// Rows of counted nodes.
const COUNTED_ROWS_MAX: usize = 20;
/// Numbers of columns beside a reason.
const NUMBERS_MAX: usize = 6;
/// Width without a terminal.
const DEFAULT_WIDTH: usize = 100;
/// Room for a reason beside the states.
const WHY_WIDTH: usize = 24;
/// Spaces between two columns.
const GAP: usize = 3;

/// How much of the matrix is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    /// Nodes that are shown one by one; of more, equal nodes are counted.
    pub(crate) max_nodes: usize,
    /// Longest row. `None`: every image has its own column, and every node its own row.
    pub(crate) width: Option<usize>,
}

impl Layout {
    /// As wide as that terminal.
    pub(crate) fn for_terminal(terminal: &Term, max_nodes: usize) -> Self {
        let size = terminal.size_checked();
        let width = size.map_or(DEFAULT_WIDTH, |(_, columns)| usize::from(columns));
        Self {
            max_nodes,
            width: Some(width),
        }
    }

    /// Every node and image.
    pub(crate) fn all() -> Self {
        Self {
            max_nodes: usize::MAX,
            width: None,
        }
    }
}

/// The matrix, laid out like that.
pub(crate) fn matrix_text(matrix: &Matrix, layout: Layout, now: Timestamp) -> String {
    let mut text = headline(matrix, now);
    if matrix.nodes.is_empty() {
        text.push_str(match matrix.image_cache.action.as_deref() {
            Some("CacheSpecValidationFailed") => {
                "\nits spec is invalid; images of an earlier valid spec stay on their nodes\n"
            }
            _ => "\nit selects no node\n",
        });
        return text;
    }
    text.push('\n');
    let columns = Columns::new(matrix, layout);
    text.push_str(&columns.list(matrix));
    text.push('\n');
    text.push_str(&table(matrix, &columns, layout, now));
    text.push('\n');
    text.push_str(&legend(matrix));
    text.push_str(&pulls(matrix, &columns));
    text.push_str(&messages(matrix, &columns, now));
    text
}

/// The columns of the table.
struct Columns {
    /// The images of each column, by index.
    shown: Vec<Vec<usize>>,
    /// The column of each image. `None` if there is no room for it.
    of_image: Vec<Option<usize>>,
    /// Width of the column of node names.
    name_width: usize,
}

impl Columns {
    fn new(matrix: &Matrix, layout: Layout) -> Self {
        let images = matrix.images.len();
        let widest = matrix.nodes.iter().map(|node| node.name.chars().count());
        let widest = widest.max().unwrap_or(0).max("99999 more nodes".len());
        let name_width = layout.width.map_or(widest, |width| widest.min(width / 2));
        let is_healthy = matrix.nodes.iter().all(is_healthy);
        let reserved = name_width + if is_healthy { 0 } else { GAP + WHY_WIDTH };
        let fits = |count: usize| {
            let column = count.to_string().len() + GAP;
            let width = layout.width.map(|width| width.saturating_sub(reserved));
            width.is_none_or(|width| count * column <= width)
        };
        let mut shown: Vec<Vec<usize>> = (0..images).map(|image| vec![image]).collect();
        if layout.width.is_some() && (images > IMAGES_MAX || !fits(images)) {
            shown = folded(matrix);
            while shown.len() > 1 && !fits(shown.len()) {
                shown.pop();
            }
        }
        let mut of_image = vec![None; images];
        for (at, column) in shown.iter().enumerate() {
            for image in column {
                if let Some(of_image) = of_image.get_mut(*image) {
                    *of_image = Some(at);
                }
            }
        }
        Self {
            shown,
            of_image,
            name_width,
        }
    }

    fn of(&self, cell: &Cell) -> Option<usize> {
        self.of_image.get(cell.column).copied().flatten()
    }

    /// What each column stands for.
    fn list(&self, matrix: &Matrix) -> String {
        let mut text = String::new();
        let digits = self.shown.len().to_string().len();
        for (at, images) in self.shown.iter().enumerate() {
            let number = at + 1;
            let first = images.first().and_then(|first| matrix.images.get(*first));
            let first = on_one_line(first.map_or("", String::as_str));
            let _ = match images.len() {
                1 => writeln!(text, "  {number:>digits$}  {first}"),
                count => writeln!(
                    text,
                    "  {number:>digits$}  {count} images{}, for example {first}",
                    self.common_state(matrix, at)
                ),
            };
        }
        let hidden = self.of_image.iter().filter(|of| of.is_none()).count();
        if hidden > 0 {
            let hidden = pluralised(hidden, "other image");
            let _ = writeln!(
                text,
                "and {hidden} in other states; --all shows every image"
            );
        }
        text
    }

    /// The state of the images of a column, if it is the same on every node that they are for.
    fn common_state(&self, matrix: &Matrix, column: usize) -> String {
        let mut states = BTreeSet::new();
        let mut nodes = 0;
        for node in &matrix.nodes {
            let cell = node
                .images
                .iter()
                .find(|cell| self.of(cell) == Some(column));
            states.extend(cell.map(|cell| cell.state));
            nodes += usize::from(cell.is_some());
        }
        let state = states.pop_first().filter(|_| states.is_empty());
        let on = match (nodes, matrix.nodes.len()) {
            (1, 1) => "the node".to_owned(),
            (nodes, all) if nodes == all => format!("all {all} nodes"),
            (nodes, all) => format!("{nodes} of {all} nodes"),
        };
        state.map_or_else(String::new, |state| format!(" {} on {on}", words(state)))
    }
}

/// The images that are in the same state for the same reason on the same nodes, worst first.
fn folded(matrix: &Matrix) -> Vec<Vec<usize>> {
    type States<'a> = Vec<(usize, State, Option<&'a str>)>;
    let mut images: Vec<States<'_>> = vec![Vec::new(); matrix.images.len()];
    for (at, node) in matrix.nodes.iter().enumerate() {
        for cell in &node.images {
            let reason = cell.reason.as_deref().filter(|_| has_reason(cell));
            if let Some(states) = images.get_mut(cell.column) {
                states.push((at, cell.state, reason));
            }
        }
    }
    let mut columns: BTreeMap<States<'_>, Vec<usize>> = BTreeMap::new();
    for (image, states) in images.into_iter().enumerate() {
        columns.entry(states).or_default().push(image);
    }
    let mut columns: Vec<_> = columns.into_iter().collect();
    let worst = |states: &States<'_>| states.iter().map(|(_, state, _)| *state).min();
    // An image that is for no node comes last.
    columns.sort_by_key(|(states, images)| {
        let worst = worst(states);
        (worst.is_none(), worst, images.first().copied())
    });
    columns.into_iter().map(|(_, images)| images).collect()
}

fn headline(matrix: &Matrix, now: Timestamp) -> String {
    let cache = &matrix.image_cache;
    let word = cache.word();
    let status = status_style(word).apply_to(word);
    let mut line = format!("ImageCache {}/{}: ", cache.namespace, cache.name);
    if cache.is_repairing() {
        // The last action says nothing about now.
        let message = cache.message.as_deref().unwrap_or_default();
        let action = cache.action.as_deref().unwrap_or_default();
        let ended = cache.completion_time.map(|at| age(at, now));
        let _ = writeln!(
            line,
            "{status}: {}; last action: {action} Succeeded {} ago",
            on_one_line(message),
            ended.unwrap_or_default()
        );
        return line;
    }
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

fn table(matrix: &Matrix, columns: &Columns, layout: Layout, now: Timestamp) -> String {
    let numbers: Vec<String> = (1..=columns.shown.len()).map(|n| n.to_string()).collect();
    let mut names = vec![("NODE", Align::Left)];
    names.extend(numbers.iter().map(|n| (n.as_str(), Align::Left)));
    names.push(("WHY", Align::Left));
    let states_width: usize = numbers.iter().map(|number| number.len() + GAP).sum();
    let why_width = layout
        .width
        .map(|width| width.saturating_sub(columns.name_width + states_width + GAP));
    let mut rows = Rows {
        table: Table::new(&names),
        name_width: columns.name_width,
        why_width,
    };
    let content = |node: &NodeRow| row_content(columns, node, now);
    let mut nodes: Vec<&NodeRow> = matrix.nodes.iter().collect();
    nodes.sort_by_key(|node| (worst(node), &node.name));
    if nodes.len() <= layout.max_nodes {
        for node in nodes {
            rows.add(node.name.clone(), content(node));
        }
        return rows.table.render();
    }
    let (healthy, mut problems): (Vec<&NodeRow>, Vec<&NodeRow>) =
        nodes.into_iter().partition(|node| is_healthy(node));
    let rest = problems.split_off(problems.len().min(layout.max_nodes));
    for node in problems {
        rows.add(node.name.clone(), content(node));
    }
    let rest = rest.into_iter().map(|node| {
        let (states, _) = content(node);
        ("more ", (states, String::new()))
    });
    let healthy = healthy.into_iter().map(|node| ("", content(node)));
    let mut counted: BTreeMap<(bool, RowContent), (usize, &str)> = BTreeMap::new();
    for (more, content) in rest.chain(healthy) {
        let count = counted
            .entry((more.is_empty(), content))
            .or_insert((0, more));
        count.0 += 1;
    }
    let mut counted: Vec<_> = counted.into_iter().collect();
    counted.sort_by_key(|((is_healthy, _), (count, _))| (*is_healthy, std::cmp::Reverse(*count)));
    let others = counted.split_off(counted.len().min(COUNTED_ROWS_MAX));
    for ((_, content), (count, more)) in counted {
        rows.add(pluralised(count, &format!("{more}node")), content);
    }
    let others: usize = others.iter().map(|(_, (count, _))| count).sum();
    let mut text = rows.table.render();
    if others > 0 {
        let others = pluralised(others, "other node");
        let _ = writeln!(text, "and {others} in other states; --all shows every node");
    }
    text
}

/// The rows of the table, with names and reasons shortened to their columns.
struct Rows {
    table: Table,
    name_width: usize,
    why_width: Option<usize>,
}

impl Rows {
    fn add(&mut self, name: String, (states, why): RowContent) {
        let name = console::truncate_str(&name, self.name_width, "…").into_owned();
        let mut cells = vec![(name, Style::new())];
        for state in states {
            cells.push(match state {
                Some(state) => (symbol(state).to_owned(), style(state)),
                None => (".".to_owned(), Style::new().dim()),
            });
        }
        let why = on_one_line(&why);
        let why = match self.why_width {
            Some(width) => console::truncate_str(&why, width, "…").into_owned(),
            None => why.into_owned(),
        };
        cells.push((why, Style::new()));
        self.table.styled_row(cells);
    }
}

/// Whether the node needs no row of its own.
fn is_healthy(node: &NodeRow) -> bool {
    let healthy = [State::Cached, State::Waiting, State::Removed, State::InUse];
    node.images.iter().all(|cell| healthy.contains(&cell.state))
}

fn worst(node: &NodeRow) -> Option<State> {
    node.images.iter().map(|cell| cell.state).min()
}

fn row_content(columns: &Columns, node: &NodeRow, now: Timestamp) -> RowContent {
    let mut states = vec![None; columns.shown.len()];
    for cell in &node.images {
        let column = columns.of(cell);
        if let Some(state) = column.and_then(|column| states.get_mut(column)) {
            *state = Some(cell.state);
        }
    }
    (states, why(columns, node, now))
}

fn why(columns: &Columns, node: &NodeRow, now: Timestamp) -> String {
    if let Some(word) = node.unreachable {
        return match node.unreachable_since {
            Some(since) => format!("{word} for {}", age(since, now)),
            None => word.to_owned(),
        };
    }
    let mut reasons: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for cell in node.images.iter().filter(|cell| has_reason(cell)) {
        let reason = cell.reason.as_deref().unwrap_or("Unknown");
        // Images without a column come last.
        let number = columns.of(cell).map_or(usize::MAX, |column| column + 1);
        reasons.entry(reason).or_default().insert(number);
    }
    let numbers = |columns: BTreeSet<usize>| {
        let is_long = columns.len() > NUMBERS_MAX;
        let numbers = columns.into_iter().take(NUMBERS_MAX);
        let mut shown: Vec<String> = numbers
            .map(|number| match number {
                usize::MAX => "…".to_owned(),
                number => number.to_string(),
            })
            .collect();
        shown.extend(is_long.then(|| "…".to_owned()));
        shown.join(",")
    };
    reasons
        .into_iter()
        .map(|(reason, columns)| format!("{} {reason}", numbers(columns)))
        .collect::<Vec<_>>()
        .join("; ")
}

/// Whether the reason for the state is shown.
fn has_reason(cell: &Cell) -> bool {
    matches!(cell.state, State::Failed | State::BackingOff | State::InUse)
}

/// A state in words.
pub(super) fn words(state: State) -> &'static str {
    match state {
        State::Failed => "failed",
        State::Unreachable => "unreachable",
        State::BackingOff => "failing, retrying",
        State::Pulling => "pulling",
        State::Removing => "being removed",
        State::Waiting => "waiting",
        State::InUse => "kept, in use",
        State::Removed => "removed",
        State::Cached => "cached",
    }
}

fn legend(matrix: &Matrix) -> String {
    let states: BTreeSet<State> = matrix
        .nodes
        .iter()
        .flat_map(|node| &node.images)
        .map(|cell| cell.state)
        .collect();
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

/// The bytes of running pulls: the sums, then each pull, the one that takes longest first.
fn pulls(matrix: &Matrix, columns: &Columns) -> String {
    let cells = matrix.nodes.iter().flat_map(|node| {
        let cells = node.images.iter();
        cells.filter_map(move |cell| Some((node, cell, cell.pull.as_ref()?)))
    });
    let mut pulls: Vec<_> = cells.collect();
    let mut text = String::new();
    if let Some(sums) = PullSums::of(pulls.iter().map(|(_, _, pull)| *pull)) {
        let _ = writeln!(text, "{}", sums.text());
    }
    pulls.sort_by_key(|(_, _, pull)| std::cmp::Reverse(pull.seconds_left));
    for (node, cell, pull) in pulls.iter().take(PULLS_MAX) {
        let image = columns.of(cell).map(|column| (column + 1).to_string());
        let image = image.unwrap_or_else(|| on_one_line(&cell.image).into_owned());
        let _ = writeln!(text, "  {image} on {}: {}", node.name, pull.text());
    }
    let others = pulls.len().checked_sub(PULLS_MAX);
    if let Some(others) = others.filter(|others| *others > 0) {
        let _ = writeln!(text, "  and {}", pluralised(others, "other pull"));
    }
    if let Some(why) = &matrix.bytes_unavailable {
        let _ = writeln!(text, "bytes of pulls are missing: {why}");
    }
    text
}

/// Each message once, with the nodes that reported it.
fn messages(matrix: &Matrix, columns: &Columns, now: Timestamp) -> String {
    type Message<'a> = (usize, &'a str, &'a str, Option<&'a str>);
    let mut messages: BTreeMap<Message<'_>, Vec<(&NodeRow, &Cell)>> = BTreeMap::new();
    for node in &matrix.nodes {
        for cell in node.images.iter().filter(|cell| has_reason(cell)) {
            let reason = cell.reason.as_deref().unwrap_or("Unknown");
            let message = cell.message.as_deref().unwrap_or_default();
            // An image without a column is named.
            let column = columns.of(cell);
            let image = column.is_none().then_some(cell.image.as_str());
            // Columns come before images without one.
            let number = column.map_or(usize::MAX, |column| column + 1);
            let key = (number, reason, message, image);
            let nodes = messages.entry(key).or_default();
            // Images that share a column share a message.
            if nodes.last().is_none_or(|(last, _)| last.name != node.name) {
                nodes.push((node, cell));
            }
        }
    }
    let mut text = String::new();
    for ((column, reason, message, image), nodes) in messages.iter().take(MESSAGES_MAX) {
        let Some((first, cell)) = nodes.first() else {
            continue;
        };
        let on = match nodes.len() {
            1 => first.name.clone(),
            count => format!("{}, for example {}", pluralised(count, "node"), first.name),
        };
        let what = image.map_or_else(
            || column.to_string(),
            |image| on_one_line(image).into_owned(),
        );
        let _ = write!(text, "{what} on {on}: {reason}");
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

pub(super) fn style(state: State) -> Style {
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
    use fledged_kube::crd::ReadCache;
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
        let width = Some(DEFAULT_WIDTH);
        super::matrix_text(matrix, Layout { max_nodes, width }, NOW.parse().unwrap())
    }

    #[test]
    fn an_invalid_spec_is_not_told_as_one_without_nodes() {
        let mut matrix = mk_matrix(Vec::new());
        let text = |matrix: &Matrix| matrix_text(matrix, Layout::all(), NOW.parse().unwrap());
        assert!(text(&matrix).contains("it selects no node"));
        matrix.image_cache.action = Some("CacheSpecValidationFailed".to_owned());
        assert!(text(&matrix).contains("its spec is invalid; images of an earlier valid spec"));
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
node-c   U   U   NotReady for 3m
node-d   P   W
node-b   C   C

C cached, W waiting, P pulling, U unreachable, F failed
2 on node-a: ImageNotFound: manifest unknown (1 attempt, next in 45s)
"
        );
    }

    /// A matrix of these images on that many nodes, with the state of each.
    fn mk_large(
        images: usize,
        nodes: usize,
        state: impl Fn(usize, usize) -> (State, Option<&'static str>),
    ) -> Matrix {
        let mut matrix = mk_matrix(Vec::new());
        matrix.images = (0..images)
            .map(|n| format!("registry.test/app:{n}"))
            .collect();
        let row = |node: usize| NodeRow {
            name: format!("node-{node:04}"),
            unreachable: None,
            unreachable_since: None,
            images: (0..images)
                .map(|column| {
                    let (state, reason) = state(node, column);
                    Cell {
                        column,
                        image: format!("registry.test/app:{column}"),
                        state,
                        reason: reason.map(str::to_owned),
                        message: None,
                        attempts: None,
                        next_attempt: None,
                        digest: None,
                        pull: None,
                    }
                })
                .collect(),
        };
        matrix.nodes = (0..nodes).map(row).collect();
        matrix
    }

    /// The table alone: from its header to the empty line.
    fn table_of(text: &str) -> Vec<&str> {
        let lines = text.lines().skip_while(|line| !line.starts_with("NODE"));
        lines.take_while(|line| !line.is_empty()).collect()
    }

    fn assert_narrow(text: &str, width: usize) {
        for line in table_of(text) {
            assert!(line.chars().count() <= width, "{line}");
        }
    }

    #[test]
    fn repairs_come_before_the_last_action() {
        let mut matrix = mk_matrix(vec![("node-a".to_owned(), true, ["Cached", "Pending"])]);
        matrix.image_cache.status = Some("Succeeded".to_owned());
        matrix.image_cache.message = Some("1 of 2 cached on 1 node, 1 to be pulled".to_owned());
        matrix.image_cache.counts.pulling = 1;
        let text = shown(&matrix, 20);
        let first = "ImageCache shop/web: Pulling: 1 of 2 cached on 1 node, 1 to be pulled; \
            last action: ImageCacheCreate Succeeded 60s ago\n";
        assert!(text.starts_with(first), "{text}");
    }

    #[test]
    fn images_in_the_same_state_share_a_column() {
        let matrix = mk_large(500, 40, |node, image| match image {
            7 => (State::Failed, Some("ImageNotFound")),
            9 if node == 3 => (State::Pulling, None),
            _ => (State::Cached, None),
        });
        assert_eq!(
            shown(&matrix, 5),
            "\
ImageCache shop/web: ImageCacheCreate Failed 60s ago: 5 of 8 cached on 4 nodes, 1 failed

  1  registry.test/app:7
  2  registry.test/app:9
  3  498 images cached on all 40 nodes, for example registry.test/app:0

NODE            1   2   3   WHY
node-0000       F   C   C   1 ImageNotFound
node-0001       F   C   C   1 ImageNotFound
node-0002       F   C   C   1 ImageNotFound
node-0003       F   P   C   1 ImageNotFound
node-0004       F   C   C   1 ImageNotFound
35 more nodes   F   C   C

C cached, P pulling, F failed
1 on 40 nodes, for example node-0000: ImageNotFound
"
        );
        let all = super::matrix_text(&matrix, Layout::all(), NOW.parse().unwrap());
        assert_eq!(table_of(&all).len(), 41);
        assert!(all.contains(" 500  registry.test/app:499\n"), "{all}");
    }

    #[test]
    fn a_matrix_of_any_size_fits_the_width() {
        // No two images and no two nodes are alike.
        let mixed = |node: usize, image: usize| match (node * 31 + image * 17) % 7 {
            0 => (State::Failed, Some("ConnectionFailed")),
            1 => (State::BackingOff, Some("RegistryError")),
            2 => (State::Pulling, None),
            bit if (node >> (image % 11)) & 1 == bit % 2 => (State::Cached, None),
            _ => (State::Waiting, None),
        };
        for (images, nodes) in [(30, 3), (500, 40), (2_000, 50)] {
            let matrix = mk_large(images, nodes, mixed);
            for width in [80, 100, 200] {
                let layout = Layout {
                    max_nodes: 20,
                    width: Some(width),
                };
                let text = super::matrix_text(&matrix, layout, NOW.parse().unwrap());
                assert_narrow(&text, width);
                assert!(text.lines().count() < 200, "{text}");
                let is_cut = images >= 500 || width == 80;
                assert_eq!(text.contains("--all shows every image"), is_cut, "{text}");
            }
        }
        // Long names of nodes.
        let mut matrix = mk_large(30, 3, mixed);
        for node in &mut matrix.nodes {
            node.name = format!("{}.{}", node.name, "x".repeat(200));
        }
        assert_narrow(&shown(&matrix, 20), 100);
    }

    #[test]
    fn rows_of_counted_nodes_are_bounded() {
        let matrix = mk_large(12, 2_000, |node, image| match (node >> image) & 1 {
            0 => (State::Cached, None),
            _ => (State::Waiting, None),
        });
        let text = shown(&matrix, 20);
        assert!(text.lines().count() < 60, "{text}");
        assert!(text.contains("other nodes in other states"), "{text}");
        // Failing nodes come first, also if every node has a row.
        let matrix = mk_large(2, 3, |node, _| match node {
            2 => (State::Failed, Some("ImageNotFound")),
            _ => (State::Cached, None),
        });
        let text = shown(&matrix, 20);
        assert!(table_of(&text)[1].starts_with("node-0002"), "{text}");
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
                        "attempts": 0, "nextAttempt": null, "digest": null, "pull": null },
                    { "image": "registry.test/db:1", "state": "Failed", "reason": "ImageNotFound",
                        "message": "manifest unknown", "attempts": 1,
                        "nextAttempt": "2026-01-01T00:10:45Z", "digest": null, "pull": null },
                ] },
                { "name": "node-c", "unreachable": "NotReady", "unreachableSince": "2026-01-01T00:07:00Z",
                    "images": [
                    { "image": "registry.test/app:1", "state": "Unreachable", "reason": null,
                        "message": null, "attempts": 0, "nextAttempt": null, "digest": null, "pull": null },
                    { "image": "registry.test/db:1", "state": "Unreachable", "reason": null,
                        "message": null, "attempts": 0, "nextAttempt": null, "digest": null, "pull": null },
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
