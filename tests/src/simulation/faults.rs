//! The connection of one process to the API server, and how it fails.
//!
//! A connection is a tower service between a `kube::Client` and [`fledged_apiserver::Service`]. Every choice is drawn
//! from a generator that is seeded with the connection and the number of the request.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use fledged_apiserver::{ResponseBody, Service};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as HttpBody, Frame};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tower::{BoxError, Service as _};

use super::call::Call;
use super::ledger::{Ledger, Role, Sender};
use super::trace::Trace;

/// How long a client waits for an answer, or for an event of a watch: the programs' `read_timeout`.
const READ_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a client waits for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How a connection fails, while it does.
#[derive(Debug, Clone, PartialEq)]
pub enum Weather {
    /// Requests and answers take up to this long.
    Slow(Duration),
    /// This share of requests is refused with 409 (writes), 429, 500, 503 or 504, or loses its connection.
    Errors(f64),
    /// This share of answers is lost after the request took effect.
    LostAnswers(f64),
    /// This share of requests is never answered.
    Hangs(f64),
    /// The events of watches are delivered up to this much later, each watch on its own.
    LateEvents(Duration),
    /// This share of the events of watches is delivered twice.
    RepeatedEvents(f64),
    /// Nothing gets through in either direction.
    Partition,
}

impl Weather {
    /// The kind, as it is counted.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Slow(_) => "slow connections",
            Self::Errors(_) => "connections that refuse requests",
            Self::LostAnswers(_) => "connections that lose answers",
            Self::Hangs(_) => "connections that hang",
            Self::LateEvents(_) => "watches that are late",
            Self::RepeatedEvents(_) => "watches that repeat events",
            Self::Partition => "partitions",
        }
    }
}

/// How open watches end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchEnd {
    /// The stream ends, as at its deadline.
    Closed,
    /// The connection breaks.
    Reset,
    /// An event says that the version has expired (410).
    Gone,
}

/// When a process is killed at a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillPoint {
    /// Before the request takes effect.
    Before,
    /// After it took effect and before the answer.
    After,
}

/// The connection of one process. Clones are the same connection, and it outlives restarts of the process.
#[derive(Clone)]
pub(super) struct Connection(Arc<Shared>);

struct Shared {
    name: String,
    role: Role,
    seed: u64,
    service: Service,
    ledger: Ledger,
    trace: Trace,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    incarnation: u32,
    requests: u64,
    weather: Vec<(Instant, Weather)>,
    /// Until when nothing gets through, and whether watches break at the end.
    partition: Option<Instant>,
    last_fault: Duration,
    /// When the last of its faults that last for a time ends or ended.
    bad_until: Duration,
    /// Kills the process at the write after this many others.
    kill: Option<(u32, KillPoint)>,
    process: Option<AbortHandle>,
    cuts: (u64, Option<WatchEnd>),
    watches: BTreeMap<u64, OpenWatch>,
    /// When a list of this resource was last delivered.
    listed: BTreeMap<String, Duration>,
}

/// An open watch, as far as the informed time needs it.
struct OpenWatch {
    resource: String,
    /// When everything had last been delivered; `None` while that is so.
    behind_since: Option<Duration>,
    waker: Option<Waker>,
}

/// What happens to a request.
struct Fate {
    before: Duration,
    after: Duration,
    end: End,
}

enum End {
    Answered,
    Refused(u16),
    Reset,
    Lost,
    Hangs,
}

type AnyBody = UnsyncBoxBody<Bytes, io::Error>;

impl Connection {
    pub(super) fn new(
        name: &str,
        role: Role,
        seed: u64,
        service: Service,
        ledger: Ledger,
        trace: Trace,
    ) -> Self {
        let mut hasher = DefaultHasher::new();
        (seed, name).hash(&mut hasher);
        Self(Arc::new(Shared {
            name: name.to_owned(),
            role,
            seed: hasher.finish(),
            service,
            ledger,
            trace,
            state: Mutex::default(),
        }))
    }

