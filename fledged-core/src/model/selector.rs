//! Node affinity, as Kubernetes evaluates it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Labels as they stand on an object.
type Labels = BTreeMap<String, String>;

/// Why a selector's requirement can't be evaluated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("requirement on {key:?} is invalid: {problem}")]
pub struct InvalidSelector {
    /// The label key of the requirement.
    pub key: String,
    /// What is wrong with it.
    pub problem: String,
}

/// One requirement on a label: key, operator, values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`; on nodes also `Gt` and `Lt`.
    pub operator: String,
    /// The operator's operands.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

impl Requirement {
    /// Whether these labels satisfy the requirement. An invalid requirement matches nothing.
    ///
    /// `NotIn` and `DoesNotExist` also match where the key is absent, as in Kubernetes.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let number = |text: &String| text.parse::<i64>().ok();
        let compared = || Some((number(value?)?, number(self.values.first()?)?));
        match self.operator.as_str() {
            "In" => value.is_some_and(|v| self.values.contains(v)),
            "NotIn" => !value.is_some_and(|v| self.values.contains(v)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => compared().is_some_and(|(have, want)| have > want),
            "Lt" => compared().is_some_and(|(have, want)| have < want),
            _ => false,
        }
    }

    /// Checks the operator and the number of its operands.
    ///
    /// # Errors
    ///
    /// [`InvalidSelector`] naming the key and the problem.
    pub fn validate(&self) -> Result<(), InvalidSelector> {
        let fail = |problem: String| {
            Err(InvalidSelector {
                key: self.key.clone(),
                problem,
            })
        };
        if self.key.is_empty() {
            return fail("the key is empty".to_owned());
        }
        match self.operator.as_str() {
            "In" | "NotIn" if self.values.is_empty() => fail(format!(
                "operator {} needs at least one value",
                self.operator
            )),
            "Exists" | "DoesNotExist" if !self.values.is_empty() => {
                fail(format!("operator {} takes no values", self.operator))
            }
            "Gt" | "Lt" => match self.values.as_slice() {
                [one] if one.parse::<i64>().is_ok() => Ok(()),
                _ => fail(format!(
                    "operator {} needs exactly one integer",
                    self.operator
                )),
            },
            "In" | "NotIn" | "Exists" | "DoesNotExist" => Ok(()),
            other => fail(format!(
                "unknown operator {other:?} (known: In, NotIn, Exists, DoesNotExist, Gt, Lt)"
            )),
        }
    }
}

/// Which nodes, in the shape of a pod's `nodeAffinity`; only the required part decides here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeAffinity {
    /// Nodes must match this selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_during_scheduling_ignored_during_execution: Option<NodeSelector>,
}

impl NodeAffinity {
    /// Whether a node with that name and those labels is meant.
    #[must_use]
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.required_during_scheduling_ignored_during_execution
            .as_ref()
            .is_none_or(|selector| selector.matches(name, labels))
    }

    /// Checks every term.
    ///
    /// # Errors
    ///
    /// The first [`InvalidSelector`].
    pub fn validate(&self) -> Result<(), InvalidSelector> {
        match &self.required_during_scheduling_ignored_during_execution {
            Some(selector) => selector.validate(),
            None => Ok(()),
        }
    }
}

/// Terms of which at least one must match (`core/v1 NodeSelector`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeSelector {
    /// The terms, ORed. None match when there is none.
    pub node_selector_terms: Vec<NodeSelectorTerm>,
}

impl NodeSelector {
    fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.node_selector_terms
            .iter()
            .any(|term| term.matches(name, labels))
    }

    fn validate(&self) -> Result<(), InvalidSelector> {
        if self.node_selector_terms.is_empty() {
            return Err(InvalidSelector {
                key: String::new(),
                problem: "nodeSelectorTerms must have at least one term".to_owned(),
            });
        }
        self.node_selector_terms
            .iter()
            .try_for_each(NodeSelectorTerm::validate)
    }
}

/// Requirements that must all hold; a term without any matches nothing, as in Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct NodeSelectorTerm {
    /// Requirements on labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
    /// Requirements on fields; Kubernetes knows `metadata.name` only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_fields: Vec<Requirement>,
}

impl NodeSelectorTerm {
    fn matches(&self, name: &str, labels: &Labels) -> bool {
        if self.match_expressions.is_empty() && self.match_fields.is_empty() {
            return false;
        }
        let fields = Labels::from([("metadata.name".to_owned(), name.to_owned())]);
        self.match_expressions.iter().all(|r| r.matches(labels))
            && self.match_fields.iter().all(|r| r.matches(&fields))
    }

    fn validate(&self) -> Result<(), InvalidSelector> {
        self.match_expressions
            .iter()
            .try_for_each(Requirement::validate)?;
        for field in &self.match_fields {
            field.validate()?;
            if field.key != "metadata.name" {
                return Err(InvalidSelector {
                    key: field.key.clone(),
                    problem: "matchFields knows metadata.name only".to_owned(),
                });
            }
        }
        Ok(())
    }
}
