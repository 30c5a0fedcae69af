//! Labels of the demo's nodes, so that the entries of a manifest mean some nodes and not others.

use std::collections::BTreeMap;

use fledged_core::model::ImageCache;

/// Labels of one node, or those that an entry wants.
pub(super) type Labels = BTreeMap<String, String>;

/// Deals out what the node selectors of the caches ask for: in turn, a node gets the labels of the first
/// selector, of the second, ..., of none.
///
/// Labels that a kubelet sets are its own.
#[derive(Debug)]
pub(super) struct Dealer {
    selectors: Vec<Labels>,
}

impl Dealer {
    pub(super) fn new(caches: &[ImageCache]) -> Self {
        let mut selectors: Vec<Labels> = Vec::new();
        for group in caches.iter().flat_map(|cache| &cache.groups) {
            let selector = settable(&group.node_selector);
            if !selector.is_empty() && !selectors.contains(&selector) {
                selectors.push(selector);
            }
        }
        Self { selectors }
    }

    /// The labels of that node, counted from 0.
    pub(super) fn labels(&self, node: usize) -> Labels {
        let turn = node % (self.selectors.len() + 1);
        self.selectors.get(turn).cloned().unwrap_or_default()
    }
}

/// Labels that a kubelet sets by itself, and nobody else.
const KUBELETS: [&str; 3] = [
    "kubernetes.io/hostname",
    "kubernetes.io/os",
    "kubernetes.io/arch",
];

fn settable(selector: &Labels) -> Labels {
    let mut labels = selector.clone();
    labels.retain(|key, _| !KUBELETS.contains(&key.as_str()));
    labels
}

/// `key=value,key=value`, as kubectl takes and shows them.
pub(super) fn written(labels: &Labels) -> String {
    let pairs = labels.iter();
    let pairs: Vec<String> = pairs.map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::parse;

    #[test]
    fn selectors_are_dealt_out_in_turn() {
        let text = "
apiVersion: kubefledged.io/v1alpha2
kind: ImageCache
metadata: {name: shop}
spec:
  cacheSpec:
  - images: [web:1]
  - images: [db:1]
    nodeSelector: {tier: db, kubernetes.io/os: linux}
  - images: [gpu:1]
    nodeSelector: {gpu: 'yes'}
  - images: [db:2]
    nodeSelector: {tier: db}
";
        let caches = parse(&[("f".to_owned(), text.to_owned())]).unwrap().caches;
        let dealer = Dealer::new(&caches);
        let dealt: Vec<String> = (0..4).map(|n| written(&dealer.labels(n))).collect();
        assert_eq!(dealt, ["tier=db", "gpu=yes", "", "tier=db"]);
    }
}
