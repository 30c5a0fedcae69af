//! Events of a cache that say what is wrong, where and why.
use crate::world::{World, mk_name, mk_node, mk_ref, mk_spec};
use fledged_core::error::Reason;
use fledged_core::model::{CacheId, ImagePhase, ImageReport, NodeReport};
use fledged_core::planner::{ActionStatus, CacheFacts, ClusterEvent, EventReason, PlannerConfig};

fn mk_world(nodes: usize, images: &[&str]) -> World {
    let mut world = World::new();
    for n in 1..=nodes {
        world.node(mk_node(&format!("n{n}"), &[]));
    }
    world.cache("web", &mk_spec(images, &[]));
    world
}

/// A report of one image. `reason` comes with a text.
fn mk_report(image: &str, phase: ImagePhase, reason: Option<Reason>) -> ImageReport {
    let text = reason.map(|reason| format!("the runtime failed with {reason}"));
    ImageReport::new(mk_ref(image), phase)
        .with_reason(reason)
        .with_message(text)
        .with_attempts(1)
        .with_revision(u64::MAX)
}

fn mk_failed(image: &str, reason: Reason) -> ImageReport {
    mk_report(image, ImagePhase::Failed, Some(reason))
}

fn mk_cached(image: &str) -> ImageReport {
    mk_report(image, ImagePhase::Cached, None)
}

/// Applies a report without a poll.
fn apply_report(world: &mut World, node: &str, images: impl IntoIterator<Item = ImageReport>) {
    let generation = world.records[&mk_name(node)].generation;
    let report = NodeReport::new(generation, images);
    let node = mk_name(node);
    world.apply(ClusterEvent::Reported { node, report });
}

fn report(world: &mut World, node: &str, images: impl IntoIterator<Item = ImageReport>) {
    apply_report(world, node, images);
    world.run();
}

/// The events of `web` since the last call, but those of actions.
fn taken(world: &mut World) -> Vec<(EventReason, String)> {
    let events = std::mem::take(&mut world.events).into_iter();
    let events = events.filter(|(_, event)| !matches!(event.reason, EventReason::Action(_)));
    events
        .map(|(_, event)| {
            let normal = event.reason == EventReason::ImagesCached;
            assert_eq!(event.warning, !normal, "{event:?}");
            (event.reason, event.message)
        })
        .collect()
}

fn reasons(world: &mut World) -> Vec<EventReason> {
    taken(world).into_iter().map(|(reason, _)| reason).collect()
}

#[test]
fn one_event_for_each_reason_counts_the_others() {
    let images = ["app:1", "db:1", "tool:1", "web:1"];
    let mut world = mk_world(5, &images);
    for n in 1..=5 {
        let missing = images[..3].iter();
        let missing = missing.map(|image| mk_failed(image, Reason::ImageNotFound));
        let denied = mk_failed("web:1", Reason::Unauthorized);
        apply_report(&mut world, &format!("n{n}"), missing.chain([denied]));
    }
    world.run();
    let expected = [
        "n1: web:1: Unauthorized: the runtime failed with Unauthorized; and 4 more on 4 nodes",
        "n1: app:1: ImageNotFound: the runtime failed with ImageNotFound; and 14 more on 5 nodes",
    ];
    let expected = expected.map(|text| (EventReason::ImagePullFailed, text.to_owned()));
    assert_eq!(taken(&mut world), expected);
}

#[test]
fn a_failure_alone_is_named_without_a_count() {
    let mut world = mk_world(1, &["registry.example/app:1"]);
    let image = "registry.example/app:1";
    report(&mut world, "n1", [mk_failed(image, Reason::ImageNotFound)]);
    let text = "n1: registry.example/app:1: ImageNotFound: the runtime failed with ImageNotFound";
    assert_eq!(
        taken(&mut world),
        [(EventReason::ImagePullFailed, text.to_owned())]
    );
}

