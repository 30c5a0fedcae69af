//! Digests that a tag named before: when they are removed, and when they stay.
use fledged_core::error::Reason;
use fledged_core::model::{
    AssignedImage, Digest, ImagePhase, ImagePullPolicy, ImageReport, ProtectedImages,
    SUPERSEDED_MAX,
};
use fledged_core::port::{ImageUse, Removal, RemovalScope, RuntimeImage};
use fledged_core::warmer::{Inventory, NodeEvent};

use crate::warmer_node::{Asked, TestNode, mk_absent, mk_config, mk_failure, mk_present, mk_ref};

const TAG: &str = "app:latest";
const NONE: [&str; 0] = [];

fn mk_digest(n: u8) -> Digest {
    Digest::parse(&format!("sha256:{n:064x}")).unwrap()
}

/// The image with that content in the repository `app`.
fn by_digest(n: u8) -> String {
    format!("docker.io/library/app@{}", mk_digest(n))
}

/// The image with that content and these tags, as containerd and Docker list it.
fn mk_version(n: u8, tags: &[&str]) -> RuntimeImage {
    let names = tags.iter().map(|tag| mk_ref(tag));
    let names = names.chain([mk_ref(&by_digest(n))]);
    RuntimeImage::new(format!("id-{n}"), names).with_digest(mk_digest(n))
}

fn mk_held(images: Vec<RuntimeImage>, used: &[u8], scope: RemovalScope) -> Inventory {
    let used = used
        .iter()
        .map(|n| ImageUse::new(format!("id-{n}"), "container web"));
    Inventory::new(images, used, scope)
}

fn whole(images: Vec<RuntimeImage>) -> Inventory {
    mk_held(images, &[], RemovalScope::Image)
}

fn mutable(name: &str, revision: u64) -> AssignedImage {
    let image = mk_present(name).with_revision(revision);
    image.with_pull_policy(ImagePullPolicy::Always)
}

fn superseded(node: &TestNode, name: &str) -> Vec<Digest> {
    node.report(name).superseded
}

/// A node whose tag names version 1.
fn mk_node() -> TestNode {
    let mut node = TestNode::new(3);
    node.assign(vec![mutable(TAG, 0)]);
    node.read(whole(vec![]));
    node.ended(TAG, Ok(mk_version(1, &[TAG])));
    node.read(whole(vec![mk_version(1, &[TAG])]));
    assert!(node.is_settled());
    node
}

/// The node pulls version `n` for a refresh.
fn replace(node: &mut TestNode, revision: u64, n: u8, held: &Inventory) -> Asked {
    node.assign(vec![mutable(TAG, revision)]);
    assert_eq!(node.read(held.clone()).pulls(), [TAG]);
    node.ended(TAG, Ok(mk_version(n, &[TAG])))
}

/// Versions 2, with the tag, and 1, without.
fn after_refresh() -> Vec<RuntimeImage> {
    vec![mk_version(2, &[TAG]), mk_version(1, &[])]
}

#[test]
fn the_replaced_digest_is_removed() {
    for scope in [RemovalScope::Image, RemovalScope::ReferenceAndDigests] {
        let mut node = mk_node();
        let before = mk_held(vec![mk_version(1, &[TAG])], &[], scope);
        let asked = replace(&mut node, 1, 2, &before);
        assert!(asked.reads());
        assert_eq!(asked.removals(), NONE);
        assert_eq!(superseded(&node, TAG), [mk_digest(1)]);
        assert!(!node.is_settled());

        let asked = node.read(mk_held(after_refresh(), &[], scope));
        assert_eq!(asked.removals(), [by_digest(1)]);
        assert_eq!(node.phase(TAG), ImagePhase::Cached);
        assert_eq!(node.warmer.report().images.len(), 1);
        node.removal(&by_digest(1), Ok(Removal::Removed));
        assert_eq!(superseded(&node, TAG), []);
        assert!(node.is_settled());
        let asked = node.read_next(mk_held(vec![mk_version(2, &[TAG])], &[], scope));
        assert_eq!(asked.0, []);
    }
}

#[test]
fn a_digest_that_the_runtime_does_not_list_is_forgotten() {
    let mut node = mk_node();
    replace(&mut node, 1, 2, &whole(vec![mk_version(1, &[TAG])]));
    let asked = node.read(whole(vec![mk_version(2, &[TAG])]));
    assert_eq!(asked.removals(), NONE);
    assert_eq!(superseded(&node, TAG), []);
    assert!(node.is_settled());
}

