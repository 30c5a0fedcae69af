//! Errors: refusals of requests (`Status` objects), faults of fields, and why a server does not start.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The reason of the only error that is sent as plain text instead of a `Status`.
pub(crate) const NO_SUCH_PATH: &str = "NoSuchPath";

/// Result of handling a request.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

/// An error response: the content of a `Status`.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    pub(crate) code: u16,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) details: Map<String, Value>,
    /// The token to continue a list with after its snapshot has expired; the rest is inconsistent.
    pub(crate) continue_token: Option<String>,
}

/// A resource (or kind) with its group as messages write it: `widgets.example.com`.
pub(crate) fn qualified(group: &str, resource: &str) -> String {
    match group {
        "" => resource.to_owned(),
        group => format!("{resource}.{group}"),
    }
}

impl ApiError {
    pub(crate) fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            details: Map::new(),
            continue_token: None,
        }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        for (key, value) in [("group", group), ("kind", kind), ("name", name)] {
            if !value.is_empty() {
                self.details.insert(key.into(), value.into());
            }
        }
        self
    }

    fn cause(mut self, cause: Value) -> Self {
        match self.details.get_mut("causes") {
            Some(Value::Array(causes)) => causes.push(cause),
            _ => {
                self.details.insert("causes".into(), json!([cause]));
            }
        }
        self
    }

    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.details
            .insert("retryAfterSeconds".into(), seconds.into());
        self
    }

    pub(crate) fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", qualified(group, resource));
        Self::new(404, "NotFound", message).about(group, resource, name)
    }

    /// The path does not exist.
    pub(crate) fn no_such_path() -> Self {
        Self::new(404, NO_SUCH_PATH, "404 page not found\n")
    }

    /// The subresource does not exist.
    pub(crate) fn no_such_part(group: &str, resource: &str) -> Self {
        let message = "the server could not find the requested resource";
        Self::new(404, "NotFound", message).about(group, resource, "")
    }

    pub(crate) fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", qualified(group, resource));
        Self::new(409, "AlreadyExists", message).about(group, resource, name)
    }

    pub(crate) fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            qualified(group, resource)
        );
        Self::new(409, "Conflict", message).about(group, resource, name)
    }

    /// The object was modified since it was read.
    pub(crate) fn modified(group: &str, resource: &str, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(group, resource, name, why)
    }

    /// Fields are owned by other managers: pairs of a manager, as messages write it, and a field.
    pub(crate) fn apply_conflict(conflicts: Vec<(String, String)>) -> Self {
        let message = match conflicts.as_slice() {
            [(manager, field)] => {
                format!("Apply failed with 1 conflict: conflict with {manager}: {field}")
            }
            many => {
                let mut by_manager: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
                for (manager, field) in many {
                    by_manager.entry(manager).or_default().push(field);
                }
                let lines: Vec<String> = by_manager
                    .into_iter()
                    .flat_map(|(manager, fields)| {
                        let fields = fields.into_iter().map(|field| format!("- {field}"));
                        std::iter::once(format!("conflicts with {manager}:")).chain(fields)
                    })
                    .collect();
                let count = many.len();
                format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
            }
        };
        let error = Self::new(409, "Conflict", message);
        conflicts
            .into_iter()
            .fold(error, |error, (manager, field)| {
                error.cause(json!({
                    "reason": "FieldManagerConflict",
                    "message": format!("conflict with {manager}"),
                    "field": field,
                }))
            })
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = format!(
            "{} \"{name}\" is forbidden: {why}",
            qualified(group, resource)
        );
        Self::new(403, "Forbidden", message).about(group, resource, name)
    }

    /// The namespace of a new object is being terminated.
    pub(crate) fn terminating(group: &str, resource: &str, name: &str, namespace: &str) -> Self {
        let why = format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        );
        Self::forbidden(group, resource, name, &why).cause(json!({
            "reason": "NamespaceTerminating",
            "message": format!("namespace {namespace} is being terminated"),
            "field": "metadata.namespace",
        }))
    }

    /// A JSON patch does not apply. The API server gives no reason.
    pub(crate) fn rejected() -> Self {
        let message = "the server rejected our request due to an error in our request";
        Self::new(422, "Invalid", message)
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message)
    }

    pub(crate) fn unsupported_media_type(supported: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            supported.join(", ")
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub(crate) fn not_acceptable(supported: &[&str]) -> Self {
        let message = format!(
            "only the following media types are accepted: {}",
            supported.join(", ")
        );
        Self::new(406, "NotAcceptable", message)
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// The version asked for is older than the history.
    pub(crate) fn too_old(asked: u64, oldest: u64) -> Self {
        Self::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// The version asked for is newer than the latest write.
    pub(crate) fn too_large_version(asked: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
        Self::new(504, "Timeout", message).retry_after(1).cause(
            json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}),
        )
    }

    pub(crate) fn too_large_body(limit: usize) -> Self {
        let message = format!("Request entity too large: limit is {limit}");
        Self::new(413, "RequestEntityTooLarge", message)
    }

    pub(crate) fn internal(message: impl std::fmt::Display) -> Self {
        let error = Self::new(
            500,
            "InternalError",
            format!("Internal error occurred: {message}"),
        );
        error.cause(json!({"message": message.to_string()}))
    }

    /// The object is invalid; `group` and `kind` are those of the object.
    pub(crate) fn invalid(group: &str, kind: &str, name: &str, errors: Vec<FieldError>) -> Self {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let listed = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} \"{name}\" is invalid: {listed}", qualified(group, kind));
        let error = Self::new(422, "Invalid", message).about(group, kind, name);
        errors.into_iter().fold(error, |error, field| {
            let path = if field.path.is_empty() {
                "<nil>"
            } else {
                &field.path
            };
            let cause = json!({"reason": field.reason(), "message": field.body(), "field": path});
            error.cause(cause)
        })
    }

    /// The `Status` object itself.
    pub(crate) fn to_status(&self) -> Value {
        let mut metadata = Map::new();
        if let Some(token) = &self.continue_token {
            metadata.insert("continue".into(), token.clone().into());
        }
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let Some(status) = status.as_object_mut() {
            if !self.details.is_empty() {
                status.insert("details".into(), Value::Object(self.details.clone()));
            }
            if self.reason.is_empty() {
                status.remove("reason");
            }
        }
        status
    }
}

