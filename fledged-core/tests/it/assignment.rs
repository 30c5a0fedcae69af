//! How image caches are folded into the assignment of a node.
use std::collections::BTreeMap;
use std::time::Duration;

use fledged_core::model::{
    AssignedImage, Assignment, AssignmentDefaults, CacheId, DesiredState, ImageCache,
    ImageCacheSpec, ImagePullPolicy, NodeFacts, NodeName, PullLimit,
};
use serde_json::{Value, json};

fn mk_node(labels: &[(&str, &str)]) -> NodeFacts {
    NodeFacts::new(NodeName::new("n").unwrap()).with_labels(labels.iter().copied())
}

fn mk_cache(name: &str, spec: Value) -> ImageCache {
    let spec: ImageCacheSpec = serde_json::from_value(spec).unwrap();
    spec.validate(CacheId::new("default", name, name)).unwrap()
}

fn mk_images(name: &str, images: &[&str]) -> ImageCache {
    mk_cache(name, json!({"cacheSpec": [{"images": images}]}))
}

fn fold(caches: &[ImageCache]) -> Vec<AssignedImage> {
    let defaults = AssignmentDefaults::default();
    Assignment::for_node(&mk_node(&[]), caches, defaults).images
}

fn words(images: &[AssignedImage]) -> Vec<String> {
    images.iter().map(|i| i.image.to_string()).collect()
}

fn policies(images: &[AssignedImage]) -> BTreeMap<String, ImagePullPolicy> {
    let policy = |i: &AssignedImage| (i.image.to_string(), i.pull_policy);
    images.iter().map(policy).collect()
}

#[test]
fn images_are_listed_once_in_the_order_of_caches() {
    let caches = [
        mk_images("one", &["c:1", "a:1"]),
        mk_cache(
            "two",
            json!({"cacheSpec": [{"images": ["b:1"]}, {"images": ["docker.io/a:1", "d:1"]}]}),
        ),
    ];
    let images = fold(&caches);
    assert_eq!(words(&images), ["c:1", "a:1", "b:1", "d:1"]);
    let wanted: Vec<_> = images[1]
        .wanted_by
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(wanted, ["default/one", "default/two"]);
    assert!(images.iter().all(|i| i.state == DesiredState::Present));
    assert!(
        images
            .iter()
            .all(|i| i.deadline == Duration::from_secs(300))
    );
    assert_eq!(fold(&[]), []);
}

#[test]
fn only_groups_that_match_the_node_count() {
    let cache = mk_cache(
        "cache",
        json!({"cacheSpec": [
            {"images": ["all:1"]},
            {"images": ["back:1", "all:1"], "nodeSelector": {"tier": "backend"}},
            {"images": ["front:1"], "nodeSelector": {"tier": "frontend"}},
        ]}),
    );
    let node = mk_node(&[("tier", "backend")]);
    let folded = Assignment::for_node(&node, [&cache], AssignmentDefaults::default());
    assert_eq!(words(&folded.images), ["all:1", "back:1"]);
    assert_eq!(
        folded.images[0].wanted_by.len(),
        1,
        "a cache with two matching groups is listed once"
    );
    assert_eq!(words(&fold(&[cache])), ["all:1"]);
}

#[test]
fn policy_always_wins_and_mutable_tags_are_always_pulled() {
    let with = |policy: &str, images: &[&str]| {
        mk_cache(
            policy,
            json!({"cacheSpec": [{"images": images, "imagePullPolicy": policy}]}),
        )
    };
    let caches = [
        with("Always", &["both:1", "always:1"]),
        with("IfNotPresent", &["both:1", "lazy:1", "moving"]),
        mk_images("plain", &["lazy:1", "default:1"]),
    ];
    use ImagePullPolicy::{Always, IfNotPresent};
    let found = policies(&fold(&caches));
    assert_eq!(found["both:1"], Always);
    assert_eq!(found["always:1"], Always);
    assert_eq!(found["lazy:1"], IfNotPresent);
    assert_eq!(found["moving"], Always);
    assert_eq!(found["default:1"], IfNotPresent);

    let defaults = AssignmentDefaults::default().with_pull_policy(Always);
    let found = policies(&Assignment::for_node(&mk_node(&[]), &caches, defaults).images);
    assert_eq!(found["default:1"], Always);
    assert_eq!(
        found["lazy:1"], Always,
        "one of its caches uses the default policy"
    );
    let found = policies(&Assignment::for_node(&mk_node(&[]), &caches[1..2], defaults).images);
    assert_eq!(
        found["lazy:1"], IfNotPresent,
        "an explicit policy overrides the default"
    );
}

