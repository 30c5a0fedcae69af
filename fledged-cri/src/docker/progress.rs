//! Progress of a pull, summed up from the Engine's events for its layers.

use std::collections::BTreeMap;

use bollard::models::CreateImageInfo;
use fledged_core::model::{ByteSize, Digest};
use fledged_core::port::PullProgress;

/// The state of one pull, from its events so far.
#[derive(Debug, Default)]
pub(super) struct PullEvents {
    layers: BTreeMap<String, Layer>,
    digest: Option<Digest>,
}

#[derive(Debug, Default)]
struct Layer {
    done: u64,
    total: Option<u64>,
}

impl PullEvents {
    /// Applies one event. Returns the sums if the event changed them.
    pub(super) fn fold(&mut self, event: &CreateImageInfo) -> Option<PullProgress> {
        let status = event.status.as_deref()?;
        if let Some(digest) = status.strip_prefix("Digest: ") {
            self.digest = Digest::parse(digest).ok();
            return None;
        }
        let id = event.id.as_deref()?;
        match status {
            "Downloading" => {
                let detail = event.progress_detail.as_ref()?;
                let layer = self.layers.entry(id.to_owned()).or_default();
                layer.done = positive(detail.current).unwrap_or(layer.done);
                layer.total = positive(detail.total).or(layer.total);
            }
            // The Engine often skips the last event of a download, and all events of a small layer.
            "Verifying Checksum" | "Download complete" => {
                let layer = self.layers.get_mut(id)?;
                layer.done = layer.total.unwrap_or(layer.done);
            }
            // "Extracting" events count the same bytes again.
            _ => return None,
        }
        Some(self.sums())
    }

    /// Digest of the manifest or index, which the Engine reports last.
    pub(super) fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    fn sums(&self) -> PullProgress {
        let done = self.layers.values().map(|l| ByteSize::new(l.done)).sum();
        let total = self
            .layers
            .values()
            .filter_map(|l| l.total)
            .map(ByteSize::new)
            .reduce(|a, b| a + b);
        PullProgress::new(done, total)
    }
}

/// The Engine reports an unknown number as 0 or -1.
fn positive(number: Option<i64>) -> Option<u64> {
    number
        .and_then(|n| u64::try_from(n).ok())
        .filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(json: &str) -> CreateImageInfo {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn layers_add_up_and_extraction_does_not_count() {
        let mut events = PullEvents::default();
        let lines = [
            r#"{"status":"Pulling from app","id":"1"}"#,
            r#"{"status":"Pulling fs layer","progressDetail":{},"id":"a"}"#,
            r#"{"status":"Already exists","progressDetail":{},"id":"b"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":10,"total":100},"id":"a"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":5,"total":50},"id":"c"}"#,
            r#"{"status":"Download complete","progressDetail":{},"id":"a"}"#,
            r#"{"status":"Extracting","progressDetail":{"current":1,"total":100},"id":"a"}"#,
            r#"{"status":"Download complete","progressDetail":{},"id":"c"}"#,
            r#"{"status":"Downloading","progressDetail":{"current":7,"total":-1},"id":"d"}"#,
        ];
        let seen: Vec<(u64, Option<u64>)> = lines
            .iter()
            .filter_map(|line| events.fold(&event(line)))
            .map(|p| (p.done.bytes(), p.total.map(ByteSize::bytes)))
            .collect();
        assert_eq!(
            seen,
            [
                (10, Some(100)),
                (15, Some(150)),
                (105, Some(150)),
                (150, Some(150)),
                (157, Some(150))
            ]
        );
        assert_eq!(events.digest(), None);
    }

    #[test]
    fn the_digest_is_read() {
        let mut events = PullEvents::default();
        let digest = format!("sha256:{}", "0".repeat(64));
        events.fold(&event(&format!(r#"{{"status":"Digest: {digest}"}}"#)));
        assert_eq!(events.digest().map(Digest::as_str), Some(digest.as_str()));
    }
}
