//! One cache that is edited many times a second.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fledged_kube::crd::NodeImageCache;
use futures_util::stream::StreamExt;
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, watcher};

use crate::args::Args;
use crate::bench::{Bench, lock};
use crate::phase::{Bound, Outcome};
use crate::phases::CACHE;
use crate::report::percentile;

/// The reference of the image that an edit adds, without its number.
const EDITED: &str = "registry.example.com/team/edited:v";
/// Events of one cache at once, and the interval in which one more is recorded.
const EVENTS: u64 = 25;
const EVENT_INTERVAL: u64 = 300;

/// When edits were sent, and how long each waited for an order.
#[derive(Debug, Default)]
struct Edits {
    sent: Vec<Instant>,
    waits: Vec<f64>,
}

/// Edits the cache many times a second: each edit replaces the image that the one before has added. Measures how long
/// an edit waits until the record of a node has it, or a later one.
pub(super) async fn storm(bench: &Bench, args: &Args) -> Result<Outcome, String> {
    let node = bench.nodes.first().ok_or("there is no node")?;
    let edits: Arc<Mutex<Edits>> = Arc::default();
    let watching = watch_orders(
        bench.world.records(),
        node.name().to_owned(),
        Arc::clone(&edits),
    );
    let watching = tokio::spawn(watching);
    let began = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / args.edits);
    let mut last = String::new();
    while began.elapsed() < args.lasting {
        ticks.tick().await;
        let number = lock(&edits).sent.len();
        last = format!("{EDITED}{number}");
        bench.world.publish(&[&last]);
        let mut images = bench.image_names();
        images.push(&last);
        lock(&edits).sent.push(Instant::now());
        bench.world.apply(CACHE, &images).await;
    }
    let took = began.elapsed().as_secs_f64();
    let ended = Instant::now();
    bench.ended(CACHE, "ImageCacheUpdate", "Succeeded").await?;
    let settled = ended.elapsed().as_secs_f64();
    watching.abort();
    let mut images = bench.image_names();
    images.push(&last);
    bench.check(&images, true)?;
    let edits = std::mem::take(&mut *lock(&edits));
    if edits.waits.len() != edits.sent.len() {
        let (ordered, sent) = (edits.waits.len(), edits.sent.len());
        return Err(format!("{sent} edits, of which {ordered} were ordered"));
    }
    let sent = u64::try_from(edits.sent.len()).map_err(|error| error.to_string())?;
    #[expect(clippy::cast_precision_loss, reason = "a count of some thousands")]
    let rate = sent as f64 / took;
    Ok(Outcome {
        figures: [
            ("perSecondEdits", rate),
            ("editToOrderP50", percentile(&edits.waits, 0.5)),
            ("editToOrderP99", percentile(&edits.waits, 0.99)),
            ("editToOrderMax", percentile(&edits.waits, 1.0)),
            ("lastEditToStatus", settled),
        ]
        .into(),
        bounds: vec![
            // Each edit begins an action, whose status is published at once; other changes wait for a second.
            Bound::most("imagecaches", sent + args.lasting.as_secs() + 10),
            Bound::most(
                "events",
                EVENTS + args.lasting.as_secs() / EVENT_INTERVAL + 1,
            ),
        ],
        ..Outcome::default()
    })
}

/// Notes which edits the record of a node has, until it is aborted.
async fn watch_orders(records: Api<NodeImageCache>, node: String, edits: Arc<Mutex<Edits>>) {
    let config = Config::default().fields(&format!("metadata.name={node}"));
    let changes = watcher(records, config).applied_objects();
    changes
        .for_each(|record| {
            if let Ok(record) = record {
                note_order(&record, &edits);
            }
            std::future::ready(())
        })
        .await;
}

fn note_order(record: &NodeImageCache, edits: &Mutex<Edits>) {
    let images = record.spec.images.iter();
    let present = images.filter(|entry| entry.state == fledged_core::model::DesiredState::Present);
    let numbers =
        present.filter_map(|entry| entry.image.strip_prefix(EDITED)?.parse::<usize>().ok());
    let Some(newest) = numbers.max() else { return };
    let mut edits = lock(edits);
    let ordered = edits.waits.len();
    let newly = edits.sent.iter().take(newest + 1).skip(ordered);
    let waits: Vec<f64> = newly.map(|sent| sent.elapsed().as_secs_f64()).collect();
    edits.waits.extend(waits);
}