#[test]
fn retries_send_no_event() {
    let mut world = mk_world(2, &["app:1", "db:1"]);
    let failed = || mk_failed("app:1", Reason::ImageNotFound);
    let pulling = || mk_report("app:1", ImagePhase::Pulling, None);
    report(&mut world, "n2", ["app:1", "db:1"].map(mk_cached));
    report(&mut world, "n1", [failed(), mk_cached("db:1")]);
    assert_eq!(reasons(&mut world), [EventReason::ImagePullFailed]);
    for _ in 0..3 {
        world.pass(60);
        report(&mut world, "n1", [pulling(), mk_cached("db:1")]);
        world.pass(60);
        report(&mut world, "n1", [failed(), mk_cached("db:1")]);
        // The same on another node.
        report(&mut world, "n2", [failed(), mk_cached("db:1")]);
    }
    assert_eq!(reasons(&mut world), []);
    // Another reason, and then the first one again after it was mended.
    let other = mk_report("app:1", ImagePhase::BackingOff, Some(Reason::RegistryError));
    report(&mut world, "n1", [other, mk_cached("db:1")]);
    assert_eq!(reasons(&mut world), [EventReason::ImagePullFailed]);
    for node in ["n1", "n2"] {
        report(&mut world, node, ["app:1", "db:1"].map(mk_cached));
    }
    assert_eq!(reasons(&mut world), [EventReason::ImagesCached]);
    report(&mut world, "n1", [failed(), mk_cached("db:1")]);
    assert_eq!(reasons(&mut world), [EventReason::ImagePullFailed]);
}

#[test]
fn a_lost_image_is_no_refresh() {
    let mut world = mk_world(3, &["app:1", "db:1"]);
    world.settle();
    world.refresh("web");
    world.settle();
    world.events.clear();
    for node in ["n1", "n3"] {
        let lost = mk_report("app:1", ImagePhase::Pending, Some(Reason::Evicted));
        apply_report(&mut world, node, [lost, mk_cached("db:1")]);
    }
    world.run();
    let pulling = mk_report("app:1", ImagePhase::Pulling, Some(Reason::Evicted));
    report(&mut world, "n1", [pulling, mk_cached("db:1")]);
    let refused = mk_failed("app:1", Reason::ConnectionFailed);
    report(&mut world, "n1", [refused, mk_cached("db:1")]);
    report(&mut world, "n3", ["app:1", "db:1"].map(mk_cached));
    assert_eq!(world.word("web"), ActionStatus::Failed);
    report(&mut world, "n1", ["app:1", "db:1"].map(mk_cached));
    let events = world.events.iter();
    let events: Vec<_> = events
        .map(|(_, e)| (e.reason.as_str(), e.message.as_str()))
        .collect();
    let expected = [
        (
            "ImageEvicted",
            "n1: app:1: the image was cached and was removed by something else; it is pulled again; \
             and 1 more on 1 node",
        ),
        (
            "ImagePullFailed",
            "n1: app:1: ConnectionFailed: the runtime failed with ConnectionFailed",
        ),
        ("ImagesCached", "6 of 6 cached on 3 nodes"),
    ];
    assert_eq!(events, expected);
}

#[test]
fn an_image_lost_again_and_again_is_evicted() {
    let mut world = mk_world(1, &["app:1"]);
    world.settle();
    taken(&mut world);
    report(&mut world, "n1", [mk_failed("app:1", Reason::Evicted)]);
    assert_eq!(reasons(&mut world), [EventReason::ImageEvicted]);
}

#[test]
fn an_edit_announces_failures_of_new_images_only() {
    let mut world = mk_world(1, &["app:1", "db:1"]);
    let failed = |image| mk_failed(image, Reason::ImageNotFound);
    report(&mut world, "n1", [failed("app:1"), mk_cached("db:1")]);
    taken(&mut world);
    world.cache("web", &mk_spec(&["app:1", "db:1", "tool:1"], &[]));
    report(
        &mut world,
        "n1",
        [failed("app:1"), mk_cached("db:1"), failed("tool:1")],
    );
    let events = taken(&mut world);
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(events[0].1.starts_with("n1: tool:1: "), "{events:?}");
}

#[test]
fn a_requested_refresh_announces_what_still_fails() {
    let mut world = mk_world(1, &["app:1"]);
    let agent = world.agents.get_mut(&mk_name("n1")).unwrap();
    agent.fails.insert(mk_ref("app:1"), Reason::ImageNotFound);
    world.settle();
    assert_eq!(reasons(&mut world), [EventReason::ImagePullFailed]);
    world.refresh("web");
    assert_eq!(reasons(&mut world), []);
    world.settle();
    assert_eq!(reasons(&mut world), [EventReason::ImagePullFailed]);
}

