//! Matching of nodes by selectors, affinity and tolerations.
use std::collections::BTreeMap;

use fledged_core::model::{
    CacheId, CacheSpecImages, ImageCacheSpec, ImageGroup, NodeAffinity, NodeFacts, NodeName,
    NodeSelector, NodeSelectorTerm, Requirement, Taint, Toleration,
};
use serde_json::{Value, json};

fn mk_labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    labels.iter().map(owned).collect()
}

fn mk_requirement(key: &str, operator: &str, values: &[&str]) -> Requirement {
    Requirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: values.iter().map(|v| (*v).to_owned()).collect(),
    }
}

fn mk_node(name: &str, labels: &[(&str, &str)]) -> NodeFacts {
    NodeFacts::new(NodeName::new(name).unwrap()).with_labels(labels.iter().copied())
}

fn mk_taint(key: &str, value: &str, effect: &str) -> Taint {
    Taint {
        key: key.to_owned(),
        value: value.to_owned(),
        effect: effect.to_owned(),
    }
}

/// Returns a group from the fields of a cacheSpec entry besides `images`.
fn mk_group(rest: Value) -> ImageGroup {
    let mut entry = rest;
    entry["images"] = json!(["nginx"]);
    let entry: CacheSpecImages = serde_json::from_value(entry).unwrap();
    let spec = ImageCacheSpec::new([entry]);
    let cache = spec.validate(CacheId::new("default", "cache", "1"));
    cache.unwrap().groups.remove(0)
}

#[test]
fn requirements_are_evaluated_as_in_kubernetes() {
    let labels = mk_labels(&[("zone", "a"), ("cores", "8"), ("empty", ""), ("word", "x8")]);
    for (key, operator, values, expected) in [
        ("zone", "In", &["a", "b"][..], true),
        ("zone", "In", &["b"], false),
        ("zone", "In", &["A"], false),
        ("none", "In", &["a"], false),
        ("empty", "In", &[""], true),
        ("zone", "NotIn", &["b"], true),
        ("zone", "NotIn", &["a", "b"], false),
        ("none", "NotIn", &["a"], true),
        ("zone", "Exists", &[], true),
        ("empty", "Exists", &[], true),
        ("none", "Exists", &[], false),
        ("zone", "DoesNotExist", &[], false),
        ("none", "DoesNotExist", &[], true),
        ("cores", "Gt", &["7"], true),
        ("cores", "Gt", &["8"], false),
        ("cores", "Gt", &["-1"], true),
        ("cores", "Lt", &["9"], true),
        ("cores", "Lt", &["10"], true),
        ("cores", "Lt", &["8"], false),
        ("none", "Gt", &["1"], false),
        ("none", "Lt", &["1"], false),
        ("word", "Gt", &["1"], false),
        ("zone", "Is", &["a"], false),
    ] {
        let requirement = mk_requirement(key, operator, values);
        assert_eq!(requirement.matches(&labels), expected, "{requirement:?}");
    }
}

#[test]
fn malformed_requirements_are_refused_with_their_key() {
    for (key, operator, values, expected) in [
        ("", "Exists", &[][..], "key is empty"),
        ("k", "In", &[], "at least one value"),
        ("k", "NotIn", &[], "at least one value"),
        ("k", "Exists", &["v"], "takes no values"),
        ("k", "DoesNotExist", &["v"], "takes no values"),
        ("k", "Gt", &[], "exactly one integer"),
        ("k", "Gt", &["1", "2"], "exactly one integer"),
        ("k", "Lt", &["many"], "exactly one integer"),
        ("k", "in", &["v"], "unknown operator"),
        ("k", "", &["v"], "unknown operator"),
    ] {
        let error = mk_requirement(key, operator, values)
            .validate()
            .unwrap_err();
        assert_eq!(error.key, key);
        assert!(error.problem.contains(expected), "{error}");
    }
    for (operator, values) in [("In", &["v"][..]), ("Exists", &[]), ("Gt", &["1"])] {
        assert_eq!(mk_requirement("k", operator, values).validate(), Ok(()));
    }
}

#[test]
fn affinity_terms_are_alternatives_of_requirements() {
    let affinity: NodeAffinity = serde_json::from_value(json!({
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [
                {"key": "zone", "operator": "In", "values": ["a"]},
                {"key": "cores", "operator": "Gt", "values": ["4"]},
            ]},
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["special"]}]},
            {},
        ]},
    }))
    .unwrap();
    assert_eq!(affinity.validate(), Ok(()));
    for (name, labels, expected) in [
        ("n", &[("zone", "a"), ("cores", "8")][..], true),
        ("n", &[("zone", "a"), ("cores", "4")], false),
        ("n", &[("cores", "8")], false),
        ("n", &[], false),
        ("special", &[], true),
    ] {
        assert_eq!(
            affinity.matches(name, &mk_labels(labels)),
            expected,
            "{name} {labels:?}"
        );
    }
}

