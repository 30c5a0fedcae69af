//! `Planner::explain`: one cause for each situation, in a running planner and in one built from records.

use std::time::Duration;

use fledged_core::error::Reason;
use fledged_core::model::{
    AssignedImage, Assignment, DesiredState, ImageCacheSpec, ImagePhase, ImagePullPolicy,
    ImageReport, NodeFacts, NodeReport, Taint,
};
use fledged_core::planner::{
    ActionReason, ActionStatus, CacheFacts, CacheStatus, Cause, ClusterEvent, Explanation,
    NodeFailure, NodeRecord, Planner, PlannerConfig, SelectorMismatch,
};
use jiff::Timestamp;

use crate::world::{World, mk_facts, mk_id, mk_limited, mk_name, mk_node, mk_ref, mk_spec};

const APP: &str = "app:1";
const NOW: &str = "2026-01-01T00:10:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A cache, a node and its record; the image is cached on the node.
struct Scene {
    cache: CacheFacts,
    node: Option<NodeFacts>,
    record: Option<NodeRecord>,
}

impl Scene {
    fn new() -> Self {
        let mut cache = mk_facts("web", &mk_spec(&[APP], &["tier=web"]));
        let (reason, status) = (ActionReason::ImageCacheCreate, ActionStatus::Succeeded);
        cache.status = Some(CacheStatus::new(1, reason, status, at(NOW)));
        let entry = AssignedImage::present(mk_ref(APP)).with_wanted_by([mk_id("web")]);
        let mut record = NodeRecord::new(mk_name("n1"), Assignment::new(3, [entry]));
        record.written_at = Some(at("2026-01-01T00:09:00Z"));
        record.reported_at = record.written_at;
        let report = ImageReport::new(mk_ref(APP), ImagePhase::Cached);
        record.report = Some(NodeReport::new(3, [report]));
        Self {
            cache,
            node: Some(mk_node("n1", &["tier=web"])),
            record: Some(record),
        }
    }

    fn status(&mut self) -> &mut CacheStatus {
        self.cache.status.as_mut().unwrap()
    }

    fn node(&mut self) -> &mut NodeFacts {
        self.node.as_mut().unwrap()
    }

    fn record(&mut self) -> &mut NodeRecord {
        self.record.as_mut().unwrap()
    }

    fn entry(&mut self) -> &mut AssignedImage {
        &mut self.record().assignment.images[0]
    }

    /// Replaces the report of the image.
    fn report(&mut self, phase: ImagePhase) -> &mut ImageReport {
        let report = ImageReport::new(mk_ref(APP), phase);
        let images = &mut self.record().report.as_mut().unwrap().images;
        *images = vec![report];
        &mut images[0]
    }

    fn explain(&self, image: &str) -> Explanation {
        let planner = Planner::from_records(
            PlannerConfig::default(),
            [self.cache.clone()],
            self.node.clone(),
            self.record.clone(),
            at(NOW),
        );
        planner.explain(&mk_id("web"), &mk_name("n1"), &mk_ref(image))
    }
}

/// The explanation after a change of the scene.
fn when(change: impl FnOnce(&mut Scene)) -> Explanation {
    let mut scene = Scene::new();
    change(&mut scene);
    scene.explain(APP)
}

fn cause(change: impl FnOnce(&mut Scene)) -> Cause {
    when(change).cause
}

#[test]
fn a_cached_image_is_present() {
    let explanation = when(|_| ());
    assert_eq!(explanation.cause, Cause::Cached { verifying: false });
    assert!(explanation.present);
    assert_eq!(explanation.assigned, Some(DesiredState::Present));
    assert_eq!(explanation.other_caches, []);
    assert_eq!(explanation.last_phase, Some(ImagePhase::Cached));
    assert_eq!(explanation.cause.to_string(), "the node holds the image");
}

