//! Validation of ImageCache specs: accepted specs, and the errors for invalid ones.
use std::time::Duration;

use fledged_core::model::{
    CacheId, CountOrPercent, DeletionPolicy, ImageCache, ImageCacheSpec, ImagePullPolicy,
    InvalidSpec, ObjectName,
};
use serde_json::{Value, json};

fn mk_id() -> CacheId {
    CacheId::new("kube-fledged", "imagecache1", "0b1c")
}

fn mk_spec(spec: Value) -> ImageCacheSpec {
    serde_json::from_value(spec).unwrap()
}

fn mk_cache(spec: Value) -> ImageCache {
    mk_spec(spec).validate(mk_id()).unwrap()
}

fn refuse(spec: Value) -> InvalidSpec {
    mk_spec(spec).validate(mk_id()).unwrap_err()
}

/// Validates a spec with one invalid field, and returns the field's path, value and problem.
fn refuse_one(spec: Value) -> (String, String, String) {
    let error = refuse(spec);
    assert_eq!(error.fields.len(), 1, "{error}");
    let field = error.fields[0].clone();
    (field.field, field.value, field.problem)
}

/// Returns a spec with one entry that has these fields besides `images`.
fn mk_entry(rest: Value) -> Value {
    let mut entry = rest;
    entry["images"] = json!(["nginx"]);
    json!({"cacheSpec": [entry]})
}

/// Returns a spec with these fields besides `cacheSpec`.
fn mk_beside(rest: Value) -> Value {
    let mut spec = rest;
    spec["cacheSpec"] = json!([{"images": ["nginx"]}]);
    spec
}

#[test]
fn a_spec_of_kube_fledged_is_accepted() {
    let cache = mk_cache(json!({
        "cacheSpec": [
            {"images": ["ghcr.io/jitesoft/nginx:1.23.1"]},
            {
                "images": ["us.gcr.io/k8s-artifacts-prod/cassandra:v7", "us.gcr.io/k8s-artifacts-prod/etcd:3.5.4-0"],
                "nodeSelector": {"tier": "backend"},
            },
        ],
        "imagePullSecrets": [{"name": "myregistrykey"}],
    }));
    assert_eq!(cache.id, mk_id());
    assert_eq!(cache.groups.len(), 2);
    let written: Vec<_> = cache.groups[1]
        .images
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        written,
        [
            "us.gcr.io/k8s-artifacts-prod/cassandra:v7",
            "us.gcr.io/k8s-artifacts-prod/etcd:3.5.4-0"
        ]
    );
    assert_eq!(cache.groups[1].node_selector["tier"], "backend");
    let secret = ObjectName::new("kube-fledged", "myregistrykey");
    assert_eq!(cache.pull_secrets, [secret]);
}

#[test]
fn missing_fields_have_defaults() {
    let cache = mk_cache(json!({"cacheSpec": [{"images": ["nginx"]}]}));
    assert_eq!(cache.deletion_policy, DeletionPolicy::Retain);
    assert_eq!(cache.service_account, None);
    assert_eq!(cache.pull_secrets, []);
    assert_eq!(cache.rollout.max_concurrent_nodes, None);
    let group = &cache.groups[0];
    assert_eq!((group.pull_policy, &group.tolerations), (None, &None));
    assert!(group.node_selector.is_empty());
}

#[test]
fn fields_beyond_kube_fledgeds_are_accepted() {
    let cache = mk_cache(json!({
        "cacheSpec": [{
            "images": ["nginx"],
            "imagePullPolicy": "Always",
            "tolerations": [{"operator": "Exists"}],
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "zone", "operator": "Exists"}]},
            ]}},
        }],
        "serviceAccountName": "puller",
        "deletionPolicy": "Purge",
        "rollout": {"maxConcurrentNodes": "25%"},
    }));
    assert_eq!(cache.groups[0].pull_policy, Some(ImagePullPolicy::Always));
    assert_eq!(cache.groups[0].tolerations.as_ref().map(Vec::len), Some(1));
    assert_eq!(cache.service_account.unwrap().name, "puller");
    assert_eq!(cache.deletion_policy, DeletionPolicy::Purge);
    let limit = cache.rollout.max_concurrent_nodes.unwrap();
    assert_eq!(limit.of(10), Some(3));
}

