//! The phases, in order.

mod changes;
pub(crate) mod quiet;
mod rollout;

use crate::args::{Args, PhaseName};
use crate::bench::Bench;
use crate::phase::{Phase, measured};
use crate::report::Report;

pub(crate) use rollout::record_bytes;

/// The cache of most phases.
pub(crate) const CACHE: &str = "bench";

/// Measures the rollout and the selected phases.
pub(crate) async fn run(args: &Args) -> Result<Report, String> {
    let bench = Bench::start(args).await?;
    let mut phases = vec![rollout_phase(&bench, args).await?];
    let record_bytes = record_bytes(&bench).await?;
    // In an order in which each phase leaves the cluster in the state that the next one needs.
    for name in [
        PhaseName::Join,
        PhaseName::Edit,
        PhaseName::One,
        PhaseName::Refresh,
        PhaseName::Reconnect,
        PhaseName::Idle,
        PhaseName::Restart,
        PhaseName::Purge,
        PhaseName::Troubled,
    ] {
        if args.wants(name) {
            phases.push(measure(name, &bench, args).await?);
        }
    }
    Ok(Report::new(&bench, args, record_bytes, phases))
}

/// Measures the rollout of the cache to all nodes.
pub(crate) async fn rollout_phase(bench: &Bench, args: &Args) -> Result<Phase, String> {
    measured("rollout", bench, |b| rollout::rollout(b, args)).await
}

async fn measure(name: PhaseName, bench: &Bench, args: &Args) -> Result<Phase, String> {
    match name {
        PhaseName::Join => {
            let title = format!("{} nodes join", args.joins);
            measured(&title, bench, |b| changes::join(b, args)).await
        }
        PhaseName::Edit => measured("one image more", bench, |b| changes::edit(b, args)).await,
        PhaseName::One => measured("a cache for one node", bench, |b| changes::one(b, args)).await,
        PhaseName::Refresh => measured("refresh", bench, changes::refresh).await,
        PhaseName::Reconnect => measured("all watches cut", bench, quiet::reconnect).await,
        PhaseName::Idle => measured("idle", bench, |b| quiet::idle(b, args.idle)).await,
        PhaseName::Restart => measured("controller killed", bench, quiet::restart).await,
        PhaseName::Purge => measured("purge", bench, changes::purge).await,
        PhaseName::Troubled => {
            rollout::register_troubled(bench, args).await;
            let title = format!("rollout, {0} NotReady, {0} unresponsive", args.troubled());
            measured(&title, bench, |b| rollout::again(b, args)).await
        }
    }
}
