//! Requests: target, parameters, headers and options.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, header};
use serde_json::Value;

use crate::error::{ApiError, ApiResult, Fault, FieldError};
use crate::kinds::Resource;
use crate::object_store::{Key, ObjectRef};
use crate::selectors::{FieldSelector, LabelSelector, Selection};

/// A request with its whole body.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    /// The query as it was sent.
    pub(crate) raw_query: String,
    query: Vec<(String, String)>,
    headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The warnings for the client, sent with the response or the error.
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
            raw_query: parts.uri.query().unwrap_or_default().to_owned(),
            query: query.collect(),
            path: decoded(parts.uri.path(), false),
            method: parts.method,
            headers: parts.headers,
            body,
            warnings: Warnings::default(),
        }
    }

    /// A query parameter; an empty one counts as absent.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    /// Whether a parameter is set, and not to false.
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

    /// The content type without parameters.
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

    /// The field manager: the one named, or the program at the start of the user agent.
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

/// The target of a request: a resource, and an object of it or a subresource.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) resource: Arc<Resource>,
    /// Empty for cluster-scoped resources, and for all namespaces.
    pub(crate) namespace: String,
    /// Empty for collections.
    pub(crate) name: String,
    /// Empty for the object itself.
    pub(crate) subresource: String,
}

impl Target {
    /// The object.
    pub(crate) fn at(&self) -> ObjectRef {
        self.named(&self.name)
    }

    /// Another object of the same resource and namespace.
    pub(crate) fn named(&self, name: &str) -> ObjectRef {
        ObjectRef {
            table: Arc::clone(&self.resource.table),
            key: Key::new(&self.namespace, name),
        }
    }
}

/// The handling of unknown fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// Options of every write.
#[derive(Debug, Clone)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) validation: FieldValidation,
    pub(crate) manager: String,
}

fn invalid(kind: &str, fault: FieldError) -> ApiError {
    ApiError::invalid("meta.k8s.io", kind, "", vec![fault])
}

impl WriteOptions {
    /// Reads the options of a request; `kind` is what the API calls them.
    pub(crate) fn of(request: &Request, kind: &str) -> ApiResult<Self> {
        let dry_run = match request.parameter("dryRun") {
            None => false,
            Some("All") => true,
            Some(other) => {
                let fault = FieldError::not_supported(
                    "dryRun",
                    &[other].as_slice().into(),
                    &["All".to_owned()],
                );
                return Err(invalid(kind, fault));
            }
        };
        let validation = match request.parameter("fieldValidation") {
            None | Some("Warn") => FieldValidation::Warn,
            Some("Ignore") => FieldValidation::Ignore,
            Some("Strict") => FieldValidation::Strict,
            Some(other) => {
                let known = ["", "Ignore", "Strict", "Warn"].map(str::to_owned);
                return Err(invalid(
                    kind,
                    FieldError::not_supported("fieldValidation", &other.into(), &known),
                ));
            }
        };
        if let Some(manager) = request.parameter("fieldManager") {
            let value = Value::from(manager);
            if manager.len() > 128 {
                let detail = "may not be more than 128 bytes";
                let fault = Fault::TooLong;
                return Err(invalid(
                    kind,
                    FieldError::new(fault, "fieldManager", &value, detail),
                ));
            }
            if manager.chars().any(char::is_control) {
                let detail = "must only contain printable characters";
                return Err(invalid(
                    kind,
                    FieldError::invalid("fieldManager", &value, detail),
                ));
            }
        }
        Ok(Self {
            dry_run,
            validation,
            manager: request.manager(),
        })
    }
}

/// The meaning of a resource version in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VersionMatch {
    Unset,
    NotOlderThan,
    Exact,
}

/// Options of lists and watches.
#[derive(Debug, Clone)]
pub(crate) struct ListOptions {
    pub(crate) selection: Selection,
    pub(crate) limit: Option<usize>,
    pub(crate) continue_token: Option<String>,
    /// None if unset; zero for any.
    pub(crate) version: Option<u64>,
    pub(crate) version_match: VersionMatch,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
}

/// Reads a resource version.
pub(crate) fn version(text: &str) -> ApiResult<u64> {
    text.parse().map_err(|_| {
        let detail = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
        let fault = FieldError::invalid("resourceVersion", &text.into(), detail);
        ApiError::bad_request(format!("invalid resource version: {fault}"))
    })
}