#[test]
fn the_cache_is_checked_first() {
    let invalid = ImageCacheSpec::new([fledged_core::model::CacheSpecImages::new(["UPPER"])]);
    let spec = invalid.validate(mk_id("web"));
    let found = cause(|scene| scene.cache.spec = spec);
    assert!(matches!(found, Cause::InvalidSpec(invalid) if invalid.fields.len() == 1));
    assert_eq!(Scene::new().explain("db:1").cause, Cause::ImageNotListed);
    assert_eq!(
        cause(|scene| scene.cache.deleting = true),
        Cause::CacheDeleting
    );
    let unknown = |scene: &mut Scene| scene.cache.id = mk_id("other");
    assert_eq!(cause(unknown), Cause::CacheNotFound);
}

#[test]
fn the_node_is_checked_next() {
    assert_eq!(cause(|scene| scene.node = None), Cause::NodeNotFound);
    let label = |scene: &mut Scene| {
        scene
            .node()
            .labels
            .insert("tier".to_owned(), "db".to_owned());
    };
    let mismatch = match cause(label) {
        Cause::NodeNotSelected(mismatches) => mismatches[0].clone(),
        other => panic!("{other:?}"),
    };
    let expected = SelectorMismatch::of(
        0,
        &Scene::new().cache.spec.unwrap().groups[0],
        &mk_node("n1", &["tier=db"]),
    );
    assert_eq!(Some(mismatch), expected);
    let taint = |key: &str| Taint {
        key: key.to_owned(),
        value: String::new(),
        effect: "NoSchedule".to_owned(),
    };
    let tainted = |key: &'static str| {
        move |scene: &mut Scene| {
            scene.node().taints = vec![taint(key)];
            scene.cache.spec.as_mut().unwrap().groups[0].tolerations = Some(Vec::new());
        }
    };
    let expected = Cause::TaintNotTolerated {
        group: 0,
        taint: taint("gpu"),
    };
    assert_eq!(cause(tainted("gpu")), expected);
    // A cordoned node still gets images.
    let cached = Cause::Cached { verifying: false };
    assert_eq!(cause(tainted("node.kubernetes.io/unschedulable")), cached);
    let os = "windows".to_owned();
    let windows = cause(|scene| scene.node().os.clone_from(&os));
    assert_eq!(windows, Cause::NodeNotLinux { os });
    assert_eq!(
        cause(|scene| scene.node().ready = false),
        Cause::NodeNotReady
    );
}

#[test]
fn a_purged_image_is_removed_or_in_use() {
    let purged = |scene: &mut Scene| scene.status().purged = true;
    assert_eq!(cause(purged), Cause::CachePurged);
    let in_use = |scene: &mut Scene| {
        purged(scene);
        *scene.entry() = AssignedImage::absent(mk_ref(APP));
        scene.report(ImagePhase::InUse);
    };
    let in_use = when(in_use);
    assert_eq!(in_use.cause, Cause::KeptInUse);
    assert_eq!(in_use.assigned, Some(DesiredState::Absent));
    assert_eq!(in_use.last_phase, Some(ImagePhase::InUse));
    assert!(!in_use.present);
    // Another cache still lists the image.
    let shared = when(|scene| {
        purged(scene);
        scene.entry().wanted_by.push(mk_id("other"));
    });
    assert_eq!(shared.cause, Cause::CachePurged);
    assert_eq!(shared.other_caches, [mk_id("other")]);
    assert!(shared.present);
}

#[test]
fn the_phase_of_an_assigned_image_decides() {
    let phase = |phase: ImagePhase| cause(|scene| drop(scene.report(phase).clone()));
    assert_eq!(phase(ImagePhase::Pending), Cause::Pending);
    assert_eq!(phase(ImagePhase::Pulling), Cause::Pulling { again: false });
    let failure = |scene: &mut Scene, phase| {
        let report = scene.report(phase);
        report.reason = Some(Reason::ImageNotFound);
        report.message = Some("manifest unknown".to_owned());
    };
    for expected in [ImagePhase::BackingOff, ImagePhase::Failed] {
        let failure = match cause(|scene| failure(scene, expected)) {
            Cause::BackingOff(failure) if expected == ImagePhase::BackingOff => failure,
            Cause::Failed(failure) if expected == ImagePhase::Failed => failure,
            other => panic!("{other:?}"),
        };
        assert_eq!(failure.reason, Reason::ImageNotFound);
        assert_eq!(failure.message, "manifest unknown");
    }
}

