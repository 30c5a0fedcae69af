//! Removals by the warmer: their order, and images that are kept.
use std::time::Duration;

use crate::warmer_node::{
    TestNode, mk_absent, mk_config, mk_failure, mk_image, mk_inventory, mk_present,
};
use fledged_core::error::Reason;
use fledged_core::model::{
    AssignedImage, CacheId, ImagePhase, ProtectedImages, RemovalCause, RemovalOrder,
};
use fledged_core::port::{ImageId, ImageUse, Removal, RemovalScope, RuntimeImage};
use fledged_core::warmer::Inventory;
use jiff::Timestamp;

const NONE: [&str; 0] = [];

/// Returns an inventory of `images`, of which containers use `used`.
fn mk_used(images: Vec<RuntimeImage>, used: &[&str], removal: RemovalScope) -> Inventory {
    let used: Vec<_> = used
        .iter()
        .map(|id| ImageId((*id).to_owned()).into())
        .collect();
    Inventory::new(images, used, removal)
}

fn mk_whole(images: &[&[&str]]) -> Inventory {
    let images = images.iter().map(|names| mk_image(names)).collect();
    mk_used(images, &[], RemovalScope::Image)
}

fn mk_by_name(images: &[&[&str]], used: &[&str]) -> Inventory {
    let images = images.iter().map(|names| mk_image(names)).collect();
    mk_used(images, used, RemovalScope::Reference)
}

fn rig_with(
    images: Vec<AssignedImage>,
    inventory: Inventory,
) -> (TestNode, crate::warmer_node::Asked) {
    let mut node = TestNode::new(3);
    node.assign(images);
    let asked = node.read(inventory);
    (node, asked)
}

#[test]
fn images_are_removed_one_after_another() {
    let images = vec![mk_absent("a"), mk_absent("b"), mk_absent("c")];
    let (mut node, asked) = rig_with(images, mk_inventory(&["a", "b", "other"]));
    assert_eq!(asked.removals(), ["a"]);
    assert_eq!(node.phase("c"), ImagePhase::Removed);
    assert_eq!(node.phase("b"), ImagePhase::Removing);
    assert!(!node.is_settled());
    assert_eq!(node.removal("a", Ok(Removal::Removed)).removals(), ["b"]);
    assert_eq!(node.removal("b", Ok(Removal::Absent)).removals(), NONE);
    assert!(node.is_settled());
    let report = node.report("a");
    assert_eq!(report.phase, ImagePhase::Removed);
    assert_eq!(report.attempts, 1);
    assert_eq!(report.finished_at, Some(node.now));
    assert_eq!((report.size, report.reason), (None, None));
}

#[test]
fn an_image_in_use_is_removed_once_unused() {
    for scope in [RemovalScope::Image, RemovalScope::Reference] {
        let used = |used: &[&str]| mk_used(vec![mk_image(&["a"])], used, scope);
        let (mut node, asked) = rig_with(vec![mk_absent("a")], used(&["a"]));
        if scope == RemovalScope::Reference {
            // Only the runtime knows whether this name is the last one.
            assert_eq!(asked.removals(), ["a"]);
            node.removal("a", Ok(Removal::InUse("pod web-1".to_owned())));
            let message = node.report("a").message.unwrap();
            assert_eq!(message, "pod web-1");
        } else {
            assert_eq!(asked.removals(), NONE);
        }
        let report = node.report("a");
        assert_eq!(report.phase, ImagePhase::InUse);
        assert_eq!(report.reason, Some(Reason::InUse));
        assert!(node.is_settled());
        for _ in 0..3 {
            // An unchanged inventory causes no command and no report.
            assert_eq!(node.read_next(used(&["a"])).0, []);
        }
        assert_eq!(node.read_next(used(&[])).removals(), ["a"]);
        assert_eq!(node.phase("a"), ImagePhase::Removing);
        assert_eq!(node.report("a").reason, None);
        node.removal("a", Ok(Removal::Removed));
        assert_eq!(node.phase("a"), ImagePhase::Removed);
    }
}

#[test]
fn a_pinned_image_is_kept() {
    for scope in [RemovalScope::Image, RemovalScope::Reference] {
        let image = mk_image(&["a"]).with_pinned(true);
        let inventory = mk_used(vec![image], &[], scope);
        let (node, asked) = rig_with(vec![mk_absent("a")], inventory);
        assert_eq!(asked.removals(), NONE);
        assert_eq!(node.report("a").reason, Some(Reason::Pinned));
        assert_eq!(node.phase("a"), ImagePhase::InUse);
    }
}