/// The type of an error of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Invalid,
    Required,
    Duplicate,
    NotFound,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TypeInvalid,
}

/// An invalid field, worded like `field.Error` of the API machinery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldError {
    pub(crate) fault: Fault,
    pub(crate) path: String,
    /// The value as the message shows it; none where it is omitted.
    pub(crate) value: Option<String>,
    pub(crate) detail: String,
}

impl FieldError {
    pub(crate) fn new(fault: Fault, path: &str, value: &Value, detail: impl Into<String>) -> Self {
        Self {
            fault,
            path: path.to_owned(),
            value: Some(shown(value)),
            detail: detail.into(),
        }
    }

    /// A fault without its value.
    pub(crate) fn without_value(fault: Fault, path: &str, detail: impl Into<String>) -> Self {
        Self {
            value: None,
            ..Self::new(fault, path, &Value::Null, detail)
        }
    }

    pub(crate) fn invalid(path: &str, value: &Value, detail: impl Into<String>) -> Self {
        Self::new(Fault::Invalid, path, value, detail)
    }

    pub(crate) fn required(path: &str, detail: impl Into<String>) -> Self {
        Self::new(Fault::Required, path, &Value::Null, detail)
    }

    pub(crate) fn forbidden(path: &str, detail: impl Into<String>) -> Self {
        Self::new(Fault::Forbidden, path, &Value::Null, detail)
    }

    pub(crate) fn duplicate(path: &str, value: &Value) -> Self {
        Self::new(Fault::Duplicate, path, value, "")
    }

    pub(crate) fn not_supported(path: &str, value: &Value, supported: &[String]) -> Self {
        let listed: Vec<String> = supported.iter().map(|v| format!("\"{v}\"")).collect();
        let detail = format!("supported values: {}", listed.join(", "));
        Self::new(Fault::NotSupported, path, value, detail)
    }

    fn reason(&self) -> &'static str {
        match self.fault {
            Fault::Invalid => "FieldValueInvalid",
            Fault::Required => "FieldValueRequired",
            Fault::Duplicate => "FieldValueDuplicate",
            Fault::NotFound => "FieldValueNotFound",
            Fault::NotSupported => "FieldValueNotSupported",
            Fault::Forbidden => "FieldValueForbidden",
            Fault::TooLong => "FieldValueTooLong",
            Fault::TooMany => "FieldValueTooMany",
            Fault::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    /// The text without the path, as in the causes of a `Status`.
    fn body(&self) -> String {
        let (title, with_value) = match self.fault {
            Fault::Invalid | Fault::TypeInvalid => ("Invalid value", true),
            Fault::Required => ("Required value", false),
            Fault::Duplicate => ("Duplicate value", true),
            Fault::NotFound => ("Not found", true),
            Fault::NotSupported => ("Unsupported value", true),
            Fault::Forbidden => ("Forbidden", false),
            Fault::TooLong => ("Too long", false),
            Fault::TooMany => ("Too many", true),
        };
        let mut text = title.to_owned();
        if let (true, Some(value)) = (with_value, &self.value) {
            text.push_str(": ");
            text.push_str(value);
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.path.as_str() {
            "" => write!(f, "<nil>: {}", self.body()),
            path => write!(f, "{path}: {}", self.body()),
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

/// Why an API server could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address can't be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address asked for.
        address: std::net::SocketAddr,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// A seed object is invalid.
    #[error("cannot seed {object}: {message}")]
    Seed {
        /// Kind and name of the object.
        object: String,
        /// The message of the `Status` of the API.
        message: String,
    },
    /// There is no tokio runtime to run the garbage collector on.
    #[error("no tokio runtime is running")]
    NoRuntime,
    /// A client for the server can't be built.
    #[error("cannot build a client")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
}
