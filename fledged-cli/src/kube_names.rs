//! Names and labels that Kubernetes accepts.

use std::str::FromStr;

/// Longest DNS subdomain, in bytes (RFC 1123).
const SUBDOMAIN_MAX: usize = 253;
/// Longest DNS label, in bytes (RFC 1123).
const DNS_LABEL_MAX: usize = 63;

/// Checks the name of an ImageCache: a DNS subdomain.
///
/// # Errors
///
/// The rule, worded to follow the value.
pub(crate) fn check_object_name(name: &str) -> Result<(), &'static str> {
    if name.len() <= SUBDOMAIN_MAX && name.split('.').all(is_dns_label) {
        Ok(())
    } else {
        Err(
            "is not a valid object name: at most 253 lower-case letters, digits, \"-\" and \".\", with a letter or digit at both ends and beside each \".\"",
        )
    }
}

/// Checks the name of a namespace: a DNS label.
///
/// # Errors
///
/// The rule, worded to follow the value.
pub(crate) fn check_namespace(name: &str) -> Result<(), &'static str> {
    if name.len() <= DNS_LABEL_MAX && is_dns_label(name) {
        Ok(())
    } else {
        Err(
            "is not a valid namespace name: at most 63 lower-case letters, digits and \"-\", with a letter or digit at both ends",
        )
    }
}

/// Parses an argument that names an ImageCache, so that it cannot change the URL of a request.
///
/// # Errors
///
/// The rule; for `NAMESPACE/NAME`, how to write it.
#[cfg(feature = "cluster")]
pub(crate) fn object_argument(text: &str) -> Result<String, String> {
    let valid = |(namespace, name): &(&str, &str)| {
        check_namespace(namespace).is_ok() && check_object_name(name).is_ok()
    };
    match (check_object_name(text), text.split_once('/').filter(valid)) {
        (Ok(()), _) => Ok(text.to_owned()),
        (Err(_), Some((namespace, name))) => Err(format!(
            "a name does not include the namespace; write -n {namespace} {name}"
        )),
        (Err(rule), None) => Err(format!("it {rule}")),
    }
}

/// Parses an argument that names a namespace.
///
/// # Errors
///
/// The rule.
#[cfg(feature = "cluster")]
pub(crate) fn namespace_argument(text: &str) -> Result<String, String> {
    check_namespace(text)
        .map(|()| text.to_owned())
        .map_err(|rule| format!("it {rule}"))
}

/// One component of a subdomain; Kubernetes limits only the length of the whole name.
fn is_dns_label(text: &str) -> bool {
    let is_alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    [text.bytes().next(), text.bytes().next_back()]
        .into_iter()
        .all(|end| end.is_some_and(is_alphanumeric))
        && text.bytes().all(|b| is_alphanumeric(b) || b == b'-')
}

/// A label, `key=value`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Label {
    /// The key, with its prefix.
    pub(crate) key: String,
    /// The value; may be empty.
    pub(crate) value: String,
}

/// Why a string is not a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ParseLabelError {
    /// There is no `=`.
    #[error("expected KEY=VALUE, for example tier=edge")]
    NoValue,
    /// The key is not a qualified name.
    #[error(
        "the key {0:?} is not a label key: [prefix/]name, a name of at most 63 letters, digits, \"-\", \"_\" and \".\" with a letter or digit at both ends"
    )]
    Key(String),
    /// The value is neither empty nor a qualified name.
    #[error(
        "the value {0:?} is not a label value: empty, or at most 63 letters, digits, \"-\", \"_\" and \".\" with a letter or digit at both ends"
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
    /// A label with that key and value.
    ///
    /// # Errors
    ///
    /// [`ParseLabelError`] when Kubernetes refuses the key or the value.
    pub(crate) fn new(key: &str, value: &str) -> Result<Self, ParseLabelError> {
        let (prefix, name) = match key.split_once('/') {
            Some((prefix, name)) => (Some(prefix), name),
            None => (None, key),
        };
        let prefix_is_valid =
            prefix.is_none_or(|p| p.len() <= SUBDOMAIN_MAX && p.split('.').all(is_qualified));
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
    let is_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && is_end(text.chars().next())
        && is_end(text.chars().next_back())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_kubernetes_rules() {
        for good in ["a", "images-1", "a.b-c.d", "0", &"x".repeat(253)] {
            assert_eq!(check_object_name(good), Ok(()), "{good:?}");
        }
        for bad in [
            "",
            "A",
            "a_b",
            "-a",
            "a-",
            "a..b",
            ".a",
            "a.-b",
            "a b",
            "a\u{1b}[31m",
            &"x".repeat(254),
        ] {
            assert!(check_object_name(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(check_namespace("kube-system"), Ok(()));
        for bad in ["a.b", "", "a/b", &"x".repeat(64)] {
            assert!(check_namespace(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn valid_labels_are_parsed() {
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
    fn invalid_labels_are_refused() {
        for text in [
            "tier", "=x", "-a=x", "a b=x", "a=b c", "a=-", "/a=b", "a/=b", "a=b=c",
        ] {
            assert!(text.parse::<Label>().is_err(), "{text:?} was accepted");
        }
        assert!(format!("k={}", "x".repeat(64)).parse::<Label>().is_err());
    }
}
