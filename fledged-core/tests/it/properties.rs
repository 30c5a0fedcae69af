//! Properties of a node under random faults, edits and interference: convergence and safety.
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{
    AssignedImage, Assignment, ByteSize, ImagePhase, ImagePullPolicy, ImageRef, NodeReport,
};
use fledged_core::port::{Clock, RemovalScope};
use fledged_core::runner::NodeLoop;
use fledged_core::sim::{
    Fault, Faults, SimClock, SimImage, SimRegistry, SimRuntime, TraceEntry, TraceEvent,
};
use fledged_core::warmer::{NodeEvent, Warmer, WarmerConfig};
use futures_util::stream::{self, StreamExt};
use proptest::prelude::*;

/// Time at which faults, edits and interference end.
const TROUBLE: Duration = Duration::from_secs(20 * 60);
/// Time at which the node has converged: longer than the longest back-off (1 h with jitter) and a deadline.
const END: Duration = Duration::from_secs(4 * 3600);
const NAMES: usize = 8;

/// The state of one name in the registry and on the node.
#[derive(Debug, Clone)]
struct Name {
    /// Names with equal content are names of one image.
    content: u8,
    preloaded: bool,
    in_use: bool,
    pinned: bool,
}

#[derive(Debug, Clone)]
struct Wish {
    name: usize,
    absent: bool,
    always: bool,
    revision: u64,
    priority: i32,
}

#[derive(Debug, Clone)]
enum Step {
    Assign(Vec<Wish>),
    Refresh,
    Evict(usize),
    Use(usize, bool),
}

#[derive(Debug, Clone)]
struct Scenario {
    seed: u64,
    names: Vec<Name>,
    steps: Vec<(u64, Step)>,
    last: Vec<Wish>,
    parallelism: usize,
    removal: RemovalScope,
    chance: f64,
    bandwidth: u64,
}

fn reference(name: usize) -> ImageRef {
    // Two registries, so that a hold on one can be distinguished from a hold on the other. Each repository has a tag
    // and a digest, because some runtimes remove the digest with the tag.
    let (repository, by_digest) = (name / 2, name % 2 == 1);
    let host = if repository % 2 == 0 { "a" } else { "b" };
    let text = match by_digest {
        true => format!("{host}.example/app{repository}@sha256:{name:064x}"),
        false => format!("{host}.example/app{repository}:1"),
    };
    text.parse().unwrap()
}

