//! Rules in the Common Expression Language (`x-kubernetes-validations`).

mod cost;
mod evaluate;
mod rule;
mod scope;
mod size;
mod types;
mod value;

pub(crate) use cost::check_all;
pub(crate) use evaluate::{RuleInput, check_rules};
pub(crate) use rule::Rule;
