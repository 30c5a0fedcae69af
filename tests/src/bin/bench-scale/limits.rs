//! Limits of what a load may write and take. Figures of a load that are above their limits fail the program.

use std::fmt;

use fledged_tests::kube::Way;
use serde::Serialize;

use crate::args::{Args, LoadName};
use crate::phase::{Phase, Requests};

/// Limits of convergence are this many times what it may take on the machine of `docs/testing.md`.
const TIMES: f64 = 5.0;
/// Seconds that convergence may take there beside the pulls: for all, and for each node and each ImageCache.
const CONVERGENCE: f64 = 5.0;
const CONVERGENCE_OF_EACH: f64 = 0.01;
/// Seconds that an event waits for its plan (p99): while nodes change or nothing does, while all nodes pull, and while
/// one ImageCache is edited all the time. Bounds of the controller's histogram.
const PLAN: f64 = 1.0;
const PLAN_OF_ROLLOUT: f64 = 3.0;
const PLAN_OF_STORM: f64 = 10.0;
/// Writes that wait at one time: one for each node, some for each ImageCache (its status, finalizer and events), and a
/// few more.
const WAITING_OF_CACHE: usize = 10;
const WAITING: usize = 100;

/// The most writes of controller and agents to a resource in a phase.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Bound {
    resource: &'static str,
    most: u64,
    /// The number of writes.
    written: u64,
}

impl Bound {
    /// At most so many writes to a resource and its status.
    pub(crate) fn most(resource: &'static str, most: u64) -> Self {
        Self {
            resource,
            most,
            written: 0,
        }
    }

    /// No write.
    pub(crate) fn none(resource: &'static str) -> Self {
        Self::most(resource, 0)
    }

    /// Counts the writes.
    pub(crate) fn of(mut self, requests: &[Requests]) -> Self {
        let writes = requests.iter().filter(|request| {
            let rest = request.resource.strip_prefix(self.resource);
            request.is_write && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        self.written = writes.map(|writes| writes.controller + writes.agents).sum();
        self
    }

    /// Whether there are more writes.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.written > self.most
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            resource,
            most,
            written,
        } = self;
        write!(f, "{written} writes of {resource}, at most {most}")
    }
}

/// The most of a figure in a phase.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Limit {
    what: &'static str,
    value: f64,
    most: f64,
    #[serde(skip)]
    unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Seconds,
    Writes,
    Mebibytes,
}

impl Limit {
    /// Whether the figure is larger.
    pub(crate) fn is_exceeded(&self) -> bool {
        self.value > self.most || self.value.is_nan()
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            value,
            most,
            unit,
        } = self;
        match unit {
            Unit::Seconds if value.is_infinite() => {
                write!(f, "{what} more than 10 s, at most {most:.1} s")
            }
            Unit::Seconds => write!(f, "{what} {value:.4} s, at most {most:.1} s"),
            Unit::Writes => write!(f, "{what} {value:.0}, at most {most:.0}"),
            Unit::Mebibytes => write!(f, "{what} {value:.1} MiB, at most {most:.1} MiB"),
        }
    }
}

/// The limits of time, queue and memory of a load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits<'a> {
    args: &'a Args,
    /// Mebibytes.
    memory: f64,
}

impl<'a> Limits<'a> {
    pub(crate) fn new(load: LoadName, args: &'a Args) -> Self {
        // Twice the peaks in docs/testing.md.
        let memory = match load {
            LoadName::Flap | LoadName::Idle | LoadName::Storm => 70.0,
            LoadName::Wide => 200.0,
            LoadName::Caches => 250.0,
            LoadName::Deep => 180.0,
        };
        Self {
            args,
            memory: memory * args.scale(load),
        }
    }

    /// A phase that ends when all images are cached.
    pub(crate) fn rollout(&self, phase: Phase) -> Phase {
        let most = self.convergence(phase.floor.unwrap_or_default());
        let took = ("status complete after", phase.seconds, most);
        self.limited(phase, PLAN_OF_ROLLOUT, &[took])
    }

    /// Nodes that flap.
    pub(crate) fn flap(&self, phase: Phase) -> Phase {
        let waited = phase.figure("lastChangeToStatus");
        let waited = ("lastChangeToStatus", waited, self.convergence(0.0));
        self.limited(phase, PLAN, &[waited])
    }

