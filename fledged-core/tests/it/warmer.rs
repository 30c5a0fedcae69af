//! The warmer without failures: commands and reports for an assignment.
use std::time::Duration;

use crate::warmer_node::{TestNode, mk_absent, mk_image, mk_inventory, mk_present, mk_secret};
use fledged_core::error::Reason;
use fledged_core::model::{AssignedImage, ByteSize, CacheId, ImagePhase, PullLimit};
use fledged_core::warmer::{NodeCommand, NodeEvent};

fn mk_prioritised(name: &str, priority: i32) -> AssignedImage {
    mk_present(name).with_priority(priority)
}

fn mk_hasty(name: &str, seconds: u64) -> AssignedImage {
    mk_present(name).with_deadline(Duration::from_secs(seconds))
}

#[test]
fn nothing_is_done_without_an_assignment() {
    let mut node = TestNode::new(3);
    assert_eq!(node.poll().0, []);
    assert_eq!(node.warmer.next_wakeup(), None);
    assert!(!node.is_settled());
    assert_eq!(node.refresh().0, []);
}

#[test]
fn an_empty_assignment_is_settled() {
    let mut node = TestNode::new(3);
    node.assign(vec![]);
    assert!(node.is_settled());
    assert_eq!(node.warmer.report().observed_generation, 1);
}

#[test]
fn the_inventory_is_read_before_the_first_pull() {
    let mut node = TestNode::new(3);
    let asked = node.assign(vec![mk_present("a"), mk_present("b")]);
    assert!(asked.reads());
    assert_eq!(asked.pulls(), [""; 0]);
    let pending = |name: &str| (name.to_owned(), ImagePhase::Pending);
    assert_eq!(asked.phases(), [pending("a"), pending("b")]);

    let asked = node.read(mk_inventory(&["a"]));
    assert_eq!(asked.pulls(), ["b"]);
    assert_eq!(node.phase("a"), ImagePhase::Cached);
    assert_eq!(node.phase("b"), ImagePhase::Pulling);
    assert!(!node.is_settled());
}

#[test]
fn usage_is_read_only_if_images_must_be_removed() {
    let with_usage = |images| {
        let asked = TestNode::new(3).assign(images);
        asked.0.iter().find_map(|command| match command {
            NodeCommand::ReadInventory { with_usage, .. } => Some(*with_usage),
            _ => None,
        })
    };
    assert_eq!(with_usage(vec![mk_present("a")]), Some(false));
    assert_eq!(
        with_usage(vec![mk_present("a"), mk_absent("b")]),
        Some(true)
    );
}

#[test]
fn present_images_have_no_attempts_or_times() {
    let (node, _) = TestNode::warmed(3, vec![mk_present("a")], &["a"]);
    let report = node.report("a");
    assert_eq!(report.phase, ImagePhase::Cached);
    assert_eq!(report.attempts, 0);
    assert_eq!((report.started_at, report.finished_at), (None, None));
    assert_eq!((report.reason, report.message), (None, None));
    assert_eq!(report.size, Some(ByteSize::new(1_000)));
    assert_eq!(report.revision, Some(0));
    assert!(node.is_settled());
}

#[test]
fn a_pull_is_reported_at_its_start_and_end() {
    let (mut node, asked) = TestNode::warmed(3, vec![mk_present("a")], &[]);
    let kinds: Vec<_> = asked.0.iter().map(std::mem::discriminant).collect();
    let report = asked
        .0
        .iter()
        .position(|c| matches!(c, NodeCommand::Report(r) if r.phase == ImagePhase::Pulling));
    let pull = asked
        .0
        .iter()
        .position(|c| matches!(c, NodeCommand::Pull { .. }));
    assert!(report.is_some() && report < pull, "{kinds:?}");

    let started = node.now;
    node.pass(40);
    let asked = node.pulled("a");
    assert_eq!(asked.phases(), [("a".to_owned(), ImagePhase::Cached)]);
    let report = node.report("a");
    assert_eq!(report.attempts, 1);
    assert_eq!(report.started_at, Some(started));
    assert_eq!(report.finished_at, Some(node.now));
    assert_eq!(report.next_attempt_at, None);
    // A successful pull must be confirmed by the inventory.
    assert!(asked.reads() && !node.is_settled());
    node.answer(Ok(mk_inventory(&["a"])));
    assert!(node.is_settled());
}

#[test]
fn a_pull_has_its_credentials_and_deadline() {
    let image = mk_hasty("a", 70)
        .with_pull_secrets(vec![mk_secret("first"), mk_secret("second")])
        .with_service_accounts(vec![mk_secret("builder")]);
    let (node, asked) = TestNode::warmed(3, vec![image.clone()], &[]);
    let pull = asked.0.iter().find_map(|command| match command {
        NodeCommand::Pull {
            credentials,
            deadline,
            ..
        } => Some((credentials, *deadline)),
        _ => None,
    });
    let (credentials, deadline) = pull.unwrap();
    assert_eq!(credentials.pull_secrets, image.pull_secrets);
    assert_eq!(credentials.service_accounts, image.service_accounts);
    assert_eq!(deadline, node.now + Duration::from_secs(70));
}

