//! Properties of superseded digests: they go, and nothing else goes with them.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{
    AssignedImage, Assignment, ByteSize, Digest, ImagePhase, ImagePullPolicy, ImageRef, NodeReport,
};
use fledged_core::port::{Clock, ImageRuntime, RemovalScope};
use fledged_core::runner::NodeLoop;
use fledged_core::sim::{
    Fault, Faults, SimClock, SimImage, SimRegistry, SimRuntime, TraceEntry, TraceEvent,
};
use fledged_core::warmer::{NodeEvent, Warmer, WarmerConfig};
use futures_util::stream::{self, StreamExt};
use proptest::prelude::*;

/// Time at which faults, edits and interference end.
const TROUBLE: Duration = Duration::from_secs(60 * 60);
/// Time at which the node has converged.
const END: Duration = Duration::from_secs(5 * 3600);
const TAGS: usize = 4;
/// No more than a node remembers, and the current one.
const CONTENTS: u8 = 5;
/// A tag that is never assigned.
const STRANGER: &str = "a.example/app0:stranger";

#[derive(Debug, Clone)]
enum Step {
    /// Whether each tag, and each of its digests, is present.
    Assign([bool; TAGS], Vec<(usize, u8)>),
    Refresh,
    /// The tag names another content in the registry.
    Publish(usize, u8),
    /// A container uses a content, or does not.
    Use(u8, bool),
    Evict(usize),
    Restart,
}

#[derive(Debug, Clone)]
struct Scenario {
    seed: u64,
    stranger: Option<u8>,
    steps: Vec<(u64, Step)>,
    last: ([bool; TAGS], Vec<(usize, u8)>),
    removal: RemovalScope,
    chance: f64,
}

/// Two tags in each of two repositories.
fn tag(tag: usize) -> ImageRef {
    let repository = tag / 2;
    let host = ["a", "b"][repository];
    format!("{host}.example/app{repository}:{tag}")
        .parse()
        .unwrap()
}

fn digest(content: u8) -> Digest {
    Digest::parse(&format!("sha256:{content:064x}")).unwrap()
}

fn image(content: u8) -> SimImage {
    let id = format!("content-{content}");
    let layer = (id.as_str(), ByteSize::new(5_000_000));
    SimImage::new(&id, &[("base", ByteSize::new(20_000_000)), layer]).with_digest(digest(content))
}

fn wishes() -> impl Strategy<Value = ([bool; TAGS], Vec<(usize, u8)>)> {
    let tags = prop::array::uniform4(prop::bool::weighted(0.8));
    let digests = prop::collection::vec((0..TAGS, 0..CONTENTS), 0..3);
    (tags, digests)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => wishes().prop_map(|(tags, digests)| Step::Assign(tags, digests)),
        4 => Just(Step::Refresh),
        6 => (0..TAGS, 0..CONTENTS).prop_map(|(tag, content)| Step::Publish(tag, content)),
        2 => (0..CONTENTS, any::<bool>()).prop_map(|(content, used)| Step::Use(content, used)),
        1 => (0..TAGS).prop_map(Step::Evict),
        1 => Just(Step::Restart),
    ]
}

fn scenario() -> impl Strategy<Value = Scenario> {
    (
        any::<u64>(),
        prop::option::of(0..CONTENTS),
        prop::collection::vec((0..TROUBLE.as_secs(), step()), 0..30),
        wishes(),
        prop_oneof![
            Just(RemovalScope::ReferenceAndDigests),
            Just(RemovalScope::Image)
        ],
        0.0..0.5f64,
    )
        .prop_map(|(seed, stranger, mut steps, last, removal, chance)| {
            steps.sort_by_key(|(at, _)| *at);
            Scenario {
                seed,
                stranger,
                steps,
                last,
                removal,
                chance,
            }
        })
}

fn faults(chance: f64) -> Faults {
    Faults::until(TROUBLE)
        .with_pulls(vec![
            Fault::fail(Reason::RegistryError),
            Fault::fail(Reason::DiskFull),
            Fault::FailMidway(Failure::new(Reason::ConnectionFailed, "reset")),
            Fault::Hang,
            Fault::Slow(Duration::from_secs(200)),
        ])
        .with_calls(vec![
            Fault::fail(Reason::RuntimeUnavailable),
            Fault::Hang,
            Fault::Slow(Duration::from_secs(15)),
        ])
        .with_chance(chance)
}

