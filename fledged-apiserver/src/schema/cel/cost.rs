//! What rules may cost at most.
//!
//! The API server refuses rules that could take too long on the largest object that a request can carry. The
//! estimate here follows that of its CEL library, with the same limits, but not to the last digit.

use std::collections::BTreeMap;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, EntryExpr, Expr, LiteralValue};

use super::rule::Rule;
use super::size::most_items;
use super::value::escaped;
use crate::error::{Fault, FieldError};
use crate::schema::{ListType, Schema, Shape};

/// The limit of one rule, and of all rules of a schema.
const RULE_LIMIT: u64 = 10_000_000;
const TOTAL_LIMIT: u64 = 100_000_000;

/// What is known of a value: its cost, its schema, and how long it can be.
#[derive(Clone, Copy, Default)]
struct Estimate<'s> {
    cost: u64,
    schema: Option<&'s Schema>,
    size: u64,
}

impl<'s> Estimate<'s> {
    fn of(cost: u64, schema: Option<&'s Schema>) -> Self {
        Self {
            cost,
            schema,
            size: schema.map_or(1, most_items),
        }
    }

    fn sized(cost: u64, size: u64) -> Self {
        Self {
            cost,
            schema: None,
            size,
        }
    }
}

/// Reading characters costs a tenth of what a step does.
fn read(size: u64) -> u64 {
    size.div_ceil(10)
}

/// Checks all rules below a schema: what they cost, and that those which compare with what was there before can
/// tell what that is.
pub(crate) fn check_all(schema: &Schema, path: &str) -> Vec<FieldError> {
    let mut walk = Walk::default();
    walk.down(schema, path, 1, None);
    if walk.total > TOTAL_LIMIT {
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        walk.faults.push(fault(path, what, walk.total, TOTAL_LIMIT));
    }
    walk.faults
}

fn fault(path: &str, what: &str, cost: u64, limit: u64) -> FieldError {
    let factor = match cost / limit {
        factor if factor > 100 => "more than 100x".to_owned(),
        _ => format!("{:.1}x", cost as f64 / limit as f64),
    };
    let detail = format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    );
    FieldError::without_value(Fault::Forbidden, path, detail)
}

#[derive(Default)]
struct Walk {
    total: u64,
    faults: Vec<FieldError>,
}

impl Walk {
    /// Goes down a schema whose values can be there so many `times`. Below `unordered`, the path of a list whose
    /// items can't be told from one another, there is no telling what was there before.
    fn down(&mut self, schema: &Schema, path: &str, times: u64, unordered: Option<&str>) {
        for (index, rule) in schema.rules.iter().enumerate() {
            let at = format!("{path}.x-kubernetes-validations[{index}].rule");
            let cost = cost_of(rule, schema).saturating_mul(times);
            self.total = self.total.saturating_add(cost);
            if cost > RULE_LIMIT {
                self.faults
                    .push(fault(&at, "estimated rule cost", cost, RULE_LIMIT));
            }
            if let Some(list) = unordered.filter(|_| rule.is_transition) {
                let detail = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {list}"
                );
                self.faults.push(FieldError::invalid(
                    &at,
                    &rule.source.as_str().into(),
                    detail,
                ));
            }
        }
        for (name, property) in &schema.properties {
            self.down(
                property,
                &format!("{path}.properties[{name}]"),
                times,
                unordered,
            );
        }
        let inside = times.saturating_mul(most_items(schema));
        if let Some(additional) = &schema.additional {
            let unordered = unordered.or(schema.atomic_map.then_some(path));
            self.down(
                additional,
                &format!("{path}.additionalProperties"),
                inside,
                unordered,
            );
        }
        if let Some(items) = &schema.items {
            let is_map = matches!(schema.list, ListType::Map(_));
            let unordered = unordered.or((!is_map).then_some(path));
            self.down(items, &format!("{path}.items"), inside, unordered);
        }
    }
}

fn cost_of(rule: &Rule, schema: &Schema) -> u64 {
    let known = Estimate::of(1, Some(schema));
    let variables = ["self", "oldSelf"].map(|name| (name.to_owned(), known));
    let estimator = Estimator {
        variables: BTreeMap::from(variables),
    };
    let message = rule
        .message_expression
        .as_ref()
        .map_or(0, |program| estimator.cost(program.expression()).cost);
    estimator
        .cost(rule.program.expression())
        .cost
        .saturating_add(message)
}

#[derive(Clone)]
struct Estimator<'s> {
    variables: BTreeMap<String, Estimate<'s>>,
}