#[test]
fn an_image_desired_by_another_name_is_kept() {
    let images = vec![mk_absent("app:1"), mk_present("app:stable")];
    let names: &[&[&str]] = &[&["app:1", "app:stable"]];
    let (node, asked) = rig_with(images.clone(), mk_whole(names));
    assert_eq!(asked.removals(), NONE);
    let report = node.report("app:1");
    assert_eq!(report.reason, Some(Reason::SharedImage));
    assert!(report.message.unwrap().contains("app:stable"));

    let (_, asked) = rig_with(images, mk_by_name(names, &[]));
    assert_eq!(asked.removals(), ["app:1"]);
}

#[test]
fn an_image_with_an_unlisted_name_is_kept() {
    let names: &[&[&str]] = &[&["app:1", "mirror.example/app:1"]];
    let (node, asked) = rig_with(vec![mk_absent("app:1")], mk_whole(names));
    assert_eq!(asked.removals(), NONE);
    assert_eq!(node.report("app:1").reason, Some(Reason::SharedImage));

    let both = vec![mk_absent("app:1"), mk_absent("mirror.example/app:1")];
    let (mut node, asked) = rig_with(both, mk_whole(names));
    assert_eq!(asked.removals(), ["app:1"]);
    let asked = node.removal("app:1", Ok(Removal::Removed));
    assert_eq!(asked.removals(), ["mirror.example/app:1"]);
    node.removal("mirror.example/app:1", Ok(Removal::Absent));
    assert!(node.is_settled());
}

#[test]
fn a_tag_is_removed_with_its_digest() {
    let digest = format!("app@sha256:{}", "a".repeat(64));
    let foreign = format!("other@sha256:{}", "a".repeat(64));
    let (_, asked) = rig_with(vec![mk_absent("app:1")], mk_whole(&[&["app:1", &digest]]));
    assert_eq!(asked.removals(), ["app:1"]);
    let names: &[&[&str]] = &[&["app:1", &digest, &foreign]];
    let (_, asked) = rig_with(vec![mk_absent("app:1")], mk_whole(names));
    assert_eq!(asked.removals(), NONE);
}

#[test]
fn removals_of_whole_images_precede_pulls() {
    let images = vec![mk_present("new"), mk_absent("old")];
    let (mut node, asked) = rig_with(images.clone(), mk_inventory(&["old"]));
    assert_eq!(asked.removals(), ["old"]);
    assert_eq!(asked.pulls(), NONE);
    assert_eq!(node.removal("old", Ok(Removal::Removed)).pulls(), ["new"]);

    let (_, asked) = rig_with(images, mk_by_name(&[&["old"]], &[]));
    assert_eq!((asked.removals().len(), asked.pulls().len()), (1, 1));
}

#[test]
fn a_removal_waits_for_pulls_and_a_later_reading() {
    let (mut node, _) = rig_with(
        vec![mk_present("a"), mk_present("b")],
        mk_inventory(&["old"]),
    );
    node.pulled("b");
    node.assign(vec![
        mk_present("a"),
        mk_present("b"),
        mk_present("c"),
        mk_absent("old"),
    ]);
    let asked = node.read(mk_inventory(&["old", "b"]));
    // `a` is still being pulled: no removal and no new pull starts.
    assert_eq!((asked.removals(), asked.pulls()), (vec![], vec![]));
    let asked = node.pulled("a");
    assert!(asked.reads());
    assert_eq!((asked.removals(), asked.pulls()), (vec![], vec![]));
    // By this reading, `a` is another name of the old image.
    let asked = node.read(mk_whole(&[&["old", "a"], &["b"]]));
    assert_eq!(asked.removals(), NONE);
    assert_eq!(node.report("old").reason, Some(Reason::SharedImage));
    assert_eq!(asked.pulls(), ["c"]);
}

