//! One cache that is edited many times a second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fledged_core::model::DesiredState;
use fledged_kube::crd::NodeImageCache;
use futures_util::stream::{self, Stream, StreamExt, TryStreamExt};
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, watcher};
use serde_json::json;

use crate::args::Args;
use crate::bench::{Bench, lock};
use crate::limits::Bound;
use crate::phase::Outcome;
use crate::phases::CACHE;
use crate::report::percentile;

/// The reference of the image that an edit adds, without its number.
const EDITED: &str = "registry.example.com/team/edited:v";
/// Most edits under way at one time.
const IN_FLIGHT: usize = 32;
/// Time limit of the last order once the ImageCache is Ready.
const LIMIT: Duration = Duration::from_secs(60);
/// Events of one cache at once, and the interval in which one more is recorded.
const EVENTS: u64 = 25;
const EVENT_INTERVAL: u64 = 300;

/// An edit that the API server has accepted.
#[derive(Debug, Clone, Copy)]
struct Edit {
    number: usize,
    sent: Instant,
    /// Generation of the ImageCache after it. Edits under way at the same time take effect in any order.
    generation: i64,
}

/// The newest edit that the record of a node had at one time.
#[derive(Debug, Clone, Copy)]
struct Order {
    number: usize,
    at: Instant,
}

/// Edits the cache many times a second, with up to [`IN_FLIGHT`] edits under way: each edit replaces the image that an
/// earlier one has added. Measures how long an edit waits until the record of a node has it, or a later one.
pub(super) async fn storm(bench: &Bench, args: &Args) -> Result<Outcome, String> {
    let node = bench.nodes.first().ok_or("there is no node")?;
    let orders: Arc<Mutex<Vec<Order>>> = Arc::default();
    let watching = watch_orders(
        bench.world.records(),
        node.name().to_owned(),
        Arc::clone(&orders),
    );
    let watching = tokio::spawn(watching);
    let began = Instant::now();
    let sent: Vec<Option<Edit>> = stream::iter(0..)
        .zip(ticks(args.edits, args.lasting))
        .map(|(number, ())| edit(bench, number))
        .buffer_unordered(IN_FLIGHT)
        .try_collect()
        .await?;
    let took = began.elapsed().as_secs_f64();
    // The last edit is alone: it is the one that stays.
    let last = edit(bench, sent.len()).await?;
    let last = last.ok_or("the last edit met a conflict")?;
    let ended = Instant::now();
    bench.ended(CACHE, "ImageCacheUpdate", "Succeeded").await?;
    let settled = ended.elapsed().as_secs_f64();
    // The watch of this program may be behind.
    let is_ordered = || {
        let orders = lock(&orders);
        let newest = orders.last();
        newest.is_some_and(|order| order.number == last.number)
    };
    bench
        .eventually("the order of the last edit", LIMIT, is_ordered)
        .await?;
    watching.abort();
    let added = reference(last.number);
    let mut images = bench.image_names();
    images.push(&added);
    bench.check(&images, true)?;
    let edits: Vec<Edit> = sent.iter().flatten().copied().collect();
    let conflicts = sent.len() - edits.len();
    let rate = number(edits.len()) / took;
    let edits: Vec<Edit> = edits.into_iter().chain([last]).collect();
    let waits = waits(&edits, &lock(&orders))?;
    let accepted = u64::try_from(edits.len()).map_err(|error| error.to_string())?;
    Ok(Outcome {
        figures: [
            ("perSecondEdits", rate),
            ("perSecondEditsAsked", f64::from(args.edits)),
            ("requestsWithConflict", number(conflicts)),
            ("editToOrderP50", percentile(&waits, 0.5)),
            ("editToOrderP99", percentile(&waits, 0.99)),
            ("editToOrderMax", percentile(&waits, 1.0)),
            ("lastEditToStatus", settled),
        ]
        .into(),
        bounds: vec![
            // Each edit begins an action, whose status is published at once; other changes wait for a second.
            Bound::most("imagecaches", accepted + args.lasting.as_secs() + 10),
            Bound::most(
                "events",
                EVENTS + args.lasting.as_secs() / EVENT_INTERVAL + 1,
            ),
        ],
        ..Outcome::default()
    })
}

