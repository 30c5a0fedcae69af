//! What runtimes hold, and what agents do with them.

use std::collections::BTreeMap;
use std::time::Duration;

use fledged_core::model::ImageRef;
use fledged_core::port::{PullRequest, RegistryAuth};

use super::throttles::Pull;
use super::{HANDLING, Ledger, Reading, Record, State, orders};
use crate::simulation::registry::namespace_of;

/// How long a pull that was begun for a namespace may read its Secrets, and try those of others.
const PULL_BEGINS: Duration = Duration::from_secs(300);

/// How old the list of images may be by which a removal Job decides what goes with an image.
const LISTED: Duration = Duration::from_secs(1);

impl Ledger {
    /// A runtime begins to hold these names.
    pub(in crate::simulation) fn gained<'a>(
        &self,
        node: &str,
        images: impl IntoIterator<Item = &'a ImageRef>,
        pulled_by_us: bool,
    ) {
        let mut state = self.state();
        let now = state.now;
        for image in images {
            let key = (node.to_owned(), image.clone());
            if pulled_by_us {
                state.ours.insert(key.clone());
            }
            let held = state.held.entry(key).or_insert((false, now));
            if !held.0 {
                *held = (true, now);
            }
            state.jobs.gained(node, image);
        }
    }

    /// A runtime no longer holds these names.
    pub(in crate::simulation) fn lost<'a>(
        &self,
        node: &str,
        images: impl IntoIterator<Item = &'a ImageRef>,
    ) {
        let mut state = self.state();
        let now = state.now;
        for image in images {
            let key = (node.to_owned(), image.clone());
            state.held.insert(key, (false, now));
        }
    }

    /// Another machine takes the name of the node: its runtime is empty.
    pub(in crate::simulation) fn replaced(&self, node: &str) {
        let mut state = self.state();
        state.held.retain(|(of, _), _| of != node);
        state.ours.retain(|(of, _)| of != node);
        state.readings.remove(node);
    }

    /// An agent read the images of its node, from this time on.
    pub(in crate::simulation) fn read_images(&self, node: &str, incarnation: u32, start: Duration) {
        let mut state = self.state();
        let reading = Reading {
            incarnation,
            began: start,
            ended: state.now,
        };
        state.readings.insert(node.to_owned(), reading);
    }

    /// Checks the number of pulls that run on a node.
    pub(in crate::simulation) fn pulling(&self, node: &str, pulls: usize) {
        let mut state = self.state();
        let limit = state.limits.pulls;
        if pulls > limit {
            let found = format!("{node} runs {pulls} pulls, the limit is {limit}");
            state.violate("no more pulls on a node than its limit", found);
        }
    }

    /// Checks the request for an image that an agent begins to pull, with what it can have known since `informed`.
    pub(in crate::simulation) fn asking(
        &self,
        node: &str,
        incarnation: u32,
        informed: Duration,
        request: &PullRequest,
    ) {
        let mut state = self.state();
        // A kubelet has delays of its own.
        if !state.has_agents {
            return;
        }
        if let Some(namespace) = user_of(request).and_then(namespace_of)
            && !state.is_for(node, &request.image, namespace, informed)
        {
            let found = format!(
                "{node} asks for {} with the login of {namespace}, which has not wanted it there since {:.1} s",
                request.image,
                informed.as_secs_f64()
            );
            let invariant = "an image is asked for only with logins of namespaces that want it";
            state.violate(invariant, found);
        }
        let pull = pull_of(&state.records, node, incarnation, request);
        let checked = pull.map(|pull| state.throttles.check(pull, state.now, state.clock_jumped));
        if let Some(Err(found)) = checked {
            state.violate("a registry's time without requests is kept", found);
        }
    }

    /// A registry asked for a time without requests.
    pub(in crate::simulation) fn throttled(
        &self,
        node: &str,
        incarnation: u32,
        request: &PullRequest,
        delay: Duration,
    ) {
        let mut state = self.state();
        let State {
            records,
            throttles,
            now,
            ..
        } = &mut *state;
        if let Some(pull) = pull_of(records, node, incarnation, request) {
            throttles.answered(pull, *now, delay);
        }
    }

    /// Checks a removal that an agent begins. `taken` are the names that the runtime removes with the image.
    pub(in crate::simulation) fn removing(
        &self,
        node: &str,
        informed: Duration,
        taken: &[ImageRef],
    ) {
        let mut state = self.state();
        let since = informed.saturating_sub(HANDLING);
        let ordered = |state: &State, image: &ImageRef| {
            let key = (node.to_owned(), image.clone());
            let record = state.records.get(node);
            let now = record.is_some_and(|r| orders(&r.assignment).any(|of| of == image));
            now || state.ordered.get(&key).is_some_and(|at| *at >= since)
        };
        for image in taken {
            // A digest reference came with its tag, and goes with it.
            let mut tags = taken.iter().filter(|other| other.name() == image.name());
            let came_along = image.digest().is_some() && tags.any(|tag| ordered(&state, tag));
            if came_along {
                continue;
            }
            let key = (node.to_owned(), image.clone());
            // A kubelet's pull of another name of the same content: no runtime can exclude both.
            let held = state.held.get(&key);
            let appeared =
                held.is_some_and(|(is_held, since)| *is_held && *since + LISTED > state.now);
            if !state.has_agents && appeared {
                continue;
            }
            // A version that a mutable tag of the record named before has no other name than its digest.
            let version = taken.iter().all(|name| name.digest().is_some());
            let mut tags = state.ours.iter().filter(|(of, _)| of == node);
            if version && tags.any(|(_, tag)| tag.name() == image.name()) {
                continue;
            }
            if !ordered(&state, image) {
                let found = format!(
                    "{node} removes {image}, which its record has not ordered since {:.1} s",
                    since.as_secs_f64()
                );
                state.violate("an agent removes only what its record orders", found);
            }
            if !state.ours.contains(&key) {
                let found = format!("{node} removes {image}, which it never had for fledged");
                state.violate("nothing is removed that fledged never had", found);
            }
        }
    }

    /// Checks that a removal is not asked for of an image that the last reading showed in use.
    pub(in crate::simulation) fn removing_used(&self, node: &str, image: &ImageRef) {
        let found = format!("{node} removes {image}, which a container uses");
        self.violate("nothing is removed that a container uses", found);
    }

    /// Whether the runtime of a node holds an image, and since when that is so.
    pub(in crate::simulation) fn is_held(&self, node: &str, image: &ImageRef) -> (bool, Duration) {
        let state = self.state();
        let key = (node.to_owned(), image.clone());
        state.held.get(&key).copied().unwrap_or_default()
    }
}

