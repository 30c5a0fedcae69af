//! How an error repeats what was refused.

/// How much of an invalid input an error repeats, in characters.
const SHOWN_MAX: usize = 120;

/// The value as an error shows it: what does not print or changes how the rest prints is escaped,
/// and it is cut to a readable length.
pub(super) fn shown(value: &str) -> String {
    let mut out: String = value
        .chars()
        .take(SHOWN_MAX)
        .flat_map(|c| {
            let plain = (c == '\'').then_some(c);
            let escaped = plain.is_none().then(|| c.escape_debug());
            plain.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect();
    if value.chars().count() > SHOWN_MAX {
        out.push('…');
    }
    out
}