#[test]
fn a_spec_survives_serialization() {
    let spec = mk_spec(json!({
        "cacheSpec": [{"images": ["nginx"], "nodeSelector": {"a": "b"}, "imagePullPolicy": "IfNotPresent"}],
        "imagePullSecrets": [{"name": "key"}],
        "rollout": {"maxConcurrentNodes": 3},
    }));
    let wire = serde_json::to_value(&spec).unwrap();
    assert_eq!(
        serde_json::from_value::<ImageCacheSpec>(wire.clone()).unwrap(),
        spec
    );
    // Fields that were not set are not written.
    assert_eq!(wire["cacheSpec"][0].as_object().unwrap().len(), 3);
    assert_eq!(wire.as_object().unwrap().len(), 3);
}

#[test]
fn an_empty_spec_is_refused() {
    let (field, value, problem) = refuse_one(json!({"cacheSpec": []}));
    assert_eq!((field.as_str(), value.as_str()), ("spec.cacheSpec", ""));
    assert!(problem.contains("at least one"));
    let (field, ..) = refuse_one(json!({"cacheSpec": [{"images": ["nginx"]}, {"images": []}]}));
    assert_eq!(field, "spec.cacheSpec[1].images");
    assert!(serde_json::from_value::<ImageCacheSpec>(json!({})).is_err());
    assert!(serde_json::from_value::<ImageCacheSpec>(json!({"cacheSpec": [{}]})).is_err());
}

#[test]
fn invalid_images_are_reported_with_path_and_value() {
    let error = refuse(json!({"cacheSpec": [
        {"images": ["nginx", "nginx ; reboot", "ok:1", "Nginx"]},
        {"images": ["http://x/y"]},
    ]}));
    let found: Vec<_> = error
        .fields
        .iter()
        .map(|f| (f.field.as_str(), f.value.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("spec.cacheSpec[0].images[1]", "nginx ; reboot"),
            ("spec.cacheSpec[0].images[3]", "Nginx"),
            ("spec.cacheSpec[1].images[0]", "http://x/y"),
        ]
    );
    let shown = error.to_string();
    assert!(
        shown.contains("spec.cacheSpec[0].images[1]: \"nginx ; reboot\": it contains white space"),
        "{shown}"
    );
    assert_eq!(shown.matches("; spec.").count(), 2);
}

#[test]
fn all_invalid_fields_are_reported_in_order() {
    let error = refuse(json!({
        "cacheSpec": [
            {"images": []},
            {
                "images": ["a b"],
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "zone", "operator": "Equals", "values": ["a"]}]},
                ]}},
                "tolerations": [{"operator": "Exists"}, {"key": "k", "operator": "Like"}],
            },
        ],
        "imagePullSecrets": [{"name": "good"}, {"name": ""}, {"name": "../other"}],
        "serviceAccountName": "a/b",
        "rollout": {"maxConcurrentNodes": "0%"},
    }));
    let found: Vec<_> = error
        .fields
        .iter()
        .map(|f| (f.field.as_str(), f.value.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("spec.cacheSpec[0].images", ""),
            ("spec.cacheSpec[1].images[0]", "a b"),
            ("spec.cacheSpec[1].nodeAffinity", "zone"),
            ("spec.cacheSpec[1].tolerations[1].operator", "Like"),
            ("spec.imagePullSecrets[1].name", ""),
            ("spec.imagePullSecrets[2].name", "../other"),
            ("spec.serviceAccountName", "a/b"),
            ("spec.rollout.maxConcurrentNodes", "0%"),
        ]
    );
}