#[test]
fn a_refresh_verifies_fixed_tags_and_pulls_mutable_ones() {
    let refreshed = when(|scene| scene.entry().revision = 7);
    assert_eq!(refreshed.cause, Cause::Cached { verifying: true });
    assert!(refreshed.present);
    let mutable = when(|scene| {
        scene.entry().revision = 7;
        scene.entry().pull_policy = ImagePullPolicy::Always;
    });
    assert_eq!(mutable.cause, Cause::Pulling { again: true });
    assert!(!mutable.present);
}

#[test]
fn an_agent_that_misses_its_deadline_is_unresponsive() {
    let unacknowledged = |seconds: u64| {
        when(|scene| {
            let written_at = at(NOW) - Duration::from_secs(seconds);
            let record = scene.record();
            record.written_at = Some(written_at);
            record.reported_at = None;
            record.report = None;
        })
        .cause
    };
    assert_eq!(
        unacknowledged(29),
        Cause::NotAcknowledged {
            generation: Some(3),
            observed_generation: None,
            since: at(NOW) - Duration::from_secs(29),
        }
    );
    assert_eq!(
        unacknowledged(31),
        Cause::AgentUnresponsive {
            since: at(NOW) - Duration::from_secs(31),
            generation: 3,
            observed_generation: None,
        }
    );
    // An agent that has acknowledged has the deadline of its images and a grace period.
    let pulling = |seconds: u64| {
        cause(|scene| {
            scene.report(ImagePhase::Pulling);
            let reported_at = at(NOW) - Duration::from_secs(seconds);
            scene.record().written_at = None;
            scene.record().reported_at = Some(reported_at);
        })
    };
    assert_eq!(pulling(359), Cause::Pulling { again: false });
    assert!(matches!(pulling(361), Cause::AgentUnresponsive { .. }));
    // An agent without work in progress need not report; its images count as cached.
    let idle = |scene: &mut Scene| {
        scene.record().written_at = None;
        scene.record().reported_at = Some(at("2025-01-01T00:00:00Z"));
    };
    assert_eq!(cause(idle), Cause::Cached { verifying: false });
}

/// Makes the agent miss the deadline of another image that is assigned.
fn unresponsive(scene: &mut Scene) {
    let written_at = at(NOW) - Duration::from_secs(361);
    let record = scene.record();
    let other = AssignedImage::present(mk_ref("other:1")).with_wanted_by([mk_id("other")]);
    record.assignment.images.push(other);
    record.written_at = Some(written_at);
    record.reported_at = Some(written_at);
}

