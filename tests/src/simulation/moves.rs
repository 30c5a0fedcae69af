//! What happens in a simulation: the world and the list of moves, both drawn from a seed before it begins.

use std::time::Duration;

use fastrand::Rng;
use fledged_core::error::Reason;
use fledged_core::model::{PULL_SECRETS_MAX, SELECTORS_MAX};
use serde_json::{Value, json};

use super::faults::{KillPoint, WatchEnd, Weather};
use super::jobs::{JobMove, JobSetup};

/// The namespaces of ordinary tenants.
pub(super) const TENANTS: [&str; 2] = ["alpha", "beta"];
/// The namespace of a tenant that does harm.
pub(super) const HOSTILE: &str = "mallory";
/// Every seed that this divides has Jobs in place of agents.
const JOBS_EVERY: u64 = 3;
/// Caches in each namespace.
const CACHES: [&str; 2] = ["front", "back"];
/// Public images with immutable tags, and their sizes in bytes. The last two have the same content.
pub(super) const FIXED: [(&str, u64); 7] = [
    ("r0.test/app-0:1", 40_000_000),
    ("r0.test/app-1:1", 250_000_000),
    ("r0.test/app-2:1", 5_000_000),
    ("r1.test/app-3:1", 90_000_000),
    ("r1.test/app-4:1", 300_000_000),
    ("r1.test/twin-a:1", 30_000_000),
    ("r0.test/twin-b:1", 30_000_000),
];
/// Images with mutable tags.
pub(super) const MUTABLE: [(&str, u64); 2] = [
    ("r0.test/tool:latest", 20_000_000),
    ("r1.test/base", 60_000_000),
];
/// Images that need credentials.
pub(super) const PRIVATE: [(&str, u64); 1] = [("private.test/team/app:1", 70_000_000)];
/// Images that other programs of a node use, and caches only if they want to do harm.
pub(super) const STRANGE: [(&str, u64); 2] = [
    ("sys.test/cni:3", 80_000_000),
    ("sys.test/logs:2", 35_000_000),
];
/// The number of images of the rollout at the end, each of a few seconds.
const ROLLOUT_IMAGES: usize = 12;
/// Their size in bytes.
pub(super) const ROLLOUT_BYTES: u64 = 40_000_000;
/// The registries.
pub(super) const HOSTS: [&str; 4] = ["r0.test", "r1.test", "private.test", "sys.test"];

/// How long nothing happens in some simulations: longer than most back-offs.
const QUIET: Duration = Duration::from_secs(3_600);
/// How long nothing happens at the end, at most.
const IDLE: Duration = Duration::from_secs(3_600);

/// An image whose pull never ends.
pub(super) fn tarpit(number: u32) -> String {
    format!("pit.test/image-{number}:1")
}

/// The images of the rollout at the end.
pub(super) fn rollout_images() -> Vec<String> {
    let numbers = 0..ROLLOUT_IMAGES;
    numbers.map(|n| format!("r1.test/release-{n}:1")).collect()
}

/// The number of images in the largest spec of the hostile tenant: some 60 kB.
const LARGE_IMAGES: usize = 300;

/// Tarpits that exist.
pub(super) const TARPITS: u32 = 40;

/// The name of a node.
pub(super) fn node_name(number: usize) -> String {
    format!("node-{number}")
}

/// A cache by namespace and name.
pub type CacheName = (&'static str, &'static str);

/// A process, or several, in a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The agent of a node.
    Agent(usize),
    /// One of the controllers.
    Controller(usize),
    /// Every agent and every controller.
    Everybody,
}

/// What is too much in a spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oversized {
    /// Pull Secrets with long names, each of which a record would repeat for each image. `true`: more than are accepted.
    Secrets(bool),
    /// Terms of a node affinity. `true`: more than are accepted.
    Affinity(bool),
    /// Long references of images.
    Images,
}