/// A registry that sends nothing keeps a pull running up to its deadline.
#[test]
fn a_pull_that_never_ends_does_not_hold_up_others() {
    let slow = mk_present("slow").with_deadline(Duration::from_secs(2 * 3600));
    let (mut node, asked) = rig_with(vec![slow.clone()], mk_inventory(&["old"]));
    assert_eq!(asked.pulls(), ["slow"]);
    node.assign(vec![slow, mk_present("new"), mk_absent("old")]);
    node.read(mk_inventory(&["old"]));
    assert_eq!(node.phase("old"), ImagePhase::Removing);
    let removals = (0..10).find_map(|_| {
        let asked = match node.is_reading() {
            true => node.read(mk_inventory(&["old"])),
            false => node.wake(),
        };
        Some(asked.removals()).filter(|removals| !removals.is_empty())
    });
    assert_eq!(removals.unwrap(), ["old"]);
    assert!(node.seconds() <= 60.0, "{}", node.seconds());
    assert_eq!(node.removal("old", Ok(Removal::Removed)).pulls(), ["new"]);
    assert_eq!(node.phase("slow"), ImagePhase::Pulling);
}

#[test]
fn failed_readings_do_not_block_pulls_forever() {
    let (mut node, _) = rig_with(
        vec![mk_present("a"), mk_present("b")],
        mk_inventory(&["old"]),
    );
    node.pulled("b");
    node.assign(vec![
        mk_present("a"),
        mk_present("b"),
        mk_present("c"),
        mk_absent("old"),
    ]);
    node.read(mk_inventory(&["old", "b"]));
    node.pulled("a");
    let asked = node.answer(Err(mk_failure(Reason::RuntimeUnavailable)));
    assert_eq!(asked.pulls(), ["c"]);
    node.pulled("c");
    for _ in 0..1_000 {
        if node.is_settled() {
            break;
        }
        match node.is_reading() {
            true => node.answer(Err(mk_failure(Reason::RuntimeUnavailable))),
            false => node.wake(),
        };
    }
    assert!(node.is_settled(), "{:?}", node.report("old"));
    assert_eq!(node.phase("old"), ImagePhase::Failed);
    assert!(node.seconds() < 400.0);
    // Once the inventory can be read, the removal is done.
    assert_eq!(
        node.read_next(mk_inventory(&["old", "a", "b", "c"]))
            .removals(),
        ["old"]
    );
}

#[test]
fn a_pending_removal_follows_the_latest_assignment() {
    let names: &[&[&str]] = &[&["a"], &["app:1", "app:stable"]];
    let images = vec![mk_absent("a"), mk_absent("app:1"), mk_absent("app:stable")];
    let (mut node, asked) = rig_with(images, mk_whole(names));
    assert_eq!(asked.removals(), ["a"]);
    // `app:1` would be next, but the same image is now desired by its other name.
    node.assign(vec![mk_absent("app:1"), mk_present("app:stable")]);
    assert_eq!(node.removal("a", Ok(Removal::Removed)).removals(), NONE);
    assert_eq!(node.report("app:1").reason, Some(Reason::SharedImage));
    assert_eq!(node.read(mk_whole(names)).removals(), NONE);
    assert_eq!(node.phase("app:stable"), ImagePhase::Cached);
}

#[test]
fn an_image_assigned_during_a_removal_is_checked_again() {
    let names: &[&[&str]] = &[&["app:1", "app:stable"]];
    let both = vec![mk_absent("app:1"), mk_absent("app:stable")];
    let (mut node, asked) = rig_with(both, mk_whole(names));
    assert_eq!(asked.removals(), ["app:1"]);
    node.assign(vec![mk_absent("app:1"), mk_present("app:stable")]);
    // This reading precedes the end of the removal.
    node.read(mk_whole(names));
    assert_eq!(node.phase("app:stable"), ImagePhase::Cached);
    let asked = node.removal("app:1", Ok(Removal::Removed));
    assert!(asked.reads());
    assert!(!node.is_settled());
    assert_eq!(node.read(mk_whole(&[])).pulls(), ["app:stable"]);
    assert_eq!(
        node.report("app:stable").reason,
        None,
        "the image was removed by the warmer, not evicted"
    );
}

#[test]
fn an_image_assigned_during_its_removal_is_pulled_after() {
    for by_name in [false, true] {
        let inventory = |held: &[&[&str]]| match by_name {
            true => mk_by_name(held, &[]),
            false => mk_whole(held),
        };
        let (mut node, asked) = rig_with(vec![mk_absent("a")], inventory(&[&["a"]]));
        assert_eq!(asked.removals(), ["a"]);
        node.assign(vec![mk_present("a")]);
        let asked = node.read(inventory(&[]));
        assert_eq!(asked.pulls(), NONE, "the removal is still in progress");
        assert!(node.removal("a", Ok(Removal::Removed)).reads());
        assert_eq!(node.read(inventory(&[])).pulls(), ["a"]);
    }
}

