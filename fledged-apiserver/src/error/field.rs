//! Faults of fields.

use serde_json::Value;

/// What is wrong with a field.
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

/// A field that breaks a rule, worded as `field.Error` of the API machinery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldError {
    pub(crate) fault: Fault,
    pub(crate) path: String,
    /// The value at fault, as it is to be shown; none where it is left out.
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

    /// A fault that doesn't show the value.
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

    pub(super) fn reason(&self) -> &'static str {
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

    /// The text without the path, as causes carry it.
    pub(super) fn body(&self) -> String {
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
