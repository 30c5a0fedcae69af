//! Registries that require tokens: the handshake, its credentials, its renewal and its failures.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fledged_core::error::{Failure, Reason};
use fledged_core::model::ImageRef;
use fledged_core::port::{Credentials, CredentialsRequest, RegistryAuth};
use fledged_cri::credentials::DockerConfig;
use fledged_cri::registry::{Platform, Probe, Registry as Access, RegistryOptions};
use fledged_tests::{ImageBuilder, Pushed, Registry, http, require};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// How the token server behaves.
#[derive(Debug, Clone, Default)]
struct Policy {
    /// Refuses anonymous requests.
    private: bool,
    /// Requests for which a token is valid; 0: unlimited.
    uses: u32,
    /// Answers with this status and text instead of a token.
    refusal: Option<(u16, &'static str)>,
}

/// A registry and its token server, on one address.
#[derive(Debug)]
struct TokenRegistry {
    addr: String,
    upstream: String,
    policy: Policy,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Number of granted tokens. The last one is valid.
    granted: u32,
    uses: u32,
    grants: Vec<String>,
}

impl TokenRegistry {
    async fn start(upstream: &Registry, policy: Policy) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Arc::new(Self {
            addr: listener.local_addr().unwrap().to_string(),
            upstream: upstream.addr().to_owned(),
            policy,
            state: Mutex::default(),
        });
        let serving = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = Arc::clone(&serving);
                let service = service_fn(move |request| Arc::clone(&server).answer(request));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        server
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let authorization = head
            .headers
            .get("authorization")
            .map(|value| value.to_str().unwrap().to_owned());
        let target = head.uri.path_and_query().unwrap().to_string();
        if head.uri.path() == "/token" {
            let form = String::from_utf8(body.to_vec()).unwrap();
            return Ok(self.token(&head.method, &target, &form, authorization.as_deref()));
        }
        if !self.admits(authorization.as_deref()) {
            let challenge = format!(
                "Bearer realm=\"http://{}/token\",service=\"test registry\"",
                self.addr
            );
            let response = Response::builder()
                .status(401)
                .header("www-authenticate", challenge);
            return Ok(response.body(Full::default()).unwrap());
        }
        let accept = head.headers["accept"].to_str().unwrap().to_owned();
        let answer = tokio::task::spawn_blocking(move || {
            let accept = [("accept", accept.as_str())];
            http::send(&self.upstream, head.method, &target, &accept, None, body).unwrap()
        })
        .await
        .unwrap();
        let mut response = Response::new(Full::new(answer.body));
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        Ok(response)
    }

    fn admits(&self, authorization: Option<&str>) -> bool {
        let mut state = self.state.lock().unwrap();
        let good = format!("Bearer token-{}", state.granted);
        if state.granted == 0 || authorization != Some(&good) {
            return authorization == Some("Bearer fixed");
        }
        state.uses += 1;
        self.policy.uses == 0 || state.uses <= self.policy.uses
    }

