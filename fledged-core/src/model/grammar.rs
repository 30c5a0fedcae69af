//! The grammar of image references (`distribution/reference`), by hand.
//!
//! The regular expression that the kept parsers compile for it costs 18 MB and 20 ms in every process
//! that reads one reference, which an agent on every node can't afford. What is accepted here is held
//! against such a parser in the tests.

use std::borrow::Cow;

/// The registry where none is written, and what it stands for there.
const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_REGISTRY_OLD: &str = "index.docker.io";
/// The first part of one-word repositories of the default registry.
const OFFICIAL: &str = "library";
/// Longest tag, in bytes.
const TAG_MAX: usize = 128;

/// The parts of a reference as written, with the registry's defaults filled in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Split<'a> {
    pub(super) registry: &'a str,
    pub(super) repository: Cow<'a, str>,
    pub(super) tag: Option<&'a str>,
    /// Not looked at yet.
    pub(super) digest: Option<&'a str>,
}

/// Takes a reference apart.
///
/// # Errors
///
/// What is wrong with it, without the text itself.
pub(super) fn split(value: &str) -> Result<Split<'_>, Cow<'static, str>> {
    const FORM: &str = "it does not follow [registry[:port]/]repository[:tag][@digest]";
    if value.contains("://") {
        return Err("it has a scheme; write the registry without one".into());
    }
    let (rest, digest) = match value.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (value, None),
    };
    let last = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest.get(last..).and_then(|part| part.split_once(':')) {
        Some((part, tag)) => (rest.get(..last + part.len()).unwrap_or(rest), Some(tag)),
        None => (rest, None),
    };
    match tag {
        Some("") => return Err("the tag after \":\" is empty".into()),
        Some(tag) if tag.len() > TAG_MAX => {
            let problem = format!(
                "its tag is {} bytes long, the limit is {TAG_MAX}",
                tag.len()
            );
            return Err(problem.into());
        }
        Some(tag) if !is_tag(tag) => return Err(FORM.into()),
        _ => {}
    }
    let (registry, repository) = match name.split_once('/') {
        Some((first, path)) if names_registry(first) => (first, path),
        _ => (DEFAULT_REGISTRY, name),
    };
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository name must be lower case".into());
    }
    if !repository.split('/').all(is_component) {
        return Err(FORM.into());
    }
    let (host, port) = match registry.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (registry, None),
    };
    if !host.split('.').all(is_host_label) {
        return Err(FORM.into());
    }
    if port.is_some_and(|port| !is_port(port)) {
        return Err("the registry's port must be between 1 and 65535".into());
    }
    let registry = match registry {
        DEFAULT_REGISTRY_OLD => DEFAULT_REGISTRY,
        other => other,
    };
    let repository = match registry == DEFAULT_REGISTRY && !repository.contains('/') {
        true => Cow::Owned(format!("{OFFICIAL}/{repository}")),
        false => Cow::Borrowed(repository),
    };
    Ok(Split {
        registry,
        repository,
        tag,
        digest,
    })
}

/// Whether the first part of a name is a registry: what has a dot or a port, and `localhost`.
fn names_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

/// `[A-Za-z0-9_][A-Za-z0-9_.-]*`
fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = [text.bytes().next(), text.bytes().next_back()];
    ends.into_iter().all(|end| end.is_some_and(alphanumeric))
        && text
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|between| {
                matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-')
            })
}

/// Letters, digits and, inside, dashes.
fn is_host_label(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}
