//! Options of requests.

use serde_json::Value;

use super::Request;
use crate::error::{ApiError, ApiResult, FieldError};
use crate::kinds::Resource;
use crate::select::{FieldSelector, LabelSelector, Selection};

/// What is done about fields that a schema doesn't know.
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
                let fault = crate::error::Fault::TooLong;
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

/// How a resource version is meant.
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
                    // Watches are not refused as politely as lists are.
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
