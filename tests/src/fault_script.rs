//! The faults that a [`FaultProxy`](crate::FaultProxy) is scripted to make, and the requests it received.

use std::time::Duration;

/// One way for a registry to misbehave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Answers with this status instead of asking the registry.
    Status {
        /// The status.
        status: u16,
        /// A `Retry-After` header, in seconds or as a date.
        retry_after: Option<String>,
    },
    /// Closes the connection without an answer.
    Hangup,
    /// Closes the connection after that many bytes of the body.
    CutAfter(u64),
    /// Flips the bits of the byte at that offset of the body.
    CorruptAt(u64),
    /// Lets through that many bytes a second, for each answer.
    Throttle {
        /// Bytes a second.
        bytes_per_second: u64,
    },
    /// Never answers; the connection stays open until the proxy is dropped.
    Stall,
    /// Stops after that many bytes of the body; the connection stays open.
    StallAfter(u64),
}

impl Fault {
    /// 429 with `Retry-After` in seconds.
    #[must_use]
    pub fn too_many_requests(retry_after_seconds: u64) -> Self {
        Self::Status {
            status: 429,
            retry_after: Some(retry_after_seconds.to_string()),
        }
    }

    /// That status, without more.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Status {
            status,
            retry_after: None,
        }
    }
}

/// A fault for the next request that matches: any method and path, once, unless set otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    method: Option<String>,
    path_part: String,
    skip: usize,
    times: Option<usize>,
    fault: Fault,
}

impl Rule {
    /// That fault, once, for whatever comes next.
    #[must_use]
    pub fn new(fault: Fault) -> Self {
        Self {
            method: None,
            path_part: String::new(),
            skip: 0,
            times: Some(1),
            fault,
        }
    }

    /// Only for this method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = Some(method.to_owned());
        self
    }

    /// Only for paths that contain this text (`/blobs/`, `/manifests/`, a digest).
    #[must_use]
    pub fn path(mut self, part: &str) -> Self {
        part.clone_into(&mut self.path_part);
        self
    }

    /// Leaves the first matching requests alone.
    #[must_use]
    pub fn skip(mut self, requests: usize) -> Self {
        self.skip = requests;
        self
    }

    /// For that many requests instead of one.
    #[must_use]
    pub fn times(mut self, requests: usize) -> Self {
        self.times = Some(requests);
        self
    }

    /// For every matching request, until [`FaultProxy::clear`](crate::FaultProxy::clear).
    #[must_use]
    pub fn always(mut self) -> Self {
        self.times = None;
        self
    }

    /// The fault, if this request is one that it is meant for; counts it.
    pub(crate) fn strike(&mut self, method: &str, path: &str) -> Option<Fault> {
        let meant = self.method.as_deref().is_none_or(|m| m == method)
            && path.contains(&self.path_part)
            && self.times != Some(0);
        if !meant {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        if let Some(times) = &mut self.times {
            *times -= 1;
        }
        Some(self.fault.clone())
    }
}

/// One request that went through the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxiedRequest {
    /// `GET`, `HEAD`, ...
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// When it came, counted from the start of the proxy.
    pub at: Duration,
    /// The `Range` header, if it had one.
    pub range: Option<String>,
    /// Whether it had an `Authorization` header.
    pub authorized: bool,
    /// The fault it met.
    pub fault: Option<Fault>,
    /// The status it was answered with, once it was.
    pub status: Option<u16>,
    /// Bytes of the body that were passed on so far.
    pub sent: u64,
    /// Whether the answer has ended, well or badly.
    pub finished: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_skips_strikes_and_is_spent() {
        let mut rule = Rule::new(Fault::Hangup)
            .method("GET")
            .path("/blobs/")
            .skip(1)
            .times(2);
        assert_eq!(rule.strike("HEAD", "/v2/a/blobs/x"), None);
        assert_eq!(rule.strike("GET", "/v2/a/manifests/x"), None);
        let hits: Vec<bool> = (0..4)
            .map(|_| rule.strike("GET", "/v2/a/blobs/x").is_some())
            .collect();
        assert_eq!(hits, [false, true, true, false]);
    }
}