/// The pull of an image that only one namespace wants, by the record that the agent has taken up. An image of several
/// namespaces is also pulled while a registry throttles one of them.
fn pull_of<'a>(
    records: &'a BTreeMap<String, Record>,
    node: &'a str,
    incarnation: u32,
    request: &'a PullRequest,
) -> Option<Pull<'a>> {
    let image = &request.image;
    let Record { assignment, report } = records.get(node)?;
    let generation = assignment.generation;
    let taken_up = report.as_ref()?.observed_generation == generation;
    let mut images = assignment.images.iter();
    let wanted = images.find(|wanted| wanted.image == *image && taken_up)?;
    let mut namespaces = wanted.wanted_by.iter().map(|id| id.namespace.as_str());
    let namespace = namespaces.next()?;
    namespaces.all(|other| other == namespace).then_some(Pull {
        node,
        incarnation,
        image,
        namespace,
        user: user_of(request),
        generation,
    })
}

/// The user name of a request; `None` for an anonymous one.
fn user_of(request: &PullRequest) -> Option<&str> {
    match &request.auth {
        Some(RegistryAuth::Basic { username, .. }) => Some(username),
        _ => None,
    }
}

impl State {
    /// Whether the record of a node has an image for a cache of this namespace, or had when a pull was begun that now
    /// asks, by what the agent knew at `informed`.
    fn is_for(&self, node: &str, image: &ImageRef, namespace: &str, informed: Duration) -> bool {
        let entries = self.records.get(node).into_iter();
        let entries = entries.flat_map(|record| &record.assignment.images);
        let mut entries = entries.filter(|entry| entry.image == *image);
        let now = entries.any(|entry| entry.wanted_by.iter().any(|of| of.namespace == namespace));
        let key = (node.to_owned(), image.clone(), namespace.to_owned());
        let before = self.assigned_for.get(&key);
        now || before.is_some_and(|at| *at + PULL_BEGINS >= informed)
    }
}
