//! Nodes that turn NotReady and Ready again, all the time.

use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt};

use crate::args::Args;
use crate::bench::{AT_ONCE, Bench};
use crate::limits::Bound;
use crate::phase::Outcome;

/// Every node turns NotReady and Ready again once in each period.
pub(super) async fn flap(bench: &Bench, args: &Args) -> Result<Outcome, String> {
    let ticks = tokio::time::interval(args.flap_interval());
    let began = Instant::now();
    // All nodes turn NotReady, one after another, then all turn Ready.
    let turns = [false, true].into_iter().cycle();
    let turns = turns.flat_map(|ready| bench.nodes.iter().map(move |node| (node, ready)));
    let turns = stream::unfold((ticks, turns), async |(mut ticks, mut turns)| {
        ticks.tick().await;
        let turn = turns.next().filter(|_| began.elapsed() < args.lasting)?;
        Some((turn, (ticks, turns)))
    });
    // Not so many at once that the next change of a node would overtake the last one.
    let at_once = AT_ONCE.min(bench.nodes.len());
    let changes: u64 = turns
        .map(async |(node, ready)| node.object.set_ready(ready).await)
        .buffer_unordered(at_once)
        .fold(0, async |changes, ()| changes + 1)
        .await;
    let took = began.elapsed();
    #[expect(clippy::cast_precision_loss, reason = "a count of some thousands")]
    let rate = changes as f64 / took.as_secs_f64();
    stream::iter(&bench.nodes)
        .for_each_concurrent(AT_ONCE, async |node| node.object.set_ready(true).await)
        .await;
    let back = Instant::now();
    bench.all_succeed(args.caches()).await?;
    let settled = back.elapsed();
    let nodes = u64::try_from(bench.nodes.len()).map_err(|error| error.to_string())?;
    let changes = changes + nodes;
    Ok(Outcome {
        figures: [
            ("perSecondChanges", rate),
            ("lastChangeToStatus", settled.as_secs_f64()),
        ]
        .into(),
        bounds: vec![
            Bound::none("nodeimagecaches"),
            Bound::most("imagecaches", status_limit(changes, took + settled, args)?),
        ],
        ..Outcome::default()
    })
}

/// The most status writes: for each cache of all nodes one a second, and one for each of its new results, of which there
/// are at most two in a period; for each cache of one node two with each change of that node.
fn status_limit(changes: u64, took: Duration, args: &Args) -> Result<u64, String> {
    let count = |count: usize| u64::try_from(count).map_err(|error| error.to_string());
    let everywhere = count(args.everywhere())?;
    let own = count(args.caches())? - everywhere;
    let of_one_node = own.div_ceil(count(args.nodes())?);
    let seconds = took.as_secs() + 5;
    Ok(everywhere * 2 * seconds + of_one_node * 2 * changes)
}
