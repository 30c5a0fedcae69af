//! Rules in the Common Expression Language (`x-kubernetes-validations`): compiling and evaluating them.

mod cost;
mod duration;
mod types;
mod variables;

use std::sync::{Arc, LazyLock};

use cel::common::types as cel_types;
use cel::common::value::CowVal;
use cel::{Context, Env, ExecutionError, Program, Value as Cel};
use serde_json::Value;

use super::structural::{ListType, Rule, Schema};
use crate::error::{Fault, FieldError};
pub(crate) use cost::expensive_rules;
use types::{Scope, Type};
use variables::from_json;

/// The functions of the API server that are supported here.
/// A CRD with any other function is refused, rather than evaluated wrongly later.
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
    "duration",
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
    // On failure the functions stay undeclared, and rules that use them fail.
    let _ = environment.add_extension(cel::extensions::strings);
    // Durations are compared and not shown, so that a number of nanoseconds is enough.
    let _ = environment.add_overload(
        "duration",
        "string_to_duration",
        vec![cel_types::STRING_TYPE],
        |arguments| {
            let text = arguments
                .first()
                .and_then(|value| value.downcast_ref::<cel_types::CelString>());
            let text = text.map_or("", |text| text.inner());
            let nanoseconds = duration::nanoseconds(text).ok_or_else(|| {
                ExecutionError::function_error("duration", format!("invalid duration: {text}"))
            })?;
            Ok(CowVal::owned(cel_types::CelInt::from(nanoseconds)))
        },
    );
    Arc::new(environment)
});

fn environment() -> Arc<Env> {
    Arc::clone(&ENVIRONMENT)
}

/// Compiles an entry of `x-kubernetes-validations` of a schema.
///
/// # Errors
///
/// What is invalid or not supported.
pub(crate) fn compile(value: &Value, path: &str, schema: &Schema) -> Result<Rule, FieldError> {
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
    if value.get("optionalOldSelf") == Some(&Value::Bool(true)) {
        return Err(FieldError::forbidden(
            &at("optionalOldSelf"),
            "is not supported by this server",
        ));
    }
    Ok(Rule {
        is_transition: program.references().has_variable("oldSelf"),
        program,
        source: source.to_owned(),
        message: message.map(str::to_owned),
        message_expression,
        fault,
        field_path: field_path.to_owned(),
    })
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

/// A value, and its old state if there is one.
#[derive(Clone, Copy)]
pub(crate) struct RuleInput<'v> {
    pub(crate) new: &'v Value,
    pub(crate) old: Option<&'v Value>,
}

/// Evaluates the rules of a schema, at every depth.
pub(crate) fn check_rules(input: RuleInput<'_>, schema: &Schema, path: &str) -> Vec<FieldError> {
    let mut faults = Vec::new();
    walk(input, schema, path, &mut faults);
    faults
}

fn walk(input: RuleInput<'_>, schema: &Schema, path: &str, faults: &mut Vec<FieldError>) {
    if input.new.is_null() {
        return;
    }
    for rule in &schema.rules {
        faults.extend(evaluate(rule, input, schema, path));
    }
    match input.new {
        Value::Object(fields) => {
            for (name, value) in fields {
                let Some(known) = schema.properties.get(name).or(schema.additional.as_ref()) else {
                    continue;
                };
                let old = input.old.and_then(|old| old.get(name));
                let at = match (path, schema.properties.contains_key(name)) {
                    ("", _) => name.clone(),
                    (path, true) => format!("{path}.{name}"),
                    (path, false) => format!("{path}[{name}]"),
                };
                walk(RuleInput { new: value, old }, known, &at, faults);
            }
        }
        Value::Array(items) => {
            let Some(known) = &schema.items else { return };
            for (index, item) in items.iter().enumerate() {
                let old = input
                    .old
                    .and_then(|old| counterpart(item, old, &schema.list));
                walk(
                    RuleInput { new: item, old },
                    known,
                    &format!("{path}[{index}]"),
                    faults,
                );
            }
        }
        _ => {}
    }
}

