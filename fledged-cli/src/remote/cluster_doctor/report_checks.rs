//! The NodeImageCaches: nodes whose agent does not report.

use fledged_kube::crd::{ReadCache, ReadNodeCache};
use fledged_operator::controller::ReadNode;
use jiff::Timestamp;

use super::checks;
use super::installation::some_of;
use super::reader::Fact;
use crate::doctor::Finding;
use crate::output::{age, pluralised};
use crate::remote::node_state::{Unreachable, planner};

pub(super) fn node_reports(
    caches: &Fact<Vec<ReadCache>>,
    nodes: &Fact<Vec<ReadNode>>,
    records: &Fact<Vec<ReadNodeCache>>,
    now: Timestamp,
) -> Finding {
    let check = checks::NODE_REPORTS;
    let (caches, nodes, records) = match (caches, nodes, records) {
        (Ok(caches), Ok(nodes), Ok(records)) => (caches, nodes, records),
        (Err(unread), _, _) | (_, Err(unread), _) | (_, _, Err(unread)) => {
            return Finding::skipped(check, unread);
        }
    };
    let planner = planner(caches, nodes, records, now);
    let mut unresponsive = Vec::new();
    let mut reachable = 0_usize;
    for node in nodes {
        let Some(name) = node.name() else {
            continue;
        };
        match Unreachable::of(node, &name, &planner) {
            Some(Unreachable::AgentUnresponsive { since }) => unresponsive.push((since, name)),
            None => reachable += 1,
            Some(_) => {}
        }
    }
    if unresponsive.is_empty() {
        let found = match (records.len(), caches.len()) {
            (0, 0) => "there is no ImageCache, and nothing to report".to_owned(),
            (count, _) => format!(
                "{}; {} reachable, each has reported in time",
                pluralised(count, "NodeImageCache"),
                pluralised(reachable, "node"),
            ),
        };
        return Finding::ok(check, found);
    }
    unresponsive.sort();
    let named: Vec<String> = unresponsive
        .iter()
        .map(|(since, name)| format!("{name} for {}", age(*since, now)))
        .collect();
    Finding::advice(
        check,
        format!("{} without a report of the newest assignment: {}", pluralised(named.len(), "node"), some_of(&named)),
        "these nodes do not pull what is assigned to them, and their state is not known",
        "`fledged node status NODE` shows the agent; agents-on-nodes, agent-access and node-clocks show common causes",
    )
    .into_failed()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::Verdict;

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn mk_node(name: &str, ready: &str) -> ReadNode {
        let object = json!({
            "metadata": { "name": name },
            "status": { "conditions": [{ "type": "Ready", "status": ready }] },
        });
        serde_json::from_value(object).unwrap()
    }

    /// A record of generation 2, with a report on it or on the generation before.
    fn mk_record(name: &str, reported: bool) -> ReadNodeCache {
        let image = json!({ "image": "docker.io/library/a:1", "phase": "Cached" });
        let (observed, images) = if reported {
            (2, vec![image])
        } else {
            (1, Vec::new())
        };
        let written = |subresource: &str, at: &str| json!({ "manager": "m", "operation": "Apply", "subresource": subresource, "time": at });
        let object = json!({
            "metadata": { "name": name, "generation": 2, "managedFields": [
                written("", "2026-01-01T00:10:00Z"), written("status", "2026-01-01T00:05:00Z"),
            ] },
            "spec": { "images": [{ "image": "docker.io/library/a:1" }] },
            "status": { "observedGeneration": observed, "images": images },
        });
        serde_json::from_value(object).unwrap()
    }

    fn judge(nodes: Vec<ReadNode>, records: Vec<ReadNodeCache>) -> Finding {
        let cache = json!({
            "metadata": { "namespace": "shop", "name": "web", "uid": "1", "generation": 1 },
            "spec": { "cacheSpec": [{ "images": ["a:1"] }] },
        });
        let caches = Ok(vec![serde_json::from_value(cache).unwrap()]);
        node_reports(&caches, &Ok(nodes), &Ok(records), NOW.parse().unwrap())
    }

    #[test]
    fn a_node_without_a_report_is_named() {
        let finding = judge(vec![mk_node("a", "True")], vec![mk_record("a", true)]);
        assert_eq!(finding.result, Verdict::Ok, "{finding:?}");
        let nodes = vec![mk_node("a", "True"), mk_node("b", "True")];
        let finding = judge(nodes, vec![mk_record("a", true), mk_record("b", false)]);
        assert_eq!(finding.result, Verdict::Failed, "{finding:?}");
        assert!(
            finding.found.contains("newest assignment: b for "),
            "{finding:?}"
        );
    }

    #[test]
    fn a_node_that_is_not_ready_is_no_failure() {
        let finding = judge(vec![mk_node("b", "Unknown")], vec![mk_record("b", false)]);
        assert_eq!(finding.result, Verdict::Ok, "{finding:?}");
    }
}
