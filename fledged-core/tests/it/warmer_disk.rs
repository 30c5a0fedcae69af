//! The warmer and the used share of the image file systems.
use std::time::Duration;

use crate::warmer_node::{TestNode, mk_config, mk_inventory, mk_present};
use fledged_core::error::Reason;
use fledged_core::model::{ImagePhase, ImagePullPolicy};
use fledged_core::warmer::{Inventory, NodeEvent};
use proptest::prelude::*;

const THRESHOLD: u8 = 80;

fn mk_node(parallel: usize) -> TestNode {
    let mut config = mk_config(parallel);
    config.image_fs_high_threshold = Some(THRESHOLD);
    TestNode::with(config)
}

fn mk_used(percent: u8, held: &[&str]) -> Inventory {
    mk_inventory(held).with_disk_used(Some(percent))
}

#[test]
fn no_pull_begins_at_the_threshold() {
    let mut node = mk_node(3);
    node.assign(["a", "b", "held"].map(mk_present).to_vec());
    let asked = node.read(mk_used(THRESHOLD, &["held"]));
    assert_eq!(asked.pulls(), [""; 0]);
    assert_eq!(node.phase("held"), ImagePhase::Cached);
    let report = node.report("a");
    assert_eq!(report.phase, ImagePhase::Failed);
    assert_eq!(report.reason, Some(Reason::ImageFsAboveThreshold));
    assert_eq!(
        report.message.as_deref(),
        Some("not started: 80 % of the node's image file system are used, the threshold is 80 %")
    );
    assert_eq!((report.attempts, report.started_at), (0, None));
    // The next reading decides, not a time.
    assert_eq!(report.next_attempt_at, None);
    assert!(node.is_settled());
    // Another reading above it changes no report.
    let asked = node.read_next(mk_used(95, &["held"]));
    assert_eq!((asked.pulls(), asked.phases()), (vec![], vec![]));
    let asked = node.read_next(mk_used(THRESHOLD - 1, &["held"]));
    assert_eq!(asked.pulls(), ["a", "b"]);
    node.pulled("a");
    assert_eq!(node.report("a").reason, None);
}

#[test]
fn a_pull_that_ends_makes_a_reading_due() {
    let mut node = mk_node(1);
    node.assign(["a", "b", "c"].map(mk_present).to_vec());
    assert_eq!(node.read(mk_used(79, &[])).pulls(), ["a"]);
    let ended = node.now;
    node.pulled("a");
    while !node.is_reading() {
        node.wake();
    }
    assert_eq!(node.now, ended + Duration::from_secs(10));
    node.read(mk_used(81, &["a"]));
    // The running pull continues.
    assert_eq!(node.phase("b"), ImagePhase::Pulling);
    assert_eq!(node.pulled("b").pulls(), [""; 0]);
    assert_eq!(node.report("c").reason, Some(Reason::ImageFsAboveThreshold));
}

#[test]
fn an_unknown_share_and_no_threshold_stop_nothing() {
    let mut node = mk_node(1);
    node.assign(vec![mk_present("a")]);
    assert_eq!(node.read(mk_inventory(&[])).pulls(), ["a"]);
    let mut node = TestNode::new(1);
    node.assign(vec![mk_present("a")]);
    assert_eq!(node.read(mk_used(99, &[])).pulls(), ["a"]);
}

#[test]
fn an_earlier_copy_stays_while_its_refresh_waits() {
    let mut node = mk_node(1);
    let always = mk_present("a").with_pull_policy(ImagePullPolicy::Always);
    node.assign(vec![always]);
    let asked = node.read(mk_used(90, &["a"]));
    assert_eq!((asked.pulls(), asked.removals()), (vec![], vec![]));
    let report = node.report("a");
    assert_eq!(report.phase, ImagePhase::Cached);
    assert!(report.is_refresh_held());
    assert_eq!(
        report.message.as_deref(),
        Some(
            "the image is present; its refresh is not started: 90 % of the node's image file system are used, the \
             threshold is 80 %"
        )
    );
    assert_eq!((report.revision, report.next_attempt_at), (None, None));
    assert!(node.is_settled());
    let asked = node.read_next(mk_used(95, &["a"]));
    assert_eq!((asked.pulls(), asked.phases()), (vec![], vec![]));
    assert_eq!(node.read_next(mk_used(10, &["a"])).pulls(), ["a"]);
    node.pulled("a");
    assert_eq!(node.report("a").reason, None);
    // It is lost while its refresh waits.
    node.send(NodeEvent::RefreshRequested);
    node.read_next(mk_used(90, &["a"]));
    assert!(node.report("a").is_refresh_held());
    node.read_next(mk_used(90, &[]));
    assert_eq!(node.phase("a"), ImagePhase::Failed);
}

const IMAGES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// One step of a node's life.
#[derive(Debug, Clone)]
enum Step {
    /// The next reading finds this share.
    Read(u8),
    /// The oldest running pull ends.
    Pulled,
    /// The oldest running pull fails.
    Failed,
    Wake,
    Refresh,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (60..100u8).prop_map(Step::Read),
        3 => Just(Step::Pulled),
        1 => Just(Step::Failed),
        2 => Just(Step::Wake),
        1 => Just(Step::Refresh),
    ]
}

proptest! {
    #[test]
    fn pulls_begin_only_below_the_threshold_and_all_in_the_end(
        steps in prop::collection::vec(step(), 0..40),
        parallel in 1..4usize,
    ) {
        let mut node = mk_node(parallel);
        node.assign(IMAGES.map(mk_present).to_vec());
        let mut running: Vec<String> = Vec::new();
        let mut held: Vec<String> = Vec::new();
        let mut used = 0;
        for step in steps {
            let names: Vec<&str> = held.iter().map(String::as_str).collect();
            let asked = match step {
                Step::Read(percent) if node.is_reading() => {
                    used = percent;
                    node.read(mk_used(percent, &names))
                }
                Step::Pulled | Step::Failed if !running.is_empty() => {
                    let name = running.remove(0);
                    match step {
                        Step::Pulled => {
                            held.push(name.clone());
                            node.pulled(&name)
                        }
                        _ => node.failed(&name, Reason::ConnectionFailed),
                    }
                }
                Step::Refresh => node.send(NodeEvent::RefreshRequested),
                // Everything waits for the reading.
                _ if node.warmer.next_wakeup().is_none() => continue,
                _ => node.wake(),
            };
            for name in running.clone() {
                // A deadline may have passed.
                if node.phase(&name) != ImagePhase::Pulling {
                    running.retain(|other| *other != name);
                }
            }
            let pulls = asked.pulls();
            prop_assert!(pulls.is_empty() || used < THRESHOLD, "{pulls:?} at {used} %");
            running.extend(pulls);
        }
        // With room, every image is pulled.
        for _ in 0..200 {
            let names: Vec<&str> = held.iter().map(String::as_str).collect();
            let asked = match running.pop() {
                Some(name) if node.phase(&name) == ImagePhase::Pulling => {
                    held.push(name.clone());
                    node.pulled(&name)
                }
                _ if node.is_reading() => node.read(mk_used(10, &names)),
                _ => node.wake(),
            };
            running.extend(asked.pulls());
        }
        for image in IMAGES {
            prop_assert_eq!(node.phase(image), ImagePhase::Cached, "{:?}", node.report(image));
        }
    }
}