#[test]
fn names_of_other_namespaces_are_concealed() {
    let mut world = mk_world(1, &["app:1"]);
    let id = CacheId::new("secret-team", "web", "uid-other");
    let other = CacheFacts::of_spec(id.clone(), 1, &mk_spec(&["app:1"], &[]));
    world.caches.insert(id, other.clone());
    world.send(other.into());
    let text = "service account secret-team/robot: may not be read; not found";
    let failed = mk_failed("app:1", Reason::CredentialsUnavailable).with_message(text.to_owned());
    world.events.clear();
    report(&mut world, "n1", [failed]);
    let texts: Vec<_> = taken(&mut world)
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    assert_eq!(texts.len(), 2);
    let expected = "n1: app:1: CredentialsUnavailable: \
                    service account of another namespace: may not be read; not found";
    assert_eq!(texts[0], expected);
    assert!(texts[1].contains("secret-team/robot"), "{texts:?}");
    assert_eq!(
        world.status("web").failures["app:1"][0].message,
        "service account of another namespace: may not be read; not found"
    );
}

/// A cache of another namespace wants the image no more, and the last report still names its Secret.
#[test]
fn names_of_former_caches_are_concealed() {
    let mut world = mk_world(1, &["app:1"]);
    let id = CacheId::new("secret-team", "web", "uid-other");
    let other = CacheFacts::of_spec(id.clone(), 1, &mk_spec(&["app:1"], &[]));
    world.caches.insert(id.clone(), other.clone());
    world.send(other.into());
    world.caches.remove(&id);
    world.send(ClusterEvent::CacheGone(id));
    let text = "pull secret secret-team/login: not found; pull secret default/login: not found";
    let failed = mk_failed("app:1", Reason::CredentialsUnavailable).with_message(text.to_owned());
    report(&mut world, "n1", [failed]);
    assert_eq!(
        world.status("web").failures["app:1"][0].message,
        "pull secret of another namespace: not found; pull secret default/login: not found"
    );
}

/// A cached image for which a Secret of `secret-team` and one of `default` could not be used.
fn mk_without_secrets(image: &str) -> ImageReport {
    let text = "pull secret secret-team/theirs: not found; pull secret default/ours of service \
                account default/robot: not found; pull secret default/ours-too: not found";
    mk_report(
        image,
        ImagePhase::Cached,
        Some(Reason::CredentialsUnavailable),
    )
    .with_message(text.to_owned())
}

#[test]
fn a_missing_secret_beside_a_public_image_is_a_warning_of_its_own_cache() {
    let mut world = World::new();
    for node in ["n1", "n2"] {
        world.node(mk_node(node, &[]));
    }
    let mut spec = mk_spec(&["app:1", "db:1"], &[]);
    spec.service_account_name = Some("robot".to_owned());
    world.cache("web", &spec);
    world.cache("bare", &mk_spec(&["app:1"], &[]));
    let cached = || [mk_without_secrets("app:1"), mk_cached("db:1")];
    for node in ["n1", "n2"] {
        apply_report(&mut world, node, cached());
    }
    world.run();
    let own = "pulled without some of the credentials: \
               pull secret default/ours of service account default/robot: not found";
    let event = format!("n1: app:1: {own}; and 1 more on 1 node");
    assert_eq!(
        taken(&mut world),
        [(EventReason::CredentialsUnavailable, event)]
    );
    let status = world.status("web");
    assert_eq!(status.status, ActionStatus::Succeeded);
    assert_eq!(status.failures_total, 0);
    let message =
        format!("4 of 4 cached on 2 nodes, 2 {own} (on 2 nodes; a refresh ends this warning)");
    assert_eq!(status.message, message);
    assert!(status.conditions.iter().all(|one| one.message == message));
    assert_eq!(world.status("bare").message, "2 of 2 cached on 2 nodes");
    // Neither the same report nor a restart writes or announces it again.
    let writes = world.status_writes;
    report(&mut world, "n1", cached());
    let nodes = ["n1", "n2"].map(mk_name);
    for node in nodes {
        let generation = world.records[&node].generation;
        let agent = world.agents.entry(node).or_default();
        agent.reported = Some(NodeReport::new(generation, cached()));
    }
    world.restart();
    assert_eq!(taken(&mut world), []);
    assert_eq!(world.status_writes, writes);
    // It ends with the report.
    for node in ["n1", "n2"] {
        report(&mut world, node, ["app:1", "db:1"].map(mk_cached));
    }
    world.pass(60);
    assert_eq!(world.status("web").message, "4 of 4 cached on 2 nodes");
}