impl ListOptions {
    pub(crate) fn of(
        request: &Request,
        resource: &Resource,
        namespace: &str,
        watch: bool,
    ) -> ApiResult<Self> {
        let labels = LabelSelector::parse(request.parameter("labelSelector").unwrap_or_default())
            .map_err(|why| {
            ApiError::bad_request(format!("unable to parse requirement: {why}"))
        })?;
        let fields = FieldSelector::parse(
            request.parameter("fieldSelector").unwrap_or_default(),
            resource,
        )
        .map_err(ApiError::bad_request)?;
        let number = |name: &str| -> ApiResult<Option<u64>> {
            let parse = |text: &str| {
                text.parse::<i64>().map_err(|_| {
                    ApiError::bad_request(format!(
                        "strconv.ParseInt: parsing {text:?}: invalid syntax"
                    ))
                })
            };
            let number = request.parameter(name).map(parse).transpose()?;
            Ok(number.and_then(|number| u64::try_from(number).ok()))
        };
        let continue_token = request.parameter("continue").map(str::to_owned);
        let given = request.parameter("resourceVersion");
        let send_initial_events = request
            .parameter("sendInitialEvents")
            .map(|v| v != "false" && v != "0");
        let version_match = match request.parameter("resourceVersionMatch") {
            None => VersionMatch::Unset,
            Some("NotOlderThan") => VersionMatch::NotOlderThan,
            Some("Exact") => VersionMatch::Exact,
            Some(other) => {
                let known = ["Exact", "NotOlderThan", ""].map(str::to_owned);
                let fault =
                    FieldError::not_supported("resourceVersionMatch", &other.into(), &known);
                return Err(invalid("ListOptions", fault));
            }
        };
        let forbidden =
            |field: &str, why: &str| Err(invalid("ListOptions", FieldError::forbidden(field, why)));
        match (watch, version_match, send_initial_events) {
            (true, VersionMatch::Unset, Some(_)) => {
                return forbidden(
                    "resourceVersionMatch",
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                );
            }
            (true, VersionMatch::Exact, Some(_)) => {
                let known = ["NotOlderThan".to_owned()];
                let fault =
                    FieldError::not_supported("resourceVersionMatch", &"Exact".into(), &known);
                return Err(invalid("ListOptions", fault));
            }
            (true, VersionMatch::NotOlderThan | VersionMatch::Exact, None) => {
                return forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                );
            }
            _ if watch && continue_token.is_some() => {
                return forbidden("continue", "continue is forbidden for watch");
            }
            (false, _, Some(_)) => {
                return forbidden(
                    "sendInitialEvents",
                    "sendInitialEvents is forbidden for list",
                );
            }
            (false, VersionMatch::NotOlderThan | VersionMatch::Exact, None) => {
                if continue_token.is_some() {
                    return forbidden(
                        "resourceVersionMatch",
                        "resourceVersionMatch is forbidden when continue is provided",
                    );
                }
                if given.is_none() {
                    return forbidden(
                        "resourceVersionMatch",
                        "resourceVersionMatch is forbidden unless resourceVersion is provided",
                    );
                }
                if version_match == VersionMatch::Exact && given == Some("0") {
                    return forbidden(
                        "resourceVersionMatch",
                        "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                    );
                }
            }
            _ => {}
        }
        if continue_token.is_some() && given.is_some_and(|given| given != "0") {
            let message = "specifying resource version is not allowed when using continue";
            return Err(ApiError::bad_request(message));
        }
        Ok(Self {
            selection: Selection {
                namespace: namespace.to_owned(),
                labels,
                fields,
            },
            limit: number("limit")?
                .filter(|limit| *limit > 0)
                .and_then(|limit| usize::try_from(limit).ok()),
            continue_token,
            version: given
                .map(version)
                .transpose()
                .map_err(|error| match watch {
                    // The API server answers 500 for a watch.
                    true => ApiError::new(
                        500,
                        "",
                        error
                            .message
                            .trim_start_matches("invalid resource version: "),
                    ),
                    false => error,
                })?,
            version_match,
            timeout_seconds: number("timeoutSeconds")?,
            bookmarks: request.flag("allowWatchBookmarks"),
            send_initial_events,
        })
    }
}