    /// A client for the next incarnation of the process, and its number.
    pub(super) fn client(&self) -> (Client, u32) {
        let incarnation = {
            let mut state = self.state();
            state.incarnation += 1;
            state.listed.clear();
            state.incarnation
        };
        let connection = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let connection = connection.clone();
            async move { connection.pass(incarnation, request).await }
        });
        (Client::new(service, "default"), incarnation)
    }

    /// What an incarnation of the process draws its random numbers from.
    pub(super) fn seed(&self, incarnation: u32) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.0.seed, incarnation).hash(&mut hasher);
        hasher.finish()
    }

    /// Sets the task that a kill aborts.
    pub(super) fn set_process(&self, process: AbortHandle) {
        self.state().process = Some(process);
    }

    /// Makes the connection fail in this way for this time.
    pub(super) fn suffer(&self, weather: Weather, lasting: Duration) {
        let until = Instant::now() + lasting;
        let mut state = self.state();
        if weather == Weather::Partition {
            state.partition = Some(until);
            let now = self.0.trace.now();
            for watch in state.watches.values_mut() {
                watch.behind_since.get_or_insert(now);
            }
            state.wake();
        } else {
            state.weather.push((until, weather));
        }
        let until = until.duration_since(self.0.trace.origin());
        state.bad_until = state.bad_until.max(until);
    }

    /// Ends every open watch.
    pub(super) fn cut_watches(&self, end: WatchEnd) {
        let mut state = self.state();
        state.cuts = (state.cuts.0 + 1, Some(end));
        state.last_fault = self.0.trace.now();
        state.wake();
    }

    /// Kills the process at the write after `others` more.
    pub(super) fn kill_at_write(&self, others: u32, point: KillPoint) {
        self.state().kill = Some((others, point));
    }

    /// Ends all faults.
    pub(super) fn heal(&self) {
        let mut state = self.state();
        state.weather.clear();
        state.partition = None;
        state.bad_until = state.bad_until.min(self.0.trace.now());
        state.kill = None;
        state.wake();
    }

    /// When the connection last failed in any way.
    pub(super) fn last_fault(&self) -> Duration {
        self.last_fault_of(&self.state())
    }

    fn last_fault_of(&self, state: &State) -> Duration {
        // A fault that no request met also delays: an agent reads late what changed meanwhile.
        let bad = state.bad_until.min(self.0.trace.now());
        state.last_fault.max(bad)
    }

    /// The process as the ledger judges it.
    pub(super) fn sender(&self, resources: &[&str]) -> Sender {
        let state = self.state();
        self.sender_of(&state, resources, state.incarnation)
    }

    fn sender_of(&self, state: &State, resources: &[&str], incarnation: u32) -> Sender {
        let now = self.0.trace.now();
        let informed_of = |resource: &&str| {
            let watches = state.watches.values().filter(|w| w.resource == **resource);
            let delivered = watches.map(|watch| watch.behind_since.unwrap_or(now));
            let listed = state.listed.get(*resource).copied();
            delivered.chain(listed).max().unwrap_or_default()
        };
        let informed = resources.iter().map(informed_of);
        let of_jobs = ["jobs", "pods"].iter().map(informed_of);
        Sender {
            name: self.0.name.clone(),
            role: self.0.role,
            incarnation,
            informed: informed.min().unwrap_or_default(),
            informed_of_jobs: of_jobs.min().unwrap_or_default(),
            listed: state.listed.keys().cloned().collect(),
            last_fault: self.last_fault_of(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The resources whose news a process acts on.
    fn resources(&self) -> &'static [&'static str] {
        match self.0.role {
            Role::Controller => &["imagecaches", "nodes", "nodeimagecaches"],
            Role::Agent => &["nodeimagecaches"],
            Role::World => &[],
        }
    }

    fn fault(&self, kind: &'static str) {
        self.0.trace.fault(kind);
        self.state().last_fault = self.0.trace.now();
    }

    async fn pass(
        self,
        incarnation: u32,
        request: Request<Body>,
    ) -> Result<Response<AnyBody>, BoxError> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await?;
        let call = Call::new(&parts, &body);
        let (mut dice, sender) = {
            let mut state = self.state();
            state.requests += 1;
            let mut hasher = DefaultHasher::new();
            (self.0.seed, incarnation, state.requests).hash(&mut hasher);
            let sender = self.sender_of(&state, self.resources(), incarnation);
            (Rng::with_seed(hasher.finish()), sender)
        };
        self.0.ledger.sent(&sender, &call);
        if self.0.ledger.is_broken() && self.0.role != Role::World {
            // The simulation ends, also if this process would repeat the request for ever.
            std::future::pending::<()>().await;
        }
        self.kill(&call, KillPoint::Before).await;
        self.connect().await?;
        let fate = self.fate(&call, &mut dice);
        let request = Request::from_parts(parts, Body::from(body.to_vec()));
        let delivered = self
            .clone()
            .deliver(incarnation, call.clone(), request, fate, dice);
        if call.is_write() {
            // A request that is under way takes effect also if its sender dies.
            return tokio::spawn(delivered).await?;
        }
        delivered.await
    }

    /// Fails while nothing gets through.
    async fn connect(&self) -> Result<(), BoxError> {
        let partition = self
            .state()
            .partition
            .filter(|until| Instant::now() < *until);
        let Some(until) = partition else {
            return Ok(());
        };
        self.fault("requests in partitions");
        sleep_until(until.min(Instant::now() + CONNECT_TIMEOUT)).await;
        Err("connection timed out".into())
    }

    /// Kills the process if it is to die at this request.
    async fn kill(&self, call: &Call, point: KillPoint) {
        let process = {
            let mut state = self.state();
            match &mut state.kill {
                Some((others, at)) if *at == point && call.is_write() => {
                    if *others > 0 {
                        *others -= 1;
                        return;
                    }
                    state.kill = None;
                    state.process.take()
                }
                _ => return,
            }
        };
        if let Some(process) = process {
            self.fault("kills at a request");
            self.0.trace.step(format_args!(
                "{} is killed at {}",
                self.0.name,
                call.target()
            ));
            process.abort();
            std::future::pending::<()>().await;
        }
    }

    fn fate(&self, call: &Call, dice: &mut Rng) -> Fate {
        let mut fate = Fate {
            before: Duration::ZERO,
            after: Duration::ZERO,
            end: End::Answered,
        };
        let now = Instant::now();
        let weather = {
            let mut state = self.state();
            state.weather.retain(|(until, _)| now < *until);
            state.weather.clone()
        };
        for (_, weather) in weather {
            match weather {
                Weather::Slow(most) => {
                    fate.before += most.mul_f64(dice.f64());
                    fate.after += most.mul_f64(dice.f64());
                    self.fault("slow requests");
                }
                Weather::Errors(share) if dice.f64() < share => {
                    let codes: &[u16] = match call.is_write() {
                        true => &[409, 429, 500, 503, 504, 0],
                        false => &[429, 500, 503, 504, 0],
                    };
                    fate.end = match codes[dice.usize(..codes.len())] {
                        0 => End::Reset,
                        code => End::Refused(code),
                    };
                    self.fault("refused requests");
                }
                Weather::LostAnswers(share) if dice.f64() < share => {
                    fate.end = End::Lost;
                    self.fault("lost answers");
                }
                Weather::Hangs(share) if dice.f64() < share => {
                    fate.end = End::Hangs;
                    self.fault("hanging requests");
                }
                _ => {}
            }
        }
        fate
    }

    async fn deliver(
        self,
        incarnation: u32,
        call: Call,
        request: Request<Body>,
        fate: Fate,
        dice: Rng,
    ) -> Result<Response<AnyBody>, BoxError> {
        pause(fate.before).await;
        match fate.end {
            End::Refused(code) => return Ok(refusal(code)),
            End::Reset => return Err("connection reset by peer".into()),
            End::Hangs => {
                sleep(READ_TIMEOUT).await;
                return Err("the read timed out".into());
            }
            End::Answered | End::Lost => {}
        }
        let response = self.0.service.clone().call(request).await?;
        // The answer is as old as this, however long it is on its way.
        let answered = self.0.trace.now();
        let status = response.status();
        let target = call.target();
        self.0.trace.step(format_args!(
            "{}#{incarnation} {} {}{target} {}",
            self.0.name,
            call.method,
            if call.watch { "watch " } else { "" },
            status.as_u16(),
        ));
        if status.is_success() && call.is_write() {
            self.0.ledger.written(&call, self.0.role);
        }
        self.kill(&call, KillPoint::After).await;
        pause(fate.after).await;
        if matches!(fate.end, End::Lost) {
            return Err("connection reset by peer".into());
        }
        self.connect().await?;
        if status.is_success() && call.watch {
            return Ok(response.map(|body| self.watch(&call, body, dice).boxed_unsync()));
        }
        if status.is_success() && call.method == Method::GET && call.name.is_empty() {
            let mut state = self.state();
            state.listed.insert(call.resource.clone(), answered);
        }
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await?.to_bytes();
        Ok(Response::from_parts(parts, whole(bytes)))
    }

    fn watch(&self, call: &Call, inner: ResponseBody, dice: Rng) -> WatchBody {
        let mut state = self.state();
        let (number, cuts) = (state.requests, state.cuts.0);
        let watch = OpenWatch {
            resource: call.resource.clone(),
            behind_since: Some(
                state
                    .listed
                    .get(&call.resource)
                    .copied()
                    .unwrap_or_default(),
            ),
            waker: None,
        };
        state.watches.insert(number, watch);
        WatchBody {
            connection: self.clone(),
            inner,
            number,
            cuts,
            dice,
            late: VecDeque::new(),
            last: Instant::now(),
            timer: Box::pin(sleep(Duration::ZERO)),
            idle_until: Instant::now() + READ_TIMEOUT,
            ended: false,
        }
    }
}