#[test]
fn a_message_has_at_most_1024_bytes() {
    let mut world = mk_world(2, &["app:1"]);
    for node in ["n1", "n2"] {
        let failed = mk_failed("app:1", Reason::Unknown).with_message("é".repeat(3_000));
        apply_report(&mut world, node, [failed]);
    }
    world.run();
    let events = taken(&mut world);
    assert!((1_020..=1_024).contains(&events[0].1.len()), "{events:?}");
    assert!(
        events[0].1.ends_with("...; and 1 more on 1 node"),
        "{events:?}"
    );
}

#[test]
fn a_restart_repeats_no_event() {
    let mut world = mk_world(2, &["app:1", "db:1"]);
    let agents = world.agents.values_mut();
    agents.for_each(|agent| {
        agent.fails.insert(mk_ref("app:1"), Reason::ImageNotFound);
    });
    world.settle();
    world.node(mk_node("n3", &[]));
    world.unresponsive("n3");
    world.pass(5);
    let before = reasons(&mut world);
    assert!(
        before.contains(&EventReason::AgentUnresponsive),
        "{before:?}"
    );
    world.restart();
    world.pass(600);
    world.act("n1");
    assert_eq!(reasons(&mut world), []);
    assert_eq!(world.status("web").counts.unreachable, 2);
}

#[test]
fn unresponsive_agents_are_announced_once() {
    let mut world = mk_world(3, &["app:1", "db:1"]);
    world.pass(60);
    let text = "n1: the agent does not respond; and 2 more nodes".to_owned();
    assert_eq!(taken(&mut world), [(EventReason::AgentUnresponsive, text)]);
    world.pass(600);
    world.act("n2");
    assert_eq!(reasons(&mut world), [EventReason::ImagesCached]);
    world.settle();
    world.events.clear();
    world.unresponsive("n2");
    let text = "n2: the agent does not respond".to_owned();
    assert_eq!(taken(&mut world), [(EventReason::AgentUnresponsive, text)]);
}

#[test]
fn a_full_record_is_announced_once() {
    let mut config = PlannerConfig::default();
    config.record_bytes_max = 600;
    let mut world = World::with(config);
    for node in ["n1", "n2"] {
        world.node(mk_node(node, &[]));
    }
    let images: Vec<String> = (0..50).map(|n| format!("app{n}:1")).collect();
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    world.cache("web", &mk_spec(&images, &[]));
    world.settle();
    world.pass(60);
    let text = "n1: the record of the node has no room for the images of this image cache; \
                and 1 more node";
    assert_eq!(
        taken(&mut world),
        [(EventReason::NodeRecordFull, text.to_owned())]
    );
}

#[test]
fn events_stay_within_their_limit() {
    let mut world = mk_world(1, &["app:1"]);
    world.settle();
    for _ in 0..50 {
        let lost = mk_report("app:1", ImagePhase::Pending, Some(Reason::Evicted));
        report(&mut world, "n1", [lost]);
        report(&mut world, "n1", [mk_cached("app:1")]);
    }
    // The start of the action is a second earlier, and one more event is allowed.
    let sent = world.events.len();
    assert!((25..=26).contains(&sent), "{sent}");
    let lost = |phase| mk_report("app:1", phase, Some(Reason::Evicted));
    report(&mut world, "n1", [lost(ImagePhase::Pending)]);
    assert_eq!(world.events.len(), sent);
    // What is still wrong when the limit allows another event is announced then.
    world.pass(5 * 60);
    report(&mut world, "n1", [lost(ImagePhase::Pulling)]);
    assert_eq!(world.events.len(), sent + 1);
}