    /// Edits all the time.
    pub(crate) fn storm(&self, phase: Phase) -> Phase {
        let (ordered, settled) = (
            phase.figure("editToOrderMax"),
            phase.figure("lastEditToStatus"),
        );
        let ordered = ("editToOrderMax", ordered, self.convergence(0.0));
        let pull = self.args.pulls_alone(1);
        let settled = ("lastEditToStatus", settled, self.convergence(pull));
        self.limited(phase, PLAN_OF_STORM, &[ordered, settled])
    }

    /// Edits of an ImageCache for one node, whatever else there is.
    pub(crate) fn edits(&self, phase: Phase) -> Phase {
        let pulled = phase.figure("editToPulledMax");
        let most = TIMES * (self.args.pulls_alone(1) + CONVERGENCE);
        self.limited(phase, PLAN, &[("editToPulledMax", pulled, most)])
    }

    /// Nothing happens.
    pub(crate) fn idle(&self, phase: Phase) -> Phase {
        self.limited(phase, PLAN, &[])
    }

    /// Seconds until everything has converged, with pulls that take so many seconds.
    fn convergence(&self, pulls: f64) -> f64 {
        let objects = count(self.args.nodes() + self.args.caches());
        TIMES * (pulls + CONVERGENCE + CONVERGENCE_OF_EACH * objects)
    }

    fn limited(&self, mut phase: Phase, plan: f64, times: &[(&'static str, f64, f64)]) -> Phase {
        let waiting = self.args.nodes() + WAITING_OF_CACHE * self.args.caches() + WAITING;
        let times = times.iter().copied();
        let times = times.chain([("from event to plan (p99)", phase.latency.p99, plan)]);
        let times = times.map(|(what, value, most)| (what, value, most, Unit::Seconds));
        let others = [
            (
                "writes that waited",
                wide(phase.most_waiting),
                count(waiting),
                Unit::Writes,
            ),
            (
                "controller's peak RSS",
                wide(phase.controller.peak_rss) / f64::from(1 << 20),
                self.memory,
                Unit::Mebibytes,
            ),
        ];
        let limits = times.chain(others).map(|(what, value, most, unit)| Limit {
            what,
            value,
            most: most * self.args.slack(),
            unit,
        });
        // With Jobs, there are no figures yet to begin with.
        if self.args.node_driver == Way::Agents {
            phase.limits = limits.collect();
        }
        phase
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts and sizes for people")]
fn wide(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "a count of some thousands")]
fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_limit(value: f64, most: f64) -> Limit {
        Limit {
            what: "lastEditToStatus",
            value,
            most,
            unit: Unit::Seconds,
        }
    }

    #[test]
    fn figures_above_their_limits_exceed_them() {
        for (value, exceeds) in [
            (1.0, false),
            (2.0, false),
            (2.1, true),
            (f64::INFINITY, true),
            (f64::NAN, true),
        ] {
            assert_eq!(mk_limit(value, 2.0).is_exceeded(), exceeds, "{value}");
        }
    }

    #[test]
    fn limits_are_printed_with_their_figures() {
        let text = mk_limit(11.25, 85.0).to_string();
        assert_eq!(text, "lastEditToStatus 11.2500 s, at most 85.0 s");
        let text = mk_limit(f64::INFINITY, 10.0).to_string();
        assert_eq!(text, "lastEditToStatus more than 10 s, at most 10.0 s");
    }

    #[test]
    fn writes_of_a_resource_and_its_status_count() {
        let mk_requests = |resource: &str, is_write, controller, agents| Requests {
            verb: "APPLY".to_owned(),
            resource: resource.to_owned(),
            all: 100,
            agents,
            bench: 50,
            controller,
            is_write,
        };
        let requests = [
            mk_requests("imagecaches", true, 1, 0),
            mk_requests("imagecaches/status", true, 3, 4),
            mk_requests("imagecaches", false, 10, 0),
            mk_requests("nodeimagecaches/status", true, 10, 0),
        ];
        let bound = Bound::most("imagecaches", 8).of(&requests);
        assert_eq!(bound.to_string(), "8 writes of imagecaches, at most 8");
        assert!(!bound.is_exceeded());
        assert!(Bound::most("imagecaches", 7).of(&requests).is_exceeded());
    }
}