fn wish() -> impl Strategy<Value = Wish> {
    (0..NAMES, any::<bool>(), any::<bool>(), 0..3u64, -1..2i32).prop_map(
        |(name, absent, always, revision, priority)| Wish {
            name,
            absent,
            always,
            revision,
            priority,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop::collection::vec(wish(), 0..NAMES).prop_map(Step::Assign),
        1 => Just(Step::Refresh),
        2 => (0..NAMES).prop_map(Step::Evict),
        1 => ((0..NAMES), any::<bool>()).prop_map(|(n, used)| Step::Use(n, used)),
    ]
}

fn removal() -> impl Strategy<Value = RemovalScope> {
    prop_oneof![
        Just(RemovalScope::Reference),
        Just(RemovalScope::ReferenceAndDigests),
        Just(RemovalScope::Image),
    ]
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let name = (
        0..5u8,
        any::<bool>(),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(content, preloaded, in_use, pinned)| Name {
            content,
            preloaded,
            in_use,
            pinned,
        });
    (
        any::<u64>(),
        prop::collection::vec(name, NAMES),
        prop::collection::vec((0..TROUBLE.as_secs(), step()), 0..12),
        prop::collection::vec(wish(), 0..NAMES),
        1..5usize,
        removal(),
        0.0..0.9f64,
        1_000_000..100_000_000u64,
    )
        .prop_map(
            |(seed, names, mut steps, last, parallelism, removal, chance, bandwidth)| {
                steps.sort_by_key(|(at, _)| *at);
                Scenario {
                    seed,
                    names,
                    steps,
                    last,
                    parallelism,
                    removal,
                    chance,
                    bandwidth,
                }
            },
        )
}

fn assignment(generation: u64, wishes: &[Wish]) -> Assignment {
    let images = wishes.iter().map(|wish| {
        let image = reference(wish.name);
        let image = match wish.absent {
            true => AssignedImage::absent(image),
            false => AssignedImage::present(image),
        };
        let policy = match wish.always {
            true => ImagePullPolicy::Always,
            false => ImagePullPolicy::IfNotPresent,
        };
        let image = image.with_pull_policy(policy).with_revision(wish.revision);
        image.with_priority(wish.priority)
    });
    Assignment::new(generation, images)
}

/// Returns the desired references: `Present` wins for a name with both states.
fn desired(wishes: &[Wish]) -> BTreeSet<ImageRef> {
    wishes
        .iter()
        .filter(|w| !w.absent)
        .map(|w| reference(w.name))
        .collect()
}

fn faults(chance: f64) -> Faults {
    let delayed = Failure::new(Reason::TooManyRequests, "429")
        .with_retry_after(Some(Duration::from_secs(90)));
    Faults::until(TROUBLE)
        .with_pulls(vec![
            Fault::fail(Reason::RegistryError),
            Fault::fail(Reason::Unauthorized),
            Fault::fail(Reason::ImageNotFound),
            Fault::fail(Reason::DiskFull),
            Fault::fail(Reason::InvalidImage),
            Fault::fail(Reason::RuntimeUnavailable),
            Fault::Fail(delayed),
            Fault::FailMidway(Failure::new(Reason::ConnectionFailed, "reset")),
            Fault::Hang,
            Fault::Slow(Duration::from_secs(200)),
        ])
        .with_calls(vec![
            Fault::fail(Reason::RuntimeUnavailable),
            Fault::fail(Reason::Unknown),
            Fault::Hang,
            Fault::Slow(Duration::from_secs(15)),
        ])
        .with_chance(chance)
}

struct Outcome {
    report: NodeReport,
    trace: Vec<TraceEntry>,
    runtime: SimRuntime,
    /// The wishes and the time in seconds from which they apply.
    history: Vec<(u64, Vec<Wish>)>,
}

fn play(scenario: &Scenario) -> Outcome {
    let clock = SimClock::new();
    let mut registry = SimRegistry::new();
    for (index, name) in scenario.names.iter().enumerate() {
        let id = format!("content-{}", name.content);
        let layers = [
            ("base", ByteSize::new(20_000_000)),
            (
                id.as_str(),
                ByteSize::new(5_000_000 * (1 + u64::from(name.content))),
            ),
        ];
        registry.push(reference(index), SimImage::new(&id, &layers));
    }
    let runtime = SimRuntime::new(clock.clone(), registry, scenario.seed)
        .with_bandwidth(scenario.bandwidth)
        .with_removal(scenario.removal)
        .with_faults(faults(scenario.chance));
    for (index, name) in scenario.names.iter().enumerate() {
        let image = reference(index);
        if name.preloaded {
            runtime.preload(&image);
            runtime.set_in_use(&image, name.in_use);
            if name.pinned {
                runtime.pin(&image);
            }
        }
    }

    let mut steps = scenario.steps.clone();
    steps.push((TROUBLE.as_secs(), Step::Assign(scenario.last.clone())));
    let history = steps.iter().filter_map(|(at, step)| match step {
        Step::Assign(wishes) => Some((*at, wishes.clone())),
        _ => None,
    });
    let history: Vec<_> = history.collect();

    let world = (clock.clone(), runtime.clone());
    let inputs = stream::iter(steps.into_iter().enumerate()).filter_map(move |(n, (at, step))| {
        let (clock, runtime) = world.clone();
        async move {
            clock
                .sleep(Duration::from_secs(at).saturating_sub(clock.elapsed()))
                .await;
            match step {
                Step::Assign(wishes) => Some(NodeEvent::Assigned(assignment(
                    u64::try_from(n).unwrap(),
                    &wishes,
                ))),
                Step::Refresh => Some(NodeEvent::RefreshRequested),
                Step::Evict(name) => {
                    runtime.evict(&reference(name));
                    None
                }
                Step::Use(name, used) => {
                    runtime.set_in_use(&reference(name), used);
                    None
                }
            }
        }
    });

    let mut config = WarmerConfig::default();
    config.max_parallel_pulls = NonZeroUsize::new(scenario.parallelism).unwrap();
    let mut node = NodeLoop::new(
        Warmer::new(config, scenario.seed),
        Arc::new(runtime.clone()),
        Arc::new(clock.clone()),
    );
    let report = clock
        .block_on(node.run(inputs, clock.sleep(END)))
        .expect("no deadlock");
    Outcome {
        report,
        trace: runtime.trace(),
        runtime,
        history,
    }
}

/// Returns the wishes that apply at a time; at the time of an edit, the old and the new ones.
fn in_force(history: &[(u64, Vec<Wish>)], at: Duration) -> Vec<&Vec<Wish>> {
    let before = history
        .iter()
        .rfind(|(from, _)| Duration::from_secs(*from) < at);
    let edits = history
        .iter()
        .filter(|(from, _)| Duration::from_secs(*from) == at);
    before
        .into_iter()
        .chain(edits)
        .map(|(_, wishes)| wishes)
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn converges_once_faults_stop(scenario in scenario()) {
        let outcome = play(&scenario);
        let wanted = desired(&scenario.last);
        for image in &wanted {
            prop_assert!(outcome.runtime.holds(image), "{image} is missing");
        }
        for entry in &outcome.report.images {
            if wanted.contains(&entry.image) {
                prop_assert_eq!(entry.phase, ImagePhase::Cached, "{:?}", entry);
            } else if outcome.runtime.holds(&entry.image) {
                // A removed image that another client pulls again is not removed a second time.
                prop_assert!(
                    matches!(entry.phase, ImagePhase::InUse | ImagePhase::Removed),
                    "{:?}", entry
                );
                prop_assert!(entry.phase == ImagePhase::Removed || entry.reason.is_some());
            } else {
                prop_assert_eq!(entry.phase, ImagePhase::Removed, "{:?}", entry);
            }
        }
        let names: BTreeSet<_> = scenario.last.iter().map(|w| w.name).collect();
        prop_assert_eq!(outcome.report.images.len(), names.len());
    }

    #[test]
    fn never_exceeds_the_parallelism(scenario in scenario()) {
        for entry in play(&scenario).trace {
            if let TraceEvent::PullBegan(_, under_way) = entry.event {
                prop_assert!(under_way <= scenario.parallelism, "{under_way} pulls at {:?}", entry.at);
            }
        }
    }

    #[test]
    fn never_removes_desired_images(scenario in scenario()) {
        let outcome = play(&scenario);
        // The time of the request counts, because an edit may overtake a slow removal.
        let mut asked = BTreeMap::new();
        for entry in &outcome.trace {
            match &entry.event {
                TraceEvent::RemovalBegan(image) => {
                    asked.insert(image, entry.at);
                }
                TraceEvent::Removed(name, gone) => for image in gone {
                    let wanted = in_force(&outcome.history, asked[name])
                        .iter()
                        .all(|wishes| desired(wishes).contains(image));
                    prop_assert!(!wanted, "{image} was removed at {:?} although it is desired", entry.at);
                },
                _ => {}
            }
        }
    }

    #[test]
    fn removes_only_images_that_were_marked_absent(scenario in scenario()) {
        let outcome = play(&scenario);
        let named: BTreeSet<ImageRef> = outcome
            .history
            .iter()
            .flat_map(|(_, wishes)| wishes.iter().filter(|w| w.absent).map(|w| reference(w.name)))
            .collect();
        for entry in &outcome.trace {
            if let TraceEvent::Removed(_, gone) = &entry.event {
                for image in gone {
                    // A runtime removes a digest with its tag.
                    let came_along = |tag: &ImageRef| image.digest().is_some() && tag.name() == image.name();
                    prop_assert!(
                        named.contains(image) || named.iter().any(came_along),
                        "{image} was removed but was never marked absent"
                    );
                }
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_trace(scenario in scenario()) {
        prop_assert_eq!(play(&scenario).trace, play(&scenario).trace);
    }

    #[test]
    fn does_nothing_while_nothing_changes(scenario in scenario()) {
        let mut quiet = scenario.clone();
        quiet.steps.clear();
        // The same wishes are assigned again at the end of the faults, so there is nothing to do.
        quiet.steps.push((0, Step::Assign(scenario.last.clone())));
        quiet.chance = 0.0;
        let busy = |entry: &TraceEntry| {
            entry.at >= TROUBLE && !matches!(entry.event, TraceEvent::Listed)
        };
        let trace = play(&quiet).trace;
        prop_assert!(!trace.iter().any(busy), "{:?}", trace.iter().filter(|e| busy(e)).collect::<Vec<_>>());
    }
}
