//! An HTTP proxy in front of a registry that injects faults.

use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{
    AUTHORIZATION, CONNECTION, HeaderMap, RANGE, RETRY_AFTER, TRANSFER_ENCODING, WWW_AUTHENTICATE,
};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};

use crate::fault_script::{Fault, ProxiedRequest, Rule};
use crate::poll::{SOON, poll_until};

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A proxy in front of a registry: forwards all requests unchanged, except those that match a [`Rule`].
///
/// The `Host` header is forwarded as well, so that the `Location` headers of a registry lead back
/// to the proxy.
#[derive(Debug)]
pub struct FaultProxy {
    addr: String,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    addr: String,
    upstream: String,
    /// How often all faults were ended.
    ended: watch::Sender<u64>,
    start: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    requests: Vec<ProxiedRequest>,
    downloads: usize,
    peak_downloads: usize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl FaultProxy {
    /// Starts a proxy for the registry at `upstream` (`host:port`).
    ///
    /// # Panics
    ///
    /// When no loopback port is free.
    #[must_use]
    pub fn start(upstream: &str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let addr = listener.local_addr().expect("its address").to_string();
        listener.set_nonblocking(true).expect("not to block");
        let shared = Arc::new(Shared {
            addr: addr.clone(),
            ended: watch::Sender::new(0),
            upstream: upstream.to_owned(),
            start: Instant::now(),
            state: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime for the proxy");
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    () = accept(listener, serving) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            addr,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// Adds a rule; if several match a request, the one that was added first applies.
    pub fn add(&self, rule: Rule) {
        self.shared.state().rules.push(rule);
    }

    /// Adds a rule that applies before all that were added earlier.
    pub fn add_first(&self, rule: Rule) {
        self.shared.state().rules.insert(0, rule);
    }

    /// Removes all rules, closes connections that stall, and sends the rest of slow answers at once.
    pub fn end_faults(&self) {
        self.clear();
        self.shared.ended.send_modify(|times| *times += 1);
    }

    /// Number of blob downloads that are under way.
    #[must_use]
    pub fn downloads(&self) -> usize {
        self.shared.state().downloads
    }

    /// Number of requests so far that a fault was injected into.
    #[must_use]
    pub fn struck(&self, matches: impl Fn(&Fault) -> bool) -> usize {
        let state = self.shared.state();
        let faults = state.requests.iter().filter_map(|r| r.fault.as_ref());
        faults.filter(|fault| matches(fault)).count()
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.shared.state().rules.clear();
    }

    /// Returns all requests so far, in the order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<ProxiedRequest> {
        self.shared.state().requests.clone()
    }

    /// Returns the requests with this method whose path contains `path_part`.
    #[must_use]
    pub fn requests_matching(&self, method: &str, path_part: &str) -> Vec<ProxiedRequest> {
        let mut requests = self.requests();
        requests.retain(|r| r.method == method && r.path.contains(path_part));
        requests
    }

    /// Waits until a request satisfies the condition, and returns it.
    ///
    /// # Panics
    ///
    /// When no request does within a minute.
    #[allow(clippy::must_use_candidate)]
    pub fn wait_for(
        &self,
        what: &str,
        condition: impl Fn(&ProxiedRequest) -> bool,
    ) -> ProxiedRequest {
        poll_until(what, SOON, || self.requests().into_iter().find(&condition))
    }

    /// Returns the highest number of concurrent blob downloads so far.
    #[must_use]
    pub fn peak_downloads(&self) -> usize {
        self.shared.state().peak_downloads
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&shared), request));
            // An error here is an injected fault or a closed connection.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Answers a request; an error closes the connection without an answer.
async fn answer(
    shared: Arc<Shared>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, std::io::Error> {
    let mut ended = shared.ended.subscribe();
    let (flight, fault) = Flight::start(&shared, &request);
    if fault == Some(Fault::NoRange) {
        request.headers_mut().remove(RANGE);
    }
    match fault {
        Some(Fault::Hangup) => Err(std::io::Error::other("hung up on request")),
        Some(Fault::Stall) => {
            let _ = ended.changed().await;
            Err(std::io::Error::other("stalled on request"))
        }
        Some(Fault::Challenge) => {
            flight.answered(401);
            let realm = format!(
                "Bearer realm=\"http://{}/token\",service=\"test\"",
                shared.addr
            );
            let response = Response::builder()
                .status(401)
                .header(WWW_AUTHENTICATE, realm);
            response
                .body(whole("a token is required\n"))
                .map_err(std::io::Error::other)
        }
        Some(Fault::Status {
            status,
            retry_after,
        }) => {
            let mut response = Response::builder().status(status);
            if let Some(delay) = retry_after {
                response = response.header(RETRY_AFTER, delay);
            }
            flight.answered(status);
            response
                .body(whole("this registry is scripted to fail\n"))
                .map_err(std::io::Error::other)
        }
        Some(Fault::OtherBody(body)) => {
            flight.answered(200);
            Response::builder()
                .body(whole(body))
                .map_err(std::io::Error::other)
        }
        fault => match forward(&shared.upstream, request).await {
            Ok(response) => Ok(passed_on(response, fault, flight, ended)),
            Err(error) => {
                flight.answered(502);
                let mut response = Response::new(whole(&error));
                *response.status_mut() = hyper::StatusCode::BAD_GATEWAY;
                Ok(response)
            }
        },
    }
}

async fn forward(
    upstream: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Incoming>, String> {
    strip_hop_by_hop(request.headers_mut());
    let fail = |e: &dyn std::fmt::Display| format!("no answer from {upstream}: {e}");
    let stream = TcpStream::connect(upstream).await.map_err(|e| fail(&e))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| fail(&e))?;
    tokio::spawn(connection);
    sender.send_request(request).await.map_err(|e| fail(&e))
}

/// Headers that concern one connection only (RFC 9110, 7.6.1); the framing is hyper's own.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    headers.remove(CONNECTION);
    headers.remove(TRANSFER_ENCODING);
}

fn passed_on(
    response: Response<Incoming>,
    fault: Option<Fault>,
    flight: Flight,
    ended: watch::Receiver<u64>,
) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    flight.answered(parts.status.as_u16());
    // Capacity 1: when a send succeeds, the previous piece was consumed.
    let (out, pieces) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::select! {
            _ = relay(body, fault, &flight, ended, &out) => {}
            () = out.closed() => {}
        }
    });
    let pieces = stream::unfold(pieces, |mut pieces| async move {
        let piece: std::io::Result<Bytes> = pieces.recv().await?;
        Some((piece.map(Frame::data), pieces))
    });
    Response::from_parts(parts, StreamBody::new(pieces).boxed_unsync())
}

