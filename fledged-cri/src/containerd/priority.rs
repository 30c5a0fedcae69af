//! Pulls of other clients of containerd go first.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fledged_core::model::Digest;
use tokio::time::Instant;

use super::content::Content;
use crate::registry::Connections;

/// Interval at which containerd is asked for unfinished content.
const INTERVAL: Duration = Duration::from_millis(250);
/// How long after its last progress another client's layer counts as active. containerd writes 1 MiB at a time.
const STALLED: Duration = Duration::from_secs(10);
/// How long another client's pull counts as active after its last layer, until it begins the next.
const BETWEEN_LAYERS: Duration = Duration::from_secs(2);

/// The layers of the images that are being pulled for fledged.
#[derive(Debug, Clone, Default)]
pub(super) struct OwnLayers(Arc<Mutex<Own>>);

#[derive(Debug, Default)]
struct Own {
    /// The number of pulls of each, by the name of its unfinished content.
    layers: HashMap<String, usize>,
    /// The number of pulls of the runtime for fledged whose layers are not known.
    unknown: usize,
}

impl OwnLayers {
    /// Adds the layers of a pull until the result is dropped.
    pub(super) fn add<'a>(&self, layers: impl IntoIterator<Item = &'a Digest>) -> OwnPull {
        let names = layers.into_iter().map(|digest| format!("layer-{digest}"));
        let names: Vec<String> = names.collect();
        let mut own = self.lock();
        for name in &names {
            *own.layers.entry(name.clone()).or_default() += 1;
        }
        drop(own);
        OwnPull {
            own: self.clone(),
            layers: Some(names),
        }
    }

    /// Adds a pull whose layers are not known, until the result is dropped. While there is one, no pull counts as that of
    /// another client.
    pub(super) fn add_unknown(&self) -> OwnPull {
        self.lock().unknown += 1;
        OwnPull {
            own: self.clone(),
            layers: None,
        }
    }

    /// Whether more than one pull needs the layer.
    pub(super) fn is_shared(&self, layer: &Digest) -> bool {
        let own = self.lock();
        own.layers
            .get(&format!("layer-{layer}"))
            .is_some_and(|count| *count > 1)
    }

    fn lock(&self) -> MutexGuard<'_, Own> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One pull, which is removed when it is dropped.
#[derive(Debug)]
pub(super) struct OwnPull {
    own: OwnLayers,
    layers: Option<Vec<String>>,
}

impl Drop for OwnPull {
    fn drop(&mut self) {
        let mut own = self.own.lock();
        let Some(layers) = &self.layers else {
            own.unknown -= 1;
            return;
        };
        for name in layers {
            if let Some(count) = own.layers.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    own.layers.remove(name);
                }
            }
        }
    }
}

/// Slows the connections down while another client pulls layers, in most cases the kubelet for a pod that starts.
/// Runs until it is dropped.
pub(super) async fn let_others_first(
    content: &Content,
    own: &OwnLayers,
    connections: &Connections,
) -> Infallible {
    let mut others = OtherPulls::default();
    let mut yielding = None;
    loop {
        let is_active = match content.unfinished().await {
            Ok(unfinished) => others.observe(unfinished, &own.lock(), Instant::now()),
            Err(failure) => {
                tracing::debug!(%failure, "pulls of other clients not read");
                false
            }
        };
        if !is_active {
            yielding = None;
        } else if yielding.is_none() {
            yielding = Some(connections.rate().yield_to_others());
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The progress of other clients' layers.
#[derive(Debug, Default)]
struct OtherPulls {
    /// The length of each. `None` before the first reading.
    lengths: Option<BTreeMap<String, u64>>,
    /// When one of them last progressed.
    progressed: Option<Instant>,
    /// When there was last one.
    listed: Option<Instant>,
}

impl OtherPulls {
    /// Takes a reading of all unfinished content, and returns whether another client pulls layers. Content that was
    /// already there in the first reading counts from its first progress on: most of it is of pulls that ended early.
    fn observe(&mut self, mut unfinished: BTreeMap<String, u64>, own: &Own, now: Instant) -> bool {
        let is_other = |name: &str| {
            own.unknown == 0 && name.starts_with("layer-") && !own.layers.contains_key(name)
        };
        unfinished.retain(|name, _| is_other(name));
        if let Some(before) = self.lengths.replace(unfinished.clone()) {
            let has_progressed =
                |(name, length): (&String, &u64)| before.get(name).is_none_or(|old| length > old);
            if unfinished.iter().any(has_progressed) {
                self.progressed = Some(now);
            }
        }
        if !unfinished.is_empty() {
            self.listed = Some(now);
        }
        let within =
            |time: Option<Instant>, limit| time.is_some_and(|at| now.duration_since(at) < limit);
        within(self.progressed, STALLED) && within(self.listed, BETWEEN_LAYERS)
    }
}

#[cfg(test)]
mod tests {
    use fledged_core::model::Digest;

    use super::*;

    fn digest(letter: char) -> Digest {
        let hex = letter.to_string().repeat(64);
        Digest::parse(&format!("sha256:{hex}")).unwrap()
    }

    fn unfinished(of: &[(char, u64)]) -> BTreeMap<String, u64> {
        let names = of.iter().map(|(letter, length)| {
            let name = format!("layer-{}", digest(*letter));
            (name, *length)
        });
        names.collect()
    }

    #[tokio::test(start_paused = true)]
    async fn only_progress_of_others_counts() {
        let own = OwnLayers::default();
        let pull = own.add([&digest('a'), &digest('b')]);
        let start = Instant::now();
        let mut others = OtherPulls::default();
        let mut observe = |of: &[(char, u64)], own: &OwnLayers, millis| {
            let now = start + Duration::from_millis(millis);
            others.observe(unfinished(of), &own.lock(), now)
        };
        // Left by a pull that ended early.
        assert!(!observe(&[('c', 5)], &own, 0));
        assert!(!observe(&[('c', 5), ('a', 1)], &own, 250));
        assert!(!observe(&[('c', 5), ('a', 9), ('b', 1)], &own, 500));
        // It is continued, and ends.
        assert!(observe(&[('c', 6)], &own, 750));
        assert!(observe(&[], &own, 2_500));
        assert!(!observe(&[], &own, 2_750));
        // A new one, which stalls.
        assert!(observe(&[('d', 0)], &own, 3_000));
        assert!(observe(&[('d', 0)], &own, 12_750));
        assert!(!observe(&[('d', 0)], &own, 13_000));
        drop(pull);
        assert!(observe(&[('d', 0), ('a', 9)], &own, 13_250));
        assert!(own.lock().layers.is_empty());
        // It may be the one whose layers are not known.
        let unknown = own.add_unknown();
        assert!(!observe(&[('d', 9), ('a', 19)], &own, 16_000));
        drop(unknown);
        assert!(observe(&[('d', 9), ('a', 19)], &own, 16_250));
    }

    #[tokio::test(start_paused = true)]
    async fn manifests_of_others_do_not_count() {
        let mut others = OtherPulls::default();
        let (none, now) = (Own::default(), Instant::now());
        assert!(!others.observe(BTreeMap::new(), &none, now));
        let manifest = BTreeMap::from([(format!("manifest-{}", digest('e')), 9)]);
        assert!(!others.observe(manifest, &none, now));
    }

    #[test]
    fn a_layer_of_two_pulls_is_own_until_both_end() {
        let own = OwnLayers::default();
        let first = own.add([&digest('a')]);
        let second = own.add([&digest('a')]);
        drop(first);
        assert_eq!(own.lock().layers.len(), 1);
        drop(second);
        assert!(own.lock().layers.is_empty());
    }
}