/// The same item of the old list, found by its keys; none for lists without keys.
fn counterpart<'v>(item: &Value, old: &'v Value, list: &ListType) -> Option<&'v Value> {
    let ListType::Map(keys) = list else {
        return None;
    };
    let same = |other: &&Value| keys.iter().all(|key| other.get(key) == item.get(key));
    old.as_array()?.iter().find(same)
}

fn evaluate(rule: &Rule, input: RuleInput<'_>, schema: &Schema, path: &str) -> Option<FieldError> {
    let old = match (rule.is_transition, input.old) {
        (true, None) => return None,
        (_, old) => old,
    };
    let mut context = Context::with_env(environment());
    context.add_variable_from_value("self", from_json(input.new, schema));
    if let Some(old) = old {
        context.add_variable_from_value("oldSelf", from_json(old, schema));
    }
    let at = format!("{path}{}", rule.field_path);
    let at = at.trim_start_matches('.');
    match rule.program.execute(&context) {
        Ok(Cel::Bool(true)) => None,
        Ok(Cel::Bool(false)) => {
            let computed = rule.message_expression.as_ref().and_then(|program| {
                match program.execute(&context) {
                    Ok(Cel::String(text)) if !text.trim().is_empty() => {
                        Some(text.trim().to_owned())
                    }
                    _ => None,
                }
            });
            let message = computed.or_else(|| rule.message.clone());
            let message = message.unwrap_or_else(|| format!("failed rule: {}", rule.source.trim()));
            let detail = if rule.fault == Fault::Duplicate {
                String::new()
            } else {
                message
            };
            Some(match input.new {
                Value::Object(_) | Value::Array(_) => {
                    FieldError::without_value(rule.fault, at, detail)
                }
                scalar => FieldError::new(rule.fault, at, scalar, detail),
            })
        }
        Ok(_) => Some(failed(
            at,
            schema,
            &format!("expected bool result evaluating rule: {}", rule.source),
        )),
        Err(error) => {
            let mut error = error.to_string();
            if let Some(first) = error.get_mut(..1) {
                first.make_ascii_lowercase();
            }
            Some(failed(
                at,
                schema,
                &format!("{error} evaluating rule: {}", rule.source),
            ))
        }
    }
}

fn failed(at: &str, schema: &Schema, detail: &str) -> FieldError {
    FieldError::invalid(at, &schema.shape.name().into(), detail)
}

/// Rules that compare with the old state of a value that has none: of an item of a list whose items have no keys.
pub(crate) fn misplaced_transitions(schema: &Schema, path: &str) -> Vec<FieldError> {
    let mut faults = Vec::new();
    find_misplaced(schema, path, None, &mut faults);
    faults
}

/// `unordered` is the path of the list or map around the schema whose items have no old state.
fn find_misplaced(
    schema: &Schema,
    path: &str,
    unordered: Option<&str>,
    faults: &mut Vec<FieldError>,
) {
    let rules = schema.rules.iter().enumerate();
    for (index, rule) in rules.filter(|(_, rule)| rule.is_transition) {
        let Some(list) = unordered else { break };
        let at = format!("{path}.x-kubernetes-validations[{index}].rule");
        let detail = format!(
            "oldSelf cannot be used on the uncorrelatable portion of the schema within {list}"
        );
        let source = rule.source.as_str().into();
        faults.push(FieldError::invalid(&at, &source, detail));
    }
    for (name, property) in &schema.properties {
        let path = format!("{path}.properties[{name}]");
        find_misplaced(property, &path, unordered, faults);
    }
    if let Some(additional) = &schema.additional {
        let unordered = unordered.or(schema.atomic_map.then_some(path));
        let path = format!("{path}.additionalProperties");
        find_misplaced(additional, &path, unordered, faults);
    }
    if let Some(items) = &schema.items {
        let is_map = matches!(schema.list, ListType::Map(_));
        let unordered = unordered.or((!is_map).then_some(path));
        find_misplaced(items, &format!("{path}.items"), unordered, faults);
    }
}
