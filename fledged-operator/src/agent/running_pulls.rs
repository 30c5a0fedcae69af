//! The pulls that an agent runs now: bytes, rate, and the document that it serves at `/pulls`.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fledged_core::model::{ImageRef, NodeName};
use fledged_core::port::{Clock, PullProgress};
use fledged_core::time::between;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The time over which a rate is averaged: long enough to level out layers that begin and end.
const WINDOW: Duration = Duration::from_secs(10);
/// Shortest time between two samples, so that a pull has at most some forty.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);
/// Shortest time that a rate is computed from.
const RATE_AFTER: Duration = Duration::from_secs(1);
/// Most pulls in a document. `--max-parallel-pulls` is far below it on any usual node.
const PULLS_MAX: usize = 256;

/// The hash that names an image in [`NodePulls`]: SHA-256 of the normalised reference
/// (`docker.io/library/nginx:1.27`), in lower-case hexadecimal digits.
///
/// It hides a name only from readers who cannot guess it.
#[must_use]
pub fn image_hash(image: &ImageRef) -> String {
    let hash = Sha256::digest(image.as_str().as_bytes());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The running pulls of a node: the document of [`RunningPulls`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct NodePulls {
    /// The node.
    pub node: String,
    /// The pulls, by the time of their start; at most 256.
    pub pulls: Vec<RunningPull>,
}

/// One running pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct RunningPull {
    /// The image, as [`image_hash`] of its reference. The document has no authentication and a node's images belong to
    /// several tenants, so it names none.
    pub image_hash: String,
    /// The start of the pull.
    pub started_at: Timestamp,
    /// Received bytes of layers that were missing; absent while the runtime has reported no progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_bytes: Option<u64>,
    /// Bytes to receive in all; absent until they are known. May grow while manifests are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// Bytes a second, averaged over the last 10 s; absent in the first second and without progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
}

/// The pulls that an agent runs now. Clones share them.
///
/// Made by [`Agent::running_pulls`](super::Agent::running_pulls).
#[derive(Clone)]
pub struct RunningPulls {
    node: NodeName,
    clock: Arc<dyn Clock>,
    pulls: Arc<Mutex<BTreeMap<ImageRef, Transfer>>>,
}

impl fmt::Debug for RunningPulls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningPulls")
            .field("node", &self.node)
            .field("pulls", &self.pulls().len())
            .finish_non_exhaustive()
    }
}

impl RunningPulls {
    pub(super) fn new(node: NodeName, clock: Arc<dyn Clock>) -> Self {
        Self {
            node,
            clock,
            pulls: Arc::default(),
        }
    }

    /// The pulls that run now.
    #[must_use]
    pub fn snapshot(&self) -> NodePulls {
        let now = self.clock.now();
        let pulls = self.pulls();
        let mut oldest: Vec<(&ImageRef, &Transfer)> = pulls.iter().collect();
        oldest.sort_by_key(|(_, transfer)| transfer.started_at);
        oldest.truncate(PULLS_MAX);
        let shown = oldest
            .into_iter()
            .map(|(image, transfer)| transfer.shown(image, now));
        NodePulls {
            node: self.node.to_string(),
            pulls: shown.collect(),
        }
    }

    /// The pulls that run now, as the JSON document of `/pulls`.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings and numbers have a JSON form.
        serde_json::to_string(&self.snapshot()).unwrap_or_default()
    }

    /// Adds a pull. Returns the number of running pulls.
    pub(super) fn begin(&self, image: &ImageRef) -> usize {
        let transfer = Transfer::new(self.clock.now());
        let mut pulls = self.pulls();
        pulls.insert(image.clone(), transfer);
        pulls.len()
    }

    /// Records the progress of a pull. Returns the bytes that have arrived since its last progress.
    pub(super) fn progressed(&self, image: &ImageRef, progress: PullProgress) -> u64 {
        let now = self.clock.now();
        let mut pulls = self.pulls();
        // A pull that has ended does not count any more.
        let transfer = pulls.get_mut(image);
        transfer.map_or(0, |transfer| transfer.progressed(progress, now))
    }

    /// Removes a pull. Returns the number of running pulls.
    pub(super) fn end(&self, image: &ImageRef) -> usize {
        let mut pulls = self.pulls();
        pulls.remove(image);
        pulls.len()
    }

    /// The map is consistent after every statement, so a poisoned lock can be used.
    fn pulls(&self) -> MutexGuard<'_, BTreeMap<ImageRef, Transfer>> {
        self.pulls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of one pull.
struct Transfer {
    started_at: Timestamp,
    last: Option<PullProgress>,
    /// Times and the bytes done by then, oldest first. The first one is at most the window before the last one, or the
    /// last one before that. Never empty.
    samples: VecDeque<(Timestamp, u64)>,
}

impl Transfer {
    fn new(now: Timestamp) -> Self {
        Self {
            started_at: now,
            last: None,
            samples: VecDeque::from([(now, 0)]),
        }
    }

    /// Returns the bytes that have arrived since the last progress.
    fn progressed(&mut self, progress: PullProgress, now: Timestamp) -> u64 {
        let done = progress.done.bytes();
        let before = self.last.map_or(0, |last| last.done.bytes());
        self.last = Some(progress);
        if done < before {
            // Another attempt, with other credentials, begins at zero.
            self.samples = VecDeque::from([(now, done)]);
            return 0;
        }
        let newest = self.samples.back();
        if newest.is_none_or(|(at, _)| between(*at, now) >= SAMPLE_INTERVAL) {
            self.samples.push_back((now, done));
            while self
                .samples
                .get(1)
                .is_some_and(|(at, _)| between(*at, now) >= WINDOW)
            {
                self.samples.pop_front();
            }
        }
        done - before
    }

