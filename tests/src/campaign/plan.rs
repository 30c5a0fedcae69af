//! What a round does, drawn from a seed.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;

use crate::fault_script::{Fault, Rule};

/// Number of nodes.
pub(super) const NODES: usize = 2;

/// Number of images with fixed tags that caches list.
pub(super) const IMAGES: usize = 16;

/// Names of the ImageCaches, and the nodes that each selects.
pub(super) const CACHES: [(&str, &[usize]); 4] = [
    ("all", &[0, 1]),
    ("first", &[0]),
    ("second", &[1]),
    ("tenant", &[0, 1]),
];

/// When the last fault of a round begins.
const WINDOW: Duration = Duration::from_millis(4_000);

/// Bytes a second of each download while faults are injected: slow enough that faults hit downloads.
const PACE: u64 = 300_000;

/// Bytes a second of the fault.
const SLOW: u64 = 50_000;

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Agent(usize),
    Controller,
    Containerd(usize),
    Registry,
    ApiServer,
}

impl Part {
    pub(super) const ALL: [Self; 7] = [
        Self::Agent(0),
        Self::Agent(1),
        Self::Controller,
        Self::Containerd(0),
        Self::Containerd(1),
        Self::Registry,
        Self::ApiServer,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Agent(_) => "agent",
            Self::Controller => "controller",
            Self::Containerd(_) => "containerd",
            Self::Registry => "registry",
            Self::ApiServer => "API server",
        }
    }
}

/// A fault of the registry's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RegistryFault {
    WrongBytes,
    Cut,
    Hangup,
    Throttled { retry_after: Option<u64> },
    ServerError(u16),
    Slow,
    Stall,
    TokenServer(u16),
}

impl RegistryFault {
    /// One of each kind.
    const KINDS: [Self; 9] = [
        Self::WrongBytes,
        Self::Cut,
        Self::Hangup,
        Self::Throttled { retry_after: None },
        Self::Throttled {
            retry_after: Some(1),
        },
        Self::ServerError(500),
        Self::Slow,
        Self::Stall,
        Self::TokenServer(500),
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::WrongBytes => "registry: wrong bytes",
            Self::Cut => "registry: connection cut",
            Self::Hangup => "registry: no answer",
            Self::Throttled { retry_after: None } => "registry: 429",
            Self::Throttled { .. } => "registry: 429 with Retry-After",
            Self::ServerError(_) => "registry: 5xx",
            Self::Slow => "registry: slow",
            Self::Stall => "registry: stalls",
            Self::TokenServer(_) => "registry: token server fails",
        }
    }

    /// The rules of the proxy, the first that applies first.
    pub(super) fn rules(self) -> Vec<Rule> {
        let blobs = |fault| vec![Rule::new(fault).method("GET").path("/blobs/").always()];
        match self {
            Self::WrongBytes => blobs(Fault::CorruptAt(200)),
            Self::Cut => blobs(Fault::CutAfter(20_000)),
            Self::Hangup => vec![Rule::new(Fault::Hangup).always()],
            Self::Throttled { retry_after } => {
                let retry_after = retry_after.map(|seconds| seconds.to_string());
                let fault = Fault::Status {
                    status: 429,
                    retry_after,
                };
                vec![Rule::new(fault).always()]
            }
            Self::ServerError(status) => vec![Rule::new(Fault::status(status)).always()],
            Self::Slow => blobs(Fault::Throttle {
                bytes_per_second: SLOW,
            }),
            Self::Stall => blobs(Fault::StallAfter(1_000)),
            Self::TokenServer(status) => vec![
                Rule::new(Fault::status(status)).path("/token").always(),
                Rule::new(Fault::Challenge).always(),
            ],
        }
    }

    /// Whether a request with this fault of the proxy met this fault.
    pub(super) fn is_met_by(self, fault: &Fault) -> bool {
        match (self, fault) {
            (Self::WrongBytes, Fault::CorruptAt(_))
            | (Self::Cut, Fault::CutAfter(_))
            | (Self::Hangup, Fault::Hangup)
            | (Self::Stall, Fault::StallAfter(_))
            | (Self::TokenServer(_), Fault::Challenge) => true,
            (
                Self::Throttled { retry_after: asked },
                Fault::Status {
                    status: 429,
                    retry_after,
                },
            ) => asked.is_some() == retry_after.is_some(),
            (Self::ServerError(_), Fault::Status { status, .. }) => *status >= 500,
            (Self::Slow, Fault::Throttle { bytes_per_second }) => *bytes_per_second == SLOW,
            _ => false,
        }
    }
}