#[test]
fn invalid_tolerations_are_reported_by_field() {
    for (toleration, field, value) in [
        (
            json!({"key": "a", "operator": "exists"}),
            "operator",
            "exists",
        ),
        (json!({"value": "x"}), "key", ""),
        (json!({"key": "", "operator": "Equal"}), "key", ""),
        (
            json!({"key": "a", "effect": "NoSchedul"}),
            "effect",
            "NoSchedul",
        ),
    ] {
        let found = refuse_one(mk_entry(json!({"tolerations": [toleration]})));
        assert_eq!(found.0, format!("spec.cacheSpec[0].tolerations[0].{field}"));
        assert_eq!(found.1, value);
    }
    mk_cache(mk_entry(json!({"tolerations": [
        {"operator": "Exists"},
        {"key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute", "tolerationSeconds": 60},
        {"key": "a", "operator": "", "effect": ""},
    ]})));
}

#[test]
fn affinity_without_a_term_is_refused() {
    let none = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}});
    let (field, _, problem) = refuse_one(mk_entry(json!({"nodeAffinity": none})));
    assert_eq!(field, "spec.cacheSpec[0].nodeAffinity");
    assert!(problem.contains("at least one term"));
}

#[test]
fn repeated_images_are_refused_and_aliases_are_merged() {
    let (field, value, problem) =
        refuse_one(json!({"cacheSpec": [{"images": ["nginx", "redis", "nginx"]}]}));
    assert_eq!(
        (field.as_str(), value.as_str()),
        ("spec.cacheSpec[0].images[2]", "nginx")
    );
    assert!(problem.contains("twice"));

    let cache = mk_cache(json!({"cacheSpec": [
        {"images": ["nginx", "nginx:latest", "docker.io/nginx"]},
        {"images": ["nginx"]},
    ]}));
    assert_eq!(cache.groups[0].images.len(), 1);
    assert_eq!(cache.groups[0].images[0].original(), "nginx");
    assert_eq!(cache.groups[1].images.len(), 1);
}

#[test]
fn a_list_has_at_most_2000_images() {
    let images = |count| -> Vec<_> { (0..count).map(|n| format!("app{n}")).collect() };
    let cache = mk_cache(json!({"cacheSpec": [{"images": images(2_000)}]}));
    assert_eq!(cache.groups[0].images.len(), 2_000);
    let (field, _, problem) = refuse_one(json!({"cacheSpec": [{"images": images(2_001)}]}));
    assert_eq!(field, "spec.cacheSpec[0].images");
    assert!(
        problem.contains("2001") && problem.contains("2000"),
        "{problem}"
    );
}