#[test]
fn a_digest_in_use_is_removed_once_it_is_free() {
    let mut node = mk_node();
    replace(&mut node, 1, 2, &whole(vec![mk_version(1, &[TAG])]));
    let used = || mk_held(after_refresh(), &[1], RemovalScope::Image);
    assert_eq!(node.read(used()).removals(), NONE);
    assert_eq!(superseded(&node, TAG), [mk_digest(1)]);
    assert!(node.is_settled());
    assert_eq!(node.read_next(used()).0, []);
    let asked = node.read_next(whole(after_refresh()));
    assert_eq!(asked.removals(), [by_digest(1)]);
    // A container has started meanwhile.
    node.removal(
        &by_digest(1),
        Ok(Removal::InUse("container web".to_owned())),
    );
    assert_eq!(node.read_next(used()).removals(), NONE);
    let asked = node.read_next(whole(after_refresh()));
    assert_eq!(asked.removals(), [by_digest(1)]);
}

#[test]
fn a_failed_removal_is_repeated() {
    let mut node = mk_node();
    replace(&mut node, 1, 2, &whole(vec![mk_version(1, &[TAG])]));
    node.read(whole(after_refresh()));
    let failure = mk_failure(Reason::RuntimeUnavailable);
    node.removal(&by_digest(1), Err(failure));
    assert_eq!(node.phase(TAG), ImagePhase::Cached);
    assert_eq!(node.wake().removals(), [by_digest(1)]);
}

#[test]
fn a_digest_with_another_tag_stays() {
    for scope in [RemovalScope::Image, RemovalScope::ReferenceAndDigests] {
        for tag in ["app:other", "mirror.example/app:1"] {
            let held = vec![mk_version(2, &[TAG]), mk_version(1, &[tag])];
            let held = mk_held(held, &[], scope);
            let mut node = mk_node();
            replace(&mut node, 1, 2, &whole(vec![mk_version(1, &[TAG, tag])]));
            assert_eq!(node.read(held.clone()).removals(), NONE, "{tag}");
            assert_eq!(superseded(&node, TAG), [mk_digest(1)]);
            // The tag is gone.
            let asked = node.read_next(mk_held(after_refresh(), &[], scope));
            assert_eq!(asked.removals(), [by_digest(1)]);
        }
    }
}

#[test]
fn a_digest_that_is_desired_otherwise_stays() {
    for other in ["app:v1", &by_digest(1)] {
        let tags: &[&str] = match other {
            "app:v1" => &["app:v1"],
            _ => &[],
        };
        let held = vec![mk_version(2, &[TAG]), mk_version(1, tags)];
        let mut node = mk_node();
        replace(&mut node, 1, 2, &whole(vec![mk_version(1, &[TAG])]));
        node.assign(vec![mutable(TAG, 1), mk_present(other)]);
        node.read(whole(held.clone()));
        let asked = node.read(whole(held.clone()));
        assert_eq!(asked.removals(), NONE, "{other}");
        assert_eq!(node.phase(other), ImagePhase::Cached);
        assert_eq!(superseded(&node, TAG), []);
        assert!(node.is_settled());
        // It leaves the assignment by its own name.
        node.assign(vec![mutable(TAG, 1), mk_absent(other)]);
        assert_eq!(node.read(whole(held)).removals(), [other]);
    }
}

#[test]
fn a_digest_that_is_desired_during_its_removal_is_checked_again() {
    let mut node = mk_node();
    replace(&mut node, 1, 2, &whole(vec![mk_version(1, &[TAG])]));
    assert_eq!(node.read(whole(after_refresh())).removals(), [by_digest(1)]);
    node.assign(vec![mutable(TAG, 1), mk_present(&by_digest(1))]);
    node.read(whole(after_refresh()));
    assert!(node.removal(&by_digest(1), Ok(Removal::Removed)).reads());
    let asked = node.read(whole(vec![mk_version(2, &[TAG])]));
    assert_eq!(asked.pulls(), [by_digest(1)]);
}

#[test]
fn a_digest_that_the_tag_names_again_stays() {
    let mut node = mk_node();
    replace(&mut node, 1, 2, &whole(vec![mk_version(1, &[TAG])]));
    node.read(mk_held(after_refresh(), &[1], RemovalScope::Image));
    let held = mk_held(after_refresh(), &[1], RemovalScope::Image);
    replace(&mut node, 2, 1, &held);
    assert_eq!(superseded(&node, TAG), [mk_digest(2)]);
    let asked = node.read(whole(vec![mk_version(1, &[TAG]), mk_version(2, &[])]));
    assert_eq!(asked.removals(), [by_digest(2)]);
}

