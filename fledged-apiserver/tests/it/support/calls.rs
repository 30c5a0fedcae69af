//! Plain HTTP requests.

use std::pin::Pin;

use futures_util::{AsyncBufReadExt, StreamExt, stream::Stream};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::Value;

use super::Cluster;

/// A response.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub body: Value,
    pub warnings: Vec<String>,
    pub headers: http::HeaderMap,
}

impl Answer {
    /// The body of a success.
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.code), "{self:?}");
        self.body
    }

    /// Asserts that the response is a refusal with a code and a reason.
    pub fn refused(self, code: u16, reason: &str) -> Value {
        assert_eq!(
            (self.code, self.body["reason"].as_str().unwrap_or("")),
            (code, reason),
            "{self:?}"
        );
        assert_eq!(self.body["kind"], "Status", "{}", self.body);
        self.body
    }

    /// The invalid fields of an object with their errors, in order.
    pub fn causes(self) -> Vec<(String, String)> {
        let body = self.refused(422, "Invalid");
        let causes = body["details"]["causes"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let text = |cause: &Value, field: &str| cause[field].as_str().unwrap().to_owned();
        let mut causes: Vec<_> = causes
            .iter()
            .map(|c| (text(c, "field"), text(c, "message")))
            .collect();
        causes.sort();
        // Real servers check metadata twice.
        causes.dedup();
        causes
    }

    pub fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

/// The lines of a watch.
pub struct Lines(Pin<Box<dyn Stream<Item = Value> + Send>>);

impl Lines {
    /// The next line; none at the end.
    pub async fn next(&mut self) -> Option<Value> {
        tokio::time::timeout(super::SOON, self.0.next())
            .await
            .expect("no event within the deadline")
    }

    /// The type and the name of the next line.
    pub async fn event(&mut self) -> (String, String) {
        let line = self.next().await.expect("a watch has ended");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (
            text(&line["type"]),
            text(&line["object"]["metadata"]["name"]),
        )
    }
}

impl Cluster {
    /// Sends a request.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Answer {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self
            .client
            .send(request.body(Body::from(body)).unwrap())
            .await
            .unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let warnings = parts.headers.get_all("warning").iter();
        Answer {
            code: parts.status.as_u16(),
            body: serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into_owned().into()),
            warnings: warnings
                .map(|value| value.to_str().unwrap().to_owned())
                .collect(),
            headers: parts.headers,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], Vec::new()).await
    }

    pub async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.send("GET", path, &[("accept", accept)], Vec::new())
            .await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(
            "POST",
            path,
            &[("content-type", "application/json")],
            body.to_string().into_bytes(),
        )
        .await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(
            "PUT",
            path,
            &[("content-type", "application/json")],
            body.to_string().into_bytes(),
        )
        .await
    }

    pub async fn patch(&self, path: &str, kind: &str, body: Value) -> Answer {
        self.send(
            "PATCH",
            path,
            &[("content-type", kind)],
            body.to_string().into_bytes(),
        )
        .await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], Vec::new()).await
    }

    pub async fn delete_with(&self, path: &str, options: Value) -> Answer {
        self.send(
            "DELETE",
            path,
            &[("content-type", "application/json")],
            options.to_string().into_bytes(),
        )
        .await
    }

    /// Applies on the server side, as `manager`.
    pub async fn apply(&self, path: &str, manager: &str, body: Value) -> Answer {
        let mark = if path.contains('?') { '&' } else { '?' };
        self.patch(
            &format!("{path}{mark}fieldManager={manager}"),
            super::APPLY,
            body,
        )
        .await
    }

    /// Opens a watch.
    pub async fn watch(&self, path: &str) -> Lines {
        self.watch_as(path, "application/json").await
    }

    pub async fn watch_as(&self, path: &str, accept: &str) -> Lines {
        let mark = if path.contains('?') { '&' } else { '?' };
        let request = http::Request::get(format!("{path}{mark}watch=1")).header("accept", accept);
        let request = request.body(Vec::new()).unwrap();
        let lines = self.client.request_stream(request).await.unwrap().lines();
        Lines(Box::pin(lines.filter_map(async |line| {
            serde_json::from_str(&line.ok()?).ok()
        })))
    }
}
