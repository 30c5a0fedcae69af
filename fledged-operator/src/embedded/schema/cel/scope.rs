//! What expressions may refer to.

use std::collections::BTreeMap;

use cel::IdedExpr;
use cel::common::ast::{EntryExpr, Expr};

use super::value::escaped;
use crate::embedded::schema::{Schema, Shape};

/// The variables of an expression, with the schema of those that have one.
///
/// The API server checks the types of whole expressions. This checks what mistakes are mostly made of: names of
/// variables and of fields.
#[derive(Clone)]
pub(super) struct Scope<'s> {
    variables: BTreeMap<String, Option<&'s Schema>>,
}

impl<'s> Scope<'s> {
    pub(super) fn of(schema: &'s Schema) -> Self {
        let names = ["self", "oldSelf"];
        Self {
            variables: names
                .into_iter()
                .map(|name| (name.to_owned(), Some(schema)))
                .collect(),
        }
    }

    /// Checks an expression.
    ///
    /// # Errors
    ///
    /// The first reference to something that isn't there.
    pub(super) fn check(&self, expression: &IdedExpr) -> Result<(), String> {
        self.schema_of(expression).map(|_| ())
    }

    fn with(&self, name: &str, schema: Option<&'s Schema>) -> Self {
        let mut scope = self.clone();
        scope.variables.insert(name.to_owned(), schema);
        scope
    }

    fn schema_of(&self, expression: &IdedExpr) -> Result<Option<&'s Schema>, String> {
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(None),
            Expr::Ident(name) => match self.variables.get(name) {
                Some(schema) => Ok(*schema),
                None => Err(format!(
                    "undeclared reference to '{name}' (in container '')"
                )),
            },
            Expr::Select(select) => {
                let operand = self.schema_of(&select.operand)?;
                field(operand, &select.field)
            }
            Expr::Call(call) => {
                let mut arguments = Vec::new();
                if let Some(target) = &call.target {
                    self.check(target)?;
                }
                for argument in &call.args {
                    arguments.push(self.schema_of(argument)?);
                }
                let indexed = arguments.first().copied().flatten();
                Ok(match call.func_name.as_str() {
                    "_[_]" => indexed.and_then(|s| s.items.as_deref().or(s.additional.as_deref())),
                    _ => None,
                })
            }
            Expr::List(list) => {
                list.elements
                    .iter()
                    .try_for_each(|element| self.check(element))?;
                Ok(None)
            }
            Expr::Map(map) => {
                map.entries
                    .iter()
                    .try_for_each(|entry| self.check_entry(&entry.expr))?;
                Ok(None)
            }
            Expr::Struct(found) => Err(format!(
                "undeclared reference to '{}' (in container '')",
                found.type_name
            )),
            Expr::Comprehension(comprehension) => {
                let range = self.schema_of(&comprehension.iter_range)?;
                if comprehension.iter_var2.is_some() {
                    return Err("comprehensions over two variables are not supported".to_owned());
                }
                // Over a list go its items, over a map its keys.
                let item = range.and_then(|schema| schema.items.as_deref());
                self.check(&comprehension.accu_init)?;
                let inner = self
                    .with(&comprehension.accu_var, None)
                    .with(&comprehension.iter_var, item);
                inner.check(&comprehension.loop_cond)?;
                inner.check(&comprehension.loop_step)?;
                inner.check(&comprehension.result)?;
                Ok(None)
            }
        }
    }

    fn check_entry(&self, entry: &EntryExpr) -> Result<(), String> {
        match entry {
            EntryExpr::MapEntry(entry) => {
                self.check(&entry.key)?;
                self.check(&entry.value)
            }
            EntryExpr::StructField(field) => self.check(&field.value),
        }
    }
}

fn field<'s>(schema: Option<&'s Schema>, name: &str) -> Result<Option<&'s Schema>, String> {
    let Some(schema) = schema else {
        return Ok(None);
    };
    match schema.shape {
        Shape::Object => {
            if let Some(additional) = &schema.additional {
                return Ok(Some(additional));
            }
            let known = schema
                .properties
                .iter()
                .find(|(known, _)| escaped(known) == name);
            match known {
                Some((_, schema)) => Ok(Some(schema)),
                None if schema.embedded && matches!(name, "apiVersion" | "kind" | "metadata") => {
                    Ok(None)
                }
                None => Err(format!("undefined field '{name}'")),
            }
        }
        Shape::Any | Shape::IntOrString => Ok(None),
        other => Err(format!(
            "type '{}' does not support field selection",
            other.name()
        )),
    }
}
