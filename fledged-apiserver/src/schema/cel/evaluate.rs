//! Evaluating rules.

use cel::{Context, Value as Cel};
use serde_json::Value;

use super::rule::{Rule, environment};
use super::value::from_json;
use crate::error::{Fault, FieldError};
use crate::schema::{ListType, Schema};

/// A value and what it was before, if it was there before.
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

/// The item of the old list that is the same one: only lists that are maps can tell.
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