#[expect(clippy::cast_precision_loss, reason = "a count of some thousands")]
fn number(count: usize) -> f64 {
    count as f64
}

/// Ticks so many times a second. After a delay, the missed ticks follow at once.
fn ticks(per_second: u32, lasting: Duration) -> impl Stream<Item = ()> {
    let began = Instant::now();
    let ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
    stream::unfold(ticks, move |mut ticks| async move {
        ticks.tick().await;
        (began.elapsed() < lasting).then_some(((), ticks))
    })
}

/// The reference of the image that an edit adds.
fn reference(edit: usize) -> String {
    format!("{EDITED}{edit}")
}

/// Sends an edit; nothing if it met a conflict: kube-apiserver gives up after some attempts to write an object that
/// others write at the same time.
async fn edit(bench: &Bench, number: usize) -> Result<Option<Edit>, String> {
    let added = reference(number);
    bench.world.publish(&[&added]);
    let mut images = bench.image_names();
    images.push(&added);
    let spec = json!({ "cacheSpec": [{ "images": images }] });
    let sent = Instant::now();
    match bench.world.try_apply_spec(CACHE, spec).await {
        Ok(cache) => Ok(Some(Edit {
            number,
            sent,
            generation: cache.metadata.generation.unwrap_or_default(),
        })),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
        Err(error) => Err(format!("edit {number}: {error}")),
    }
}

/// Notes which edits the record of a node has, until it is aborted.
async fn watch_orders(records: Api<NodeImageCache>, node: String, orders: Arc<Mutex<Vec<Order>>>) {
    let config = Config::default().fields(&format!("metadata.name={node}"));
    let changes = watcher(records, config).applied_objects();
    changes
        .for_each(|record| {
            let ordered = record.ok().and_then(|record| ordered(&record));
            if let Some(number) = ordered {
                let at = Instant::now();
                lock(&orders).push(Order { number, at });
            }
            std::future::ready(())
        })
        .await;
}

/// The edit whose image the node is to have.
fn ordered(record: &NodeImageCache) -> Option<usize> {
    let images = record.spec.images.iter();
    let present = images.filter(|entry| entry.state == DesiredState::Present);
    let mut numbers = present.filter_map(|entry| entry.image.strip_prefix(EDITED)?.parse().ok());
    numbers.next()
}

/// Seconds from each edit to the first order of it, or of one that took effect after it.
fn waits(edits: &[Edit], orders: &[Order]) -> Result<Vec<f64>, String> {
    let generations: BTreeMap<usize, i64> = edits
        .iter()
        .map(|edit| (edit.number, edit.generation))
        .collect();
    let mut edits: Vec<&Edit> = edits.iter().collect();
    edits.sort_by_key(|edit| edit.generation);
    let mut waiting = edits.into_iter().peekable();
    let mut waits = Vec::new();
    for order in orders {
        let Some(generation) = generations.get(&order.number) else {
            continue;
        };
        while let Some(edit) = waiting.next_if(|edit| edit.generation <= *generation) {
            let wait = order.at.saturating_duration_since(edit.sent);
            waits.push(wait.as_secs_f64());
        }
    }
    match waiting.count() {
        0 => Ok(waits),
        left => Err(format!("{left} edits were never ordered")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_waits_for_the_first_order_of_a_later_generation() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        // The edits 1 and 2 took effect in the opposite order.
        let edits = [(0, 0, 10), (1, 1, 12), (2, 2, 11), (3, 3, 13)];
        let edits = edits.map(|(number, sent, generation)| Edit {
            number,
            sent: at(sent),
            generation,
        });
        let mk_orders = |orders: &[(usize, u64)]| -> Vec<Order> {
            let orders = orders.iter();
            orders
                .map(|(number, seconds)| Order {
                    number: *number,
                    at: at(*seconds),
                })
                .collect()
        };
        let found = waits(&edits, &mk_orders(&[(0, 1), (1, 5), (3, 6)])).unwrap();
        // In the order of the generations: 0, 2, 1, 3.
        assert_eq!(found, [1.0, 3.0, 4.0, 3.0]);
        let error = waits(&edits, &mk_orders(&[(2, 5)])).unwrap_err();
        assert_eq!(error, "2 edits were never ordered");
    }
}
