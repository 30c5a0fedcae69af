//! Who a candidate is.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A name for this process that no other candidate has, restarted or not: `name`, or else the machine's,
/// which in a pod is the pod's, and something random.
#[must_use]
pub fn identity(name: Option<&str>) -> String {
    let machine = || {
        let text = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        text.trim().to_owned()
    };
    let name = name.filter(|name| !name.is_empty());
    let name = name.map_or_else(machine, str::to_owned);
    // Randomly keyed for each of these.
    let random = RandomState::new().build_hasher().finish();
    format!("{name}_{random:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_candidates_are_the_same() {
        let (a, b) = (identity(Some("pod-1")), identity(Some("pod-1")));
        assert!(a.starts_with("pod-1_"), "{a}");
        assert_ne!(a, b);
        assert!(!identity(Some("")).starts_with('_'), "the machine's name");
    }
}
