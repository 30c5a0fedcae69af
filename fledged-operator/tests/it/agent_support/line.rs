//! The connection between an agent and its API server.

use std::sync::{Arc, Mutex};

use http::{Method, Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tower::BoxError;

/// How requests fail.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// There is no connection.
    Down,
    /// The server answers with an error.
    Answers(Value),
}

impl Fault {
    /// An error response.
    pub(crate) fn status(code: u16, reason: &str, message: &str) -> Self {
        Self::Answers(json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": message, "reason": reason, "code": code}))
    }

    /// A response 429 with a delay.
    pub(crate) fn busy(seconds: u64) -> Self {
        let mut fault = Self::status(429, "TooManyRequests", "too many requests");
        if let Self::Answers(status) = &mut fault {
            status["details"] = json!({"retryAfterSeconds": seconds});
        }
        fault
    }
}

type Rule = Box<dyn Fn(&Method, &str) -> Option<Fault> + Send>;

/// The requests of a client: all are recorded, and some fail.
#[derive(Clone)]
pub(crate) struct Line {
    client: Client,
    seen: Arc<Mutex<Vec<(Method, String)>>>,
    rule: Arc<Mutex<Option<Rule>>>,
}

impl Line {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            seen: Arc::default(),
            rule: Arc::default(),
        }
    }

    /// Returns a client whose requests use this connection.
    pub(crate) fn client(&self) -> Client {
        let line = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let line = line.clone();
            async move { line.pass(request).await }
        });
        Client::new(service, "default")
    }

    async fn pass(&self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let fault = {
            let rule = self.rule.lock().unwrap();
            rule.as_ref().and_then(|rule| rule(&method, &path))
        };
        self.seen.lock().unwrap().push((method, path));
        match fault {
            None => Ok(self.client.send(request).await?),
            Some(Fault::Down) => Err("connection refused".into()),
            Some(Fault::Answers(status)) => {
                let code = u16::try_from(status["code"].as_u64().unwrap()).unwrap();
                let mut response = Response::new(Body::from(status.to_string().into_bytes()));
                *response.status_mut() = StatusCode::from_u16(code).unwrap();
                Ok(response)
            }
        }
    }

    /// Makes requests fail for which `rule` returns a fault; open watches continue.
    pub(crate) fn fail(&self, rule: impl Fn(&Method, &str) -> Option<Fault> + Send + 'static) {
        *self.rule.lock().unwrap() = Some(Box::new(rule));
    }

    /// Makes all requests succeed again.
    pub(crate) fn mend(&self) {
        *self.rule.lock().unwrap() = None;
    }

    /// The number of requests with this method whose path ends with `end`.
    pub(crate) fn count(&self, method: &Method, end: &str) -> usize {
        let seen = self.seen.lock().unwrap();
        let matching = seen
            .iter()
            .filter(|(m, path)| m == method && path.ends_with(end));
        matching.count()
    }
}