/// Forwards a body piece by piece and applies the fault; `None` if the client has closed the connection.
async fn relay(
    mut body: Incoming,
    mut fault: Option<Fault>,
    flight: &Flight,
    mut ended: watch::Receiver<u64>,
    out: &mpsc::Sender<std::io::Result<Bytes>>,
) -> Option<()> {
    let start = tokio::time::Instant::now();
    let mut sent: u64 = 0;
    while let Some(frame) = body.frame().await {
        let mut data = match frame {
            Ok(frame) => frame.into_data().unwrap_or_default(),
            Err(error) => return out.send(Err(std::io::Error::other(error))).await.ok(),
        };
        while !data.is_empty() {
            let most = match &fault {
                Some(Fault::CutAfter(limit) | Fault::StallAfter(limit)) => limit - sent,
                // About 50 pieces a second, for an even rate.
                Some(Fault::Throttle { bytes_per_second }) => (bytes_per_second / 50).max(1),
                _ => u64::MAX,
            };
            if most == 0 {
                return end_early(fault.as_ref(), &mut ended, out).await;
            }
            let length = usize::try_from(most).unwrap_or(usize::MAX).min(data.len());
            let mut piece = data.split_to(length);
            if let Some(Fault::CorruptAt(at)) = fault {
                piece = corrupted(piece, sent, at);
            }
            out.send(Ok(piece)).await.ok()?;
            sent += length as u64;
            flight.sent(sent);
            if let Some(Fault::Throttle { bytes_per_second }) = fault {
                // The rate need not be exact.
                #[allow(clippy::cast_precision_loss)]
                let due = Duration::from_secs_f64(sent as f64 / bytes_per_second.max(1) as f64);
                tokio::select! {
                    () = tokio::time::sleep_until(start + due) => {}
                    _ = ended.changed() => fault = None,
                }
            }
        }
    }
    Some(())
}

async fn end_early(
    fault: Option<&Fault>,
    ended: &mut watch::Receiver<u64>,
    out: &mpsc::Sender<std::io::Result<Bytes>>,
) -> Option<()> {
    if matches!(fault, Some(Fault::StallAfter(_))) {
        let _ = ended.changed().await;
    }
    // Capacity in the channel: the last piece was taken. Yield, so that hyper writes it to the socket.
    let room = out.reserve().await.ok()?;
    tokio::task::yield_now().await;
    room.send(Err(std::io::Error::other("cut on request")));
    Some(())
}

fn corrupted(piece: Bytes, offset: u64, at: u64) -> Bytes {
    let position = at.checked_sub(offset).and_then(|p| usize::try_from(p).ok());
    match position {
        Some(position) if position < piece.len() => {
            let mut bytes = piece.to_vec();
            bytes[position] = !bytes[position];
            bytes.into()
        }
        _ => piece,
    }
}

fn whole(text: &str) -> Body {
    Full::new(Bytes::from(text.to_owned()))
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A request in progress; dropping it records its end.
struct Flight {
    shared: Arc<Shared>,
    index: usize,
    download: bool,
}

impl Flight {
    fn start(shared: &Arc<Shared>, request: &Request<Incoming>) -> (Self, Option<Fault>) {
        let method = request.method().as_str();
        let path = request
            .uri()
            .path_and_query()
            .map_or("", |path| path.as_str());
        let headers = request.headers();
        let mut state = shared.state();
        let fault = state
            .rules
            .iter_mut()
            .find_map(|rule| rule.strike(method, path));
        state.requests.push(ProxiedRequest {
            method: method.to_owned(),
            path: path.to_owned(),
            at: shared.start.elapsed(),
            range: headers
                .get(RANGE)
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
            authorized: headers.contains_key(AUTHORIZATION),
            fault: fault.clone(),
            status: None,
            sent: 0,
            finished: false,
        });
        let download = method == "GET" && path.contains("/blobs/");
        if download {
            state.downloads += 1;
            state.peak_downloads = state.peak_downloads.max(state.downloads);
        }
        let flight = Self {
            index: state.requests.len() - 1,
            shared: Arc::clone(shared),
            download,
        };
        (flight, fault)
    }

    fn answered(&self, status: u16) {
        self.shared.state().requests[self.index].status = Some(status);
    }

    fn sent(&self, bytes: u64) {
        self.shared.state().requests[self.index].sent = bytes;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.requests[self.index].finished = true;
        if self.download {
            state.downloads -= 1;
        }
    }
}
