//! What the controller says about itself at one moment.

use bytes::Bytes;
use fledged_tests::http;
use hyper::Method;
use serde::Serialize;

use crate::prometheus::samples;

/// The controller's own metrics.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ControllerMetrics {
    /// Writes to the API server, without those of its Lease.
    pub(crate) writes: u64,
    /// Upper bounds of times from an event to its plan in seconds, each with the number of plans up to it.
    latencies: Vec<(f64, u64)>,
    /// Writes that wait for their first attempt or a retry.
    pub(crate) waiting: u64,
    /// ImageCaches whose last action has succeeded, and all others.
    pub(crate) succeeded: u64,
    pub(crate) others: u64,
    /// Pairs of image and node that are not cached.
    pub(crate) lacking: u64,
}

/// How long events waited for their plan: upper bounds in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Latency {
    pub(crate) plans: u64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl ControllerMetrics {
    /// Reads the metrics at this address, which blocks.
    pub(crate) fn read(address: &str) -> Result<Self, String> {
        let answer = http::send(address, Method::GET, "/metrics", &[], None, Bytes::new());
        let answer = answer.map_err(|error| format!("the controller's metrics: {error}"))?;
        Ok(Self::parse(&String::from_utf8_lossy(&answer.body)))
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts"
    )]
    fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        for sample in samples(text) {
            let count = sample.value as u64;
            match sample.name {
                "fledged_api_writes_total" => metrics.writes += count,
                "fledged_queue_depth" => metrics.waiting = count,
                "fledged_reconcile_latency_seconds_bucket" => {
                    let bound = sample.label("le").parse().unwrap_or(f64::INFINITY);
                    metrics.latencies.push((bound, count));
                }
                "fledged_image_caches" if sample.label("status") == "Succeeded" => {
                    metrics.succeeded = count;
                }
                "fledged_image_caches" => metrics.others += count,
                "fledged_images"
                    if ["pulling", "failed", "unreachable"].contains(&sample.label("state")) =>
                {
                    metrics.lacking += count;
                }
                _ => {}
            }
        }
        metrics
    }

    /// The latencies since `before`, which is empty for a new process.
    pub(crate) fn latency_since(&self, before: &Self) -> Latency {
        let plans = |at: usize, (bound, count): &(f64, u64)| {
            let earlier = before.latencies.get(at).map_or(0, |(_, count)| *count);
            (*bound, count.saturating_sub(earlier))
        };
        let buckets = self.latencies.iter().enumerate();
        let buckets: Vec<(f64, u64)> = buckets.map(|(at, bucket)| plans(at, bucket)).collect();
        let all = buckets.last().map_or(0, |(_, count)| *count);
        let bound_of = |share: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a rank among counts"
            )]
            let rank = (share * all as f64).ceil() as u64;
            let found = buckets.iter().find(|(_, count)| *count >= rank && all > 0);
            found.map_or(0.0, |(bound, _)| *bound)
        };
        Latency {
            plans: all,
            p50: bound_of(0.5),
            p99: bound_of(0.99),
            max: bound_of(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_metrics(counts: [u64; 3]) -> ControllerMetrics {
        let [few, more, all] = counts;
        let name = "fledged_reconcile_latency_seconds_bucket";
        ControllerMetrics::parse(&format!(
            "{name}{{le=\"0.001\"}} {few}\n{name}{{le=\"0.1\"}} {more}\n{name}{{le=\"+Inf\"}} {all}\n\
             fledged_api_writes_total{{object=\"status\",result=\"ok\"}} 3\n\
             fledged_api_writes_total{{object=\"event\",result=\"ok\"}} 4\n\
             fledged_image_caches{{status=\"Succeeded\"}} 2\nfledged_image_caches{{status=\"Failed\"}} 1\n\
             fledged_images{{state=\"cached\"}} 9\nfledged_images{{state=\"pulling\"}} 5\nfledged_queue_depth 6\n"
        ))
    }

    #[test]
    fn metrics_are_read_and_latencies_are_those_of_the_phase() {
        let (before, after) = (mk_metrics([50, 60, 60]), mk_metrics([140, 159, 160]));
        assert_eq!((after.writes, after.waiting), (7, 6));
        assert_eq!((after.succeeded, after.others, after.lacking), (2, 1, 5));
        let latency = after.latency_since(&before);
        let expected = Latency {
            plans: 100,
            p50: 0.001,
            p99: 0.1,
            max: f64::INFINITY,
        };
        assert_eq!(latency, expected);
        let all = after.latency_since(&ControllerMetrics::default());
        assert_eq!((all.plans, all.p50), (160, 0.001));
        assert_eq!(before.latency_since(&before), Latency::default());
    }
}
