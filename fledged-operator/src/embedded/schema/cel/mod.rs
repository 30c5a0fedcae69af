//! Rules in the Common Expression Language (`x-kubernetes-validations`).

mod evaluate;
mod rule;
mod scope;
mod types;
mod value;

pub(crate) use evaluate::{RuleInput, check_rules};
pub(crate) use rule::Rule;
