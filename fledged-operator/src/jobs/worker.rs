//! The loop that sees to the Jobs of one node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fledged_core::error::Failure;
use fledged_core::model::{Assignment, Digest, ImageRef, NodeName};
use fledged_core::warmer::NodeEvent;
use futures_util::future::{AbortHandle, Abortable, BoxFuture, FutureExt, OptionFuture};
use futures_util::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::answers::Answer;
use super::batch::NodeJobs;
use super::job::Kind;
use super::node::NodeView;
use super::pod::Goal;
use super::removals::{Next, Removals};
use super::requests::Requests;
use super::runtime::Shared;
use super::told::Told;
use super::wanted::{Command, Want};
use crate::report::after;

/// How long a caller waits for a removal: less than the loop of the node does, so that it hears why.
const REMOVAL: Duration = Duration::from_secs(110);
/// How much sooner than the loop of the node a pull is given up, for the same reason: less than the
/// shortest wait after which the loop would try again.
const SOONER: Duration = Duration::from_millis(500);

enum Done {
    /// A Job was created, or refused; with what its pods lack.
    Created(String, Result<Vec<String>, Failure>),
    /// A Job was deleted, if it was there.
    Deleted {
        name: String,
        found: bool,
    },
    /// What keeps a Job from having a pod.
    Inquired(String, Option<Failure>),
    Nothing,
}

/// Carries out what [`NodeJobs`] decides.
pub(super) struct Worker {
    pub(super) node: NodeName,
    pub(super) requests: Arc<Requests>,
    pub(super) shared: Arc<Shared>,
    pub(super) jobs: NodeJobs,
    pub(super) removals: Removals,
    pub(super) view: Arc<NodeView>,
    /// To the loop of the node.
    pub(super) inputs: mpsc::UnboundedSender<NodeEvent>,
    /// To itself.
    pub(super) told: mpsc::UnboundedSender<Told>,
    /// Ends the loop of the node.
    pub(super) loop_stop: CancellationToken,
    /// Containers of Jobs that pull and were there before, until it is known which images they stand
    /// for.
    pub(super) adopted: BTreeSet<String>,
    pub(super) rng: fastrand::Rng,
    pub(super) state: State,
}

/// What is under way.
#[derive(Default)]
pub(super) struct State {
    pub(super) answers: BTreeMap<u64, Answer>,
    assignment: Option<Assignment>,
    /// Deadlines that an image has, where it shares those of others.
    pub(super) stretched: BTreeMap<ImageRef, u32>,
    /// When the round of an image ends.
    pub(super) rounds: BTreeMap<ImageRef, Timestamp>,
    /// The revision for which an image was last asked to be pulled.
    pub(super) asked: BTreeMap<ImageRef, u64>,
    /// What was pulled while nobody waited, for which revision.
    pub(super) unclaimed: BTreeMap<ImageRef, (u64, Option<Digest>)>,
    creating: BTreeMap<String, AbortHandle>,
    operations: FuturesUnordered<BoxFuture<'static, Done>>,
    /// What the pods of a Job lack, and the secrets that they have.
    pub(super) notes: BTreeMap<String, String>,
}

impl Worker {
    /// Sees to Jobs until nobody is left to tell anything, or its node is let go: then it deletes them.
    pub(super) async fn run(mut self, mut told: mpsc::UnboundedReceiver<Told>) {
        let clock = Arc::clone(&self.requests.clock);
        loop {
            self.advance();
            let wakeup = self.jobs.next_wakeup();
            let pause = wakeup.map(|at| at.duration_since(clock.now()));
            let pause = pause.map(|pause| Duration::try_from(pause).unwrap_or_default());
            let timer: OptionFuture<_> = pause.map(|pause| clock.sleep(pause)).into();
            tokio::select! {
                told = told.recv() => match told {
                    None => return,
                    Some(Told::Released) => break,
                    Some(told) => self.hear(told),
                },
                Some(done) = self.state.operations.next() => self.done(done),
                Some(()) = timer => {}
            }
        }
        self.loop_stop.cancel();
        // A Job that is being created may be there already.
        self.state.creating.values().for_each(AbortHandle::abort);
        self.state.operations = FuturesUnordered::new();
        for command in self.jobs.let_go() {
            self.carry_out(command);
        }
        while self.state.operations.next().await.is_some() {}
    }

