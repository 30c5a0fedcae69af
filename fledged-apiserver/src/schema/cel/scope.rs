//! What expressions may refer to, and of which types.

use std::collections::BTreeMap;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, EntryExpr, Expr, LiteralValue};

use super::types::{Type, result};
use super::value::escaped;
use crate::schema::{Schema, Shape};

/// What is known of a value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'s> {
    schema: Option<&'s Schema>,
    pub(super) kind: Type,
}

impl<'s> Known<'s> {
    fn kind(kind: Type) -> Self {
        Self { schema: None, kind }
    }

    fn of(schema: Option<&'s Schema>) -> Self {
        Self {
            schema,
            kind: schema.map_or(Type::Any, |schema| Type::of(schema.shape)),
        }
    }
}

/// The variables of an expression.
///
/// The API server checks the types of whole expressions. This checks what mistakes are mostly made of: names of
/// variables and fields, and scalars of different types.
#[derive(Clone)]
pub(super) struct Scope<'s> {
    variables: BTreeMap<String, Known<'s>>,
}

impl<'s> Scope<'s> {
    pub(super) fn of(schema: &'s Schema) -> Self {
        let names = ["self", "oldSelf"];
        let known = Known::of(Some(schema));
        Self {
            variables: names
                .into_iter()
                .map(|name| (name.to_owned(), known))
                .collect(),
        }
    }

    fn with(&self, name: &str, known: Known<'s>) -> Self {
        let mut scope = self.clone();
        scope.variables.insert(name.to_owned(), known);
        scope
    }

    /// What an expression yields.
    ///
    /// # Errors
    ///
    /// The first reference to something that isn't there, or operator on types that it isn't for.
    pub(super) fn check(&self, expression: &IdedExpr) -> Result<Known<'s>, String> {
        match &expression.expr {
            Expr::Unspecified => Ok(Known::kind(Type::Any)),
            Expr::Literal(literal) => Ok(Known::kind(match literal {
                LiteralValue::Boolean(_) => Type::Bool,
                LiteralValue::Int(_) => Type::Int,
                LiteralValue::Double(_) => Type::Double,
                LiteralValue::String(_) => Type::String,
                LiteralValue::Bytes(_) | LiteralValue::Null | LiteralValue::UInt(_) => Type::Any,
            })),
            Expr::Ident(name) => match self.variables.get(name) {
                Some(known) => Ok(*known),
                None => Err(format!(
                    "undeclared reference to '{name}' (in container '')"
                )),
            },
            Expr::Select(select) => {
                let found = field(self.check(&select.operand)?, &select.field)?;
                Ok(if select.test {
                    Known::kind(Type::Bool)
                } else {
                    found
                })
            }
            Expr::Call(call) => self.call(call),
            Expr::List(list) => {
                list.elements
                    .iter()
                    .try_for_each(|element| self.check(element).map(|_| ()))?;
                Ok(Known::kind(Type::List))
            }
            Expr::Map(map) => {
                map.entries
                    .iter()
                    .try_for_each(|entry| self.check_entry(&entry.expr))?;
                Ok(Known::kind(Type::Map))
            }
            Expr::Struct(found) => Err(format!(
                "undeclared reference to '{}' (in container '')",
                found.type_name
            )),
            Expr::Comprehension(comprehension) => {
                let range = self.check(&comprehension.iter_range)?;
                if comprehension.iter_var2.is_some() {
                    return Err("comprehensions over two variables are not supported".to_owned());
                }
                // Over a list go its items, over a map its keys.
                let item = match range.schema {
                    Some(schema) if schema.shape == Shape::Object => Known::kind(Type::String),
                    schema => Known::of(schema.and_then(|schema| schema.items.as_deref())),
                };
                let start = self.check(&comprehension.accu_init)?;
                let inner = self
                    .with(&comprehension.accu_var, start)
                    .with(&comprehension.iter_var, item);
                inner.check(&comprehension.loop_cond)?;
                inner.check(&comprehension.loop_step)?;
                inner.check(&comprehension.result)
            }
        }
    }

    fn call(&self, call: &CallExpr) -> Result<Known<'s>, String> {
        let mut known = Vec::new();
        for argument in call.target.as_deref().into_iter().chain(&call.args) {
            known.push(self.check(argument)?);
        }
        if call.func_name == "_[_]" {
            let schema = known.first().and_then(|known| known.schema);
            let inner =
                schema.and_then(|schema| schema.items.as_deref().or(schema.additional.as_deref()));
            return Ok(Known::of(inner));
        }
        let kinds: Vec<Type> = known.iter().map(|known| known.kind).collect();
        result(&call.func_name, &kinds).map(Known::kind)
    }

    fn check_entry(&self, entry: &EntryExpr) -> Result<(), String> {
        match entry {
            EntryExpr::MapEntry(entry) => {
                self.check(&entry.key)?;
                self.check(&entry.value).map(|_| ())
            }
            EntryExpr::StructField(field) => self.check(&field.value).map(|_| ()),
        }
    }
}

fn field<'s>(known: Known<'s>, name: &str) -> Result<Known<'s>, String> {
    let Some(schema) = known.schema else {
        return Ok(Known::kind(Type::Any));
    };
    match schema.shape {
        Shape::Object => {
            if let Some(additional) = &schema.additional {
                return Ok(Known::of(Some(additional)));
            }
            let found = schema
                .properties
                .iter()
                .find(|(known, _)| escaped(known) == name);
            match found {
                Some((_, schema)) => Ok(Known::of(Some(schema))),
                None if schema.embedded && matches!(name, "apiVersion" | "kind" | "metadata") => {
                    Ok(Known::kind(Type::Any))
                }
                None => Err(format!("undefined field '{name}'")),
            }
        }
        Shape::Any | Shape::IntOrString => Ok(Known::kind(Type::Any)),
        other => Err(format!(
            "type '{}' does not support field selection",
            other.name()
        )),
    }
}
