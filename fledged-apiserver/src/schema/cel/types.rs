//! Types of expressions, as far as they are checked.
//!
//! The API server checks the types of whole expressions. This checks the names of variables and fields, and scalars
//! of different types.

use std::collections::BTreeMap;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, LiteralValue};

use super::variables::escaped;
use crate::schema::structural::{Schema, Shape};

/// A type; `Any` where it is unknown and everything is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Any,
    Bool,
    Int,
    Double,
    String,
    List,
    Map,
    /// Only compared with others.
    Duration,
}

impl Type {
    pub(super) fn of(shape: Shape) -> Self {
        match shape {
            Shape::Any | Shape::IntOrString => Self::Any,
            Shape::Object => Self::Map,
            Shape::Array => Self::List,
            Shape::String => Self::String,
            Shape::Integer => Self::Int,
            Shape::Number => Self::Double,
            Shape::Boolean => Self::Bool,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Any => "dyn",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Double => "double",
            Self::String => "string",
            Self::List => "list",
            Self::Map => "map",
            Self::Duration => "google.protobuf.Duration",
        }
    }

    fn may_be(self, other: Self) -> bool {
        self == Self::Any || other == Self::Any || self == other
    }

    fn is_number(self) -> bool {
        matches!(self, Self::Any | Self::Int | Self::Double)
    }
}

/// The type of the result of a function.
///
/// # Errors
///
/// Arguments of wrong types.
fn result(function: &str, arguments: &[Type]) -> Result<Type, String> {
    let all = |wanted: Type| arguments.iter().all(|kind| kind.may_be(wanted));
    let first = arguments.first().copied().unwrap_or(Type::Any);
    let second = arguments.get(1).copied().unwrap_or(Type::Any);
    let (fits, kind) = match function {
        "_&&_" | "_||_" | "!_" => (all(Type::Bool), Type::Bool),
        "_==_" | "_!=_" => (first.may_be(second), Type::Bool),
        "_<_" | "_<=_" | "_>_" | "_>=_" => {
            let numbers = first.is_number() && second.is_number();
            (
                numbers || (first.may_be(second) && first != Type::List && first != Type::Map),
                Type::Bool,
            )
        }
        "duration" => (first.may_be(Type::String), Type::Duration),
        "dyn" => (first != Type::Duration, Type::Any),
        "_+_" => (
            first.may_be(second) && !matches!(first, Type::Bool | Type::Map | Type::Duration),
            if first == Type::Any { second } else { first },
        ),
        "_-_" | "_*_" | "_/_" | "_%_" => {
            let fits = first.is_number() && second.is_number() && first.may_be(second);
            (fits, if first == Type::Any { second } else { first })
        }
        "-_" => (first.is_number(), first),
        "_?_:_" => {
            let third = arguments.get(2).copied().unwrap_or(Type::Any);
            let kind = if second == Type::Any { third } else { second };
            (first.may_be(Type::Bool) && second.may_be(third), kind)
        }
        "@in" => (
            matches!(second, Type::Any | Type::List | Type::Map),
            Type::Bool,
        ),
        "startsWith" | "endsWith" | "contains" | "matches" => (all(Type::String), Type::Bool),
        "size" => (
            matches!(first, Type::Any | Type::String | Type::List | Type::Map),
            Type::Int,
        ),
        "indexOf" | "lastIndexOf" => (matches!(first, Type::Any | Type::String), Type::Int),
        "int" => (
            !matches!(first, Type::Bool | Type::List | Type::Map | Type::Duration),
            Type::Int,
        ),
        "double" => (
            !matches!(first, Type::Bool | Type::List | Type::Map | Type::Duration),
            Type::Double,
        ),
        "bool" => (
            first.may_be(Type::Bool) || first == Type::String,
            Type::Bool,
        ),
        "string" => (
            !matches!(first, Type::List | Type::Map | Type::Duration),
            Type::String,
        ),
        "lowerAscii" | "upperAscii" | "trim" | "replace" | "substring" | "charAt" => {
            (first.may_be(Type::String), Type::String)
        }
        "join" => (first.may_be(Type::List), Type::String),
        "split" => (first.may_be(Type::String), Type::List),
        _ => (true, Type::Any),
    };
    if fits {
        return Ok(kind);
    }
    let listed: Vec<&str> = arguments.iter().map(|kind| kind.name()).collect();
    Err(format!(
        "found no matching overload for '{function}' applied to '({})'",
        listed.join(", ")
    ))
}

/// The type of a value, and its schema where it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownType<'s> {
    pub(super) schema: Option<&'s Schema>,
    pub(super) kind: Type,
}

