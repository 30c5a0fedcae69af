//! A label on the command line.

use std::str::FromStr;

/// `key=value`, as kubectl takes it and Kubernetes allows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label {
    /// The key, with its prefix.
    pub key: String,
    /// The value, possibly empty.
    pub value: String,
}

/// Why a string is not a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseLabelError {
    /// There is no `=`.
    #[error("write it as KEY=VALUE, tier=edge for instance")]
    NoValue,
    /// The key breaks Kubernetes' rules.
    #[error(
        "the key {0:?} is not a label key: [prefix/]name, a name of at most 63 letters, digits, \"-\", \"_\" and \".\" with a letter or digit at both ends"
    )]
    Key(String),
    /// The value breaks Kubernetes' rules.
    #[error(
        "the value {0:?} is not a label value: at most 63 letters, digits, \"-\", \"_\" and \".\" with a letter or digit at both ends, or nothing"
    )]
    Value(String),
}

impl FromStr for Label {
    type Err = ParseLabelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (key, value) = text.split_once('=').ok_or(ParseLabelError::NoValue)?;
        Self::new(key, value)
    }
}

impl Label {
    /// A label of that key and value.
    ///
    /// # Errors
    ///
    /// [`ParseLabelError`] when no label can have that key or value.
    pub fn new(key: &str, value: &str) -> Result<Self, ParseLabelError> {
        let (prefix, name) = match key.split_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, key),
        };
        let prefix_is_valid =
            prefix.is_none_or(|p| p.len() <= 253 && p.split('.').all(is_qualified));
        if !prefix_is_valid || !is_qualified(name) {
            return Err(ParseLabelError::Key(key.to_owned()));
        }
        if !value.is_empty() && !is_qualified(value) {
            return Err(ParseLabelError::Value(value.to_owned()));
        }
        Ok(Self {
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }
}

/// The rule for the name of a key and for a value (Kubernetes, "Labels and Selectors").
fn is_qualified(text: &str) -> bool {
    let ends_well = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && ends_well(text.chars().next())
        && ends_well(text.chars().next_back())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_kubernetes_takes() {
        for (text, key, value) in [
            ("tier=edge", "tier", "edge"),
            (
                "node-role.kubernetes.io/worker=",
                "node-role.kubernetes.io/worker",
                "",
            ),
            ("a_b.c=1.2-x", "a_b.c", "1.2-x"),
        ] {
            let label: Label = text.parse().unwrap();
            assert_eq!((label.key.as_str(), label.value.as_str()), (key, value));
        }
    }

    #[test]
    fn refuses_what_kubernetes_refuses() {
        for text in [
            "tier", "=x", "-a=x", "a b=x", "a=b c", "a=-", "/a=b", "a/=b", "a=b=c",
        ] {
            assert!(text.parse::<Label>().is_err(), "{text:?} was taken");
        }
        assert!(format!("k={}", "x".repeat(64)).parse::<Label>().is_err());
    }
}
