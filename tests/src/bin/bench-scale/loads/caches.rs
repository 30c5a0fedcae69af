//! Edits of one cache among many.

use std::time::{Duration, Instant};

use serde_json::json;

use super::wide::name;
use crate::args::Args;
use crate::bench::{Bench, NODE_LABEL};
use crate::phase::Outcome;
use crate::report::percentile;

/// Edits, one after another.
const EDITS: usize = 20;
/// Time limit of one edit.
const LIMIT: Duration = Duration::from_secs(120);

/// Edits a cache for one node, and measures the time until the node holds the new image.
pub(super) async fn edits(bench: &Bench, args: &Args) -> Result<Outcome, String> {
    let node = bench.nodes.first().ok_or("there is no node")?;
    let mut waits = Vec::with_capacity(EDITS);
    for edit in 0..EDITS {
        let image = format!("registry.example.com/team/edited:v{edit}");
        bench.world.publish(&[&image]);
        let group = json!({ "images": [image], "nodeSelector": { NODE_LABEL: "0" } });
        let began = Instant::now();
        let spec = json!({ "cacheSpec": [group] });
        bench.world.apply_spec(&name(args.caches()), spec).await;
        let holds = || node.runtime.holds(&image);
        bench.eventually("the edited image", LIMIT, holds).await?;
        waits.push(began.elapsed().as_secs_f64());
    }
    bench.all_succeed(args.caches() + 1).await?;
    Ok(Outcome {
        nodes: Some(1),
        floor: Some(args.pulls_alone(1)),
        figures: [
            ("editToPulledP50", percentile(&waits, 0.5)),
            ("editToPulledMax", percentile(&waits, 1.0)),
        ]
        .into(),
        ..Outcome::default()
    })
}
