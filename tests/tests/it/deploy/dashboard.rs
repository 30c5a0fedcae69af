//! The Grafana dashboard: its panels show exactly the metrics that docs/reference.md lists.

use std::collections::BTreeSet;

use serde_json::Value;

use super::rendered::text;

const PAGE: &str = include_str!("../../../../docs/reference.md");

/// Suffixes of the series of a histogram.
const SUFFIXES: [&str; 3] = ["_bucket", "_sum", "_count"];

/// Names and labels of the metrics, from the table of the reference page.
fn metrics() -> Vec<(String, String)> {
    let rows = PAGE.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `fledged_")?.split(" | ");
        let name = cells.next()?.strip_suffix('`')?;
        Some((format!("fledged_{name}"), cells.next()?.to_owned()))
    });
    rows.collect()
}

fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str().filter(|_| name == "expr") {
                    Some(expression) => found.push(expression.to_owned()),
                    None => expressions(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

#[test]
fn dashboard_and_documented_metrics_match() {
    let known = metrics();
    assert!(known.len() > 10, "{known:?}");
    let dashboard: Value = serde_json::from_str(&text("chart/dashboards/fledged.json")).unwrap();
    let mut all = Vec::new();
    expressions(&dashboard, &mut all);
    assert!(all.len() > 10, "{all:?}");
    let mut shown = BTreeSet::new();
    for expression in &all {
        for (at, _) in expression.match_indices("fledged_") {
            let rest = &expression[at..];
            let end = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            let name = &rest[..end];
            let base = SUFFIXES
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .unwrap_or(name);
            assert!(
                known.iter().any(|(metric, _)| metric == base),
                "{name} in {expression}"
            );
            shown.insert(base.to_owned());
        }
        // A label in `by (…)` is a label of a metric in the expression, or one that Prometheus adds.
        for (_, list) in expression.match_indices("by (").map(|(at, start)| {
            expression[at + start.len()..]
                .split_once(')')
                .map(|(list, _)| (at, list))
                .unwrap()
        }) {
            for label in list
                .split(", ")
                .filter(|label| !["le", "pod"].contains(label))
            {
                let of_metric = |(metric, labels): &(String, String)| {
                    expression.contains(metric.as_str()) && labels.contains(&format!("`{label}`"))
                };
                assert!(known.iter().any(of_metric), "{label} in {expression}");
            }
        }
    }
    let not_shown: Vec<&String> = known
        .iter()
        .map(|(metric, _)| metric)
        .filter(|metric| !shown.contains(*metric))
        .collect();
    assert!(not_shown.is_empty(), "{not_shown:?}");
}

#[test]
fn panels_do_not_overlap_and_have_unique_ids() {
    let dashboard: Value = serde_json::from_str(&text("chart/dashboards/fledged.json")).unwrap();
    let mut numbers = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(numbers.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let at = |field: &str| panel["gridPos"][field].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{panel}");
        for x in at("x")..at("x") + at("w") {
            for y in at("y")..at("y") + at("h") {
                assert!(cells.insert((x, y)), "{} at {x},{y}", panel["title"]);
            }
        }
    }
}