impl<'s> Estimator<'s> {
    fn sum<'e>(&self, expressions: impl Iterator<Item = &'e IdedExpr>, start: u64) -> u64 {
        expressions.fold(start, |sum, expression| {
            sum.saturating_add(self.cost(expression).cost)
        })
    }

    fn cost(&self, expression: &IdedExpr) -> Estimate<'s> {
        match &expression.expr {
            Expr::Unspecified | Expr::Struct(_) => Estimate::sized(0, 1),
            Expr::Literal(LiteralValue::String(text)) => {
                Estimate::sized(0, text.inner().len() as u64)
            }
            Expr::Literal(_) => Estimate::sized(0, 1),
            Expr::Ident(name) => self
                .variables
                .get(name)
                .copied()
                .unwrap_or(Estimate::sized(1, 1)),
            Expr::Select(select) => {
                let operand = self.cost(&select.operand);
                let schema = operand
                    .schema
                    .and_then(|schema| field(schema, &select.field));
                Estimate::of(operand.cost.saturating_add(1), schema)
            }
            Expr::Call(call) => self.call(call),
            // Making a list costs ten steps, making a map thirty.
            Expr::List(list) => Estimate::sized(
                self.sum(list.elements.iter(), 10),
                list.elements.len() as u64,
            ),
            Expr::Map(map) => {
                let entries = map.entries.iter().map(|entry| match &entry.expr {
                    EntryExpr::MapEntry(entry) => &entry.value,
                    EntryExpr::StructField(field) => &field.value,
                });
                Estimate::sized(self.sum(entries, 30), map.entries.len() as u64)
            }
            Expr::Comprehension(comprehension) => {
                let range = self.cost(&comprehension.iter_range);
                let item = match range.schema {
                    Some(schema) if schema.shape == Shape::Object => {
                        Estimate::sized(1, most_items(&KEY))
                    }
                    schema => Estimate::of(1, schema.and_then(|schema| schema.items.as_deref())),
                };
                let start = self.cost(&comprehension.accu_init);
                let mut inner = self.clone();
                inner.variables.insert(
                    comprehension.accu_var.clone(),
                    Estimate::sized(1, range.size),
                );
                inner.variables.insert(comprehension.iter_var.clone(), item);
                let step = inner.cost(&comprehension.loop_cond).cost;
                let step = step.saturating_add(inner.cost(&comprehension.loop_step).cost);
                let result = inner.cost(&comprehension.result);
                let cost = range
                    .cost
                    .saturating_add(start.cost)
                    .saturating_add(step.saturating_mul(range.size));
                Estimate::sized(cost.saturating_add(result.cost), range.size)
            }
        }
    }

    fn call(&self, call: &CallExpr) -> Estimate<'s> {
        let arguments: Vec<Estimate<'s>> = call
            .target
            .as_deref()
            .into_iter()
            .chain(&call.args)
            .map(|argument| self.cost(argument))
            .collect();
        let sum = arguments
            .iter()
            .fold(0_u64, |sum, argument| sum.saturating_add(argument.cost));
        let size = |index: usize| arguments.get(index).map_or(1, |argument| argument.size);
        let (first, second) = (size(0), size(1));
        let (own, size) = match call.func_name.as_str() {
            "_&&_" | "_||_" | "!_" | "_?_:_" => (0, first.max(second).max(size(2))),
            "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" => (read(first.min(second)), 1),
            "startsWith" | "endsWith" => (read(second), 1),
            "contains" | "indexOf" | "lastIndexOf" => (read(first).saturating_mul(read(second)), 1),
            "matches" => (read(first + 1).saturating_mul(second.div_ceil(4)), 1),
            "_+_" => (
                read(first.saturating_add(second)),
                first.saturating_add(second),
            ),
            "@in" => (second, 1),
            "lowerAscii" | "upperAscii" | "trim" | "replace" | "substring" | "split" | "join"
            | "string" => (read(first), first),
            "_[_]" => {
                let schema = arguments.first().and_then(|argument| argument.schema);
                let inner = schema
                    .and_then(|schema| schema.items.as_deref().or(schema.additional.as_deref()));
                return Estimate::of(sum.saturating_add(1), inner);
            }
            _ => (1, 1),
        };
        Estimate::sized(sum.saturating_add(own), size)
    }
}

/// Keys of maps have no limit of their own.
static KEY: std::sync::LazyLock<Schema> = std::sync::LazyLock::new(|| Schema {
    shape: Shape::String,
    ..Schema::default()
});

fn field<'s>(schema: &'s Schema, name: &str) -> Option<&'s Schema> {
    let found = schema
        .properties
        .iter()
        .find(|(known, _)| escaped(known) == name);
    found
        .map(|(_, schema)| schema.as_ref())
        .or(schema.additional.as_deref())
}
