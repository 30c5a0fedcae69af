//! The order of versions.

/// How a version ranks: stable ones before others, later ones before earlier ones.
pub(crate) fn version_rank(version: &str) -> (u8, u64, u64) {
    let (major, rest) = number(version.trim_start_matches('v'));
    let (stage, rest) = match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
        (Some(rest), _) => (1, rest),
        (_, Some(rest)) => (0, rest),
        _ => (2, rest),
    };
    (stage, major, number(rest).0)
}

fn number(text: &str) -> (u64, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    (number.parse().unwrap_or(0), rest)
}

#[cfg(test)]
mod tests {
    use super::version_rank;

    #[test]
    fn stable_versions_come_first() {
        let mut versions = ["v1alpha2", "v2", "v1beta1", "v10", "v1alpha10"];
        versions.sort_by_key(|version| std::cmp::Reverse(version_rank(version)));
        assert_eq!(versions, ["v10", "v2", "v1beta1", "v1alpha10", "v1alpha2"]);
    }
}