impl Oversized {
    /// Whether the API server has to refuse it.
    pub(super) fn is_refused(self) -> bool {
        matches!(self, Self::Secrets(true) | Self::Affinity(true))
    }

    /// The spec.
    pub(super) fn spec(self) -> Value {
        let images: Vec<String> = match self {
            Self::Images => (0..LARGE_IMAGES)
                .map(|n| format!("none.test/{}/missing-{n}:1", "long-name".repeat(20)))
                .collect(),
            _ => (0..LARGE_IMAGES / 10)
                .map(|n| format!("none.test/missing-{n}:1"))
                .collect(),
        };
        let mut spec = json!({ "cacheSpec": [{ "images": images, "deadline": "5m" }] });
        match self {
            Self::Secrets(refused) => {
                let count = PULL_SECRETS_MAX + usize::from(refused);
                let names = (0..count).map(|n| format!("{}-{n}", "secret".repeat(40)));
                let secrets = names.map(|name| json!({ "name": name }));
                spec["imagePullSecrets"] = secrets.collect();
            }
            Self::Affinity(refused) => {
                let count = SELECTORS_MAX + usize::from(refused);
                // A node of every zone satisfies each term.
                let values: Vec<String> = (0..20)
                    .map(|n| format!("{}-{n}", "zone".repeat(10)))
                    .collect();
                let term = json!({ "matchExpressions": [
                    { "key": "zone", "operator": "NotIn", "values": values },
                ] });
                spec["cacheSpec"][0]["nodeAffinity"] = json!({
                    "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": vec![term; count] },
                });
            }
            Self::Images => {}
        }
        spec
    }
}

