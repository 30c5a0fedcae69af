//! The faults that a [`FaultProxy`](crate::FaultProxy) injects, and its request log.

use std::time::Duration;

/// A fault of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Answers with this status without forwarding the request.
    Status {
        /// The status.
        status: u16,
        /// A `Retry-After` header, in seconds or as a date.
        retry_after: Option<String>,
    },
    /// Answers 401, and names a token server at the address of the proxy with the path `/token`.
    Challenge,
    /// Closes the connection without an answer.
    Hangup,
    /// Closes the connection after this many bytes of the body.
    CutAfter(u64),
    /// Flips the bits of the byte at this offset of the body.
    CorruptAt(u64),
    /// Limits the rate of each answer.
    Throttle {
        /// Bytes a second.
        bytes_per_second: u64,
    },
    /// Never answers; the connection stays open until the proxy ends its faults or is dropped.
    Stall,
    /// Stops after this many bytes of the body; the connection stays open.
    StallAfter(u64),
    /// Answers as a registry that does not know `Range`.
    NoRange,
    /// Answers 200 with another body, without forwarding the request.
    OtherBody(&'static str),
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

    /// A status without `Retry-After`.
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
    /// Injects the fault once, into the next request.
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

    /// Forwards the first matching requests unchanged.
    #[must_use]
    pub fn skip(mut self, requests: usize) -> Self {
        self.skip = requests;
        self
    }

    /// Applies to this many requests instead of one.
    #[must_use]
    pub fn times(mut self, requests: usize) -> Self {
        self.times = Some(requests);
        self
    }

    /// Applies to every matching request, until [`FaultProxy::clear`](crate::FaultProxy::clear).
    #[must_use]
    pub fn always(mut self) -> Self {
        self.times = None;
        self
    }

    /// The fault.
    #[must_use]
    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    /// Returns the fault if the rule applies to this request, and counts the request.
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
    /// Time of arrival since the start of the proxy.
    pub at: Duration,
    /// The `Range` header, if it had one.
    pub range: Option<String>,
    /// Whether it had an `Authorization` header.
    pub authorized: bool,
    /// The injected fault.
    pub fault: Option<Fault>,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// Bytes of the answer's body that were forwarded so far.
    pub sent: u64,
    /// Whether the answer has ended, complete or not.
    pub finished: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_skips_and_limits_matching_requests() {
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
