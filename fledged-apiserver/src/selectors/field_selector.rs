//! Field selectors.

use serde_json::Value;

use crate::kinds::{Builtin, Resource};

/// A field selector for one resource.
#[derive(Debug, Clone, Default)]
pub(crate) struct FieldSelector(Vec<Term>);

#[derive(Debug, Clone)]
struct Term {
    path: Vec<String>,
    value: String,
    equal: bool,
}

/// The field labels of a resource, with the paths in the stored object.
pub(crate) fn field_labels(resource: &Resource) -> Vec<(String, Vec<String>)> {
    let of_events = |prefix: &str| {
        let about = [
            "kind",
            "namespace",
            "name",
            "uid",
            "apiVersion",
            "resourceVersion",
            "fieldPath",
        ];
        let about = about.map(|field| {
            (
                format!("{prefix}.{field}"),
                format!("involvedObject.{field}"),
            )
        });
        about.into_iter().collect::<Vec<_>>()
    };
    let same = |labels: &[&str]| -> Vec<(String, String)> {
        labels
            .iter()
            .map(|l| ((*l).to_owned(), (*l).to_owned()))
            .collect()
    };
    let mut labels = same(&["metadata.name"]);
    if resource.builtin != Some(Builtin::Namespace) && resource.builtin != Some(Builtin::Node) {
        labels.extend(same(&["metadata.namespace"]));
    }
    labels.extend(match resource.builtin {
        Some(Builtin::Namespace) => same(&["status.phase"]),
        Some(Builtin::Node) => same(&["spec.unschedulable"]),
        Some(Builtin::Secret) => same(&["type"]),
        Some(Builtin::Pod) => same(&[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ]),
        Some(Builtin::Job) => same(&["status.successful"]),
        Some(Builtin::Event) if resource.group.is_empty() => {
            let mut labels = of_events("involvedObject");
            labels.extend(same(&["reason", "reportingComponent", "type"]));
            labels.push(("source".into(), "source.component".into()));
            labels
        }
        Some(Builtin::Event) => {
            let mut labels = of_events("regarding");
            labels.extend(same(&["reason", "type"]));
            labels.push(("reportingController".into(), "reportingComponent".into()));
            labels
        }
        _ => resource
            .selectable
            .iter()
            .map(|path| (path.clone(), path.clone()))
            .collect(),
    });
    let split = |path: String| path.split('.').map(str::to_owned).collect();
    labels
        .into_iter()
        .map(|(label, path)| (label, split(path)))
        .collect()
}

impl FieldSelector {
    /// Reads a selector for a resource.
    ///
    /// # Errors
    ///
    /// A syntax error, or a field that the resource can't be selected by.
    pub(crate) fn parse(text: &str, resource: &Resource) -> Result<Self, String> {
        let known = field_labels(resource);
        let mut terms = Vec::new();
        for term in split_unescaped(text) {
            if term.is_empty() {
                continue;
            }
            let (label, value, equal) = operator(term)
                .ok_or_else(|| format!("invalid selector: '{text}'; can't understand '{term}'"))?;
            let value =
                unescape(value).ok_or_else(|| format!("invalid field selector: {value}"))?;
            let path = known.iter().find(|(name, _)| name == label);
            let path = path
                .map(|(_, path)| path.clone())
                .ok_or_else(|| unknown(label, resource))?;
            terms.push(Term { path, value, equal });
        }
        Ok(Self(terms))
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|term| {
            let mut at = Some(object);
            for field in &term.path {
                at = at.and_then(|value| value.get(field));
            }
            // An absent field matches like its empty value.
            let is = match (at, term.path.last().map(String::as_str)) {
                (Some(Value::String(text)), _) => *text == term.value,
                (Some(Value::Bool(flag)), _) => flag.to_string() == term.value,
                (Some(Value::Number(number)), _) => number.to_string() == term.value,
                (_, Some("unschedulable" | "hostNetwork")) => term.value == "false",
                _ => term.value.is_empty(),
            };
            is == term.equal
        })
    }

    /// The only name that can match, if there is one.
    pub(crate) fn only_name(&self) -> Option<&str> {
        let named = self
            .0
            .iter()
            .find(|term| term.equal && term.path == ["metadata", "name"]);
        named.map(|term| term.value.as_str())
    }
}

fn unknown(label: &str, resource: &Resource) -> String {
    match resource.builtin {
        Some(
            Builtin::Namespace
            | Builtin::Node
            | Builtin::Secret
            | Builtin::Pod
            | Builtin::Event
            | Builtin::Job,
        )
        | None => format!("field label not supported: {label}"),
        Some(_) => format!(
            "\"{label}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        ),
    }
}

fn operator(term: &str) -> Option<(&str, &str, bool)> {
    for (index, _) in term.match_indices(['=', '!']) {
        let (label, rest) = term.split_at_checked(index)?;
        if let Some(value) = rest.strip_prefix("!=") {
            return Some((label, value, false));
        }
        if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
            return Some((label, value, true));
        }
    }
    None
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (index, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.extend(text.get(start..index));
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.extend(text.get(start..));
    terms
}

fn unescape(text: &str) -> Option<String> {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next()? {
                escaped @ ('\\' | ',' | '=') => plain.push(escaped),
                _ => return None,
            },
            ',' | '=' => return None,
            other => plain.push(other),
        }
    }
    Some(plain)
}
