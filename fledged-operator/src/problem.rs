//! What went wrong with a request, in words.

use std::error::Error;

/// What an API server said, or why it said nothing.
#[must_use]
pub fn problem(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => {
            format!("{} ({})", status.message, status.code)
        }
        error => with_causes(error),
    }
}

/// An error with its causes, as far as they say anything new: "client error (Connect)" alone does not
/// tell why.
#[must_use]
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot reach x: refused")]
        struct Outer(#[source] Inner);
        #[derive(Debug, thiserror::Error)]
        #[error("refused")]
        struct Inner(#[source] std::fmt::Error);
        let text = with_causes(&Outer(Inner(std::fmt::Error)));
        let expected = format!("cannot reach x: refused: {}", std::fmt::Error);
        assert_eq!(text, expected);
    }
}
