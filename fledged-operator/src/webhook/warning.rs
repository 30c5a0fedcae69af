//! What is valid, and will surprise.

use std::time::Duration;

use fledged_core::model::{GoDuration, ImageCache, ImageGroup, ImageRef, NodeFacts};

/// Sentences that somebody reads: more would be skipped, and the API server cuts long lists off.
const WARNINGS_MAX: usize = 10;
/// A tag that moves is pulled again at least that often, or it is worth a word: four times the
/// controller's default.
const LONG: Duration = Duration::from_secs(3_600);

/// In the order of the spec.
pub(super) fn warnings(
    cache: &ImageCache,
    nodes: Option<&[NodeFacts]>,
    refresh_interval: Duration,
) -> Vec<String> {
    let mut warnings = Vec::new();
    for (number, group) in cache.groups.iter().enumerate() {
        let field = format!("spec.cacheSpec[{number}]");
        if let Some(nodes) = nodes.filter(|nodes| is_for_nobody(group, nodes)) {
            warnings.push(for_nobody(&field, group, nodes));
        }
        for image in group.images.iter().filter(|image| image.is_mutable()) {
            warnings.extend(stale(&field, image, refresh_interval));
        }
    }
    if let Some(more) = warnings.len().checked_sub(WARNINGS_MAX)
        && more > 0
    {
        warnings.truncate(WARNINGS_MAX - 1);
        warnings.push(format!("and {} more warnings", more + 1));
    }
    warnings
}

fn is_for_nobody(group: &ImageGroup, nodes: &[NodeFacts]) -> bool {
    !nodes.iter().any(|node| group.selects(node))
}

fn for_nobody(field: &str, group: &ImageGroup, nodes: &[NodeFacts]) -> String {
    let labels: Vec<String> = group
        .node_selector
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let selector = match labels.is_empty() {
        true => "its nodeAffinity".to_owned(),
        false => format!("nodeSelector {}", labels.join(",")),
    };
    match nodes.len() {
        0 => format!("{field}: the cluster has no node now"),
        1 => format!("{field}: the cluster's only node does not match {selector} now"),
        count => format!("{field}: none of the {count} nodes matches {selector} now"),
    }
}

/// An image that moves and is seldom looked for.
fn stale(field: &str, image: &ImageRef, refresh_interval: Duration) -> Option<String> {
    let name = image.original();
    if refresh_interval.is_zero() {
        return Some(format!(
            "{field}: {name} moves, and nodes that have it never pull it again by themselves: \
             --image-cache-refresh-frequency is 0s; name a version or a digest"
        ));
    }
    (refresh_interval > LONG).then(|| {
        format!(
            "{field}: {name} moves, and nodes pull it again every {} only; name a version or a digest",
            GoDuration(refresh_interval)
        )
    })
}

#[cfg(test)]
mod tests {
    use fledged_core::model::NodeName;
    use serde_json::{Value, json};

    use super::*;
    use crate::crd::ReadCache;

    const QUARTER: Duration = Duration::from_secs(900);

    fn mk_spec(groups: Value) -> ImageCache {
        let metadata = json!({ "namespace": "shop", "name": "web", "uid": "1" });
        let cache = json!({ "metadata": metadata, "spec": { "cacheSpec": groups } });
        let cache: ReadCache = serde_json::from_value(cache).unwrap();
        cache.into_facts().spec.unwrap()
    }

    fn mk_node(name: &str, labels: &[(&str, &str)]) -> NodeFacts {
        NodeFacts::new(NodeName::new(name).unwrap()).with_labels(labels.iter().copied())
    }

    #[test]
    fn a_selector_that_matches_no_node_is_told() {
        let cache = mk_spec(json!([
            { "images": ["app:1"], "nodeSelector": { "tier": "web" } },
            { "images": ["db:1"], "nodeSelector": { "tier": "db" } },
        ]));
        let nodes = [mk_node("a", &[("tier", "web")]), mk_node("b", &[])];
        assert_eq!(
            warnings(&cache, Some(&nodes), QUARTER),
            ["spec.cacheSpec[1]: none of the 2 nodes matches nodeSelector tier=db now"]
        );
        assert_eq!(
            warnings(&cache, Some(&nodes[..1]), QUARTER),
            ["spec.cacheSpec[1]: the cluster's only node does not match nodeSelector tier=db now"]
        );
        // What is not known is not warned of.
        assert!(warnings(&cache, None, QUARTER).is_empty());
    }

    #[test]
    fn a_tag_that_moves_is_told_of_where_it_is_seldom_pulled() {
        let cache = mk_spec(json!([{ "images": ["nginx", "app:latest", "app:1"] }]));
        assert!(warnings(&cache, None, QUARTER).is_empty());
        let day = warnings(&cache, None, Duration::from_secs(86_400));
        assert_eq!(day.len(), 2);
        assert!(day[0].contains("spec.cacheSpec[0]: nginx moves") && day[0].contains("24h"));
        let never = warnings(&cache, None, Duration::ZERO);
        assert!(never[1].contains("app:latest moves, and nodes that have it never"));
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let images: Vec<String> = (0..25).map(|n| format!("app{n}")).collect();
        let cache = mk_spec(json!([{ "images": images }]));
        let warnings = warnings(&cache, None, Duration::ZERO);
        assert_eq!(warnings.len(), WARNINGS_MAX);
        assert_eq!(warnings[9], "and 16 more warnings");
    }
}
