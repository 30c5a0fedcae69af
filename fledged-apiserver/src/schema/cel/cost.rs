//! The estimated cost of rules, as the API server limits it: the most work that a rule may do, for the most values
//! that an object may have.
//!
//! An estimate of that estimate: of the functions, only those count more than one that read a whole text or list.

use cel::IdedExpr;
use cel::common::ast::{EntryExpr, Expr, LiteralValue};

use super::types::{Scope, Type};
use crate::error::FieldError;
use crate::schema::structural::{Schema, Shape};

/// Most work of one rule.
const RULE_MAX: u64 = 10_000_000;
/// Most work of all rules of a definition.
const DEFINITION_MAX: u64 = 100_000_000;
/// Largest request, in bytes: no text is longer.
const REQUEST_MAX: u64 = 3 * 1024 * 1024;
/// Bytes of a character, at most.
const CHARACTER_MAX: u64 = 4;
/// The cost of creating a list, and a map.
const LIST: u64 = 10;
const MAP: u64 = 30;

/// The rules that cost too much, and the definition if all of them do together.
pub(crate) fn expensive_rules(schema: &Schema, path: &str) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let total = walk(schema, path, 1, &mut faults);
    if total > DEFINITION_MAX {
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        faults.push(FieldError::forbidden(
            path,
            refusal(what, total, DEFINITION_MAX),
        ));
    }
    faults
}

/// Returns the cost of all rules of a schema that an object has at most `times` values of.
fn walk(schema: &Schema, path: &str, times: u64, faults: &mut Vec<FieldError>) -> u64 {
    let scope = Scope::of(schema);
    let mut total = 0_u64;
    for (index, rule) in schema.rules.iter().enumerate() {
        let cost = cost(rule.program.expression(), &scope).saturating_mul(times);
        total = total.saturating_add(cost);
        if cost > RULE_MAX {
            let at = format!("{path}.x-kubernetes-validations[{index}].rule");
            let detail = refusal("estimated rule cost", cost, RULE_MAX);
            faults.push(FieldError::forbidden(&at, detail));
        }
    }
    let mut inside = |schema: &Schema, path: String, times: u64| {
        total = total.saturating_add(walk(schema, &path, times, faults));
    };
    for (name, property) in &schema.properties {
        inside(property, format!("{path}.properties[{name}]"), times);
    }
    let many = times.saturating_mul(largest(schema));
    if let Some(additional) = &schema.additional {
        inside(additional, format!("{path}.additionalProperties"), many);
    }
    if let Some(items) = &schema.items {
        inside(items, format!("{path}.items"), many);
    }
    total
}

fn refusal(what: &str, cost: u64, limit: u64) -> String {
    let factor = match cost / limit {
        100.. => "more than 100x".to_owned(),
        _ => format!("{}.{}x", cost / limit, cost % limit * 10 / limit),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

/// The most characters, items or entries that a value may have.
fn largest(schema: &Schema) -> u64 {
    let limits = &schema.limits;
    let in_request = |smallest: u64| REQUEST_MAX / (smallest + 1);
    match schema.shape {
        Shape::String => match (&limits.one_of_values, limits.max_length) {
            (Some(values), _) => {
                let lengths = values.iter().filter_map(|value| value.as_str());
                lengths.map(|text| text.len() as u64).max().unwrap_or(0)
            }
            (None, Some(most)) => most.saturating_mul(CHARACTER_MAX).min(REQUEST_MAX),
            (None, None) => REQUEST_MAX,
        },
        Shape::Array => {
            let item = schema.items.as_deref().map_or(1, smallest);
            limits.max_items.unwrap_or_else(|| in_request(item))
        }
        Shape::Object => match &schema.additional {
            // A key takes at least two quotes and a colon.
            Some(value) => {
                let entry = 3 + smallest(value);
                limits.max_properties.unwrap_or_else(|| in_request(entry))
            }
            None => 1,
        },
        Shape::IntOrString | Shape::Any => REQUEST_MAX,
        Shape::Integer | Shape::Number | Shape::Boolean => 1,
    }
}

/// The fewest bytes of a value as JSON.
fn smallest(schema: &Schema) -> u64 {
    match schema.shape {
        Shape::String | Shape::Array => 2,
        Shape::Object => {
            let required = schema.limits.required.iter();
            let fields = required.filter_map(|name| Some((name, schema.properties.get(name)?)));
            let bytes = fields.map(|(name, field)| name.len() as u64 + 4 + smallest(field));
            2 + bytes.sum::<u64>()
        }
        Shape::Any | Shape::IntOrString | Shape::Integer | Shape::Number | Shape::Boolean => 1,
    }
}

/// The cost of reading that many characters.
fn reading(characters: u64) -> u64 {
    characters.div_ceil(10)
}

/// The most characters, items or entries of the value of an expression.
fn size(expression: &IdedExpr, scope: &Scope<'_>) -> u64 {
    match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => text.inner().len() as u64,
        Expr::Literal(_) => 1,
        Expr::List(list) => list.elements.len() as u64,
        _ => match scope.check(expression) {
            Ok(known) => match (known.schema, known.kind) {
                (Some(schema), _) => largest(schema),
                (None, Type::String) => REQUEST_MAX,
                (None, _) => 1,
            },
            Err(_) => 1,
        },
    }
}

fn cost(expression: &IdedExpr, scope: &Scope<'_>) -> u64 {
    let sum = |all: &mut dyn Iterator<Item = &IdedExpr>| {
        all.fold(0_u64, |sum, each| sum.saturating_add(cost(each, scope)))
    };
    match &expression.expr {
        Expr::Unspecified | Expr::Literal(_) | Expr::Struct(_) => 0,
        Expr::Ident(_) => 1,
        Expr::Select(select) => cost(&select.operand, scope).saturating_add(1),
        Expr::List(list) => sum(&mut list.elements.iter()).saturating_add(LIST),
        Expr::Map(map) => {
            let entries = map.entries.iter().flat_map(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
                EntryExpr::StructField(field) => vec![&field.value],
            });
            sum(&mut { entries }).saturating_add(MAP)
        }
        Expr::Call(call) => {
            let arguments: Vec<&IdedExpr> = call
                .target
                .as_deref()
                .into_iter()
                .chain(&call.args)
                .collect();
            let size = |n: usize| arguments.get(n).map_or(1, |argument| size(argument, scope));
            let own = match call.func_name.as_str() {
                "_&&_" | "_||_" | "_?_:_" => 0,
                "startsWith" | "endsWith" => reading(size(1)),
                "contains" => reading(size(0)).saturating_mul(reading(size(1))),
                // A quarter for each character of the expression.
                "matches" => reading(size(0) + 1).saturating_mul(size(1).div_ceil(4)),
                "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" => reading(size(0).min(size(1))),
                "@in" => size(1),
                "string" | "duration" | "lowerAscii" | "upperAscii" | "trim" | "replace"
                | "split" | "substring" | "indexOf" | "lastIndexOf" | "join" => reading(size(0)),
                _ => 1,
            };
            sum(&mut arguments.into_iter()).saturating_add(own)
        }
        Expr::Comprehension(comprehension) => {
            let range = cost(&comprehension.iter_range, scope);
            let Ok(inner) = scope.inside(comprehension) else {
                return range;
            };
            let each = cost(&comprehension.loop_cond, &inner)
                .saturating_add(cost(&comprehension.loop_step, &inner));
            size(&comprehension.iter_range, scope)
                .saturating_mul(each)
                .saturating_add(range)
                .saturating_add(cost(&comprehension.accu_init, scope))
                .saturating_add(cost(&comprehension.result, &inner))
        }
    }
}
