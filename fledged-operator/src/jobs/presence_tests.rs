use super::*;

const MARGIN: Duration = Duration::from_secs(60);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}

fn node(told: i64, images: &[&str]) -> Arc<NodeView> {
    let listed = images.len();
    let images = images.iter();
    let images = images.map(|name| RuntimeImage::new(*name, [image(name)]));
    Arc::new(NodeView {
        listed,
        told_at: Some(at(told)),
        images: images.collect(),
        ..NodeView::default()
    })
}

/// A node that is to have `app:1` and `app:2`, and not `old:1`; three images make a list that is cut.
fn mk_presence() -> Presence {
    let mut presence = Presence::new(MARGIN, 3);
    presence.assign(&[
        AssignedImage::present(image("app:1")),
        AssignedImage::present(image("app:2")),
        AssignedImage::absent(image("old:1")),
    ]);
    presence
}

fn listed(presence: &mut Presence) -> Vec<String> {
    let list = presence.list();
    let names = list.iter().flat_map(|image| &image.references);
    names.map(|name| name.original().to_owned()).collect()
}

#[test]
fn what_the_kubelet_names_is_there() {
    let mut presence = mk_presence();
    presence.node(node(0, &["app:1", "other:1"]));
    assert_eq!(listed(&mut presence), ["app:1", "other:1"]);
    assert!(presence.find(&image("app:1")).is_some());
    assert!(presence.find(&image("app:2")).is_none());
}

#[test]
fn a_pull_counts_until_a_complete_and_newer_list_lacks_it() {
    let mut presence = mk_presence();
    presence.pulled(&image("app:1"), None, at(1_000));
    presence.node(node(1_059, &["other:1"]));
    assert_eq!(listed(&mut presence), ["other:1", "app:1"]);
    presence.node(node(1_060, &["other:1"]));
    assert_eq!(listed(&mut presence), ["other:1"]);
    // Once lost, an older list does not bring it back.
    presence.node(node(1_000, &[]));
    assert!(listed(&mut presence).is_empty());
}

#[test]
fn absence_from_a_list_that_is_cut_says_nothing() {
    let mut presence = mk_presence();
    presence.pulled(&image("app:1"), None, at(1_000));
    presence.node(node(9_000, &["a:1", "b:1", "c:1"]));
    let found = listed(&mut presence);
    assert!(found.contains(&"app:1".to_owned()), "{found:?}");
    // To be absent and not known to be: worth a look.
    assert!(found.contains(&"old:1".to_owned()), "{found:?}");
    assert!(!found.contains(&"app:2".to_owned()), "{found:?}");
    presence.gone(&image("old:1"), at(9_001));
    let found = listed(&mut presence);
    assert!(!found.contains(&"old:1".to_owned()), "{found:?}");
}

#[test]
fn what_was_removed_is_gone_whatever_an_older_list_says() {
    let mut presence = mk_presence();
    presence.node(node(100, &["old:1"]));
    assert_eq!(listed(&mut presence), ["old:1"]);
    presence.gone(&image("old:1"), at(200));
    for told in [100, 200, 259] {
        presence.node(node(told, &["old:1"]));
        assert!(listed(&mut presence).is_empty(), "{told}");
    }
    // Somebody brought it back.
    presence.node(node(260, &["old:1"]));
    assert_eq!(listed(&mut presence), ["old:1"]);
}

#[test]
fn what_was_reported_before_a_restart_still_counts() {
    let mut presence = mk_presence();
    let mut cached = ImageReport::new(image("app:1"), ImagePhase::Cached);
    cached.size = Some(ByteSize::new(5));
    let failed = ImageReport::new(image("app:2"), ImagePhase::Failed);
    presence.resume(&[cached, failed], at(1_000));
    presence.node(node(1_000, &[]));
    assert_eq!(listed(&mut presence), ["app:1"]);
    assert_eq!(presence.list()[0].size, ByteSize::new(5));
    // What is not assigned any more is forgotten.
    presence.assign(&[]);
    assert!(listed(&mut presence).is_empty());
}

#[test]
fn what_could_not_be_removed_is_left_alone_for_a_while() {
    let mut presence = mk_presence();
    presence.node(node(0, &["old:1"]));
    assert!(presence.in_use(at(0)).is_empty());
    presence.refused(&image("old:1"), at(0));
    let used = presence.in_use(at(10));
    assert_eq!(used, [presence.list()[0].id.clone()]);
    let later = i64::try_from(LEFT_ALONE.as_secs()).unwrap();
    assert!(presence.in_use(at(later)).is_empty());
}

#[test]
fn what_is_being_removed_and_wanted_again_is_not_there() {
    let mut presence = mk_presence();
    presence.node(node(0, &["old:1"]));
    presence.removing(BTreeSet::from([image("old:1")]));
    assert_eq!(listed(&mut presence), ["old:1"]);
    presence.assign(&[AssignedImage::present(image("old:1"))]);
    assert!(listed(&mut presence).is_empty());
    presence.removing(BTreeSet::new());
    assert_eq!(listed(&mut presence), ["old:1"]);
}

#[test]
fn what_a_job_that_was_given_up_may_have_pulled_is_removed_to_be_sure() {
    let mut presence = mk_presence();
    presence.node(node(1_000, &[]));
    assert!(listed(&mut presence).is_empty());
    for name in ["old:1", "app:1"] {
        presence.perhaps(&image(name), None);
    }
    presence.node(node(9_000, &[]));
    assert_eq!(listed(&mut presence), ["old:1"], "it is still at it");
    assert!(presence.find(&image("app:1")).is_none());
    presence.perhaps(&image("old:1"), Some(at(9_000)));
    assert_eq!(listed(&mut presence), ["old:1"]);
    presence.node(node(9_060, &[]));
    assert!(listed(&mut presence).is_empty());
    // What was pulled is not doubted because another attempt is made.
    presence.pulled(&image("app:1"), None, at(9_060));
    presence.perhaps(&image("app:1"), Some(at(9_061)));
    assert_eq!(listed(&mut presence), ["app:1"]);
}

/// A kubelet tells five names of an image, and no more.
#[test]
fn absence_from_names_that_are_cut_says_nothing() {
    let digest = format!("docker.io/library/app@sha256:{}", "0".repeat(64));
    let names = [&digest, "app:a", "app:b", "app:c", "app:d"];
    let list = |names: &[&str]| {
        let told = serde_json::json!({ "status": {
            "conditions": [{ "type": "Ready", "status": "True", "lastHeartbeatTime": at(9_000).to_string() }],
            "images": [{ "names": names, "sizeBytes": 7 }],
        } });
        let told: crate::jobs::node::ReadNodeImages = serde_json::from_value(told).unwrap();
        Arc::new(told.into_view())
    };
    let mut presence = Presence::new(MARGIN, 50);
    presence.assign(&[
        AssignedImage::present(image("app:1")),
        AssignedImage::absent(image("app:2")),
    ]);
    presence.pulled(&image("app:1"), None, at(1_000));
    presence.node(list(&names));
    let found = listed(&mut presence);
    for name in ["app:1", "app:2"] {
        assert!(found.contains(&name.to_owned()), "{name}: {found:?}");
    }
    presence.node(list(&names[..4]));
    let found = listed(&mut presence);
    assert!(
        !found.iter().any(|name| name == "app:1" || name == "app:2"),
        "{found:?}"
    );
}