#[test]
fn a_new_limit_applies_to_running_pulls_and_starts_none() {
    let limit = |rate: &str| {
        let cache = CacheId::new("default", "web", "u");
        Some(PullLimit::new(cache, rate.parse().unwrap()))
    };
    let limited = |rate: &str| {
        let mk = |name| mk_present(name).with_pull_limit(limit(rate));
        vec![mk("a"), mk("b"), mk("c")]
    };
    let (mut node, asked) = TestNode::warmed(1, limited("1Mi"), &["c"]);
    let first = asked.0.iter().find_map(|command| match command {
        NodeCommand::Pull { id, limit, .. } => Some((*id, limit.clone())),
        _ => None,
    });
    let (id, first) = first.unwrap();
    assert_eq!(first, limit("1Mi"));
    // `b` waits, and `c` is present.
    let slower = NodeCommand::LimitPull {
        id,
        limit: limit("64Ki"),
    };
    assert_eq!(node.assign(limited("64Ki")).0, [slower]);
    assert_eq!(node.assign(limited("64Ki")).0, []);
    let none = NodeCommand::LimitPull { id, limit: None };
    let images = ["a", "b", "c"].map(mk_present);
    assert_eq!(node.assign(images.to_vec()).0, [none]);
    node.pulled("a");
    node.failed("b", Reason::ImageNotFound);
    // A limit mends no failure, unlike a deadline.
    assert_eq!(node.assign(limited("1Mi")).0, []);
    assert_eq!(node.report("b").phase, ImagePhase::Failed);
}

#[test]
fn concurrent_pulls_are_limited() {
    let names = ["a", "b", "c", "d", "e"];
    let images = names.iter().map(|name| mk_present(name)).collect();
    let (mut node, asked) = TestNode::warmed(2, images, &[]);
    assert_eq!(asked.pulls(), ["a", "b"]);
    assert_eq!(node.warmer.pulls_under_way(), 2);
    assert_eq!(node.pulled("b").pulls(), ["c"]);
    assert_eq!(node.failed("c", Reason::ImageNotFound).pulls(), ["d"]);
    assert_eq!(node.pulled("a").pulls(), ["e"]);
    assert_eq!(node.pulled("d").pulls(), [""; 0]);
    node.pulled("e");
    assert_eq!(node.warmer.pulls_under_way(), 0);
    node.answer(Ok(mk_inventory(&["a", "b", "d", "e"])));
    assert!(node.is_settled());
}

#[test]
fn pulls_are_ordered_by_priority_and_then_position() {
    let images = vec![
        mk_prioritised("low", -1),
        mk_prioritised("first", 0),
        mk_prioritised("high", 5),
        mk_prioritised("second", 0),
    ];
    let (mut node, asked) = TestNode::warmed(1, images, &[]);
    assert_eq!(asked.pulls(), ["high"]);
    assert_eq!(node.pulled("high").pulls(), ["first"]);
    assert_eq!(node.pulled("first").pulls(), ["second"]);
    assert_eq!(node.pulled("second").pulls(), ["low"]);
}

#[test]
fn the_deadline_counts_from_the_start_of_the_pull() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_hasty("a", 100), mk_hasty("b", 100)], &[]);
    node.pass(99);
    assert_eq!(node.phase("a"), ImagePhase::Pulling);
    // `b` has waited for 99 s, but its deadline of 100 s begins now.
    assert_eq!(node.pulled("a").pulls(), ["b"]);
    node.pass(99);
    assert_eq!(node.phase("b"), ImagePhase::Pulling);
    let asked = node.pass(1);
    assert_eq!(asked.cancels(), 1);
    let report = node.report("b");
    assert_eq!(report.phase, ImagePhase::Failed);
    assert_eq!(report.reason, Some(Reason::DeadlineExceeded));
    assert!(report.message.unwrap().contains("1m40s"));
    assert_eq!(report.finished_at, Some(node.now));
    // A reading that began during the pull of `b` may have missed its result.
    node.answer(Ok(mk_inventory(&["a"])));
    node.answer(Ok(mk_inventory(&["a"])));
    assert!(node.is_settled());
}

#[test]
fn waiting_in_the_queue_does_not_use_the_deadline() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a"), mk_hasty("b", 10)], &[]);
    node.pass(250);
    assert_eq!(node.phase("b"), ImagePhase::Pending);
    assert_eq!(node.pulled("a").pulls(), ["b"]);
    node.pass(9);
    assert_eq!(node.phase("b"), ImagePhase::Pulling);
}