#[test]
fn an_obsolete_removal_still_blocks_the_next_one() {
    let (mut node, asked) = rig_with(vec![mk_absent("a")], mk_inventory(&["a", "b"]));
    assert_eq!(asked.removals(), ["a"]);
    node.assign(vec![mk_absent("b")]);
    assert_eq!(node.read(mk_inventory(&["b"])).removals(), NONE);
    assert_eq!(node.removal("a", Ok(Removal::Removed)).removals(), ["b"]);
}

#[test]
fn failed_removals_are_retried_until_the_round_ends() {
    let (mut node, _) = rig_with(vec![mk_absent("a")], mk_inventory(&["a"]));
    node.removal("a", Err(mk_failure(Reason::RuntimeUnavailable)));
    let report = node.report("a");
    assert_eq!(report.phase, ImagePhase::BackingOff);
    assert_eq!(report.reason, Some(Reason::RuntimeUnavailable));
    assert_eq!(node.wake().removals(), ["a"]);
    node.removal("a", Err(mk_failure(Reason::InvalidReference)));
    assert_eq!(node.phase("a"), ImagePhase::Failed);
    assert!(node.is_settled());
}

#[test]
fn pulls_continue_while_a_removal_backs_off() {
    let images = vec![mk_absent("old"), mk_present("new")];
    let (mut node, _) = rig_with(images, mk_inventory(&["old"]));
    let asked = node.removal("old", Err(mk_failure(Reason::RuntimeUnavailable)));
    assert_eq!(asked.pulls(), ["new"]);
}

#[test]
fn a_second_removal_needs_a_new_revision() {
    let (mut node, _) = rig_with(vec![mk_absent("a")], mk_inventory(&["a"]));
    node.removal("a", Ok(Removal::Removed));
    assert_eq!(node.read_next(mk_inventory(&["a"])).removals(), NONE);
    assert_eq!(node.phase("a"), ImagePhase::Removed);
    let again = mk_absent("a").with_revision(1);
    node.assign(vec![again]);
    assert_eq!(node.read(mk_inventory(&["a"])).removals(), ["a"]);
}

#[test]
fn a_removal_needs_a_reading_with_usage() {
    let (mut node, _) = rig_with(vec![mk_absent("a")], mk_inventory(&["a"]));
    node.removal("a", Ok(Removal::Removed));
    while !node.is_reading() {
        node.wake();
    }
    // This reading began when there was nothing to remove, so it has no usage.
    let again = mk_absent("a").with_revision(1);
    node.assign(vec![again]);
    assert_eq!(node.read(mk_inventory(&["a"])).removals(), NONE);
    let used = mk_used(vec![mk_image(&["a"])], &["a"], RemovalScope::Image);
    assert_eq!(node.read(used).removals(), NONE);
    assert_eq!(node.phase("a"), ImagePhase::InUse);
}

#[test]
fn the_last_tag_of_a_desired_digest_is_kept() {
    let digest = format!("registry.example/app@sha256:{:064x}", 1);
    let names: [&str; 3] = [
        "registry.example/app:1",
        &digest,
        "registry.example/other:1",
    ];
    let images = vec![mk_absent(names[0]), mk_present(&digest)];
    let docker = |names: &[&str]| {
        mk_used(
            vec![mk_image(names)],
            &[],
            RemovalScope::ReferenceAndDigests,
        )
    };
    let (node, asked) = rig_with(images.clone(), docker(&names));
    assert_eq!(asked.removals(), NONE);
    assert_eq!(node.report(names[0]).reason, Some(Reason::SharedImage));

    // With another tag of the repository left, the digest stays.
    let (_, asked) = rig_with(
        images,
        docker(&[names[0], &digest, "registry.example/app:2"]),
    );
    assert_eq!(asked.removals(), [names[0]]);
}

#[test]
fn a_tag_is_judged_without_the_tags_that_were_removed() {
    let digest = format!("registry.example/app@sha256:{:064x}", 1);
    let names = ["registry.example/app:1", "registry.example/app:2", &digest];
    let images = vec![
        mk_absent(names[0]),
        mk_absent(names[1]),
        mk_present(&digest),
    ];
    let scope = RemovalScope::ReferenceAndDigests;
    let (mut node, asked) = rig_with(images, mk_used(vec![mk_image(&names)], &[], scope));
    assert_eq!(asked.removals(), [names[0]]);
    // The other one is the last tag now, and the Engine would remove the digest with it.
    let asked = node.removal(names[0], Ok(Removal::Removed));
    assert_eq!(asked.removals(), NONE);
    assert_eq!(node.report(names[1]).reason, Some(Reason::SharedImage));
}