/// The rule of the proxy while no fault of the registry applies.
pub(super) fn pace() -> Rule {
    let pace = Fault::Throttle {
        bytes_per_second: PACE,
    };
    Rule::new(pace).method("GET").path("/blobs/").always()
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// SIGKILL; the process is started again at the end.
    Kill(Part),
    /// SIGSTOP; SIGCONT at the end.
    Stop(Part),
    /// The history of the API server is deleted.
    Compact,
    /// A file fills the file system of the second node's containerd.
    FillDisk,
    /// The registry's answers are faulty.
    Registry(RegistryFault),
    /// A node's containerd is configured for a registry that aborts the TLS handshake.
    Tls(usize),
    /// The clock of an agent or of the controller is off by these seconds.
    Skew(Part, i64),
    /// An image and its content are removed behind the agent's back. The number selects one of those that are there.
    Lose(usize, usize),
}

impl Act {
    /// All kinds.
    pub(super) fn kinds() -> impl Iterator<Item = String> {
        let processes = Part::ALL.map(|part| [Self::Kill(part), Self::Stop(part)]);
        let clocks = [Part::Agent(0), Part::Controller].map(|part| Self::Skew(part, 1));
        let others = [
            Self::Compact,
            Self::FillDisk,
            Self::Tls(0),
            Self::Lose(0, 0),
        ];
        let registry = RegistryFault::KINDS.map(Self::Registry);
        let all = processes.into_iter().flatten().chain(clocks);
        all.chain(others).chain(registry).map(Self::kind)
    }

    /// The node whose agent pulls images while this fault goes on: no other request meets the fault.
    fn needs_pull(self, rng: &mut Rng) -> Option<usize> {
        match self {
            Self::Registry(_) => Some(rng.usize(0..NODES)),
            Self::Tls(node) => Some(node),
            Self::FillDisk => Some(NODES - 1),
            _ => None,
        }
    }

    /// How long it lasts.
    fn draw_length(self, rng: &mut Rng) -> Duration {
        let milliseconds = match self {
            // Long enough for a pull.
            Self::Registry(_) | Self::Tls(_) | Self::FillDisk => 600..2_500,
            Self::Kill(_) | Self::Stop(_) => 100..1_200,
            _ => 100..2_000,
        };
        Duration::from_millis(rng.u64(milliseconds))
    }

    /// The kind, for the figures.
    pub(super) fn kind(self) -> String {
        match self {
            Self::Kill(part) => format!("{} killed", part.name()),
            Self::Stop(part) => format!("{} stopped", part.name()),
            Self::Compact => "API server: history deleted".to_owned(),
            Self::FillDisk => "disk full".to_owned(),
            Self::Registry(fault) => fault.name().to_owned(),
            Self::Tls(_) => "registry: TLS handshake fails".to_owned(),
            Self::Skew(part, _) => format!("{}: clock skewed", part.name()),
            Self::Lose(..) => "image lost".to_owned(),
        }
    }

    /// What only one fault at a time can act on.
    fn target(self) -> String {
        match self {
            Self::Kill(part) | Self::Stop(part) => format!("{part:?}"),
            Self::Skew(part, _) => format!("clock of {part:?}"),
            Self::Tls(_) => "hosts.toml".to_owned(),
            Self::FillDisk => "disk".to_owned(),
            Self::Registry(_) => "proxy".to_owned(),
            Self::Compact | Self::Lose(..) => String::new(),
        }
    }

    fn draw(rng: &mut Rng) -> Self {
        match rng.u32(0..100) {
            0..30 => Self::Kill(part(rng)),
            30..47 => Self::Stop(part(rng)),
            47..53 => Self::Compact,
            53..59 => Self::FillDisk,
            59..83 => Self::Registry(registry_fault(rng)),
            83..88 => Self::Tls(rng.usize(0..NODES)),
            88..95 => {
                let processes = [Part::Agent(0), Part::Agent(1), Part::Controller];
                let process = processes[rng.usize(0..processes.len())];
                let ahead = [-86_400, -3_600, -30, 30, 3_600, 86_400];
                Self::Skew(process, ahead[rng.usize(0..ahead.len())])
            }
            _ => Self::Lose(rng.usize(0..NODES), rng.usize(0..64)),
        }
    }
}

/// A cache that selects this node.
fn cache_on(node: usize, rng: &mut Rng) -> usize {
    let selecting = CACHES.iter().enumerate();
    let selecting = selecting.filter(|(_, (_, nodes))| nodes.contains(&node));
    let caches: Vec<usize> = selecting.map(|(cache, _)| cache).collect();
    caches[rng.usize(0..caches.len())]
}

fn part(rng: &mut Rng) -> Part {
    Part::ALL[rng.usize(0..Part::ALL.len())]
}

fn registry_fault(rng: &mut Rng) -> RegistryFault {
    match rng.u32(0..9) {
        0 => RegistryFault::WrongBytes,
        1 => RegistryFault::Cut,
        2 => RegistryFault::Hangup,
        3 => RegistryFault::Throttled { retry_after: None },
        4 => RegistryFault::Throttled {
            retry_after: Some(rng.u64(1..4)),
        },
        5 => RegistryFault::ServerError([500, 502, 503][rng.usize(0..3)]),
        6 => RegistryFault::Slow,
        7 => RegistryFault::Stall,
        _ => RegistryFault::TokenServer([404, 500, 503][rng.usize(0..3)]),
    }
}