impl State {
    fn wake(&mut self) {
        let wakers = self.watches.values_mut();
        wakers
            .filter_map(|watch| watch.waker.take())
            .for_each(Waker::wake);
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

fn whole(bytes: Bytes) -> AnyBody {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A failed response, as an API server sends it.
fn refusal(code: u16) -> Response<AnyBody> {
    let reason = match code {
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "InternalError",
    };
    let mut response = Response::new(whole(status(code, reason).to_string().into()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

fn status(code: u16, reason: &str) -> Value {
    let mut status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("injected: {reason}"), "reason": reason, "code": code,
    });
    if code == 429 {
        status["details"] = json!({ "retryAfterSeconds": 3 });
    }
    status
}

/// The events of a watch.
struct WatchBody {
    connection: Connection,
    inner: ResponseBody,
    number: u64,
    /// The number of cuts before the watch began.
    cuts: u64,
    dice: Rng,
    /// Events and when they are delivered.
    late: VecDeque<(Instant, Bytes)>,
    last: Instant,
    timer: Pin<Box<Sleep>>,
    /// When the client gives up, unless something is delivered.
    idle_until: Instant,
    /// Whether the server has ended the watch.
    ended: bool,
}

impl Drop for WatchBody {
    fn drop(&mut self) {
        let mut state = self.connection.state();
        let now = self.connection.0.trace.now();
        let Some(watch) = state.watches.remove(&self.number) else {
            return;
        };
        let informed = watch.behind_since.unwrap_or(now);
        let listed = state.listed.entry(watch.resource).or_default();
        *listed = informed.max(*listed);
    }
}

impl WatchBody {
    /// Takes what the server sent, with the delays and repetitions of the weather.
    fn take(&mut self, bytes: Bytes) {
        let now = Instant::now();
        let weather = self.connection.state().weather.clone();
        let mut at = now;
        let mut copies = 1;
        for (_, weather) in weather.into_iter().filter(|(until, _)| now < *until) {
            match weather {
                Weather::LateEvents(most) => {
                    at += most.mul_f64(self.dice.f64());
                    self.connection.fault("late events");
                }
                Weather::RepeatedEvents(share) if self.dice.f64() < share => {
                    copies = 2;
                    self.connection.fault("repeated events");
                }
                _ => {}
            }
        }
        self.last = self.last.max(at);
        for _ in 0..copies {
            self.late.push_back((self.last, bytes.clone()));
        }
    }

    fn wait_until(&mut self, at: Instant, context: &mut Context<'_>) -> bool {
        self.timer.as_mut().reset(at);
        self.timer.as_mut().poll(context).is_ready()
    }
}

impl HttpBody for WatchBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        let broken = |text: &str| Poll::Ready(Some(Err(io::Error::other(text.to_owned()))));
        loop {
            let now = Instant::now();
            let (cuts, partition) = {
                let state = this.connection.state();
                (state.cuts, state.partition.filter(|until| now < *until))
            };
            if cuts.0 > this.cuts {
                this.cuts = cuts.0;
                this.connection.fault("cut watches");
                match cuts.1 {
                    Some(WatchEnd::Gone) => {
                        let event = json!({ "type": "ERROR", "object": status(410, "Expired") });
                        let line = Bytes::from(format!("{event}\n"));
                        return Poll::Ready(Some(Ok(Frame::data(line))));
                    }
                    Some(WatchEnd::Reset) => return broken("connection reset by peer"),
                    _ => return Poll::Ready(None),
                }
            }
            if now >= this.idle_until {
                return broken("the read timed out");
            }
            while !this.ended {
                match Pin::new(&mut this.inner).poll_frame(context) {
                    Poll::Ready(Some(Ok(frame))) => {
                        if let Ok(bytes) = frame.into_data() {
                            this.take(bytes);
                        }
                    }
                    Poll::Ready(Some(Err(never))) => match never {},
                    Poll::Ready(None) => this.ended = true,
                    Poll::Pending => break,
                }
            }
            if let Some(until) = partition {
                let at = until.min(this.idle_until);
                if this.wait_until(at, context) {
                    continue;
                }
                this.pending(context, false);
                return Poll::Pending;
            }
            if let Some((at, _)) = this.late.front() {
                let at = *at;
                if at <= now {
                    let (_, bytes) = this.late.pop_front().unwrap();
                    this.idle_until = now + READ_TIMEOUT;
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                if this.wait_until(at.min(this.idle_until), context) {
                    continue;
                }
                this.pending(context, false);
                return Poll::Pending;
            }
            if this.ended {
                return Poll::Ready(None);
            }
            let at = this.idle_until;
            if this.wait_until(at, context) {
                continue;
            }
            this.pending(context, true);
            return Poll::Pending;
        }
    }
}

impl WatchBody {
    /// Notes whether everything is delivered, and how to wake the reader.
    fn pending(&mut self, context: &Context<'_>, complete: bool) {
        let now = self.connection.0.trace.now();
        let mut state = self.connection.state();
        if let Some(watch) = state.watches.get_mut(&self.number) {
            watch.waker = Some(context.waker().clone());
            match complete {
                true => watch.behind_since = None,
                false => drop(watch.behind_since.get_or_insert(now)),
            }
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.0.name).finish()
    }
}
