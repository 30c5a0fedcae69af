//! Types of expressions, as far as they are told apart.

use crate::schema::Shape;

/// A type; `Any` where it isn't known, and everything is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Any,
    Bool,
    Int,
    Double,
    String,
    List,
    Map,
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
        }
    }

    fn may_be(self, other: Self) -> bool {
        self == Self::Any || other == Self::Any || self == other
    }

    fn is_number(self) -> bool {
        matches!(self, Self::Any | Self::Int | Self::Double)
    }
}

/// What a function yields.
///
/// # Errors
///
/// Arguments that it isn't for.
pub(super) fn result(function: &str, arguments: &[Type]) -> Result<Type, String> {
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
        "_+_" => (
            first.may_be(second) && !matches!(first, Type::Bool | Type::Map),
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
            !matches!(first, Type::Bool | Type::List | Type::Map),
            Type::Int,
        ),
        "double" => (
            !matches!(first, Type::Bool | Type::List | Type::Map),
            Type::Double,
        ),
        "bool" => (
            first.may_be(Type::Bool) || first == Type::String,
            Type::Bool,
        ),
        "string" => (!matches!(first, Type::List | Type::Map), Type::String),
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