#[test]
fn errors_escape_control_characters() {
    let error = refuse(
        json!({"cacheSpec": [{"images": ["a\nlevel=info msg=\"all good\"", "b\u{202e}c\u{1b}[2J"]}]}),
    );
    let shown = error.to_string();
    assert!(!shown.contains(['\n', '\u{202e}', '\u{1b}']), "{shown:?}");
    assert!(
        shown.contains(r#"a\nlevel=info msg=\"all good\""#),
        "{shown}"
    );
}

#[test]
fn max_concurrent_nodes_is_a_count_or_a_percentage() {
    let limit = |value: Value| serde_json::from_value::<CountOrPercent>(value).unwrap();
    for (value, whole, expected) in [
        (json!(1), 10, Some(1)),
        (json!(7), 3, Some(7)),
        (json!(0), 10, None),
        (json!("25%"), 10, Some(3)),
        (json!("100%"), 10, Some(10)),
        (json!("1%"), 10, Some(1)),
        (json!("1%"), 0, Some(1)),
        (json!("0%"), 10, None),
        (json!("101%"), 10, None),
        (json!("+5%"), 10, None),
        (json!("-5%"), 10, None),
        (json!(" 5%"), 10, None),
        (json!("2.5%"), 10, None),
        (json!("%"), 10, None),
        (json!("5"), 10, None),
        (json!(""), 10, None),
    ] {
        assert_eq!(limit(value.clone()).of(whole), expected, "{value}");
    }
    for (value, shown) in [(json!(0), "0"), (json!("5"), "5"), (json!("+5%"), "+5%")] {
        let spec = mk_beside(json!({"rollout": {"maxConcurrentNodes": value}}));
        let (field, found, _) = refuse_one(spec);
        assert_eq!(
            (field.as_str(), found.as_str()),
            ("spec.rollout.maxConcurrentNodes", shown)
        );
    }
    for value in [json!(-3), json!(0.5), json!(5_000_000_000_u64)] {
        let error = serde_json::from_value::<CountOrPercent>(value.clone()).unwrap_err();
        let expected = format!("{value}: must be a number from 1 up, or a percentage");
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
}

#[test]
fn unknown_policies_are_refused() {
    for (entry, word) in [
        (mk_entry(json!({"imagePullPolicy": "Never"})), "Never"),
        (mk_beside(json!({"deletionPolicy": "Delete"})), "Delete"),
    ] {
        let error = serde_json::from_value::<ImageCacheSpec>(entry).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn deadlines_of_entries_win_over_that_of_the_cache() {
    let cache = mk_cache(json!({
        "deadline": "30m",
        "cacheSpec": [{"images": ["nginx"]}, {"images": ["model"], "deadline": "2h30m"}],
    }));
    let deadlines: Vec<_> = cache.groups.iter().map(|group| group.deadline).collect();
    let minutes = |minutes: u64| Some(Duration::from_secs(60 * minutes));
    assert_eq!(deadlines, [minutes(30), minutes(150)]);
    let cache = mk_cache(json!({"cacheSpec": [{"images": ["nginx"]}]}));
    assert_eq!(cache.groups[0].deadline, None);
}

#[test]
fn deadlines_are_durations_from_1s_to_24h() {
    let problem = "must be a duration from 1s to 24h, for example 30m";
    for value in [
        "",
        "5",
        "5 minutes",
        "0s",
        "999ms",
        "-5m",
        "24h1ns",
        "1d",
        "300h",
    ] {
        for (spec, field) in [
            (mk_beside(json!({"deadline": value})), "spec.deadline"),
            (
                mk_entry(json!({"deadline": value})),
                "spec.cacheSpec[0].deadline",
            ),
        ] {
            let refused = refuse_one(spec);
            assert_eq!(
                refused,
                (field.to_owned(), value.to_owned(), problem.to_owned())
            );
        }
    }
    for value in ["1s", "24h", "1h30m", "0.5h", "1500ms"] {
        mk_cache(mk_beside(json!({"deadline": value})));
    }
}

#[test]
fn pull_rates_are_quantities_of_at_least_64_kib() {
    let rate =
        |rate: serde_json::Value| mk_beside(json!({"rollout": {"maxPullRatePerNode": rate}}));
    let field = "spec.rollout.maxPullRatePerNode";
    let least = "must be at least 64Ki";
    let quantity =
        "must be a number with or without a unit (k, M, G, T, Ki, Mi, Gi or Ti), for example 20Mi";
    for (value, shown, problem) in [
        (json!("0"), "0", least),
        (json!(0), "0", least),
        (json!("65535"), "65535", least),
        (json!("63Ki"), "63Ki", least),
        (json!("2Ti"), "2Ti", "must be at most 1Ti"),
        (json!("-20Mi"), "-20Mi", quantity),
        (json!(-1), "-1", quantity),
        (json!("fast"), "fast", quantity),
        (json!("20MB"), "20MB", quantity),
        (json!("20Mi/s"), "20Mi/s", quantity),
        (json!(""), "", quantity),
    ] {
        let refused = refuse_one(rate(value));
        assert_eq!(
            refused,
            (field.to_owned(), shown.to_owned(), problem.to_owned())
        );
    }
    for (value, bytes) in [
        (json!("20Mi"), 20 << 20),
        (json!("64Ki"), 64 << 10),
        (json!(1_000_000), 1_000_000),
        (json!("1.5M"), 1_500_000),
    ] {
        let limit = mk_cache(rate(value)).pull_limit().unwrap();
        assert_eq!(limit.rate.bytes(), bytes);
    }
    assert_eq!(mk_cache(mk_beside(json!({}))).pull_limit(), None);
}