    /// Bytes a second since the window began.
    fn rate(&self, now: Timestamp) -> Option<u64> {
        let done = self.last?.done.bytes();
        let mut samples = self.samples.iter();
        // The newest one from before the window; a pull that is stalled has no newer ones.
        let from = samples
            .rfind(|(at, _)| between(*at, now) >= WINDOW)
            .or_else(|| self.samples.front())?;
        let elapsed = between(from.0, now);
        if elapsed < RATE_AFTER {
            return None;
        }
        let rate = u128::from(done - from.1) * 1_000 / elapsed.as_millis();
        u64::try_from(rate).ok()
    }

    fn shown(&self, image: &ImageRef, now: Timestamp) -> RunningPull {
        RunningPull {
            image_hash: image_hash(image),
            started_at: self.started_at,
            done_bytes: self.last.map(|last| last.done.bytes()),
            total_bytes: self
                .last
                .and_then(|last| last.total)
                .map(|total| total.bytes()),
            bytes_per_second: self.rate(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use fledged_core::model::ByteSize;
    use serde_json::{Value, json};

    use super::*;

    /// A clock that stands still until it is advanced.
    #[derive(Default)]
    struct ManualClock(Mutex<Timestamp>);

    impl ManualClock {
        fn advance(&self, milliseconds: i64) {
            *self.0.lock().unwrap() += jiff::SignedDuration::from_millis(milliseconds);
        }
    }

    #[async_trait]
    impl Clock for ManualClock {
        fn now(&self) -> Timestamp {
            *self.0.lock().unwrap()
        }

        async fn sleep(&self, _: Duration) {}
    }

    fn mk_pulls() -> (RunningPulls, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        let node = NodeName::new("n1").unwrap();
        (RunningPulls::new(node, Arc::clone(&clock) as _), clock)
    }

    fn image(name: &str) -> ImageRef {
        name.parse().unwrap()
    }

    fn progress(done: u64, total: impl Into<Option<u64>>) -> PullProgress {
        PullProgress::new(ByteSize::new(done), total.into().map(ByteSize::new))
    }

    fn document(pulls: &RunningPulls) -> Value {
        serde_json::from_str(&pulls.to_json()).unwrap()
    }

    fn rate(pulls: &RunningPulls) -> Option<u64> {
        pulls.snapshot().pulls[0].bytes_per_second
    }

    #[test]
    fn a_pull_is_shown_by_hash_until_it_ends() {
        let (pulls, clock) = mk_pulls();
        let app = image("nginx:1.27");
        assert_eq!(document(&pulls), json!({ "node": "n1", "pulls": [] }));
        assert_eq!(pulls.begin(&app), 1);
        // `printf docker.io/library/nginx:1.27 | sha256sum`
        let hash = "6965a10c15290ad0b29ca7fd1866de1850408b3cb15fb11a3bbbbc2fddb158bd";
        let started = "1970-01-01T00:00:00Z";
        let silent = json!({ "imageHash": hash, "startedAt": started });
        assert_eq!(document(&pulls)["pulls"], json!([silent]));
        clock.advance(500);
        assert_eq!(pulls.progressed(&app, progress(10, None)), 10);
        assert_eq!(document(&pulls)["pulls"][0]["doneBytes"], 10);
        clock.advance(1_500);
        assert_eq!(pulls.progressed(&app, progress(400, 1_000)), 390);
        let shown = json!({ "imageHash": hash, "startedAt": started, "doneBytes": 400,
            "totalBytes": 1_000, "bytesPerSecond": 200 });
        assert_eq!(document(&pulls)["pulls"], json!([shown]));
        assert!(!pulls.to_json().contains("nginx"));
        assert_eq!(pulls.end(&app), 0);
        assert_eq!(pulls.progressed(&app, progress(500, 1_000)), 0);
        assert_eq!(document(&pulls)["pulls"], json!([]));
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let (pulls, clock) = mk_pulls();
        let app = image("app:1");
        pulls.begin(&app);
        pulls.progressed(&app, progress(0, None));
        clock.advance(999);
        assert_eq!(rate(&pulls), None, "too early");
        let mut done = 0;
        for per_step in [100_u64, 10] {
            for _ in 0..200 {
                clock.advance(100);
                done += per_step;
                pulls.progressed(&app, progress(done, None));
            }
            let expected = per_step * 10;
            let shown = rate(&pulls).unwrap();
            assert!(shown.abs_diff(expected) <= expected / 20, "{shown}");
        }
        assert!(pulls.pulls()[&app].samples.len() <= 42);
        clock.advance(30_000);
        assert_eq!(rate(&pulls), Some(0), "it is stalled");
    }

    #[test]
    fn an_attempt_that_begins_again_has_its_own_rate() {
        let (pulls, clock) = mk_pulls();
        let app = image("app:1");
        pulls.begin(&app);
        clock.advance(5_000);
        assert_eq!(pulls.progressed(&app, progress(5_000, None)), 5_000);
        assert_eq!(pulls.progressed(&app, progress(100, None)), 0);
        assert_eq!(rate(&pulls), None);
        clock.advance(2_000);
        assert_eq!(pulls.progressed(&app, progress(300, None)), 200);
        assert_eq!(rate(&pulls), Some(100));
    }

    #[test]
    fn the_document_is_bounded() {
        let (pulls, clock) = mk_pulls();
        for number in 0..PULLS_MAX + 10 {
            pulls.begin(&image(&format!("app:{number}")));
            clock.advance(1);
        }
        let shown = pulls.snapshot();
        assert_eq!(shown.pulls.len(), PULLS_MAX);
        assert_eq!(shown.pulls[0].image_hash, image_hash(&image("app:0")));
        assert!(pulls.to_json().len() < 64 * 1024);
    }
}
