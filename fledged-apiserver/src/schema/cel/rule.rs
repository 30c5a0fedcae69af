//! Compiling rules.

use std::sync::{Arc, LazyLock};

use cel::{Env, Program};
use serde_json::Value;

use super::scope::Scope;
use super::types::Type;
use crate::error::{Fault, FieldError};
use crate::schema::Schema;

/// What the API server offers of the standard library and its extensions, as far as it is to be had here.
/// Anything else is refused when a CRD is written, rather than misunderstood when an object is.
const FUNCTIONS: &[&str] = &[
    "_&&_",
    "_||_",
    "!_",
    "_?_:_",
    "_==_",
    "_!=_",
    "_<_",
    "_<=_",
    "_>_",
    "_>=_",
    "_+_",
    "_-_",
    "_*_",
    "_/_",
    "_%_",
    "-_",
    "@in",
    "_[_]",
    "@not_strictly_false",
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "matches",
    "int",
    "uint",
    "double",
    "string",
    "bool",
    "dyn",
    "charAt",
    "indexOf",
    "lastIndexOf",
    "lowerAscii",
    "upperAscii",
    "replace",
    "split",
    "substring",
    "trim",
    "join",
];

static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut environment = Env::stdlib();
    // A failure leaves the functions undeclared, and rules that use them fail to be evaluated.
    let _ = environment.add_extension(cel::extensions::strings);
    Arc::new(environment)
});

pub(super) fn environment() -> Arc<Env> {
    Arc::clone(&ENVIRONMENT)
}

/// A compiled rule.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(super) program: Program,
    pub(super) source: String,
    pub(super) message: Option<String>,
    pub(super) message_expression: Option<Program>,
    pub(super) fault: Fault,
    pub(super) field_path: String,
    /// Whether it compares with the state before, and so says nothing of new objects.
    pub(super) is_transition: bool,
    pub(super) optional_old_self: bool,
}

impl Rule {
    /// Compiles an entry of `x-kubernetes-validations` of a schema.
    ///
    /// # Errors
    ///
    /// What is wrong with it, or not to be had here.
    pub(crate) fn compile(value: &Value, path: &str, schema: &Schema) -> Result<Self, FieldError> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let at = |name: &str| format!("{path}.{name}");
        let source = text("rule").unwrap_or("");
        if source.trim().is_empty() {
            return Err(FieldError::required(&at("rule"), "rule is not specified"));
        }
        let program = program(
            source,
            &at("rule"),
            schema,
            Type::Bool,
            "cel expression must evaluate to a bool",
        )?;
        let message_expression = text("messageExpression");
        let message_expression = message_expression
            .map(|expression| {
                let why = "messageExpression must evaluate to a string";
                self::program(
                    expression,
                    &at("messageExpression"),
                    schema,
                    Type::String,
                    why,
                )
            })
            .transpose()?;
        let message = text("message");
        if message.is_some_and(|message| message.trim().is_empty()) {
            let detail = "message must be non-empty if specified";
            return Err(FieldError::invalid(&at("message"), &message.into(), detail));
        }
        let fault = match text("reason") {
            None | Some("FieldValueInvalid") => Fault::Invalid,
            Some("FieldValueRequired") => Fault::Required,
            Some("FieldValueForbidden") => Fault::Forbidden,
            Some("FieldValueDuplicate") => Fault::Duplicate,
            Some(other) => {
                let known = [
                    "FieldValueRequired",
                    "FieldValueInvalid",
                    "FieldValueForbidden",
                    "FieldValueDuplicate",
                ];
                return Err(FieldError::not_supported(
                    &at("reason"),
                    &other.into(),
                    &known.map(str::to_owned),
                ));
            }
        };
        let field_path = text("fieldPath").unwrap_or("");
        if !field_path.is_empty() && !is_field(field_path, schema) {
            let detail =
                format!("fieldPath must be a valid path to a field of the schema: {field_path}");
            return Err(FieldError::invalid(
                &at("fieldPath"),
                &field_path.into(),
                detail,
            ));
        }
        Ok(Self {
            is_transition: program.references().has_variable("oldSelf"),
            optional_old_self: value
                .get("optionalOldSelf")
                .and_then(Value::as_bool)
                .unwrap_or(false),
            program,
            source: source.to_owned(),
            message: message.map(str::to_owned),
            message_expression,
            fault,
            field_path: field_path.to_owned(),
        })
        .and_then(|rule| match rule.optional_old_self {
            true => Err(FieldError::forbidden(
                &at("optionalOldSelf"),
                "is not supported by this server",
            )),
            false => Ok(rule),
        })
    }
}

fn program(
    source: &str,
    at: &str,
    schema: &Schema,
    wanted: Type,
    otherwise: &str,
) -> Result<Program, FieldError> {
    let refused = |why: String| {
        FieldError::invalid(
            at,
            &source.into(),
            format!("compilation failed: ERROR: <input>:1:1: {why}"),
        )
    };
    let program = environment()
        .compile(source)
        .map_err(|error| refused(error.to_string()))?;
    let references = program.references();
    for function in references.functions() {
        if !FUNCTIONS.contains(&function) {
            return Err(refused(format!(
                "undeclared reference to '{function}' (in container '')"
            )));
        }
    }
    let found = Scope::of(schema)
        .check(program.expression())
        .map_err(refused)?;
    if found.kind != wanted && found.kind != Type::Any {
        return Err(FieldError::invalid(at, &source.into(), otherwise));
    }
    Ok(program)
}

fn is_field(path: &str, schema: &Schema) -> bool {
    let mut at = Some(schema);
    for name in path.trim_start_matches('.').split('.') {
        let name = name.split('[').next().unwrap_or(name);
        at = at.and_then(|schema| {
            schema
                .properties
                .get(name)
                .or(schema.additional.as_ref())
                .map(Arc::as_ref)
        });
    }
    path.starts_with('.') && at.is_some()
}
