//! A request, read.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, header};

/// A request with its whole body.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    query: Vec<(String, String)>,
    headers: HeaderMap,
    pub(crate) body: Bytes,
    /// What the client is to be told besides the answer, also if that is a refusal.
    pub(crate) warnings: Warnings,
}

/// Warnings, in order.
#[derive(Debug, Default)]
pub(crate) struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    pub(crate) fn extend(&self, warnings: impl IntoIterator<Item = String>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(warnings);
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Request {
    pub(crate) fn new(parts: http::request::Parts, body: Bytes) -> Self {
        let query = parts.uri.query().unwrap_or_default();
        let query = query.split('&').filter(|pair| !pair.is_empty());
        let query = query.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name, true), decoded(value, true))
        });
        Self {
            query: query.collect(),
            path: decoded(parts.uri.path(), false),
            method: parts.method,
            headers: parts.headers,
            body,
            warnings: Warnings::default(),
        }
    }

    /// A parameter of the query; an empty one counts as none.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Whether a parameter is set to something true.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.query
            .iter()
            .any(|(key, value)| key == name && !matches!(value.as_str(), "false" | "0"))
    }

    fn header(&self, name: header::HeaderName) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    pub(crate) fn accept(&self) -> &str {
        self.header(header::ACCEPT)
    }

    /// The type of the body, without parameters.
    pub(crate) fn content_type(&self) -> &str {
        self.header(header::CONTENT_TYPE)
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
    }

    pub(crate) fn user_agent(&self) -> &str {
        self.header(header::USER_AGENT)
    }

    /// Who writes: the field manager named, or else the program that the user agent begins with.
    pub(crate) fn manager(&self) -> String {
        match self.parameter("fieldManager") {
            Some(manager) => manager.to_owned(),
            None => {
                let program = self.user_agent().split('/').next().unwrap_or_default();
                match program.chars().take(128).collect::<String>() {
                    program if program.is_empty() => "unknown".to_owned(),
                    program => program,
                }
            }
        }
    }
}

/// Decodes percent-encoding.
fn decoded(text: &str, plus_is_space: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' if plus_is_space => bytes.push(b' '),
            b'%' => {
                let hex: Vec<u8> = rest.clone().take(2).collect();
                let value = std::str::from_utf8(&hex)
                    .ok()
                    .and_then(|hex| u8::from_str_radix(hex, 16).ok());
                match value {
                    Some(value) if hex.len() == 2 => {
                        bytes.push(value);
                        rest.nth(1);
                    }
                    _ => bytes.push(byte),
                }
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