/// Every tag, present or absent, and the digests that are present.
fn assignment(revision: u64, tags: &[bool; TAGS], digests: &[(usize, u8)]) -> Assignment {
    let tags = tags.iter().enumerate().map(|(n, present)| {
        let image = match present {
            true => AssignedImage::present(tag(n)),
            false => AssignedImage::absent(tag(n)),
        };
        let image = image.with_pull_policy(ImagePullPolicy::Always);
        image.with_revision(revision)
    });
    let digests = digests.iter().map(|(n, content)| {
        let image = tag(*n).at_digest(&digest(*content));
        AssignedImage::present(image)
    });
    Assignment::new(revision, tags.chain(digests))
}

fn desired(tags: &[bool; TAGS], digests: &[(usize, u8)]) -> BTreeSet<ImageRef> {
    assignment(0, tags, digests)
        .images
        .into_iter()
        .filter(|spec| spec.state == fledged_core::model::DesiredState::Present)
        .map(|spec| spec.image)
        .collect()
}

struct Outcome {
    report: NodeReport,
    trace: Vec<TraceEntry>,
    runtime: SimRuntime,
    clock: SimClock,
    /// The desired images, and the time from which they are.
    history: Vec<(Duration, BTreeSet<ImageRef>)>,
    used: BTreeSet<u8>,
}

