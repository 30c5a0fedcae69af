//! Error texts without credentials.

use std::borrow::Cow;

/// The replacement for a secret.
const REDACTED: &str = "[redacted]";
/// Shorter secrets occur in ordinary words and are removed only as whole words, in bytes.
const SECRET_MIN: usize = 4;
/// Longest text that is kept, in characters. Runtimes quote whole answers of registries.
const TEXT_MAX: usize = 4096;
/// Query parameters whose values are useful and never secret: those of a token request (distribution
/// token specification) and containerd's mirror namespace.
const HARMLESS: [&str; 4] = ["scope", "service", "ns", "account"];

/// The text without these secrets, and without the parts of URLs that may hold secrets: user
/// information, and values of query parameters (blob stores use signed URLs).
///
/// Control characters become spaces, because a registry chooses parts of the text and a terminal obeys
/// them. A long text is cut off.
#[must_use]
pub fn redact(text: &str, secrets: &[&str]) -> String {
    let mut text = Cow::Borrowed(text);
    // Before anything is cut off or replaced, so that no part of a secret remains.
    for secret in secrets.iter().filter(|s| !s.is_empty()) {
        if !text.contains(secret) {
            continue;
        }
        text = Cow::Owned(match secret.len() {
            SECRET_MIN.. => text.replace(secret, REDACTED),
            _ => without_word(&text, secret),
        });
    }
    redact_urls(&printable(&text))
}

/// The text without control characters and within the length limit.
fn printable(text: &str) -> Cow<'_, str> {
    let end = text.char_indices().nth(TEXT_MAX).map(|(end, _)| end);
    if end.is_none() && !text.chars().any(is_control) {
        return Cow::Borrowed(text);
    }
    let kept = end.and_then(|end| text.get(..end)).unwrap_or(text);
    let mut shown: String = kept
        .chars()
        .map(|c| if is_control(c) { ' ' } else { c })
        .collect();
    if end.is_some() {
        shown.push('…');
    }
    Cow::Owned(shown)
}

/// Control characters, and those that change the direction of the text after them.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with `word` replaced where no letter or digit is next to it.
fn without_word(text: &str, word: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut end = 0;
    for (at, _) in text.match_indices(word) {
        let after = at + word.len();
        let before = text.get(..at).and_then(|t| t.chars().next_back());
        let next = text.get(after..).and_then(|t| t.chars().next());
        let alone = [before, next]
            .into_iter()
            .flatten()
            .all(|c| !c.is_alphanumeric());
        out.push_str(text.get(end..at).unwrap_or_default());
        out.push_str(if alone { REDACTED } else { word });
        end = after;
    }
    out.push_str(text.get(end..).unwrap_or_default());
    out
}

fn redact_urls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        out.push_str(before);
        out.push_str("://");
        let end = after
            .find(|c: char| c.is_whitespace() || "\"'<>\\".contains(c))
            .unwrap_or(after.len());
        let (url, tail) = after.split_at_checked(end).unwrap_or((after, ""));
        let bare = url.trim_end_matches([':', ',', ';', '.', ')']);
        push_url(&mut out, bare);
        out.push_str(url.get(bare.len()..).unwrap_or_default());
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// Appends one URL, without its scheme.
fn push_url(out: &mut String, url: &str) {
    let (place, query) = match url.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (url, None),
    };
    let (authority, path) = match place.split_once('/') {
        Some((authority, path)) => (authority, Some(path)),
        None => (place, None),
    };
    match authority.rsplit_once('@') {
        Some((_, host)) => {
            out.push_str(REDACTED);
            out.push('@');
            out.push_str(host);
        }
        None => out.push_str(authority),
    }
    if let Some(path) = path {
        out.push('/');
        out.push_str(path);
    }
    for (i, parameter) in query.into_iter().flat_map(|q| q.split('&')).enumerate() {
        out.push(if i == 0 { '?' } else { '&' });
        match parameter.split_once('=') {
            Some((key, _)) if !HARMLESS.contains(&key) => {
                out.push_str(key);
                out.push('=');
                out.push_str(REDACTED);
            }
            _ => out.push_str(parameter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_secrets_are_removed() {
        assert_eq!(
            redact(
                "login as ann with hunter2 failed: hunter2",
                &["hunter2", ""]
            ),
            "login as ann with [redacted] failed: [redacted]"
        );
    }

    #[test]
    fn control_characters_are_removed() {
        assert_eq!(redact("a\u{1b}[31mb\r\n\u{202e}c\0", &[]), "a [31mb   c ");
        assert_eq!(redact("caf\u{e9} \u{2192} b", &[]), "caf\u{e9} \u{2192} b");
    }

    #[test]
    fn long_texts_are_cut_off() {
        let shown = redact(&"\u{e9}".repeat(10_000), &[]);
        assert_eq!(shown.chars().count(), TEXT_MAX + 1);
        assert!(shown.ends_with('…'));
        let edge = "x".repeat(TEXT_MAX);
        assert_eq!(redact(&edge, &[]), edge);
        // A secret at the edge is replaced as a whole.
        let shown = redact(
            &format!("{}hunter2", "x".repeat(TEXT_MAX - 3)),
            &["hunter2"],
        );
        assert!(!shown.contains("hun"), "{shown}");
    }

    #[test]
    fn short_secrets_are_removed_as_words() {
        assert_eq!(
            redact("bad login \"ab:c\", about ab", &["ab", "c"]),
            "bad login \"[redacted]:[redacted]\", about [redacted]"
        );
    }

    #[test]
    fn signatures_in_urls_are_removed() {
        let text = "failed to copy: Get \"https://blobs.example/a/b?X-Amz-Signature=abc&X-Amz-Date=1\": EOF";
        assert_eq!(
            redact(text, &[]),
            "failed to copy: Get \"https://blobs.example/a/b?X-Amz-Signature=[redacted]&X-Amz-Date=[redacted]\": EOF"
        );
    }

    #[test]
    fn passwords_in_urls_are_removed() {
        assert_eq!(
            redact("dial https://ann:hush@proxy:3128/: refused", &[]),
            "dial https://[redacted]@proxy:3128/: refused"
        );
    }

    #[test]
    fn everything_else_is_kept() {
        for text in [
            "GET request to https://auth.docker.io/token?scope=repository%3Aa%3Apull&service=registry.docker.io: 401 Unauthorized",
            "failed to resolve reference \"docker.io/library/app:1\": not found",
            "quay.io/a@sha256:00: not found",
        ] {
            assert_eq!(redact(text, &[]), text);
        }
    }
}