impl<'s> KnownType<'s> {
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
/// The API server checks the types of whole expressions. This checks the names of
/// variables and fields, and scalars of different types.
#[derive(Clone)]
pub(super) struct Scope<'s> {
    variables: BTreeMap<String, KnownType<'s>>,
}

impl<'s> Scope<'s> {
    pub(super) fn of(schema: &'s Schema) -> Self {
        let names = ["self", "oldSelf"];
        let known = KnownType::of(Some(schema));
        Self {
            variables: names
                .into_iter()
                .map(|name| (name.to_owned(), known))
                .collect(),
        }
    }

    fn with(&self, name: &str, known: KnownType<'s>) -> Self {
        let mut scope = self.clone();
        scope.variables.insert(name.to_owned(), known);
        scope
    }

    /// The type of the result of an expression.
    ///
    /// # Errors
    ///
    /// The first undeclared reference, or operator on wrong types.
    pub(super) fn check(&self, expression: &IdedExpr) -> Result<KnownType<'s>, String> {
        match &expression.expr {
            Expr::Unspecified => Ok(KnownType::kind(Type::Any)),
            Expr::Literal(literal) => Ok(KnownType::kind(match literal {
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
                    KnownType::kind(Type::Bool)
                } else {
                    found
                })
            }
            Expr::Call(call) => self.call(call),
            Expr::List(list) => {
                list.elements
                    .iter()
                    .try_for_each(|element| self.check(element).map(|_| ()))?;
                Ok(KnownType::kind(Type::List))
            }
            Expr::Map(map) => {
                map.entries
                    .iter()
                    .try_for_each(|entry| self.check_entry(&entry.expr))?;
                Ok(KnownType::kind(Type::Map))
            }
            Expr::Struct(found) => Err(format!(
                "undeclared reference to '{}' (in container '')",
                found.type_name
            )),
            Expr::Comprehension(comprehension) => {
                let inner = self.inside(comprehension)?;
                inner.check(&comprehension.loop_cond)?;
                inner.check(&comprehension.loop_step)?;
                inner.check(&comprehension.result)
            }
        }
    }

    /// The variables inside of a comprehension.
    ///
    /// # Errors
    ///
    /// As for [`check`](Self::check).
    pub(super) fn inside(&self, comprehension: &ComprehensionExpr) -> Result<Self, String> {
        let range = self.check(&comprehension.iter_range)?;
        if comprehension.iter_var2.is_some() {
            return Err("comprehensions over two variables are not supported".to_owned());
        }
        // A comprehension iterates over the items of a list, or the keys of a map.
        let item = match range.schema {
            Some(schema) if schema.shape == Shape::Object => KnownType::kind(Type::String),
            schema => KnownType::of(schema.and_then(|schema| schema.items.as_deref())),
        };
        let start = self.check(&comprehension.accu_init)?;
        Ok(self
            .with(&comprehension.accu_var, start)
            .with(&comprehension.iter_var, item))
    }

    fn call(&self, call: &CallExpr) -> Result<KnownType<'s>, String> {
        let mut known = Vec::new();
        for argument in call.target.as_deref().into_iter().chain(&call.args) {
            known.push(self.check(argument)?);
        }
        if call.func_name == "_[_]" {
            let schema = known.first().and_then(|known| known.schema);
            let inner =
                schema.and_then(|schema| schema.items.as_deref().or(schema.additional.as_deref()));
            return Ok(KnownType::of(inner));
        }
        let kinds: Vec<Type> = known.iter().map(|known| known.kind).collect();
        result(&call.func_name, &kinds).map(KnownType::kind)
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

fn field<'s>(known: KnownType<'s>, name: &str) -> Result<KnownType<'s>, String> {
    let Some(schema) = known.schema else {
        return Ok(KnownType::kind(Type::Any));
    };
    match schema.shape {
        Shape::Object => {
            if let Some(additional) = &schema.additional {
                return Ok(KnownType::of(Some(additional)));
            }
            let found = schema
                .properties
                .iter()
                .find(|(known, _)| escaped(known) == name);
            match found {
                Some((_, schema)) => Ok(KnownType::of(Some(schema))),
                None if schema.embedded && matches!(name, "apiVersion" | "kind" | "metadata") => {
                    Ok(KnownType::kind(Type::Any))
                }
                None => Err(format!("undefined field '{name}'")),
            }
        }
        Shape::Any | Shape::IntOrString => Ok(KnownType::kind(Type::Any)),
        other => Err(format!(
            "type '{}' does not support field selection",
            other.name()
        )),
    }
}
