//! Structural schemas: what is known of a value at some place of an object.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use cel::Program;
use regex::Regex;
use serde_json::Value;

use crate::error::Fault;

/// The JSON type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Shape {
    /// Anything (`x-kubernetes-preserve-unknown-fields` without a type).
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
}

impl Shape {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::IntOrString => "integer,string",
        }
    }
}

/// How lists merge, and what makes their items the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum ListType {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

/// A structural schema.
#[derive(Debug, Default)]
pub(crate) struct Schema {
    pub(crate) shape: Shape,
    pub(crate) nullable: bool,
    /// Whether unknown fields are kept.
    pub(crate) preserve: bool,
    /// Whether it is an object with `apiVersion`, `kind` and `metadata` of its own.
    pub(crate) embedded: bool,
    pub(crate) properties: BTreeMap<String, Arc<Schema>>,
    pub(crate) additional: Option<Arc<Schema>>,
    pub(crate) items: Option<Arc<Schema>>,
    pub(crate) default: Option<Value>,
    pub(crate) list: ListType,
    pub(crate) atomic_map: bool,
    pub(crate) limits: Limits,
    pub(crate) rules: Vec<Rule>,
    pub(crate) patch: PatchStrategy,
}

/// How strategic merge patches merge a field of a built-in kind.
#[derive(Debug, Default)]
pub(crate) struct PatchStrategy {
    /// Lists are merged, not replaced.
    pub(crate) merge: bool,
    /// The key that identifies items; none for lists of scalars.
    pub(crate) key: Option<String>,
}

/// The validations of a schema.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    pub(crate) shape: Shape,
    pub(crate) required: Vec<String>,
    pub(crate) one_of_values: Option<Vec<Value>>,
    pub(crate) pattern: Option<Regex>,
    pub(crate) format: Option<String>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) unique_items: bool,
    pub(crate) min_properties: Option<u64>,
    pub(crate) max_properties: Option<u64>,
    pub(crate) minimum: Option<f64>,
    pub(crate) exclusive_minimum: bool,
    pub(crate) maximum: Option<f64>,
    pub(crate) exclusive_maximum: bool,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) all_of: Vec<Limits>,
    pub(crate) any_of: Vec<Limits>,
    pub(crate) one_of: Vec<Limits>,
    pub(crate) not: Option<Box<Limits>>,
    /// Limits of fields and items, inside of `allOf` and its like.
    pub(crate) properties: BTreeMap<String, Limits>,
    pub(crate) items: Option<Box<Limits>>,
}

static ANY: LazyLock<Schema> = LazyLock::new(|| Schema {
    preserve: true,
    ..Schema::default()
});

impl Schema {
    /// The schema of an unknown field: maps merge field by field, lists as a whole.
    pub(crate) fn any() -> &'static Self {
        &ANY
    }

    /// The schema of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&Schema> {
        let known = self.properties.get(name).or(self.additional.as_ref());
        match known {
            Some(schema) => Some(schema),
            None if self.preserve => Some(Self::any()),
            None => None,
        }
    }

    /// The schema of a field, or of anything where there is none.
    pub(crate) fn field_or_any(&self, name: &str) -> &Schema {
        self.field(name).unwrap_or(Self::any())
    }

    pub(crate) fn items_or_any(&self) -> &Schema {
        self.items.as_deref().unwrap_or(Self::any())
    }

    /// Whether the schema names a field, so that the field exists even if it is empty.
    pub(crate) fn names(&self, name: &str) -> bool {
        self.properties.contains_key(name) || self.implies(name)
    }

    fn implies(&self, name: &str) -> bool {
        self.embedded && matches!(name, "apiVersion" | "kind" | "metadata")
    }

    /// Whether a value is owned as a whole.
    pub(crate) fn is_leaf(&self, value: &Value) -> bool {
        match value {
            Value::Object(_) => self.atomic_map,
            Value::Array(_) => self.list == ListType::Atomic,
            _ => true,
        }
    }

    /// Whether there are rules, at any depth.
    pub(crate) fn has_rules(&self) -> bool {
        let inner = self
            .properties
            .values()
            .chain(&self.additional)
            .chain(&self.items);
        !self.rules.is_empty() || inner.into_iter().any(|schema| schema.has_rules())
    }
}

/// A compiled rule in the Common Expression Language (`x-kubernetes-validations`).
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) program: Program,
    pub(crate) source: String,
    pub(crate) message: Option<String>,
    pub(crate) message_expression: Option<Program>,
    pub(crate) fault: Fault,
    pub(crate) field_path: String,
    /// Whether it compares with the old state. Such a rule is not evaluated for new objects.
    pub(crate) is_transition: bool,
}
