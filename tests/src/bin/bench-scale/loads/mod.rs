//! Loads: what the controller does while much happens, each on a cluster of its own.

mod caches;
mod flap;
mod idle;
mod storm;
mod wide;

use crate::args::{Args, LoadName};
use crate::bench::Bench;
use crate::limits::Limits;
use crate::phase::{Phase, measured};
use crate::phases;
use crate::report::Report;

/// Runs one load and returns its figures.
pub(crate) async fn run(load: LoadName, args: &Args) -> Result<Report, String> {
    let bench = Bench::start(args).await?;
    let limits = Limits::new(load, args);
    let mut phases = Vec::new();
    match load {
        LoadName::Flap => {
            phases.push(limits.rollout(phases::rollout_phase(&bench, args).await?));
            phases.push(limits.flap(flap(&bench, args).await?));
        }
        LoadName::Storm => {
            phases.push(limits.rollout(phases::rollout_phase(&bench, args).await?));
            let title = format!("{} edits a second", args.edits);
            let storm = measured(&title, &bench, |b| storm::storm(b, args)).await?;
            phases.push(limits.storm(storm));
        }
        LoadName::Wide => {
            phases.push(limits.rollout(create(&bench, args).await?));
            phases.push(limits.idle(idle(&bench, args).await?));
            phases.push(limits.flap(flap(&bench, args).await?));
        }
        LoadName::Caches => {
            phases.push(limits.rollout(create(&bench, args).await?));
            let edits = measured("edits of one", &bench, |b| caches::edits(b, args)).await?;
            phases.push(limits.edits(edits));
            phases.push(limits.idle(idle(&bench, args).await?));
            phases.push(limits.flap(flap(&bench, args).await?));
        }
        LoadName::Deep => {
            phases.push(limits.rollout(phases::rollout_phase(&bench, args).await?));
        }
        LoadName::Idle => {
            phases.push(limits.rollout(phases::rollout_phase(&bench, args).await?));
            phases.push(limits.idle(idle(&bench, args).await?));
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

async fn flap(bench: &Bench, args: &Args) -> Result<Phase, String> {
    measured("all nodes flap", bench, |b| flap::flap(b, args)).await
}

async fn idle(bench: &Bench, args: &Args) -> Result<Phase, String> {
    measured("idle", bench, |b| idle::idle(b, args)).await
}