#[test]
fn a_deadline_of_zero_counts_as_a_second() {
    let (mut node, asked) = TestNode::warmed(1, vec![mk_hasty("a", 0)], &[]);
    assert_eq!(asked.pulls(), ["a"]);
    node.pass(1);
    assert_eq!(node.phase("a"), ImagePhase::Failed);
}

#[test]
fn an_interval_of_zero_counts_as_a_second() {
    let mut config = crate::warmer_node::mk_config(1);
    config.inventory_interval = Duration::ZERO;
    let mut node = TestNode::with(config);
    node.assign(vec![mk_present("a")]);
    assert!(!node.read(mk_inventory(&["a"])).reads());
    assert!(node.pass(1).reads());
}

#[test]
fn retries_precede_first_attempts() {
    let names = ["a", "b", "c", "d"];
    let images = names.iter().map(|name| mk_present(name)).collect();
    let (mut node, _) = TestNode::warmed(1, images, &[]);
    assert_eq!(node.failed("a", Reason::RegistryError).pulls(), ["b"]);
    node.pass(30);
    // The deadline of `a` is running and would pass if `a` waited for `c` and `d`.
    assert_eq!(node.pulled("b").pulls(), ["a"]);
    assert_eq!(node.report("a").attempts, 2);
}

#[test]
fn reports_have_the_order_of_the_assignment() {
    let images = vec![mk_present("z"), mk_present("a"), mk_absent("m")];
    let (node, _) = TestNode::warmed(3, images, &[]);
    let report = node.warmer.report();
    let names: Vec<_> = report.images.iter().map(|r| r.image.to_string()).collect();
    assert_eq!(names, ["z", "a", "m"]);
    assert_eq!(report.inventory_at, Some(node.now));
}

#[test]
fn aliases_are_merged_and_present_wins() {
    let images = vec![
        mk_absent("nginx"),
        mk_present("nginx:latest"),
        mk_absent("nginx"),
    ];
    let (node, asked) = TestNode::warmed(3, images, &["nginx"]);
    assert_eq!(asked.removals(), [""; 0]);
    assert_eq!(node.warmer.report().images.len(), 1);
    assert_eq!(node.phase("nginx"), ImagePhase::Cached);
}

#[test]
fn a_report_uses_the_latest_spelling_of_a_reference() {
    let (mut node, _) = TestNode::warmed(3, vec![mk_present("nginx")], &["nginx"]);
    node.assign(vec![mk_present("docker.io/library/nginx:latest")]);
    let report = node.report("nginx");
    assert_eq!(report.image.original(), "docker.io/library/nginx:latest");
}

#[test]
fn an_equal_assignment_changes_nothing() {
    let images = vec![mk_present("a"), mk_present("b"), mk_absent("c")];
    let (mut node, _) = TestNode::warmed(1, images.clone(), &["b"]);
    let before = node.warmer.report().images;
    assert_eq!(node.assign(images).0, []);
    assert_eq!(node.warmer.report().images, before);
    assert_eq!(node.warmer.report().observed_generation, 2);
}

#[test]
fn events_with_unknown_ids_are_ignored() {
    let (mut node, _) = TestNode::warmed(1, vec![mk_present("a")], &["a"]);
    let nothing = node.send(NodeEvent::PullEnded {
        id: fledged_core::warmer::PullId(99),
        result: Ok(mk_image(&["a"])),
        unused_credentials: None,
    });
    assert_eq!(nothing.0, []);
    let nothing = node.send(NodeEvent::InventoryRead {
        id: fledged_core::warmer::InventoryId(99),
        result: Ok(mk_inventory(&[])),
    });
    assert_eq!(nothing.0, []);
    assert_eq!(
        node.removal("unknown", Ok(fledged_core::port::Removal::Removed))
            .0,
        []
    );
    assert_eq!(node.phase("a"), ImagePhase::Cached);
}

#[test]
fn an_event_changes_only_its_image_and_the_next() {
    let names: Vec<String> = (0..2_000)
        .map(|n| format!("registry.example/app{n}:1"))
        .collect();
    let images = names.iter().map(|name| mk_present(name)).collect();
    let (mut node, first) = TestNode::warmed(10, images, &[]);
    let mut queue = first.pulls();
    let mut begun = queue.len();
    while let Some(name) = queue.pop() {
        let asked = node.pulled(&name);
        let next = names.get(begun);
        let mut expected = vec![(name, ImagePhase::Cached)];
        expected.extend(next.map(|next| (next.clone(), ImagePhase::Pulling)));
        expected.sort();
        assert_eq!(asked.phases(), expected);
        assert_eq!(asked.pulls().first(), next);
        begun += asked.pulls().len();
        queue.extend(asked.pulls());
    }
    assert_eq!(begun, names.len());
    let held: Vec<&str> = names.iter().map(String::as_str).collect();
    node.answer(Ok(mk_inventory(&held)));
    assert!(node.is_settled());
}
