//! Pulls of a node and limits of caches are shared between caches and namespaces: none delays the images of another.

use crate::warmer_node::{TestNode, mk_inventory, mk_present};
use crate::world::{World, mk_limited, mk_node, mk_spec};
use fledged_core::error::Reason;
use fledged_core::model::{AssignedImage, CacheId, ImagePhase};
use std::time::Duration;

#[test]
fn a_rollout_limit_does_not_delay_other_caches() {
    let mut world = World::new();
    for name in ["n1", "n2", "n3"] {
        world.node(mk_node(name, &[]));
    }
    world.cache("limited", &mk_limited(&["tarpit:1", "shared:1"], 1));
    assert_eq!(world.assigned("n2"), [""; 0]);
    world.cache("web", &mk_spec(&["shared:1", "other:1"], &[]));
    for name in ["n2", "n3"] {
        assert_eq!(world.assigned(name), ["shared:1", "other:1"], "{name}");
    }
}

fn mk_wanted(namespace: &str, image: &str) -> AssignedImage {
    mk_present(image).with_wanted_by([CacheId::new(namespace, "web", namespace)])
}

#[test]
fn namespaces_take_turns_at_pulls() {
    let mut node = TestNode::new(1);
    let many = (0..50).map(|n| mk_wanted("a", &format!("a-{n:02}")));
    node.assign(
        many.chain([mk_wanted("b", "b-0"), mk_wanted("b", "b-1")])
            .collect(),
    );
    let mut pulled = node.read(mk_inventory(&[])).pulls();
    for _ in 0..5 {
        let current = pulled.last().unwrap().clone();
        pulled.extend(node.pulled(&current).pulls());
    }
    assert_eq!(pulled, ["a-00", "b-0", "a-01", "b-1", "a-02", "a-03"]);
}

#[test]
fn a_namespace_with_fewer_pulls_under_way_is_next() {
    let mut node = TestNode::new(3);
    let many = (0..50).map(|n| mk_wanted("a", &format!("a-{n:02}")));
    node.assign(many.collect());
    assert_eq!(node.read(mk_inventory(&[])).pulls().len(), 3);
    let many = (0..50).map(|n| mk_wanted("a", &format!("a-{n:02}")));
    node.assign(
        many.chain([mk_wanted("b", "b-0"), mk_wanted("b", "b-1")])
            .collect(),
    );
    node.read(mk_inventory(&[]));
    // Neither order nor earlier failures of `b` matter.
    assert_eq!(node.failed("a-00", Reason::ImageNotFound).pulls(), ["b-0"]);
    assert_eq!(node.failed("a-01", Reason::ImageNotFound).pulls(), ["a-03"]);
    assert_eq!(node.failed("a-02", Reason::ImageNotFound).pulls(), ["b-1"]);
}

#[test]
fn one_slot_is_kept_for_usual_deadlines() {
    let long = |name: &str| mk_wanted("a", name).with_deadline(Duration::from_secs(7_200));
    let mut node = TestNode::new(3);
    let many: Vec<_> = (0..9).map(|n| long(&format!("a-{n}"))).collect();
    let usual = mk_wanted("b", "b-0");
    node.assign(many.iter().cloned().chain([usual.clone()]).collect());
    assert_eq!(node.read(mk_inventory(&[])).pulls(), ["a-0", "b-0", "a-1"]);
    assert_eq!(node.pulled("b-0").pulls(), [""; 0]);
    // The kept slot is free for what comes later.
    let later = mk_wanted("c", "c-0");
    let images = many.iter().cloned().chain([usual, later]).collect();
    node.assign(images);
    assert_eq!(node.read_next(mk_inventory(&["b-0"])).pulls(), ["c-0"]);
    // A single slot is not kept.
    let mut node = TestNode::new(1);
    node.assign(many.clone());
    assert_eq!(node.read(mk_inventory(&[])).pulls().len(), 1);
}

#[test]
fn one_slot_is_kept_for_other_namespaces_than_long_pulls() {
    let long = |namespace: &str, name: &str, minutes: u64| {
        mk_wanted(namespace, name).with_deadline(Duration::from_secs(60 * minutes))
    };
    let mut node = TestNode::new(2);
    let mut images: Vec<_> = (0..4).map(|n| long("a", &format!("a-{n}"), 120)).collect();
    // Also before any image of another namespace is there.
    node.assign(images.clone());
    assert_eq!(node.read(mk_inventory(&[])).pulls(), ["a-0"]);
    images.push(long("b", "b-0", 20));
    node.assign(images.clone());
    assert_eq!(node.read_next(mk_inventory(&[])).pulls(), ["b-0"]);
    assert_eq!(node.pulled("b-0").pulls(), [""; 0]);
    // The kept slot is free for what comes later.
    images.push(long("c", "c-0", 20));
    node.assign(images);
    assert_eq!(node.read_next(mk_inventory(&["b-0"])).pulls(), ["c-0"]);
}

#[test]
fn a_namespace_with_several_long_pulls_gives_one_back() {
    let long = |namespace: &str, name: &str| {
        mk_wanted(namespace, name).with_deadline(Duration::from_secs(7_200))
    };
    let mut node = TestNode::new(3);
    let mut images = vec![long("a", "a-0"), long("a", "a-1"), mk_wanted("c", "c-0")];
    node.assign(images.clone());
    assert_eq!(node.read(mk_inventory(&[])).pulls(), ["a-0", "c-0", "a-1"]);
    node.pulled("c-0");
    images.push(long("b", "b-0"));
    node.assign(images.clone());
    let asked = node.read_next(mk_inventory(&["c-0"]));
    let expected = (1, vec!["b-0".to_owned()]);
    assert_eq!((asked.cancels(), asked.pulls()), expected);
    assert_eq!(node.report("a-1").phase, ImagePhase::Pending);
    // Another namespace waits: each has one.
    images.push(long("d", "d-0"));
    node.assign(images);
    let asked = node.read_next(mk_inventory(&["c-0"]));
    assert_eq!((asked.cancels(), asked.pulls()), (0, Vec::new()));
    assert_eq!(node.pulled("b-0").pulls(), ["d-0"]);
}

#[test]
fn a_pull_is_not_extended_while_another_namespace_waits() {
    let minute = Duration::from_secs(60);
    let mut node = TestNode::new(1);
    let a = |name: &str| mk_wanted("a", name).with_deadline(minute);
    node.assign(vec![a("a-0"), a("a-1")]);
    node.read(mk_inventory(&[]));
    node.received("a-0", 1 << 30);
    // Its own namespace waits.
    assert_eq!(node.pass(60).cancels(), 0);
    node.assign(vec![a("a-0"), a("a-1"), mk_wanted("b", "b-0")]);
    while node.is_reading() {
        node.read(mk_inventory(&[]));
    }
    node.received("a-0", 2 << 30);
    let asked = node.pass(60);
    assert_eq!(
        (asked.cancels(), asked.pulls()),
        (1, vec!["b-0".to_owned()])
    );
}