#[test]
fn a_cause_in_the_node_precedes_its_record_and_rollout() {
    let not_assigned = |scene: &mut Scene| {
        scene.record().assignment.images.clear();
        scene.record().report.as_mut().unwrap().images.clear();
    };
    let full = |scene: &mut Scene| {
        let failure = NodeFailure::new(mk_name("n1"), Reason::NodeRecordFull, "full");
        let failures = [(APP.to_owned(), vec![failure])];
        scene.status().failures = failures.into();
    };
    type Change<'a> = &'a dyn Fn(&mut Scene);
    let of =
        |changes: &[Change<'_>]| cause(|scene| changes.iter().for_each(|change| change(scene)));
    let base: [Change<'_>; 2] = [&not_assigned, &full];
    let unready: Change<'_> = &|scene| scene.node().ready = false;
    let edited: Change<'_> = &|scene| scene.cache.generation = 2;
    let with = |more: &[Change<'_>]| of(&[&base[..], more].concat());
    assert_eq!(with(&[&unresponsive, unready]), Cause::NodeNotReady);
    let silent = with(&[&unresponsive, edited]);
    assert!(
        matches!(silent, Cause::AgentUnresponsive { .. }),
        "{silent:?}"
    );
    let edited = with(&[edited]);
    assert!(
        matches!(edited, Cause::SpecNotObserved { .. }),
        "{edited:?}"
    );
    // The controller knows of less room than a reader of the records.
    assert_eq!(with(&[]), Cause::NodeRecordFull);
    let elsewhere: Change<'_> = &|scene| {
        full(scene);
        scene.status().failures.get_mut(APP).unwrap()[0].node = mk_name("n2");
    };
    let waiting = of(&[&not_assigned, elsewhere]);
    assert_eq!(waiting, Cause::NotAssigned { active: 0 });
}

#[test]
fn an_unresponsive_agent_proves_no_image() {
    let silent = when(unresponsive);
    assert!(matches!(silent.cause, Cause::AgentUnresponsive { .. }));
    assert_eq!(silent.last_phase, Some(ImagePhase::Cached));
}

#[test]
fn an_unassigned_image_shows_how_many_nodes_pull() {
    let entry = AssignedImage::present(mk_ref("other:1")).with_wanted_by([mk_id("other")]);
    let mut pulling = NodeRecord::new(mk_name("n2"), Assignment::new(1, [entry]));
    pulling.written_at = Some(at(NOW));
    let other = mk_facts("other", &mk_spec(&["other:1"], &["tier=db"]));
    let planner = Planner::from_records(
        PlannerConfig::default(),
        [Scene::new().cache, other],
        [mk_node("n1", &["tier=web"]), mk_node("n2", &["tier=db"])],
        [pulling],
        at(NOW),
    );
    let explanation = planner.explain(&mk_id("web"), &mk_name("n1"), &mk_ref(APP));
    assert_eq!(explanation.cause, Cause::NotAssigned { active: 1 });
}

#[test]
fn a_final_phase_counts_for_any_generation() {
    let older = |scene: &mut Scene| {
        scene.record().report.as_mut().unwrap().observed_generation = 2;
    };
    assert_eq!(cause(older), Cause::Cached { verifying: false });
}

#[test]
fn an_unassigned_image_waits_for_the_controller() {
    let unassigned = |scene: &mut Scene| scene.record = None;
    assert_eq!(cause(unassigned), Cause::NotAssigned { active: 0 });
    let edited = |scene: &mut Scene| {
        scene.record = None;
        scene.cache.generation = 2;
    };
    let expected = |observed_generation, generation| Cause::SpecNotObserved {
        generation,
        observed_generation,
    };
    assert_eq!(cause(edited), expected(Some(1), 2));
    let new = |scene: &mut Scene| {
        scene.record = None;
        scene.cache.status = None;
    };
    assert_eq!(cause(new), expected(None, 1));
}

#[test]
fn the_limit_that_blocks_a_waiting_node_is_named() {
    let (a, b) = (mk_name("a"), mk_name("b"));
    let mut world = World::budget(1);
    world.node(mk_node("a", &[]));
    world.node(mk_node("b", &[]));
    world.cache("web", &mk_spec(&[APP], &[]));
    let explain = |world: &World, node| {
        let planner = &world.planner;
        planner.explain(&mk_id("web"), node, &mk_ref(APP)).cause
    };
    let unacknowledged = explain(&world, &a);
    assert!(matches!(
        unacknowledged,
        Cause::NotAcknowledged {
            generation: Some(1),
            ..
        }
    ));
    let (limit, active) = (1, 1);
    assert_eq!(explain(&world, &b), Cause::ClusterLimit { limit, active });
    world.settle();
    assert_eq!(explain(&world, &b), Cause::Cached { verifying: false });

    let mut world = World::new();
    world.node(mk_node("a", &[]));
    world.node(mk_node("b", &[]));
    world.cache("web", &mk_limited(&[APP], 1));
    let waiting = explain(&world, &b);
    let cache = mk_id("web");
    let expected = Cause::CacheLimit {
        cache,
        limit,
        active,
    };
    assert_eq!(waiting, expected);
    assert_eq!(
        waiting.to_string(),
        "the node waits for a rollout slot of image cache default/web: 1 of 1 are in use"
    );
    world.set_ready("b", false);
    assert_eq!(explain(&world, &b), Cause::NodeNotReady);
    world.send(ClusterEvent::AgentUnresponsive(a.clone()));
    assert!(matches!(
        explain(&world, &a),
        Cause::AgentUnresponsive { generation: 1, .. }
    ));
}