#[test]
fn credentials_of_all_caches_are_merged_in_order() {
    let with = |name: &str, secrets: &[&str], account: &str| {
        let secrets: Vec<_> = secrets.iter().map(|s| json!({"name": s})).collect();
        mk_cache(
            name,
            json!({
                "cacheSpec": [{"images": ["app:1"]}],
                "imagePullSecrets": secrets,
                "serviceAccountName": account,
            }),
        )
    };
    let caches = [
        with("one", &["z", "a"], "builder"),
        with("two", &["b", "z"], "builder"),
        with("three", &[], "other"),
    ];
    let image = fold(&caches).remove(0);
    let secrets: Vec<_> = image.pull_secrets.iter().map(ToString::to_string).collect();
    assert_eq!(secrets, ["default/z", "default/a", "default/b"]);
    let accounts: Vec<_> = image
        .service_accounts
        .iter()
        .map(|a| a.name.as_str())
        .collect();
    assert_eq!(accounts, ["builder", "other"]);
}

#[test]
fn into_absent_marks_all_images_absent() {
    let images = fold(&[mk_images("one", &["a:1", "b:1"])]);
    let absent = Assignment::new(4, images).into_absent();
    assert_eq!(absent.generation, 4);
    assert_eq!(words(&absent.images), ["a:1", "b:1"]);
    assert!(
        absent
            .images
            .iter()
            .all(|i| i.state == DesiredState::Absent && i.wanted_by.is_empty())
    );
}

#[test]
fn the_longest_deadline_of_all_caches_counts() {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let mk_deadline = |name: &str, deadline: &str| {
        let entry = json!({"images": ["shared"], "deadline": deadline});
        mk_cache(name, json!({"cacheSpec": [entry]}))
    };
    let plain = mk_images("plain", &["shared", "own"]);
    let fold = |caches: &[ImageCache], defaults| {
        let images = Assignment::for_node(&mk_node(&[]), caches, defaults).images;
        images
            .iter()
            .map(|image| image.deadline)
            .collect::<Vec<_>>()
    };
    let defaults = AssignmentDefaults::default();
    // One minute is shorter than the default, which counts for `plain`.
    let caches = [mk_deadline("a", "1m"), plain.clone()];
    assert_eq!(fold(&caches, defaults), [minutes(5), minutes(5)]);
    assert_eq!(fold(&caches[..1], defaults), [minutes(1)]);
    let caches = [plain, mk_deadline("a", "30m"), mk_deadline("b", "1h")];
    assert_eq!(fold(&caches, defaults), [minutes(60), minutes(5)]);
    // The operator's limit holds for caches, not for its own default.
    let limited = defaults.with_deadline_max(minutes(20));
    assert_eq!(fold(&caches, limited), [minutes(20), minutes(5)]);
    let long_default = limited.with_deadline(minutes(45));
    assert_eq!(fold(&caches, long_default), [minutes(45), minutes(45)]);
}

#[test]
fn the_highest_pull_rate_counts_if_each_cache_has_one() {
    let mk_rate = |name: &str, rate: &str, images: &[&str]| {
        let spec = json!({
            "cacheSpec": [{"images": images}, {"images": images}],
            "rollout": {"maxPullRatePerNode": rate},
        });
        mk_cache(name, spec)
    };
    let limits = |caches: &[ImageCache]| {
        let images = fold(caches).into_iter();
        let limits = images.map(|image| image.pull_limit);
        limits
            .map(|limit| limit.map(|PullLimit { cache, rate, .. }| (cache.name, rate.bytes())))
            .collect::<Vec<_>>()
    };
    let limit = |name: &str, rate| Some((name.to_owned(), rate));
    let slow = mk_rate("slow", "1M", &["shared", "own"]);
    let fast = mk_rate("fast", "2M", &["shared"]);
    let same = mk_rate("same", "2000k", &["shared"]);
    let none = mk_images("none", &["shared"]);
    let (own, high) = (limit("slow", 1_000_000), limit("fast", 2_000_000));
    let all = [slow.clone(), fast.clone(), same];
    assert_eq!(limits(&all[..1]), [own.clone(), own.clone()]);
    assert_eq!(limits(&all), [high.clone(), own.clone()]);
    assert_eq!(limits(&[fast.clone(), slow.clone()]), [high, own.clone()]);
    for caches in [
        [slow.clone(), fast.clone(), none.clone()],
        [none.clone(), slow.clone(), fast.clone()],
        [slow, none, fast],
    ] {
        let limits = limits(&caches);
        assert_eq!(limits[0], None);
        assert_eq!(limits.last(), Some(&own));
    }
}
