//! Pulls with a limited rate, in this process.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fledged_core::model::{CacheId, ImageRef, PullLimit, PullRate};
use fledged_core::port::{ImageRuntime, ProgressSink, PullRequest, SharedPullLimit};
use fledged_cri::{CriRuntime, FetcherOptions, PressureLimits};
use fledged_tests::Containerd;

/// The rate, as an option and a manifest have it.
pub(super) const RATE: &str = "20Mi";
/// Shortest time between two samples.
const SAMPLE: Duration = Duration::from_millis(20);

/// Where the rate is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// For all pulls, as by `--max-pull-rate`.
    Node,
    /// For one ImageCache, as by `rollout.maxPullRatePerNode`.
    Cache,
}

/// Each limit.
pub(super) const LIMITS: [Limit; 2] = [Limit::Node, Limit::Cache];

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "fledged, --max-pull-rate",
            Self::Cache => "fledged, maxPullRatePerNode",
        })
    }
}

/// Pulls images. Returns the bytes that were received since the start, at times since the start.
pub(super) fn pull(
    containerd: &Containerd,
    limit: Limit,
    images: &[String],
) -> Result<Vec<(Duration, u64)>, String> {
    let rate: PullRate = RATE.parse().map_err(|e| format!("{RATE}: {e}"))?;
    let mut options = FetcherOptions::default();
    options.config_dirs = vec![containerd.config_dir()];
    options.max_pull_rate = Some(rate).filter(|_| limit == Limit::Node);
    options.pressure = PressureLimits::none();
    let of_cache = Some(PullLimit::new(CacheId::new("default", "bench", "u"), rate));
    let of_cache = SharedPullLimit::new(of_cache.filter(|_| limit == Limit::Cache));
    let runtime = CriRuntime::connect(containerd.socket()).with_fetcher(options);
    let received: Arc<Mutex<Vec<(Duration, u64)>>> = Arc::default();
    let start = Instant::now();
    let pulls = async {
        for image in images {
            let image: ImageRef = image.parse().map_err(|e| format!("{image}: {e}"))?;
            let samples = Arc::clone(&received);
            let progress = ProgressSink::new(move |progress| {
                let mut samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
                let at = start.elapsed();
                if samples.last().is_none_or(|(last, _)| at >= *last + SAMPLE) {
                    samples.push((at, progress.done.bytes()));
                }
            });
            let request = PullRequest::new(image)
                .with_progress(progress)
                .with_limit(of_cache.clone());
            let pulled = runtime.pull(request).await;
            pulled.map_err(|failure| failure.to_string())?;
        }
        Ok(())
    };
    let tokio = tokio::runtime::Runtime::new().map_err(|e| format!("no async runtime: {e}"))?;
    tokio.block_on(pulls).map(|()| {
        let mut received = received.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *received)
    })
}