#[test]
fn another_digest_of_the_same_image_is_not_superseded() {
    // A new index whose image for this platform is the same.
    let both = || {
        let names = [TAG, &by_digest(1), &by_digest(2)].map(mk_ref);
        RuntimeImage::new("id-1", names)
    };
    let mut node = mk_node();
    node.assign(vec![mutable(TAG, 1)]);
    node.read(whole(vec![mk_version(1, &[TAG])]));
    node.ended(TAG, Ok(both().with_digest(mk_digest(2))));
    assert_eq!(superseded(&node, TAG), []);
    node.read(whole(vec![both().with_digest(mk_digest(1))]));
    assert_eq!(superseded(&node, TAG), []);
    // Both digests go with the image.
    replace(&mut node, 2, 3, &whole(vec![both()]));
    let old = RuntimeImage::new("id-1", [by_digest(1), by_digest(2)].map(|n| mk_ref(&n)));
    let asked = node.read(whole(vec![mk_version(3, &[TAG]), old]));
    assert_eq!(asked.removals(), [by_digest(1)]);
}

#[test]
fn a_tag_that_something_else_moved_is_followed() {
    let mut node = mk_node();
    // This reading began without the images in use.
    let asked = node.read_next(whole(after_refresh()));
    assert_eq!(asked.removals(), NONE);
    assert!(asked.reads());
    assert_eq!(superseded(&node, TAG), [mk_digest(1)]);
    assert_eq!(node.read(whole(after_refresh())).removals(), [by_digest(1)]);
}

#[test]
fn pinned_and_protected_digests_stay() {
    let mut node = mk_node();
    replace(&mut node, 1, 2, &whole(vec![mk_version(1, &[TAG])]));
    let pinned = mk_version(1, &[]).with_pinned(true);
    let asked = node.read(whole(vec![mk_version(2, &[TAG]), pinned]));
    assert_eq!(asked.removals(), NONE);

    let mut config = mk_config(3);
    config.protected = ProtectedImages::new(["*/app"]);
    let mut node = TestNode::with(config);
    node.assign(vec![mutable(TAG, 0)]);
    node.read(whole(vec![mk_version(1, &[TAG])]));
    node.ended(TAG, Ok(mk_version(2, &[TAG])));
    assert_eq!(node.read(whole(after_refresh())).removals(), NONE);
    assert_eq!(superseded(&node, TAG), []);
}

#[test]
fn without_a_record_nothing_is_superseded() {
    let mut node = TestNode::new(3);
    node.assign(vec![mk_present(TAG)]);
    assert_eq!(node.read(whole(after_refresh())).removals(), NONE);
    assert_eq!(superseded(&node, TAG), []);
    assert!(node.is_settled());
}

/// A new agent that continues from these reports.
fn restarted(reports: Vec<ImageReport>, images: Vec<AssignedImage>) -> TestNode {
    let mut node = TestNode::new(3);
    node.send(NodeEvent::Resumed(reports));
    node.assign(images);
    node
}

#[test]
fn a_restart_continues_the_removals() {
    let mut node = mk_node();
    replace(&mut node, 1, 2, &whole(vec![mk_version(1, &[TAG])]));
    let reports = node.warmer.report().images;
    let mut node = restarted(reports, vec![mutable(TAG, 1)]);
    assert_eq!(node.read(whole(after_refresh())).removals(), [by_digest(1)]);

    // The tag was pulled again, by this agent or another client, and the report was not written.
    let reports = mk_node().warmer.report().images;
    let mut node = restarted(reports, vec![mutable(TAG, 0)]);
    assert!(node.read(whole(after_refresh())).reads());
    assert_eq!(node.read(whole(after_refresh())).removals(), [by_digest(1)]);
}

#[test]
fn a_purge_removes_superseded_digests() {
    let mut node = mk_node();
    replace(&mut node, 1, 2, &whole(vec![mk_version(1, &[TAG])]));
    let used = |images| mk_held(images, &[1], RemovalScope::Image);
    node.read(used(after_refresh()));
    node.assign(vec![mk_absent(TAG)]);
    assert_eq!(node.read(used(after_refresh())).removals(), [TAG]);
    node.removal(TAG, Ok(Removal::Removed));
    // The tag is gone; the version in use is reported in its place.
    let report = node.report(TAG);
    assert_eq!(report.phase, ImagePhase::InUse);
    assert_eq!(report.reason, Some(Reason::InUse));
    assert_eq!(report.digest, Some(mk_digest(1)));
    let message = format!("the superseded version {}: container web", by_digest(1));
    assert_eq!(report.message, Some(message));
    assert!(node.is_settled());

    // Also after a restart, and when it is free.
    let mut again = restarted(vec![report], vec![mk_absent(TAG)]);
    for node in [&mut node, &mut again] {
        if !node.is_reading() {
            node.inventory_changed();
        }
        let asked = node.read(whole(vec![mk_version(1, &[])]));
        assert_eq!(asked.removals(), [by_digest(1)]);
        assert_eq!(node.phase(TAG), ImagePhase::Removing);
        node.removal(&by_digest(1), Ok(Removal::Removed));
        assert_eq!(node.phase(TAG), ImagePhase::Removed);
        assert_eq!(superseded(node, TAG), []);
        assert!(node.is_settled());
    }
}

