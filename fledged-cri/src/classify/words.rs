//! An error text as a list of words, without the names in it.

/// Words that contain a slash.
const SLASHED: [&str; 2] = ["i/o", "username/password"];

/// The words of an error text in lower case, without punctuation around them and without names:
/// references, URLs, paths, media types and digests.
///
/// An image called `team/forbidden:404` or a registry on port 5003 must not decide the reason.
#[derive(Debug)]
pub(super) struct Words(Vec<String>);

impl Words {
    pub(super) fn of(text: &str) -> Self {
        let text = text.to_lowercase();
        let words = text
            .split(|c: char| c.is_whitespace() || "\"'`\\<>".contains(c))
            // Removed as a whole, before the text is split at characters that occur in queries.
            .filter(|piece| !piece.contains("://"))
            .flat_map(|piece| piece.split(|c: char| "()[]{},;=|".contains(c)))
            .map(|word| word.trim_matches(|c: char| ".:!?".contains(c)))
            .filter(|word| !word.is_empty() && !is_name(word))
            .map(str::to_owned)
            .collect();
        Self(words)
    }

    /// Whether the text contains these words in sequence.
    pub(super) fn contain(&self, phrase: &str) -> bool {
        let phrase: Vec<&str> = phrase.split(' ').collect();
        self.0.windows(phrase.len()).any(|window| window == phrase)
    }

    /// The last HTTP status in the text: a number after a word such as "status", or before its reason
    /// phrase.
    ///
    /// The last, because runtimes put their own words before the registry's.
    pub(super) fn http_status(&self) -> Option<u16> {
        (0..self.0.len()).rev().find_map(|i| self.status_at(i))
    }

    /// The words of the runtime itself: those before the first HTTP status and before what is quoted from
    /// a server.
    pub(super) fn own(&self) -> Self {
        let is_quote = |i: usize| {
            let quoted = self.0.get(i..i + 2);
            quoted.is_some_and(|words| words == ["server", "message"])
        };
        let end = (0..self.0.len()).find(|i| self.status_at(*i).is_some() || is_quote(*i));
        Self(
            self.0
                .iter()
                .take(end.unwrap_or(usize::MAX))
                .cloned()
                .collect(),
        )
    }

    fn status_at(&self, i: usize) -> Option<u16> {
        /// Most words between "status" and its number: "status from get request to [url] 404".
        const NEAR: usize = 6;
        let status: u16 = self.number(i)?;
        let before = self.0.get(i.saturating_sub(NEAR)..i)?;
        let announced = before.iter().any(|w| is_status_word(w))
            || before
                .last()
                .is_some_and(|w| matches!(w.as_str(), "http" | "code" | "registry"));
        let explained = self
            .0
            .get(i + 1)
            .is_some_and(|next| first_word_of(status) == Some(next.as_str()));
        (announced || explained).then_some(status)
    }

    fn number(&self, i: usize) -> Option<u16> {
        let word = self.0.get(i)?;
        let digits = word.len() == 3 && word.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| word.parse().ok()).flatten()
    }
}

fn is_status_word(word: &str) -> bool {
    matches!(word, "status" | "statuscode" | "status_code")
}

fn is_name(word: &str) -> bool {
    (word.contains('/') && !SLASHED.contains(&word))
        || word.contains("sha256:")
        || word.contains("sha512:")
        || (word.len() >= 32 && word.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The first word of a status's reason phrase (RFC 9110, section 15).
fn first_word_of(status: u16) -> Option<&'static str> {
    Some(match status {
        401 => "unauthorized",
        402 => "payment",
        403 => "forbidden",
        404 | 406 => "not",
        408 => "request",
        410 => "gone",
        412 => "precondition",
        429 => "too",
        451 => "unavailable",
        500 => "internal",
        502 => "bad",
        503 => "service",
        504 => "gateway",
        507 => "insufficient",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_left_out() {
        let words = Words::of(
            "failed to resolve \"docker.io/a/forbidden:404\": see https://x/unauthorized?b=denied, \
             layer-sha256:4290aa: i/o timeout",
        );
        assert_eq!(words.0.join(" "), "failed to resolve see i/o timeout");
    }

    #[test]
    fn statuses_are_numbers_in_context() {
        for (text, status) in [
            (
                "unexpected status code [manifests 404]: 500 Internal Server Error",
                Some(500),
            ),
            (
                "invalid status code from registry 404 (Not Found)",
                Some(404),
            ),
            ("error parsing HTTP 403 response body: EOF", Some(403)),
            ("StatusCode: 429, \"slow down\"", Some(429)),
            (
                "unexpected status from GET request to https://r:5000/v2/: 502",
                Some(502),
            ),
            ("the answer was 503 Service Unavailable", Some(503)),
            ("short read: expected 404 bytes but got 401", None),
            ("dial tcp 127.0.0.1:4040: connection refused", None),
            ("unexpected commit digest sha256:4290", None),
        ] {
            assert_eq!(Words::of(text).http_status(), status, "{text}");
        }
    }

    #[test]
    fn phrases_are_whole_words() {
        let words = Words::of("manifest unknown: manifest unknown");
        assert!(words.contain("manifest unknown"));
        assert!(!words.contain("manifest un"));
        assert!(!Words::of("").contain("eof"));
    }
}