#[test]
fn a_name_of_two_images_is_kept_if_one_is_shared() {
    let images = vec![mk_absent("old"), mk_present("keep")];
    let contradiction = vec![mk_image(&["old", "keep"]), mk_image(&["old"])];
    for images_of_runtime in [
        contradiction.clone(),
        contradiction.into_iter().rev().collect(),
    ] {
        let inventory = mk_used(images_of_runtime, &[], RemovalScope::Image);
        let (node, asked) = rig_with(images.clone(), inventory);
        assert_eq!(asked.removals(), NONE);
        assert_eq!(node.report("old").reason, Some(Reason::SharedImage));
    }
}

#[test]
fn a_protected_image_is_kept_and_never_asked_for() {
    for scope in [RemovalScope::Image, RemovalScope::Reference] {
        let pause = "registry.k8s.io/pause:3.9";
        let mut config = mk_config(3);
        let inventory = || mk_used(vec![mk_image(&[pause])], &[], scope);
        let mut node = TestNode::with(config.clone());
        node.assign(vec![mk_absent(pause)]);
        assert_eq!(node.read(inventory()).removals(), NONE);
        let report = node.report(pause);
        assert_eq!(report.phase, ImagePhase::InUse);
        assert_eq!(report.reason, Some(Reason::Protected));
        assert!(report.message.unwrap().contains("*/pause"));
        assert!(node.is_settled());
        assert_eq!(node.read_next(inventory()).0, []);

        config.protected = ProtectedImages::none();
        let mut node = TestNode::with(config);
        node.assign(vec![mk_absent(pause)]);
        assert_eq!(node.read(inventory()).removals(), [pause]);
    }
}

#[test]
fn a_protected_name_is_not_removed_with_another() {
    let pause = "registry.k8s.io/pause:3.9";
    let (node, asked) = rig_with(
        vec![mk_absent("a"), mk_absent(pause)],
        mk_whole(&[&["a", pause]]),
    );
    assert_eq!(asked.removals(), NONE);
    assert_eq!(node.report("a").reason, Some(Reason::SharedImage));
}

#[test]
fn a_removal_that_is_refused_for_good_is_not_repeated() {
    let (mut node, asked) = rig_with(vec![mk_absent("a")], mk_inventory(&["a"]));
    assert_eq!(asked.removals(), ["a"]);
    let refusal = mk_failure(Reason::Pinned);
    assert_eq!(node.removal("a", Err(refusal)).removals(), NONE);
    let report = node.report("a");
    let kept = (ImagePhase::InUse, Some(Reason::Pinned));
    assert_eq!((report.phase, report.reason), kept);
    for _ in 0..3 {
        assert_eq!(node.read_next(mk_inventory(&["a"])).removals(), NONE);
    }
    assert!(node.is_settled());
}

#[test]
fn an_image_in_use_names_its_containers() {
    let users = ImageUse::new("a", "container web (4f1c)");
    let inventory = Inventory::new(vec![mk_image(&["a"])], [users], RemovalScope::Image);
    let (node, _) = rig_with(vec![mk_absent("a")], inventory);
    let message = node.report("a").message.unwrap();
    assert_eq!(message, "container web (4f1c)");
}

#[test]
fn an_image_that_was_never_held_is_left_alone() {
    let cache = CacheId::new("shop", "web", "uid-1");
    let order = RemovalOrder::new(cache, RemovalCause::Edit, Timestamp::UNIX_EPOCH);
    let absent = mk_absent("a").with_removal(order.with_if_held(true));
    // The agent saw only the removal: another client pulled the image.
    let (node, asked) = rig_with(vec![absent.clone()], mk_inventory(&["a"]));
    assert_eq!(asked.removals(), NONE);
    assert_eq!(node.phase("a"), ImagePhase::Removed);
    // It had the image, or began to pull it.
    for held in [mk_inventory(&["a"]), mk_inventory(&[])] {
        let (mut node, _) = rig_with(vec![mk_present("a")], held);
        node.assign(vec![absent.clone()]);
        assert_eq!(node.read(mk_inventory(&["a"])).removals(), ["a"]);
    }
}