/// A fault and its time in the round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timed {
    pub(super) at: Duration,
    pub(super) until: Duration,
    pub(super) act: Act,
}

/// What a user asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// Creates or edits the cache: the images of these numbers, and the mutable tag if `moving`.
    Apply {
        images: Vec<usize>,
        moving: bool,
    },
    Refresh,
    Purge,
    /// Deletes the cache, and its images if `purge`.
    Delete {
        purge: bool,
    },
}

impl Request {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Apply { .. } => "create or edit",
            Self::Refresh => "refresh",
            Self::Purge => "purge",
            Self::Delete { purge: true } => "delete with Purge",
            Self::Delete { purge: false } => "delete with Retain",
        }
    }

    /// A spec with one to three images, so that not every image is on every node all the time.
    pub(super) fn draw_spec(rng: &mut Rng) -> Self {
        let mut images: Vec<usize> = (0..IMAGES).collect();
        rng.shuffle(&mut images);
        images.truncate(rng.usize(1..4));
        images.sort_unstable();
        Self::Apply {
            images,
            moving: rng.bool(),
        }
    }

    fn draw(rng: &mut Rng) -> Self {
        match rng.u32(0..10) {
            0..6 => Self::draw_spec(rng),
            6..8 => Self::Refresh,
            8 => Self::Purge,
            _ => Self::Delete { purge: rng.bool() },
        }
    }
}

/// A round: faults and requests, then convergence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Round {
    /// Whether the mutable tag names other content from the start of the round.
    pub(super) moves_tag: bool,
    pub(super) faults: Vec<Timed>,
    /// Requests with their time, by number of the cache.
    pub(super) requests: Vec<(Duration, usize, Request)>,
}

impl Round {
    /// Draws a round with at most `most` faults.
    pub(super) fn draw(rng: &mut Rng, most: usize) -> Self {
        let mut busy: BTreeMap<String, Duration> = BTreeMap::new();
        let mut faults = Vec::new();
        let mut requests = Vec::new();
        let wanted = rng.usize(12..25).min(most);
        while faults.len() < wanted {
            let act = Act::draw(rng);
            let at = millis(rng, 0, WINDOW);
            let lasts = act.draw_length(rng);
            let target = act.target();
            let free = busy.get(&target).copied().unwrap_or_default();
            let at = at.max(free);
            // The target has other faults until the end of the round.
            if at > WINDOW {
                continue;
            }
            if !target.is_empty() {
                busy.insert(target, at + lasts + Duration::from_millis(50));
            }
            if let Some(node) = act.needs_pull(rng) {
                faults.push(Timed {
                    at,
                    until: at,
                    act: Act::Lose(node, rng.usize(0..64)),
                });
                let spec = Request::draw_spec(rng);
                requests.push((at, cache_on(node, rng), spec));
            }
            faults.push(Timed {
                at,
                until: at + lasts,
                act,
            });
        }
        for _ in 0..rng.usize(1..4) {
            let at = millis(rng, 0, WINDOW);
            requests.push((at, rng.usize(0..CACHES.len()), Request::draw(rng)));
        }
        Self {
            moves_tag: rng.bool(),
            faults,
            requests,
        }
    }
}

fn millis(rng: &mut Rng, from: u64, to: Duration) -> Duration {
    Duration::from_millis(rng.u64(from..u64::try_from(to.as_millis()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_gives_the_same_rounds() {
        let draw = |seed| {
            let mut rng = Rng::with_seed(seed);
            (0..20)
                .map(|_| Round::draw(&mut rng, 100))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn every_kind_is_drawn() {
        let mut rng = Rng::with_seed(1);
        let rounds = (0..100).map(|_| Round::draw(&mut rng, 100));
        let drawn: BTreeSet<String> = rounds
            .flat_map(|round| round.faults)
            .map(|fault| fault.act.kind())
            .collect();
        assert_eq!(drawn, Act::kinds().collect());
    }

    #[test]
    fn a_rule_is_of_one_kind() {
        for kind in RegistryFault::KINDS {
            let rules = kind.rules();
            let rule = rules.last().unwrap();
            let is_met = |kind: &RegistryFault| kind.is_met_by(rule.fault());
            let met = RegistryFault::KINDS.into_iter().filter(is_met);
            assert_eq!(met.collect::<Vec<_>>(), [kind]);
            assert!(!kind.is_met_by(pace().fault()));
        }
    }

    #[test]
    fn a_process_has_one_fault_at_a_time() {
        let mut rng = Rng::with_seed(1);
        for _ in 0..200 {
            let round = Round::draw(&mut rng, 100);
            for (number, a) in round.faults.iter().enumerate() {
                for b in &round.faults[number + 1..] {
                    let same = a.act.target() == b.act.target() && !a.act.target().is_empty();
                    assert!(!same || a.until < b.at || b.until < a.at, "{a:?} {b:?}");
                }
            }
        }
    }
}