/// A thing that happens.
#[derive(Debug, Clone, PartialEq)]
pub enum Move {
    /// A user creates a cache, or replaces its spec.
    Apply(CacheName, Value),
    /// A user applies an invalid spec.
    ApplyNonsense(CacheName, Value),
    /// A user asks for a refresh.
    Refresh(CacheName),
    /// A user asks for a purge.
    Purge(CacheName),
    /// A user deletes a cache.
    Delete(CacheName),
    /// A user edits a cache many times, every 100 ms.
    EditStorm(CacheName, Vec<Value>),
    /// The hostile tenant applies a spec that is as large as the API server accepts, or larger.
    Oversize(CacheName, Oversized),
    /// The hostile tenant asks for a refresh each second, this often.
    RefreshStorm(CacheName, u32),
    /// A user deletes the pull Secret of a namespace, or creates it.
    Secret(&'static str, bool),
    /// A node joins the cluster, or comes back with its images.
    Join(usize),
    /// A node is deleted.
    Leave(usize),
    /// Another machine takes the name of a node.
    Replace(usize),
    /// A node turns Ready or NotReady.
    Ready(usize, bool),
    /// A label of a node changes.
    Label(usize, &'static str),
    /// A node is tainted, or its taint removed.
    Taint(usize, bool),
    /// The runtime is away for a while; its pulls end.
    RestartRuntime(usize, Duration),
    /// Pulls of a node fail.
    FailPulls(usize, Reason, Duration),
    /// A node is slow.
    SlowNode(usize, u32, Duration),
    /// The disk of a node is almost full.
    FillDisk(usize, u64, Duration),
    /// An image is lost.
    Evict(usize, &'static str),
    /// The kubelet removes what no container uses.
    CollectGarbage(usize),
    /// A container of an image starts.
    StartContainer(usize, &'static str),
    /// The containers of an image end.
    StopContainers(usize, &'static str),
    /// A program other than fledged pulls an image.
    PullByOthers(usize, &'static str),
    /// A mutable tag names another image.
    Republish(&'static str),
    /// A registry does not have an image for a while.
    LoseImage(&'static str, Duration),
    /// A registry fails.
    FailRegistry(&'static str, Reason, Duration),
    /// A registry throttles the user of a namespace, or anonymous requests.
    Throttle(&'static str, Option<&'static str>, Duration),
    /// The connection of a process to the API server fails.
    Suffer(Target, Weather, Duration),
    /// The watches of a process end.
    CutWatches(Target, WatchEnd),
    /// The API server forgets the history of its objects.
    Compact,
    /// A process is killed, and starts again after this time.
    Kill(Target, Duration),
    /// A process is killed at what it awaits after so many polls of its future, and starts again after this time.
    KillAtAwait(Target, u32, Duration),
    /// A process is killed at one of its next writes.
    KillAtWrite(Target, u32, KillPoint),
    /// A process is stopped, and starts again after this time.
    Stop(Target, Duration),
    /// The wall clock of a process jumps by seconds.
    Jump(Target, i64),
    /// Something happens to Jobs and their pods.
    Jobs(JobMove),
    /// Another program deletes the NodeImageCache of a node.
    DeleteRecord(usize),
    /// Another program removes all images from the NodeImageCache of a node.
    EmptyRecord(usize),
    /// Another program overwrites the status of a cache.
    OverwriteStatus(CacheName),
    /// The runtime of a node claims success for pulls after which it does not hold the image.
    Lie(usize, Duration),
    /// With the token of a node's agent, every image is reported to be in this phase, beside images that are not in the
    /// record, with long texts.
    ReportLies(usize, &'static str),
}

/// A move and when it happens.
#[derive(Debug, Clone, PartialEq)]
pub struct TimedMove {
    /// Simulated time since the start.
    pub at: Duration,
    /// What happens.
    pub act: Move,
}

/// The world of a simulation.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Setup {
    /// Nodes at the start.
    pub nodes: usize,
    /// Most nodes that pull at once.
    pub node_limit: u32,
    /// Most concurrent pulls of a node.
    pub pulls: usize,
    /// How often mutable tags are pulled again; zero: never.
    pub refresh: Duration,
    /// Room of a record in bytes.
    pub record_bytes: usize,
    /// Whether a removal removes an image with all its names, on each node.
    pub whole_removals: Vec<bool>,
    /// Whether there is a hostile tenant.
    pub hostile: bool,
    /// Time between attempts to acquire or renew the Lease.
    pub lease_retry: Duration,
    /// How long there are moves and faults.
    pub trouble: Duration,
    /// How long of that, from its middle on, nothing happens.
    pub quiet: Duration,
    /// How long nothing happens at the end.
    pub idle: Duration,
    /// Whether users ask for a refresh of their caches when the faults end.
    pub refresh_after: bool,
    /// With Jobs in place of agents.
    pub jobs: Option<JobSetup>,
}

/// The world of a seed and the moves in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// The world.
    pub setup: Setup,
    /// The moves, by time.
    pub moves: Vec<TimedMove>,
}

impl Scenario {
    /// Draws the world and the moves.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice(Rng::with_seed(seed));
        let nodes = dice.range(2, 5);
        // Most histories are short: they find as much in the same time, and are easier to read.
        let short = dice.chance(0.7);
        // With Jobs, its moves are drawn below.
        let hostile = dice.chance(0.4) && !seed.is_multiple_of(JOBS_EVERY);
        let mut setup = Setup {
            nodes,
            node_limit: dice.range(1, 4) as u32,
            // Pulls with long deadlines share all slots but one: with two, one that never ends has that until then.
            pulls: match hostile {
                true => dice.range(3, 5),
                false => dice.range(1, 4),
            },
            refresh: match dice.chance(0.5) {
                true => Duration::from_secs(15 * 60),
                false => Duration::ZERO,
            },
            record_bytes: match dice.chance(0.3) {
                true => 16 * 1024,
                false => 512 * 1024,
            },
            whole_removals: (0..=nodes + 1).map(|_| dice.chance(0.6)).collect(),
            hostile,
            // Half as many requests for the Lease leave time for more seeds.
            lease_retry: match seed.is_multiple_of(4) {
                true => Duration::from_secs(2),
                false => Duration::from_secs(4),
            },
            trouble: Duration::from_secs(match short {
                true => 60 * dice.range(3, 12) as u64,
                false => 60 * dice.range(5, 40) as u64,
            }),
            quiet: Duration::ZERO,
            idle: match dice.chance(0.2) {
                true => IDLE,
                false => IDLE / 30,
            },
            refresh_after: dice.chance(0.5),
            jobs: None,
        };
        let mut moves: Vec<TimedMove> = Vec::new();
        // Every simulation begins with caches that have something to do.
        for namespace in TENANTS {
            let at = Duration::from_millis(dice.range(0, 20_000) as u64);
            let act = Move::Apply((namespace, CACHES[0]), dice.spec(namespace));
            moves.push(TimedMove { at, act });
        }
        let span = usize::try_from(setup.trouble.as_millis()).unwrap();
        let count = match short {
            true => dice.range(6, 24),
            false => dice.range(10, 70),
        };
        for _ in 0..count {
            let at = Duration::from_millis(dice.range(0, span) as u64);
            let act = dice.act(&setup);
            moves.push(TimedMove { at, act });
        }
        if seed.is_multiple_of(JOBS_EVERY) {
            let mut dice = Rng::with_seed(!seed);
            setup.jobs = Some(JobSetup::draw(&mut dice, nodes));
            let of_jobs = JobSetup::moves(&mut dice, nodes, setup.trouble);
            let of_jobs = of_jobs.into_iter();
            moves.extend(of_jobs.map(|(at, act)| TimedMove {
                at,
                act: Move::Jobs(act),
            }));
            // The deadline of a Job includes the pulls of other Jobs that the kubelet makes before.
            for timed in &mut moves {
                if let Move::Apply(_, spec) = &mut timed.act
                    && spec["deadline"] == "30s"
                {
                    spec["deadline"] = "2m".into();
                }
            }
        }
        // Drawn apart: the other moves of a seed do not depend on them.
        let mut others = Dice(Rng::with_seed(seed.rotate_left(32)));
        if others.chance(0.5) {
            for _ in 0..others.range(1, 4) {
                let at = Duration::from_millis(others.range(0, span) as u64);
                let act = others.act_of_others(&setup);
                moves.push(TimedMove { at, act });
            }
        }
        if setup.jobs.is_some() {
            let mut hostile = Dice(Rng::with_seed(seed.rotate_left(48)));
            setup.hostile = hostile.chance(0.4);
            for _ in 0..hostile.range(2, 7) * usize::from(setup.hostile) {
                let at = Duration::from_millis(hostile.range(0, span) as u64);
                let act = hostile.harm_with_jobs();
                moves.push(TimedMove { at, act });
            }
        }
        let mut large = Dice(Rng::with_seed(seed.rotate_left(8)));
        if setup.hostile && large.chance(0.3) {
            for _ in 0..large.range(1, 4) {
                let at = Duration::from_millis(large.range(0, span) as u64);
                let act = large.excess();
                moves.push(TimedMove { at, act });
            }
        }
        // Jobs have no agents, and their results are not what a runtime claims.
        let mut lies = Dice(Rng::with_seed(seed.rotate_left(16)));
        if setup.jobs.is_none() && lies.chance(0.25) {
            for _ in 0..lies.range(1, 4) {
                let at = Duration::from_millis(lies.range(0, span) as u64);
                let act = lies.lie(&setup);
                moves.push(TimedMove { at, act });
            }
        }
        moves.sort_by_key(|timed| timed.at);
        if dice.chance(0.05) {
            setup.quiet = QUIET;
            for timed in &mut moves {
                if timed.at > setup.trouble / 2 {
                    timed.at += QUIET;
                }
            }
            setup.trouble += QUIET;
        }
        Self { seed, setup, moves }
    }

    /// The scenario with only the moves of these numbers.
    #[must_use]
    pub fn with_only(&self, numbers: &[usize]) -> Self {
        let kept = numbers.iter().filter_map(|number| self.moves.get(*number));
        Self {
            moves: kept.cloned().collect(),
            ..self.clone()
        }
    }
}

struct Dice(Rng);

impl Dice {
    /// A number from `least` to `most - 1`.
    fn range(&mut self, least: usize, most: usize) -> usize {
        self.0.usize(least..most.max(least + 1))
    }

    fn chance(&mut self, share: f64) -> bool {
        self.0.f64() < share
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.range(0, from.len())].clone()
    }

    fn seconds(&mut self, least: usize, most: usize) -> Duration {
        Duration::from_secs(self.range(least, most) as u64)
    }

    fn image(&mut self) -> &'static str {
        match self.range(0, 10) {
            0 | 1 => self.pick(&MUTABLE).0,
            2 => self.pick(&PRIVATE).0,
            _ => self.pick(&FIXED).0,
        }
    }

    fn any_image(&mut self) -> &'static str {
        match self.chance(0.25) {
            true => self.pick(&STRANGE).0,
            false => self.image(),
        }
    }

    fn cache(&mut self, setup: &Setup) -> CacheName {
        let namespace = match setup.hostile && self.chance(0.2) {
            true => HOSTILE,
            false => self.pick(&TENANTS),
        };
        (namespace, self.pick(&CACHES))
    }

    fn spec(&mut self, namespace: &str) -> Value {
        if namespace == HOSTILE {
            let kind = self.range(0, 4);
            return self.hostile_spec(kind);
        }
        let groups = self.range(1, 4);
        let groups: Vec<Value> = (0..groups).map(|_| self.group()).collect();
        let mut spec = json!({ "cacheSpec": groups });
        let secret = format!("login-of-{namespace}");
        spec["imagePullSecrets"] = json!([{ "name": secret }]);
        if self.chance(0.5) {
            spec["deletionPolicy"] = "Purge".into();
        }
        if self.chance(0.3) {
            let limit = self.pick(&[json!(1), json!("50%"), json!(2)]);
            spec["rollout"] = json!({ "maxConcurrentNodes": limit });
        }
        if self.chance(0.3) {
            spec["deadline"] = self.pick(&["30s", "2m", "20m"]).into();
        }
        spec
    }

    fn group(&mut self) -> Value {
        let count = self.range(1, 4);
        let mut images: Vec<&str> = (0..count).map(|_| self.image()).collect();
        images.sort_unstable();
        images.dedup();
        let mut group = json!({ "images": images });
        if self.chance(0.4) {
            let zone = self.pick(&["a", "b"]);
            group["nodeSelector"] = json!({ "zone": zone });
        }
        if self.chance(0.2) {
            group["imagePullPolicy"] = "Always".into();
        }
        if self.chance(0.2) {
            group["tolerations"] = json!([]);
        }
        group
    }

    /// What the hostile tenant does with Jobs. A kubelet pulls one image after another: a pull that never ends delays
    /// all others for hours, with or without fledged.
    fn harm_with_jobs(&mut self) -> Move {
        let cache = (HOSTILE, self.pick(&CACHES));
        match self.range(0, 8) {
            0 => Move::Delete(cache),
            1 => Move::Purge(cache),
            2 => Move::Refresh(cache),
            _ => {
                let kind = self.range(1, 4);
                Move::Apply(cache, self.hostile_spec(kind))
            }
        }
    }

    /// What the hostile tenant does too much of.
    fn excess(&mut self) -> Move {
        let cache = (HOSTILE, self.pick(&CACHES));
        match self.range(0, 4) {
            0 => Move::RefreshStorm(cache, self.0.u32(30..300)),
            1 => Move::Oversize(cache, Oversized::Secrets(self.chance(0.3))),
            2 => Move::Oversize(cache, Oversized::Affinity(self.chance(0.3))),
            _ => Move::Oversize(cache, Oversized::Images),
        }
    }

    /// A spec of the hostile tenant: images that are never pulled (0), that do not exist (1), that other programs use
    /// (2), or of other tenants.
    fn hostile_spec(&mut self, kind: usize) -> Value {
        let images: Vec<String> = match kind {
            0 => (0..self.range(1, 12))
                .map(|_| tarpit(self.0.u32(0..TARPITS)))
                .collect(),
            1 => {
                let count = self.range(30, 150);
                (0..count)
                    .map(|n| format!("none.test/missing-image-{n}:1"))
                    .collect()
            }
            2 => vec![self.pick(&STRANGE).0.to_owned(), self.image().to_owned()],
            _ => (0..3).map(|_| self.image().to_owned()).collect(),
        };
        let mut images = images;
        images.sort_unstable();
        images.dedup();
        let deadline = self.pick(&["1s", "5m", "2h", "24h"]);
        let mut spec = json!({ "cacheSpec": [{ "images": images, "deadline": deadline }] });
        if self.chance(0.5) {
            spec["rollout"] = json!({ "maxConcurrentNodes": 1 });
        }
        if self.chance(0.5) {
            spec["deletionPolicy"] = "Purge".into();
        }
        if self.chance(0.3) {
            spec["imagePullSecrets"] = json!([{ "name": "login-of-alpha" }]);
        }
        spec
    }

    /// A spec that the API server stores and the controller refuses.
    fn nonsense(&mut self) -> Value {
        let image = self.image();
        match self.range(0, 3) {
            0 => json!({ "cacheSpec": [{ "images": [image], "deadline": "9999h" }] }),
            1 => json!({ "cacheSpec": [{ "images": [format!("{image}@sha256:12")] }] }),
            _ => json!({ "cacheSpec": [{ "images": [image],
                "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
                    { "matchExpressions": [{ "key": "zone", "operator": "In", "values": [] }] },
                ] } } }] }),
        }
    }

    fn target(&mut self, setup: &Setup) -> Target {
        match self.range(0, 5) {
            0 | 1 => Target::Controller(self.range(0, 2)),
            2 => Target::Everybody,
            _ => Target::Agent(self.range(0, setup.nodes)),
        }
    }

    fn process(&mut self, setup: &Setup) -> Target {
        match self.chance(0.5) {
            true => Target::Controller(self.range(0, 2)),
            false => Target::Agent(self.range(0, setup.nodes)),
        }
    }

    fn weather(&mut self) -> (Weather, Duration) {
        match self.range(0, 7) {
            0 => (Weather::Slow(self.seconds(1, 20)), self.seconds(10, 200)),
            1 => (
                Weather::Errors(0.1 + 0.7 * self.0.f64()),
                self.seconds(5, 200),
            ),
            2 => (
                Weather::LostAnswers(0.1 + 0.7 * self.0.f64()),
                self.seconds(5, 200),
            ),
            3 => (Weather::Hangs(0.3 * self.0.f64()), self.seconds(5, 60)),
            4 => (
                Weather::LateEvents(self.seconds(1, 60)),
                self.seconds(10, 300),
            ),
            5 => (Weather::RepeatedEvents(self.0.f64()), self.seconds(10, 300)),
            _ => (Weather::Partition, self.seconds(1, 400)),
        }
    }

    fn pull_failure(&mut self) -> Reason {
        self.pick(&[
            Reason::RegistryError,
            Reason::ConnectionFailed,
            Reason::Unauthorized,
            Reason::ImageNotFound,
            Reason::InvalidImage,
            Reason::RuntimeUnavailable,
            Reason::Unknown,
        ])
    }

    /// What other programs do to the objects of fledged.
    fn act_of_others(&mut self, setup: &Setup) -> Move {
        let node = self.range(0, setup.nodes);
        match self.range(0, 3) {
            0 => Move::DeleteRecord(node),
            1 => Move::EmptyRecord(node),
            _ => Move::OverwriteStatus(self.cache(setup)),
        }
    }

    /// What a runtime, a registry, or a stolen token of an agent claims.
    fn lie(&mut self, setup: &Setup) -> Move {
        let node = self.range(0, setup.nodes);
        match self.range(0, 3) {
            0 => Move::Lie(node, self.seconds(10, 300)),
            1 => {
                let host = self.pick(&HOSTS);
                Move::FailRegistry(host, Reason::DiskFull, self.seconds(10, 300))
            }
            _ => {
                let phases = ["Cached", "Failed", "Removed", "InUse", "Pulling", "Pending"];
                Move::ReportLies(node, self.pick(&phases))
            }
        }
    }

    fn act(&mut self, setup: &Setup) -> Move {
        let cache = self.cache(setup);
        let node = self.range(0, setup.nodes);
        match self.range(0, 60) {
            0..=9 => Move::Apply(cache, self.spec(cache.0)),
            10 => Move::ApplyNonsense(cache, self.nonsense()),
            11..=13 => Move::Refresh(cache),
            14..=16 => Move::Purge(cache),
            17..=19 => Move::Delete(cache),
            20 => {
                let count = self.range(2, 40);
                let specs = (0..count).map(|_| self.spec(cache.0)).collect();
                Move::EditStorm(cache, specs)
            }
            21 => Move::Secret(self.pick(&TENANTS), self.chance(0.5)),
            22 => Move::Join(self.range(0, setup.nodes + 2)),
            23 => Move::Leave(node),
            24 => Move::Replace(node),
            25 | 26 => Move::Ready(node, self.chance(0.6)),
            27 => Move::Label(node, self.pick(&["a", "b", "c"])),
            28 => Move::Taint(node, self.chance(0.5)),
            29 | 30 => Move::RestartRuntime(node, self.seconds(1, 120)),
            31 => Move::FailPulls(node, self.pull_failure(), self.seconds(10, 600)),
            32 => Move::SlowNode(node, self.range(2, 40) as u32, self.seconds(30, 900)),
            33 => Move::FillDisk(
                node,
                self.range(0, 700_000_000) as u64,
                self.seconds(60, 900),
            ),
            34 | 35 => Move::Evict(node, self.any_image()),
            36 => Move::CollectGarbage(node),
            37 | 38 => Move::StartContainer(node, self.any_image()),
            39 => Move::StopContainers(node, self.any_image()),
            40 => Move::PullByOthers(node, self.any_image()),
            41 => Move::Republish(self.pick(&MUTABLE).0),
            42 => Move::LoseImage(self.image(), self.seconds(30, 900)),
            43 => Move::FailRegistry(
                self.pick(&HOSTS),
                self.pull_failure(),
                self.seconds(10, 600),
            ),
            44 => {
                let user = self.pick(&[None, Some(TENANTS[0]), Some(TENANTS[1])]);
                Move::Throttle(self.pick(&HOSTS), user, self.seconds(10, 600))
            }
            45..=50 => {
                let (weather, lasting) = self.weather();
                Move::Suffer(self.target(setup), weather, lasting)
            }
            51 | 52 => {
                let end = self.pick(&[WatchEnd::Closed, WatchEnd::Reset, WatchEnd::Gone]);
                Move::CutWatches(self.target(setup), end)
            }
            53 => Move::Compact,
            54 => Move::Kill(self.process(setup), self.seconds(0, 120)),
            55 => {
                let (process, polls) = (self.process(setup), self.0.u32(1..40));
                Move::KillAtAwait(process, polls, self.seconds(0, 120))
            }
            56 | 57 => {
                let point = self.pick(&[KillPoint::Before, KillPoint::After]);
                Move::KillAtWrite(self.process(setup), self.0.u32(0..6), point)
            }
            58 => Move::Stop(self.process(setup), self.seconds(0, 60)),
            _ => {
                let seconds = self.pick(&[-3_600, -30, -1, 1, 5, 30, 90_000]);
                Move::Jump(self.process(setup), seconds)
            }
        }
    }
}