    fn token(
        &self,
        method: &Method,
        target: &str,
        form: &str,
        authorization: Option<&str>,
    ) -> Response<Full<Bytes>> {
        let answer = |status, body: String| {
            let mut response = Response::builder().status(status);
            if status == 429 {
                response = response.header("retry-after", "23");
            }
            response.body(Full::new(Bytes::from(body))).unwrap()
        };
        if let Some((status, text)) = self.policy.refusal {
            return answer(status, text.to_owned());
        }
        let grant = match (method, authorization) {
            (&Method::POST, None) => {
                let identity = "refresh_token=iden%2Ftity";
                if !form.contains(identity) || !form.contains("grant_type=refresh_token") {
                    return answer(400, r#"{"error":"invalid_grant"}"#.to_owned());
                }
                assert!(
                    form.contains("scope=repository%3Ateam%2Fapp%3Apull"),
                    "{form}"
                );
                assert!(form.contains("service=test+registry"), "{form}");
                "identity"
            }
            (&Method::GET, Some(value)) if value == http::basic("user", "right") => "basic",
            (&Method::GET, None) if !self.policy.private => "anonymous",
            _ => {
                return answer(
                    401,
                    r#"{"details":"incorrect username or password"}"#.to_owned(),
                );
            }
        };
        if method == Method::GET {
            assert!(
                target.contains("scope=repository%3Ateam%2Fapp%3Apull"),
                "{target}"
            );
        }
        let mut state = self.state.lock().unwrap();
        state.granted += 1;
        state.uses = 0;
        state.grants.push(grant.to_owned());
        let name = if grant == "identity" {
            "access_token"
        } else {
            "token"
        };
        answer(200, format!(r#"{{"{name}":"token-{}"}}"#, state.granted))
    }

    fn grants(&self) -> Vec<String> {
        self.state.lock().unwrap().grants.clone()
    }

    async fn probe(&self, pushed: &Pushed, entry: &str) -> Result<Probe, Failure> {
        let image: ImageRef = pushed.reference_at(&self.addr).parse().unwrap();
        let access = Access::new(RegistryOptions::default()).unwrap();
        access
            .probe(&image, auth(&image, entry).await, &Platform::host())
            .await
    }
}

/// The credentials in an entry of a docker configuration.
async fn auth(image: &ImageRef, entry: &str) -> Option<RegistryAuth> {
    let config = format!(r#"{{"auths":{{"{}":{entry}}}}}"#, image.registry());
    let request = CredentialsRequest::new(image.clone());
    let credentials = DockerConfig::from_json(config.as_bytes()).unwrap();
    credentials.resolve(&request).await.auths.into_iter().next()
}

const ANONYMOUS: &str = "{}";
const RIGHT: &str = r#"{"username":"user","password":"right"}"#;
const WRONG: &str = r#"{"username":"user","password":"wr0ng"}"#;

fn registry_with_app() -> Option<(Registry, Pushed)> {
    if !require(&["docker-registry"]) {
        return None;
    }
    let registry = Registry::start();
    let pushed = ImageBuilder::new()
        .random_layer("a", 1, 1000)
        .random_layer("b", 2, 1000)
        .push(&registry, "team/app", "1");
    Some((registry, pushed))
}

#[tokio::test]
async fn every_kind_of_credentials_gets_a_token() {
    let Some((registry, pushed)) = registry_with_app() else {
        return;
    };
    let server = TokenRegistry::start(&registry, Policy::default()).await;
    let identity = r#"{"auth":"MDAwOg==","identitytoken":"iden/tity"}"#;
    for entry in [ANONYMOUS, RIGHT, identity] {
        let probe = server.probe(&pushed, entry).await.unwrap();
        assert_eq!(probe.digest, pushed.digest);
    }
    assert_eq!(server.grants(), ["anonymous", "basic", "identity"]);
    // A registry token is sent unchanged; no token is requested.
    server
        .probe(&pushed, r#"{"registrytoken":"fixed"}"#)
        .await
        .unwrap();
    assert_eq!(server.grants().len(), 3);
}

#[tokio::test]
async fn refused_credentials_are_unauthorized_and_not_shown() {
    let Some((registry, pushed)) = registry_with_app() else {
        return;
    };
    let private = Policy {
        private: true,
        ..Policy::default()
    };
    let server = TokenRegistry::start(&registry, private).await;
    for entry in [
        ANONYMOUS,
        WRONG,
        r#"{"identitytoken":"wr0ng"}"#,
        r#"{"registrytoken":"wr0ng"}"#,
    ] {
        let failure = server.probe(&pushed, entry).await.unwrap_err();
        assert_eq!(failure.reason, Reason::Unauthorized, "{entry}: {failure}");
        assert!(!format!("{failure:?}").contains("wr0ng"), "{failure:?}");
    }
    server.probe(&pushed, RIGHT).await.unwrap();
}

#[tokio::test]
async fn an_expired_token_is_renewed() {
    let Some((registry, pushed)) = registry_with_app() else {
        return;
    };
    let short = Policy {
        uses: 2,
        ..Policy::default()
    };
    let server = TokenRegistry::start(&registry, short).await;
    // Four requests: manifest, configuration, two layers.
    server.probe(&pushed, ANONYMOUS).await.unwrap();
    assert!(server.grants().len() >= 2, "{:?}", server.grants());
}

#[tokio::test]
async fn a_failing_token_server_is_not_a_wrong_password() {
    let Some((registry, pushed)) = registry_with_app() else {
        return;
    };
    let throttled = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
    for (status, text, expected) in [
        (429, throttled, Reason::TooManyRequests),
        (503, "503 Service Unavailable", Reason::RegistryError),
    ] {
        let policy = Policy {
            refusal: Some((status, text)),
            ..Policy::default()
        };
        let server = TokenRegistry::start(&registry, policy).await;
        let delay = (status == 429).then_some(Duration::from_secs(23));
        for entry in [ANONYMOUS, RIGHT, r#"{"identitytoken":"iden/tity"}"#] {
            let failure = server.probe(&pushed, entry).await.unwrap_err();
            assert_eq!(failure.reason, expected, "{failure}");
            assert_eq!(failure.retry_after, delay, "{failure}");
        }
    }
}

#[tokio::test]
async fn a_token_answer_is_bounded() {
    let Some((registry, pushed)) = registry_with_app() else {
        return;
    };
    static LONG: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| format!(r#"{{"token":"{}"}}"#, "x".repeat(300_000)));
    for (text, problem) in [(LONG.as_str(), "is longer than"), ("{}", "holds no token")] {
        let policy = Policy {
            refusal: Some((200, text)),
            ..Policy::default()
        };
        let server = TokenRegistry::start(&registry, policy).await;
        let failure = server.probe(&pushed, ANONYMOUS).await.unwrap_err();
        assert_eq!(failure.reason, Reason::RegistryError, "{failure}");
        assert!(failure.message.contains(problem), "{failure}");
    }
}
