//! Phases without a change: idle, reconnect, restart.

use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use crate::bench::Bench;
use crate::phase::Outcome;
use crate::process::{Usage, usage};

/// How often a kubelet writes the status of a node that does not change.
const NODE_STATUS: Duration = Duration::from_secs(300);
/// Time limit until every agent watches again.
const BACK: Duration = Duration::from_secs(180);

/// Measures an idle cluster, in which only kubelets write (heartbeats).
pub(crate) async fn idle(bench: &Bench, lasting: Duration) -> Result<Outcome, String> {
    let agent = bench.agent.as_ref().map(|agent| agent.running.id());
    let before = agent.map(usage).transpose()?;
    let nodes = u32::try_from(bench.nodes.len()).map_err(|error| error.to_string())?;
    let mut ticks = tokio::time::interval(NODE_STATUS / nodes);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let began = Instant::now();
    for node in bench.nodes.iter().cycle() {
        let left = lasting.saturating_sub(began.elapsed());
        let ticked = tokio::time::timeout(left, ticks.tick()).await;
        if ticked.is_err() || left.is_zero() {
            break;
        }
        node.object.heartbeat().await;
    }
    let after = agent.map(usage).transpose()?;
    let took = began.elapsed();
    let figures = before.zip(after);
    let figures = figures.map(|(before, after)| agent_figures(before, after, took));
    Ok(Outcome {
        figures: figures.unwrap_or_default(),
        ..Outcome::default()
    })
}

#[expect(clippy::cast_precision_loss, reason = "sizes of some megabytes")]
fn agent_figures(
    before: Usage,
    after: Usage,
    took: Duration,
) -> std::collections::BTreeMap<&'static str, f64> {
    let share = (after.cpu - before.cpu) / took.as_secs_f64();
    [
        ("agentProcessRss", after.rss as f64),
        ("agentProcessPeakRss", after.peak_rss as f64),
        ("agentProcessCpuPercent", share * 100.0),
    ]
    .into()
}

/// Resets the connections of all agents at once and measures their reconnects.
pub(super) async fn reconnect(bench: &Bench) -> Result<Outcome, String> {
    let watches = bench.agents.watches();
    let cut = Instant::now();
    bench.agents.cut();
    bench
        .eventually("watches to end", BACK, || {
            bench.agents.watches() * 2 < watches
        })
        .await?;
    bench
        .eventually("watches to be back", BACK, || {
            bench.agents.watches() >= watches
        })
        .await?;
    let back = Instant::now();
    let sent = bench.agents.sent_since(cut);
    let times: Vec<f64> = sent
        .iter()
        .map(|at| at.saturating_duration_since(cut).as_secs_f64())
        .collect();
    Ok(Outcome {
        done: Some(back),
        figures: [
            ("requestsInBusiestSecond", busiest(&times, 1.0)),
            ("requestsInBusiestTenth", busiest(&times, 0.1)),
        ]
        .into(),
        ..Outcome::default()
    })
}

/// Returns the largest number of `times` within any window of this length.
fn busiest(times: &[f64], window: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let inside = |(n, start): (usize, &f64)| {
        let later = sorted.iter().skip(n);
        later.take_while(|at| **at < start + window).count()
    };
    let most = sorted.iter().enumerate().map(inside).max().unwrap_or(0);
    #[expect(clippy::cast_precision_loss, reason = "a count of some thousands")]
    let most = most as f64;
    most
}

/// Kills and restarts the controller; measures the time until it has processed a new cache.
pub(super) async fn restart(bench: &Bench) -> Result<Outcome, String> {
    tokio::task::block_in_place(|| bench.restart_controller());
    bench.settle("restarted").await?;
    Ok(Outcome::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_window_is_found() {
        let times = [0.0, 0.95, 1.0, 1.05, 1.9, 3.0];
        assert!((busiest(&times, 1.0) - 4.0).abs() < f64::EPSILON);
        assert!((busiest(&times, 0.2) - 3.0).abs() < f64::EPSILON);
        assert!(busiest(&[], 1.0).abs() < f64::EPSILON);
    }
}