    /// Carries out everything that is due.
    fn advance(&mut self) {
        let now = self.now();
        loop {
            let under_way = self.removals.under_way(self.jobs.removals());
            self.shared.presence().removing(under_way.clone());
            self.jobs.block(under_way);
            let commands = self.jobs.poll(now);
            if commands.is_empty() {
                return;
            }
            commands
                .into_iter()
                .for_each(|command| self.carry_out(command));
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.requests.clock.now()
    }

    fn hear(&mut self, told: Told) {
        let now = self.now();
        match told {
            Told::Pull {
                id,
                image,
                namespace,
                reply,
            } => {
                let revision = self.revision(&image);
                self.state.asked.insert(image.clone(), revision);
                if let Some((of, digest)) = self.state.unclaimed.remove(&image)
                    && of == revision
                    && self.shared.presence().find(&image).is_some()
                {
                    self.state.rounds.remove(&image);
                    let _ = reply.send(Ok(digest));
                    return;
                }
                let want = self.pull(id, image.clone(), namespace, now);
                self.state.answers.insert(id, Answer::Pull(image, reply));
                self.jobs.want(want, now);
            }
            Told::Remove { id, image, reply } => match self.removals.ask(id, &image, now) {
                Next::Known(outcome) => drop(reply.send(outcome)),
                Next::Wait => {
                    self.state.answers.insert(id, Answer::Remove(image, reply));
                    self.jobs.want(self.removal(id, now), now);
                }
            },
            Told::Dropped(id) => {
                self.state.answers.remove(&id);
                self.removals.drop_call(id);
                self.jobs.drop_want(id, now);
            }
            Told::Assigned(assignment) => self.assigned(assignment),
            Told::Node(view) => {
                self.jobs.ready(view.ready);
                self.shared.presence().node(Arc::clone(&view));
                let before = std::mem::replace(&mut self.view, view);
                if before.told_at != self.view.told_at {
                    let _ = self.inputs.send(NodeEvent::ResyncRequested);
                }
            }
            Told::Pod(pod) => self.jobs.pod(pod, now),
            Told::PodGone(pod) => self.jobs.pod_gone(&pod),
            Told::Job(job) => {
                if !self.jobs.job(&job, now) {
                    self.stray(&job, now);
                }
            }
            Told::JobGone(name) => {
                self.state.notes.remove(&name);
                self.jobs.job_gone(&name, now);
            }
            Told::Troubled(name, failure) => self.jobs.troubled(&name, failure, now),
            // Seen to by the loop.
            Told::Released => {}
        }
    }

    fn assigned(&mut self, assignment: Assignment) {
        self.shared.assign(&assignment.images);
        let adopted = std::mem::take(&mut self.adopted);
        self.doubt(&adopted, self.now());
        self.removals.assign(&assignment.images);
        let assigned = self.shared.assigned();
        self.state.stretched.retain(|i, _| assigned.contains_key(i));
        self.state.rounds.retain(|i, _| assigned.contains_key(i));
        self.state.asked.retain(|i, _| assigned.contains_key(i));
        self.state.unclaimed.retain(|i, _| assigned.contains_key(i));
        self.state.assignment = Some(assignment);
        self.tell_loop();
    }

    /// Tells the loop what it is to hold, with the deadlines that images really have.
    fn tell_loop(&self) {
        let Some(assignment) = &self.state.assignment else {
            return;
        };
        let mut assignment = assignment.clone();
        for entry in &mut assignment.images {
            let times = self.times(&entry.image);
            entry.deadline = entry.deadline.saturating_mul(times);
        }
        let _ = self.inputs.send(NodeEvent::Assigned(assignment));
    }

    /// The revision that is asked for.
    fn revision(&self, image: &ImageRef) -> u64 {
        let assigned = self.shared.assigned();
        assigned.get(image).map_or(0, |entry| entry.revision)
    }

    /// How many deadlines an image has.
    fn times(&self, image: &ImageRef) -> u32 {
        self.state.stretched.get(image).copied().unwrap_or(1)
    }

    /// What somebody waits for who wants that image pulled from now on.
    fn pull(&mut self, id: u64, image: ImageRef, namespace: String, now: Timestamp) -> Want {
        let assigned = self.shared.assigned();
        let deadline = assigned.get(&image).map(|entry| entry.deadline);
        // The loop takes nothing shorter.
        let deadline = deadline.unwrap_or_default().max(Duration::from_secs(1));
        let times = self.times(&image);
        let sooner = SOONER.min(deadline / 4);
        let ends = after(now, deadline.saturating_mul(times).saturating_sub(sooner));
        let round = self.state.rounds.entry(image.clone()).or_insert(ends);
        if *round <= now {
            *round = ends;
        }
        Want {
            id,
            namespace,
            ends: *round,
            deadline,
            times,
            goal: Goal::Begin(image),
        }
    }

    pub(super) fn removal(&self, id: u64, now: Timestamp) -> Want {
        Want {
            id,
            namespace: self.requests.options.namespace.clone(),
            goal: Goal::End,
            ends: after(now, REMOVAL),
            deadline: REMOVAL,
            times: 1,
        }
    }

    fn carry_out(&mut self, command: Command) {
        debug!(node = %self.node, ?command, "Jobs");
        let requests = Arc::clone(&self.requests);
        let seed = self.rng.u64(..);
        match command {
            Command::Create {
                name,
                namespace,
                kind,
                images,
                limit,
            } => {
                {
                    let mut presence = self.shared.presence();
                    images
                        .iter()
                        .for_each(|image| presence.perhaps(image, None));
                }
                let plan = match kind {
                    Kind::Pull => self.pull_plan(name.clone(), namespace, images, limit),
                    Kind::Remove => self.removal_plan(name.clone(), namespace, limit),
                };
                let told = self.told.clone();
                let creating = name.clone();
                let work = async move {
                    let trouble = |failure| {
                        let _ = told.send(Told::Troubled(creating.clone(), failure));
                    };
                    let result = requests.create(plan, seed, trouble).await;
                    Done::Created(creating, result)
                };
                let (handle, registration) = AbortHandle::new_pair();
                self.state.creating.insert(name, handle);
                let work = Abortable::new(work, registration);
                let work = work.map(|done| done.unwrap_or(Done::Nothing));
                self.state.operations.push(work.boxed());
            }
            Command::Delete { name, namespace } => {
                if let Some(creating) = self.state.creating.remove(&name) {
                    creating.abort();
                }
                self.state.operations.push(Box::pin(async move {
                    let found = requests.delete(&namespace, &name, seed).await;
                    Done::Deleted { name, found }
                }));
            }
            Command::Inquire { name, namespace } => {
                self.state.operations.push(Box::pin(async move {
                    let found = requests.inquire(&namespace, &name).await;
                    Done::Inquired(name, found)
                }));
            }
            Command::Answer { id, job, result } => self.answer(id, job.as_deref(), result),
            Command::Unclaimed {
                job,
                image,
                reached,
            } => self.keep(&job, image, reached),
            Command::Over { images } => {
                let until = Some(self.now());
                let mut presence = self.shared.presence();
                images
                    .iter()
                    .for_each(|image| presence.perhaps(image, until));
            }
            Command::Stretch { images, times } => self.stretch(images, times),
        }
    }

    fn stretch(&mut self, images: Vec<ImageRef>, times: u32) {
        debug!(node = %self.node, images = images.len(), times, "pulled one after another");
        let assigned = self.shared.assigned();
        for image in images {
            let before = self.times(&image);
            if let Some(entry) = assigned.get(&image)
                && let Some(ends) = self.state.rounds.get_mut(&image)
            {
                let more = times.saturating_sub(before);
                *ends = after(*ends, entry.deadline.saturating_mul(more));
            }
            self.state.stretched.insert(image, times.max(before));
        }
        self.tell_loop();
    }

    fn done(&mut self, done: Done) {
        let now = self.now();
        match done {
            Done::Created(name, result) => {
                self.state.creating.remove(&name);
                match result {
                    Ok(missing) => {
                        let note = self.state.notes.entry(name.clone()).or_default();
                        for problem in missing {
                            if !note.is_empty() {
                                note.push_str(", ");
                            }
                            note.push_str(&problem);
                        }
                        self.jobs.created(&name, now);
                    }
                    Err(failure) => {
                        self.jobs.refused(&name, &failure);
                        self.state.notes.remove(&name);
                    }
                }
            }
            Done::Inquired(name, Some(failure)) => self.jobs.troubled(&name, failure, now),
            // No watch tells of what never was.
            Done::Deleted { name, found: false } => {
                self.state.notes.remove(&name);
                self.jobs.job_gone(&name, now);
            }
            Done::Deleted { found: true, .. } | Done::Inquired(_, None) | Done::Nothing => {}
        }
    }
}
