//! Loads: what the controller does while much happens, each on a cluster of its own.

mod caches;
mod flap;
mod idle;
mod storm;
mod wide;

use crate::args::{Args, LoadName};
use crate::bench::Bench;
use crate::phase::{Phase, measured};
use crate::phases;
use crate::report::Report;

/// Runs one load and returns its figures.
pub(crate) async fn run(load: LoadName, args: &Args) -> Result<Report, String> {
    let bench = Bench::start(args).await?;
    let mut phases = Vec::new();
    match load {
        LoadName::Flap => {
            phases.push(phases::rollout_phase(&bench, args).await?);
            let act = |b| flap::flap(b, args);
            phases.push(measured("all nodes flap", &bench, act).await?);
        }
        LoadName::Storm => {
            phases.push(phases::rollout_phase(&bench, args).await?);
            let title = format!("{} edits a second", args.edits);
            phases.push(measured(&title, &bench, |b| storm::storm(b, args)).await?);
        }
        LoadName::Wide => {
            phases.push(create(&bench, args).await?);
            phases.push(measured("idle", &bench, |b| idle::idle(b, args)).await?);
            let act = |b| flap::flap(b, args);
            phases.push(measured("all nodes flap", &bench, act).await?);
        }
        LoadName::Caches => {
            phases.push(create(&bench, args).await?);
            phases.push(measured("edits of one", &bench, |b| caches::edits(b, args)).await?);
            phases.push(measured("idle", &bench, |b| idle::idle(b, args)).await?);
            let act = |b| flap::flap(b, args);
            phases.push(measured("all nodes flap", &bench, act).await?);
        }
        LoadName::Deep => phases.push(phases::rollout_phase(&bench, args).await?),
        LoadName::Idle => {
            phases.push(phases::rollout_phase(&bench, args).await?);
            phases.push(measured("idle", &bench, |b| idle::idle(b, args)).await?);
        }
    }
    let record_bytes = phases::record_bytes(&bench).await?;
    Ok(Report::new(&bench, args, record_bytes, phases))
}

/// Creates all caches, and waits until every one is Ready.
async fn create(bench: &Bench, args: &Args) -> Result<Phase, String> {
    let title = format!("{} caches", args.caches());
    measured(&title, bench, |b| wide::create(b, args)).await
}
