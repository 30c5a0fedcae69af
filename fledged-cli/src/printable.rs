//! Text of others, made fit for a terminal.
//!
//! Manifests, registries and runtimes may say anything, also what moves the cursor, colours the
//! rest, or turns the direction of writing round so that a line reads as another.

use std::borrow::Cow;

/// The text with everything escaped that does not print; line feeds and tabs stay.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |c| matches!(c, '\n' | '\t'))
}

/// As [`printable`], but line feeds and tabs are escaped too: nobody's words make a new line.
#[must_use]
pub fn on_one_line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

fn escaped(text: &str, stays: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_plain = |c: char| {
        // These are only escaped for the sake of Rust's literals.
        matches!(c, '\'' | '"' | '\\') || stays(c) || c.escape_debug().len() == 1
    };
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_plain(c) {
            out.push(c);
        } else {
            out.extend(c.escape_debug());
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prints_stays_as_it_is() {
        for text in [
            "",
            "a \"b\" 'c' \\d",
            "größer als 5 – 图像",
            "one\ntwo\tthree",
        ] {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        assert_eq!(printable("x\u{1b}[31m\r\u{7}"), r"x\u{1b}[31m\r\u{7}");
        assert_eq!(
            printable("a\u{202e}b\u{9b}1m\u{7f}"),
            r"a\u{202e}b\u{9b}1m\u{7f}"
        );
        assert_eq!(printable("a\u{2066}\u{200f}b"), r"a\u{2066}\u{200f}b");
        assert_eq!(on_one_line("a\nerror: b\tc"), r"a\nerror: b\tc");
    }
}