fn play(scenario: &Scenario) -> Outcome {
    let clock = SimClock::new();
    let mut registry = SimRegistry::new();
    for n in 0..TAGS {
        registry.push(tag(n), image(0));
        for content in 0..CONTENTS {
            registry.push(tag(n).at_digest(&digest(content)), image(content));
        }
    }
    let stranger: ImageRef = STRANGER.parse().unwrap();
    if let Some(content) = scenario.stranger {
        registry.push(stranger.clone(), image(content));
    }
    let runtime = SimRuntime::new(clock.clone(), registry, scenario.seed)
        .with_bandwidth(20_000_000)
        .with_removal(scenario.removal)
        .with_faults(faults(scenario.chance));
    runtime.preload(&stranger);

    let mut steps = scenario.steps.clone();
    let (tags, digests) = scenario.last.clone();
    steps.push((TROUBLE.as_secs(), Step::Assign(tags, digests)));
    let mut history = Vec::new();
    // The steps between two restarts, each with its inputs.
    let mut runs: Vec<Vec<(u64, Step, Option<Assignment>)>> = vec![Vec::new()];
    let mut wanted = ([true; TAGS], Vec::new());
    let mut used = BTreeSet::new();
    for (n, (at, step)) in steps.into_iter().enumerate() {
        match &step {
            Step::Restart => runs.push(Vec::new()),
            Step::Assign(tags, digests) => wanted = (*tags, digests.clone()),
            Step::Use(content, true) => drop(used.insert(*content)),
            Step::Use(content, false) => drop(used.remove(content)),
            _ => {}
        }
        let assigns = matches!(step, Step::Assign(..) | Step::Refresh | Step::Restart);
        let assigned = assigns.then(|| {
            history.push((Duration::from_secs(at), desired(&wanted.0, &wanted.1)));
            assignment(u64::try_from(n).unwrap() + 1, &wanted.0, &wanted.1)
        });
        if let Some(run) = runs.last_mut() {
            run.push((at, step, assigned));
        }
    }

    let mut report = NodeReport::default();
    let starts: Vec<u64> = runs
        .iter()
        .map(|run| run.first().map_or(0, |s| s.0))
        .collect();
    for (n, run) in runs.into_iter().enumerate() {
        let end = starts.get(n + 1).map_or(END, |at| Duration::from_secs(*at));
        let world = (clock.clone(), runtime.clone());
        let inputs = stream::iter(run).filter_map(move |(at, step, assigned)| {
            let (clock, runtime) = world.clone();
            async move {
                let pause = Duration::from_secs(at).saturating_sub(clock.elapsed());
                clock.sleep(pause).await;
                match step {
                    Step::Publish(n, content) => runtime.publish(tag(n), image(content)),
                    Step::Evict(n) => runtime.evict(&tag(n)),
                    Step::Use(content, used) => {
                        for n in [0, 2] {
                            runtime.set_in_use(&tag(n).at_digest(&digest(content)), used);
                        }
                    }
                    Step::Assign(..) | Step::Refresh | Step::Restart => {}
                }
                assigned.map(NodeEvent::Assigned)
            }
        });
        let resumed = stream::iter([NodeEvent::Resumed(std::mem::take(&mut report.images))]);
        let mut node = NodeLoop::new(
            Warmer::new(WarmerConfig::default(), scenario.seed),
            Arc::new(runtime.clone()),
            Arc::new(clock.clone()),
        );
        let shutdown = clock.sleep(end.saturating_sub(clock.elapsed()));
        report = clock
            .block_on(node.run(resumed.chain(inputs), shutdown))
            .expect("no deadlock");
    }
    Outcome {
        report,
        trace: runtime.trace(),
        runtime,
        clock,
        history,
        used,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn superseded_digests_go_and_desired_images_stay(scenario in scenario()) {
        let outcome = play(&scenario);
        let wanted = desired(&scenario.last.0, &scenario.last.1);
        for image in &wanted {
            prop_assert!(outcome.runtime.holds(image), "{image} is missing");
        }
        let listed = outcome.clock.block_on(outcome.runtime.list()).unwrap().unwrap();
        let in_use = outcome.clock.block_on(outcome.runtime.in_use()).unwrap().unwrap();
        let stranger: ImageRef = STRANGER.parse().unwrap();
        // A digest that left the assignment without a removal is not removed.
        let retained = |r: &ImageRef| {
            let ever = outcome.history.iter().any(|(_, wanted)| wanted.contains(r));
            ever && r.digest().is_some()
        };
        for image in &listed {
            let keeps = |r: &ImageRef| wanted.contains(r) || retained(r) || *r == stranger;
            let kept = image.references.iter().any(keeps);
            let used = in_use.iter().any(|used| used.image == image.id);
            prop_assert!(kept || used, "{image:?} is left; {:#?}", outcome.report);
        }
        for entry in &outcome.report.images {
            let listed = |d: &Digest| outcome.runtime.holds(&entry.image.at_digest(d));
            prop_assert!(entry.superseded.iter().all(listed), "{entry:?}");
            if wanted.contains(&entry.image) {
                prop_assert_eq!(entry.phase, ImagePhase::Cached, "{:?}", entry);
            } else if outcome.used.is_empty() && scenario.stranger.is_none() && wanted.is_empty() {
                prop_assert_eq!(entry.phase, ImagePhase::Removed, "{:?}", entry);
            }
        }
    }

    #[test]
    fn nothing_desired_is_removed_with_a_superseded_digest(scenario in scenario()) {
        let outcome = play(&scenario);
        let stranger: ImageRef = STRANGER.parse().unwrap();
        // The time of the request counts, because an edit may overtake a slow removal.
        let mut asked = BTreeMap::new();
        for entry in &outcome.trace {
            match &entry.event {
                TraceEvent::RemovalBegan(image) => {
                    asked.insert(image, entry.at);
                }
                TraceEvent::Removed(name, gone) => {
                    let at = asked[name];
                    let before = outcome.history.iter().rfind(|(from, _)| *from < at);
                    let edits = outcome.history.iter().filter(|(from, _)| *from == at);
                    let mut in_force = before.into_iter().chain(edits).peekable();
                    prop_assert!(in_force.peek().is_some());
                    let all: Vec<_> = in_force.collect();
                    for image in gone {
                        let wanted = all.iter().all(|(_, wanted)| wanted.contains(image));
                        prop_assert!(!wanted, "{image} was removed at {at:?} with {name}");
                        prop_assert_ne!(image, &stranger);
                    }
                }
                _ => {}
            }
        }
    }
}