#[test]
fn no_affinity_matches_all_nodes_and_no_terms_match_none() {
    assert!(NodeAffinity::default().matches("n", &mk_labels(&[])));
    let none = NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(NodeSelector::default()),
    };
    assert!(!none.matches("n", &mk_labels(&[])));
    let problem = none.validate().unwrap_err().problem;
    assert!(problem.contains("at least one term"), "{problem}");
    let field = NodeSelectorTerm {
        match_fields: vec![mk_requirement("spec.podCIDR", "Exists", &[])],
        ..NodeSelectorTerm::default()
    };
    let odd = NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(NodeSelector {
            node_selector_terms: vec![field],
        }),
    };
    assert!(
        odd.validate()
            .unwrap_err()
            .problem
            .contains("metadata.name")
    );
}

#[test]
fn tolerations_match_taints_as_in_kubernetes() {
    let gpu = mk_taint("gpu", "yes", "NoSchedule");
    for (toleration, expected) in [
        (json!({"key": "gpu", "value": "yes"}), true),
        (
            json!({"key": "gpu", "operator": "Equal", "value": "yes"}),
            true,
        ),
        (json!({"key": "gpu", "operator": "", "value": "yes"}), true),
        (json!({"key": "gpu", "value": "no"}), false),
        (json!({"key": "gpu"}), false),
        (json!({"key": "gpu", "operator": "Exists"}), true),
        (json!({"operator": "Exists"}), true),
        (json!({"key": "other", "operator": "Exists"}), false),
        (
            json!({"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}),
            true,
        ),
        (
            json!({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}),
            false,
        ),
        (
            json!({"key": "gpu", "operator": "Exists", "effect": ""}),
            true,
        ),
        (
            json!({"key": "gpu", "operator": "Like", "value": "yes"}),
            false,
        ),
        (
            json!({"operator": "Exists", "tolerationSeconds": 300}),
            true,
        ),
    ] {
        let parsed: Toleration = serde_json::from_value(toleration.clone()).unwrap();
        assert_eq!(parsed.tolerates(&gpu), expected, "{toleration}");
    }
}

#[test]
fn only_no_schedule_and_no_execute_need_a_toleration() {
    let mut node = mk_node("n", &[]);
    let lenient = mk_group(json!({}));
    let strict = mk_group(json!({"tolerations": []}));
    let tolerant = mk_group(json!({"tolerations": [{"key": "gpu", "operator": "Exists"}]}));
    let matches = |node: &NodeFacts| [&lenient, &strict, &tolerant].map(|g| g.matches(node));
    assert_eq!(matches(&node), [true, true, true]);
    node.taints = vec![mk_taint("gpu", "yes", "PreferNoSchedule")];
    assert_eq!(matches(&node), [true, true, true]);
    for effect in ["NoSchedule", "NoExecute"] {
        node.taints = vec![mk_taint("gpu", "yes", effect)];
        assert_eq!(matches(&node), [true, false, true], "{effect}");
        node.taints.push(mk_taint("other", "", effect));
        assert_eq!(matches(&node), [true, false, false], "{effect}");
    }
}

#[test]
fn a_group_requires_selector_affinity_and_tolerations() {
    let group = mk_group(json!({
        "nodeSelector": {"tier": "backend"},
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "Exists"}]},
        ]}},
        "tolerations": [],
    }));
    let both = &[("tier", "backend"), ("zone", "a")];
    assert!(group.matches(&mk_node("n", both)));
    assert!(!group.matches(&mk_node("n", &both[..1])));
    assert!(!group.matches(&mk_node("n", &both[1..])));
    let mut tainted = mk_node("n", both);
    tainted.taints = vec![mk_taint("gpu", "", "NoSchedule")];
    assert!(!group.matches(&tainted));
}

#[test]
fn node_names_are_dns_subdomains() {
    for name in [
        "n",
        "node-1",
        "ip-10-0-0-1.eu.example",
        "1a",
        &"a".repeat(253),
    ] {
        assert_eq!(NodeName::new(name).unwrap().as_str(), name);
    }
    for name in [
        "",
        "Node",
        "a_b",
        "-a",
        "a-",
        "a..b",
        ".a",
        "a.",
        "a b",
        "a/b",
        &"a".repeat(254),
    ] {
        let error = NodeName::new(name).unwrap_err();
        assert!(error.to_string().contains("DNS subdomain"), "{error}");
    }
    assert!(serde_json::from_value::<NodeName>(json!("a b")).is_err());
}
