//! Names of objects, as Kubernetes allows them.

/// Longest DNS subdomain, in bytes (RFC 1123).
const SUBDOMAIN_MAX: usize = 253;
/// Longest DNS label, in bytes (RFC 1123).
const LABEL_MAX: usize = 63;

/// Whether an ImageCache can have that name: a DNS subdomain. Says what a name is if not.
///
/// # Errors
///
/// The rule, for after the value.
pub(super) fn object(name: &str) -> Result<(), &'static str> {
    if name.len() <= SUBDOMAIN_MAX && name.split('.').all(is_label) {
        Ok(())
    } else {
        Err(
            "is not an object's name: at most 253 lower-case letters, digits, \"-\" and \".\", with a letter or digit at both ends and beside each \".\"",
        )
    }
}

/// Whether a namespace can have that name: a DNS label. Says what a name is if not.
///
/// # Errors
///
/// The rule, for after the value.
pub(super) fn namespace(name: &str) -> Result<(), &'static str> {
    if name.len() <= LABEL_MAX && is_label(name) {
        Ok(())
    } else {
        Err(
            "is not a namespace's name: at most 63 lower-case letters, digits and \"-\", with a letter or digit at both ends",
        )
    }
}

/// Part of a subdomain; Kubernetes limits the length of the whole only.
fn is_label(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = [text.bytes().next(), text.bytes().next_back()];
    ends.into_iter().all(|end| end.is_some_and(word)) && text.bytes().all(|b| word(b) || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_kubernetes_takes() {
        for good in ["a", "images-1", "a.b-c.d", "0", &"x".repeat(253)] {
            assert_eq!(object(good), Ok(()), "{good:?}");
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
            assert!(object(bad).is_err(), "{bad:?} was taken");
        }
        assert_eq!(namespace("kube-system"), Ok(()));
        for bad in ["a.b", "", "a/b", &"x".repeat(64)] {
            assert!(namespace(bad).is_err(), "{bad:?} was taken");
        }
    }
}