#[test]
fn an_image_that_nothing_lists_is_forgotten_with_its_digests() {
    let mut node = mk_node();
    replace(&mut node, 1, 2, &whole(vec![mk_version(1, &[TAG])]));
    node.read(mk_held(after_refresh(), &[1], RemovalScope::Image));
    node.assign(vec![mk_present("other")]);
    node.read(whole(after_refresh()));
    node.pulled("other");
    let mut held = after_refresh();
    held.push(RuntimeImage::new("other", [mk_ref("other")]));
    assert_eq!(node.read(whole(held)).removals(), NONE);
    assert!(node.is_settled());
}

#[test]
fn two_tags_share_a_superseded_digest() {
    let tags = [TAG, "app:edge"];
    let mut node = TestNode::new(3);
    node.assign(tags.map(|tag| mutable(tag, 0)).to_vec());
    node.read(whole(vec![mk_version(1, &tags)]));
    for tag in tags {
        node.ended(tag, Ok(mk_version(2, &tags)));
    }
    let held = whole(vec![mk_version(2, &tags), mk_version(1, &[])]);
    assert_eq!(node.read(held).removals(), [by_digest(1)]);
    assert!(
        tags.iter()
            .all(|tag| superseded(&node, tag) == [mk_digest(1)])
    );
    node.removal(&by_digest(1), Ok(Removal::Removed));
    assert!(tags.iter().all(|tag| superseded(&node, tag).is_empty()));
    assert!(node.is_settled());
}

#[test]
fn removals_of_superseded_digests_yield_to_pulls() {
    let mut node = mk_node();
    let before = whole(vec![mk_version(1, &[TAG])]);
    let mut images = vec![mutable(TAG, 1), mk_present("big")];
    node.assign(images.clone());
    assert_eq!(node.read(before).pulls().len(), 2);
    node.ended(TAG, Ok(mk_version(2, &[TAG])));
    let mut held = after_refresh();
    assert_eq!(node.read_next(whole(held.clone())).removals(), NONE);
    // A running pull delays the removal, and the removal delays no other pull.
    images.push(mk_present("small"));
    node.assign(images.clone());
    let asked = node.read(whole(held.clone()));
    assert_eq!(asked.removals(), NONE);
    assert_eq!(asked.pulls(), ["small"]);
    for name in ["small", "big"] {
        assert_eq!(node.pulled(name).removals(), NONE);
        held.push(RuntimeImage::new(name, [mk_ref(name)]));
    }
    assert_eq!(node.read(whole(held)).removals(), [by_digest(1)]);

    // A removal that a purge causes does not wait.
    let mut node = mk_node();
    replace(&mut node, 1, 2, &whole(vec![mk_version(1, &[TAG])]));
    let images = vec![mk_absent(TAG), mk_present("big")];
    node.assign(images);
    // This reading precedes the assignment.
    node.read(whole(after_refresh()));
    let asked = node.read(whole(after_refresh()));
    assert_eq!(
        (asked.removals(), asked.pulls()),
        (vec![TAG.to_owned()], vec![])
    );
    let asked = node.removal(TAG, Ok(Removal::Removed));
    assert_eq!(asked.removals(), [by_digest(1)]);
}

#[test]
fn a_node_remembers_a_limited_number_of_digests() {
    let mut node = mk_node();
    let mut held = vec![mk_version(1, &[TAG])];
    for n in 2..=9 {
        replace(&mut node, u64::from(n), n, &whole(held.clone()));
        held = (1..n).map(|old| mk_version(old, &[])).collect();
        held.push(mk_version(n, &[TAG]));
        let used: Vec<u8> = (1..n).collect();
        node.read(mk_held(held.clone(), &used, RemovalScope::Image));
    }
    let expected: Vec<_> = (5..9).map(mk_digest).collect();
    assert_eq!(expected.len(), SUPERSEDED_MAX);
    assert_eq!(superseded(&node, TAG), expected);
}
