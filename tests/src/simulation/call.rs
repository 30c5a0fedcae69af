//! A request to the API server, as the simulation reads it.

use http::{Method, request::Parts};
use serde_json::Value;

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    /// The plural name of the resource; empty for other paths.
    pub(super) resource: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) subresource: String,
    pub(super) watch: bool,
    /// The body; null for reads.
    pub(super) body: Value,
    pub(super) bytes: usize,
}

impl Call {
    /// Reads a request.
    pub(super) fn new(parts: &Parts, body: &[u8]) -> Self {
        let query = parts.uri.query().unwrap_or_default();
        let mut rest: Vec<&str> = parts.uri.path().split('/').skip(1).collect();
        let skip = match rest.first() {
            Some(&"api") => 2,
            Some(&"apis") => 3,
            _ => rest.len(),
        };
        rest.drain(..skip.min(rest.len()));
        let mut namespace = String::new();
        if rest.first() == Some(&"namespaces") && rest.len() > 2 {
            namespace = rest[1].to_owned();
            rest.drain(..2);
        }
        let part = |at: usize| rest.get(at).copied().unwrap_or_default().to_owned();
        Self {
            method: parts.method.clone(),
            resource: part(0),
            namespace,
            name: part(1),
            subresource: part(2),
            watch: query.split('&').any(|pair| pair == "watch=true"),
            body: serde_json::from_slice(body).unwrap_or_default(),
            bytes: body.len(),
        }
    }

    /// Whether it writes.
    pub(super) fn is_write(&self) -> bool {
        self.method != Method::GET
    }

    /// Whether it writes, or reads, this part of this resource.
    pub(super) fn is(&self, resource: &str, subresource: &str) -> bool {
        self.resource == resource && self.subresource == subresource
    }

    /// The object in one word.
    pub(super) fn target(&self) -> String {
        let parts = [
            &self.resource,
            &self.namespace,
            &self.name,
            &self.subresource,
        ];
        // The name of an event contains the wall time.
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        parts.map(String::as_str).collect::<Vec<_>>().join("/")
    }
}
