//! A cluster in which only kubelets write.

use crate::args::Args;
use crate::bench::Bench;
use crate::limits::Bound;
use crate::phase::Outcome;
use crate::phases::quiet;

/// Nothing happens: controller and agents write nothing but the Lease.
pub(super) async fn idle(bench: &Bench, args: &Args) -> Result<Outcome, String> {
    let outcome = quiet::idle(bench, args.lasting).await?;
    Ok(Outcome {
        bounds: vec![
            Bound::none("nodeimagecaches"),
            Bound::none("imagecaches"),
            Bound::none("events"),
        ],
        ..outcome
    })
}
