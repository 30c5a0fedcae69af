//! `GET` on `pods/proxy`: a request to a pod, sent by the API server.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::header::{ACCEPT, CONNECTION, HOST, LOCATION, TRANSFER_ENCODING, USER_AGENT};
use http::{HeaderValue, Method, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::http_request::{Request, Target};
use super::response::{self, Response};
use super::shared_state::Api;
use crate::error::{ApiError, ApiResult};
use crate::json::text;

/// The subresource.
pub(super) const PROXY: &str = "proxy";
/// The largest response of a pod that is passed on, in bytes. A real server has no limit.
const RESPONSE_LIMIT: usize = 16 * 1024 * 1024;

/// Where addresses of pods are reached, because a test has no network of pods.
#[derive(Debug, Default)]
pub(crate) struct PodRoutes(Mutex<BTreeMap<SocketAddr, SocketAddr>>);

impl PodRoutes {
    pub(crate) fn add(&self, address: SocketAddr, place: SocketAddr) {
        let mut routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        routes.insert(address, place);
    }

    fn place(&self, address: SocketAddr) -> SocketAddr {
        let routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        routes.get(&address).copied().unwrap_or(address)
    }
}

/// Sends a request to a pod and passes its response on. `path` is what follows `proxy`, without its first slash.
///
/// Only `GET` over HTTP/1.1 without TLS. As on a real server, the port must be a number: the name of a container's port
/// is not resolved, and the connection fails.
pub(super) async fn connect(
    api: &Api,
    request: &Request,
    target: &Target,
    path: &str,
) -> ApiResult<Response> {
    if request.method != Method::GET {
        return Err(ApiError::method_not_allowed());
    }
    let (name, port) = pod_and_port(&target.name)?;
    let at = target.named(name);
    let pod = api.store.get(&at.table, &at.key);
    let pod = pod.ok_or_else(|| target.resource.not_found(name))?;
    let ip = proxyable_ip(&pod.value)?;
    if path.is_empty() && !request.path.ends_with('/') {
        return moved_to_root(request);
    }
    let port = match port {
        "" => first_port(&pod.value).to_owned(),
        port => port.to_owned(),
    };
    let port: u16 = port
        .parse()
        .map_err(|_| unreachable(format_args!("lookup tcp/{port}: unknown port")))?;
    let address = SocketAddr::new(ip, port);
    let question = match request.raw_query.as_str() {
        "" => format!("/{path}"),
        query => format!("/{path}?{query}"),
    };
    exchange(api.pod_routes.place(address), address, &question, request)
        .await
        .map_err(unreachable)
}

/// The name and the port of `[SCHEME:]NAME[:PORT]`; an empty port if there is none.
fn pod_and_port(id: &str) -> ApiResult<(&str, &str)> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => ("invalid", "", ""),
    };
    match scheme {
        "" | "http" if !name.is_empty() => Ok((name, port)),
        "https" if !name.is_empty() => Err(unreachable("TLS to pods is not supported")),
        _ => Err(ApiError::bad_request(format!("invalid pod request {id:?}"))),
    }
}

/// The first address of a pod, if it is a global unicast one: the server refuses others, to protect itself.
fn proxyable_ip(pod: &Value) -> ApiResult<IpAddr> {
    let first = pod.pointer("/status/podIPs/0/ip").and_then(Value::as_str);
    let ip = first.unwrap_or_else(|| text(pod, &["status", "podIP"]));
    let ip = ip.parse().ok().map(|ip: IpAddr| ip.to_canonical());
    let allowed = ip.filter(|ip| {
        let special = match ip {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.segments().first().is_some_and(|s| s & 0xffc0 == 0xfe80),
        };
        !special && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast()
    });
    allowed.ok_or_else(|| ApiError::bad_request("address not allowed"))
}

/// The first port of the first container that has one, else that of HTTP.
fn first_port(pod: &Value) -> String {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let port = containers
        .into_iter()
        .flatten()
        .find_map(|container| container.pointer("/ports/0/containerPort"));
    port.map_or_else(|| "80".to_owned(), Value::to_string)
}

/// The redirection from `proxy` to `proxy/`.
fn moved_to_root(request: &Request) -> ApiResult<Response> {
    let query = match request.raw_query.as_str() {
        "" => String::new(),
        query => format!("?{query}"),
    };
    let location = HeaderValue::try_from(format!("{}/{query}", request.path));
    let location = location.map_err(|error| ApiError::bad_request(error.to_string()))?;
    let mut response = response::text(301, "");
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

fn unreachable(why: impl Display) -> ApiError {
    let message = format!("error trying to reach service: {why}");
    ApiError::new(503, "ServiceUnavailable", message)
}

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Sends the request to `place`, where the pod's address is reached, and reads the whole response.
async fn exchange(
    place: SocketAddr,
    address: SocketAddr,
    question: &str,
    request: &Request,
) -> Result<Response, Error> {
    let stream = TcpStream::connect(place)
        .await
        .map_err(|error| format!("dial tcp {address}: {error}"))?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let mut forwarded = http::Request::builder()
        .uri(question.parse::<Uri>()?)
        .header(HOST, address.to_string());
    for (name, value) in [
        (ACCEPT, request.accept()),
        (USER_AGENT, request.user_agent()),
    ] {
        if !value.is_empty() {
            forwarded = forwarded.header(name, value);
        }
    }
    let forwarded = forwarded.body(Empty::<Bytes>::new())?;
    let answer = Box::pin(async move {
        let (mut parts, body) = sender.send_request(forwarded).await?.into_parts();
        let body = Limited::new(body, RESPONSE_LIMIT).collect().await?;
        for hop_by_hop in [CONNECTION, TRANSFER_ENCODING] {
            parts.headers.remove(hop_by_hop);
        }
        Ok(Response::from_parts(
            parts,
            response::whole(body.to_bytes()),
        ))
    });
    match select(answer, Box::pin(connection)).await {
        Either::Left((answer, _)) => answer,
        // A failed connection is the failure of the request, too.
        Either::Right((_, answer)) => answer.await,
    }
}
