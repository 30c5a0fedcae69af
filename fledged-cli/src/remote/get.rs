//! `fledged get`: ImageCaches and their counts, once or continuously.

use std::collections::BTreeSet;
use std::pin::pin;

use console::Style;
use fledged_core::model::CacheId;
use fledged_kube::crd::ReadCache;
use fledged_kube::request_error::with_causes;
use fledged_kube::watch::try_watch;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use kube::runtime::watcher::{self, Event};
use serde::Serialize;

use super::kubeconfig::{Connection, connect};
use super::live_pulls::LivePulls;
use super::overview::{CacheOverview, status_style};
use super::{render, render_in_stream};
use crate::args::{Format, GetArgs};
use crate::command_result::{CommandError, Exit, print};
use crate::output::{Align, Table, Terminal, Widths, age};

/// The result, as `-o json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Overviews {
    image_caches: Vec<CacheOverview>,
}

impl Overviews {
    fn new(caches: &[ReadCache]) -> Self {
        Self {
            image_caches: caches.iter().map(CacheOverview::new).collect(),
        }
    }
}

pub(super) async fn get(args: GetArgs, terminal: &Terminal) -> Result<Exit, CommandError> {
    let connection = connect(&args.connection).await?;
    let caches = match &args.name {
        Some(name) => vec![connection.cache(name).await?],
        None => connection.list_caches(args.all_namespaces).await?,
    };
    let overviews = Overviews::new(&caches);
    let (format, all) = (args.output.output, args.all_namespaces);
    if args.watch {
        let printer = Printer::new(&overviews, format, all);
        let never = |_: &ReadCache| false;
        let pulls = LivePulls::start(&connection, terminal);
        let (name, pulls) = (args.name.as_deref(), Some(&pulls));
        watch(&connection, name, printer, terminal, pulls, never).await?;
        return Ok(Exit::Done);
    }
    if format == Format::Table && overviews.image_caches.is_empty() {
        terminal.line(if all {
            "no ImageCaches in the cluster".to_owned()
        } else {
            format!("no ImageCaches in namespace {}", connection.namespace)
        });
        return Ok(Exit::Done);
    }
    let now = Timestamp::now();
    let text = render(format, &overviews, |view| {
        table(&view.image_caches, all, now).render()
    })?;
    print(&text)?;
    Ok(Exit::Done)
}

/// `get -w`, or `get -A -w`, until `is_done` returns true for a printed ImageCache.
#[cfg(feature = "demo")]
pub(crate) async fn get_until(
    connection: &Connection,
    all_namespaces: bool,
    terminal: &Terminal,
    is_done: impl FnMut(&ReadCache) -> bool,
) -> Result<(), CommandError> {
    let caches = connection.list_caches(all_namespaces).await?;
    let printer = Printer::new(&Overviews::new(&caches), Format::Table, all_namespaces);
    // Its agents are no pods.
    watch(connection, None, printer, terminal, None, is_done).await
}

async fn watch(
    connection: &Connection,
    name: Option<&str>,
    mut printer: Printer,
    terminal: &Terminal,
    pulls: Option<&LivePulls>,
    mut is_done: impl FnMut(&ReadCache) -> bool,
) -> Result<(), CommandError> {
    let mut config = watcher::Config::default();
    if let Some(name) = name {
        config = config.fields(&format!("metadata.name={name}"));
    }
    let api = if printer.all_namespaces {
        connection.all_caches()
    } else {
        connection.caches()
    };
    let mut events = pin!(try_watch(api, config));
    let mut interrupted = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                // A listing begins also while the server is gone.
                interrupted &= matches!(event, Event::Init);
                let cache = match &event {
                    Event::InitApply(cache) | Event::Apply(cache) => Some(cache.clone()),
                    _ => None,
                };
                terminal.above(|| printer.print_event(event))?;
                if let Some(pulls) = pulls {
                    pulls.set(printer.pulling());
                }
                if cache.is_some_and(|cache| is_done(&cache)) {
                    break;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut interrupted, true) {
                    terminal.warn(format_args!(
                        "the watch was interrupted, retrying: {}",
                        with_causes(&error)
                    ));
                }
            }
        }
    }
    Ok(())
}

/// Prints a row or a document for every change.
struct Printer {
    format: Format,
    all_namespaces: bool,
    widths: Widths,
    has_header: bool,
    /// What was printed last of each ImageCache.
    printed: Vec<(CacheId, CacheOverview)>,
    /// The ImageCaches of a listing that is being received.
    listed: BTreeSet<CacheId>,
}

impl Printer {
    fn new(first: &Overviews, format: Format, all_namespaces: bool) -> Self {
        let now = Timestamp::now();
        let mut widths = table(&first.image_caches, all_namespaces, now).widths();
        let names = table([], all_namespaces, now).widths();
        widths.resize(names.len(), None);
        // Later rows can be wider; make room for the words of an ImageCache without failures.
        let mut usual = CacheOverview::new(&ReadCache::default());
        usual.status = Some("Processing".to_owned());
        usual.action = Some("ImageCacheRefresh".to_owned());
        let usual = table([&usual], all_namespaces, now).widths();
        for ((width, names), usual) in widths.iter_mut().zip(names).zip(usual) {
            *width = (*width).max(names).max(usual);
        }
        Self {
            format,
            all_namespaces,
            widths,
            has_header: false,
            printed: Vec::new(),
            listed: BTreeSet::new(),
        }
    }

    fn print_event(&mut self, event: Event<ReadCache>) -> Result<(), CommandError> {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(cache) => {
                self.listed.insert(cache.id());
                self.print_change(&cache)?;
            }
            Event::Apply(cache) => self.print_change(&cache)?,
            Event::InitDone => {
                let deleted: Vec<CacheId> = self
                    .printed
                    .iter()
                    .map(|(id, _)| id)
                    .filter(|id| !self.listed.contains(id))
                    .cloned()
                    .collect();
                for id in deleted {
                    self.print_deletion(&id)?;
                }
            }
            Event::Delete(cache) => self.print_deletion(&cache.id())?,
        }
        Ok(())
    }

    /// The ImageCaches that pull.
    fn pulling(&self) -> BTreeSet<CacheId> {
        let pulling = self
            .printed
            .iter()
            .filter(|(_, view)| view.counts.pulling > 0);
        pulling.map(|(id, _)| id.clone()).collect()
    }

    /// Prints the ImageCache if its view has changed.
    fn print_change(&mut self, cache: &ReadCache) -> Result<(), CommandError> {
        let (id, view) = (cache.id(), CacheOverview::new(cache));
        let known = self.printed.iter_mut().find(|(known, _)| *known == id);
        match known {
            Some((_, last)) if *last == view => return Ok(()),
            Some((_, last)) => last.clone_from(&view),
            None => self.printed.push((id, view.clone())),
        }
        self.print(&view)
    }

    fn print_deletion(&mut self, id: &CacheId) -> Result<(), CommandError> {
        let Some(at) = self.printed.iter().position(|(known, _)| known == id) else {
            return Ok(());
        };
        let (_, mut view) = self.printed.swap_remove(at);
        view.status = Some("Deleted".to_owned());
        view.taken_up = true;
        self.print(&view)
    }

    fn print(&mut self, view: &CacheOverview) -> Result<(), CommandError> {
        let table = table([view], self.all_namespaces, Timestamp::now());
        let header = if std::mem::replace(&mut self.has_header, true) {
            String::new()
        } else {
            table.header(&self.widths)
        };
        let text = render_in_stream(self.format, view, |_| header + &table.body(&self.widths))?;
        print(&text)
    }
}

/// A row for each ImageCache, with its namespace if `all_namespaces` is set.
fn table<'a>(
    caches: impl IntoIterator<Item = &'a CacheOverview>,
    all_namespaces: bool,
    now: Timestamp,
) -> Table {
    let columns = [
        ("NAMESPACE", Align::Left),
        ("NAME", Align::Left),
        ("STATUS", Align::Left),
        ("ACTION", Align::Left),
        ("DESIRED", Align::Right),
        ("CACHED", Align::Right),
        ("PULLING", Align::Right),
        ("FAILED", Align::Right),
        ("UNREACHABLE", Align::Right),
        ("AGE", Align::Right),
    ];
    let skipped = usize::from(!all_namespaces);
    let mut table = Table::new(columns.get(skipped..).unwrap_or_default());
    for cache in caches {
        let plain = |text: String| (text, Style::new());
        let counts = cache.counts;
        let age = cache.creation_time.map(|at| age(at, now));
        let cells = [
            plain(cache.namespace.clone()),
            plain(cache.name.clone()),
            (cache.word().to_owned(), status_style(cache.word())),
            plain(cache.action.clone().unwrap_or_else(|| "-".to_owned())),
            plain(counts.desired.to_string()),
            plain(counts.cached.to_string()),
            plain(counts.pulling.to_string()),
            plain(counts.failed.to_string()),
            plain(counts.unreachable.to_string()),
            plain(age.unwrap_or_default()),
        ];
        table.styled_row(cells.into_iter().skip(skipped));
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mk_cache(name: &str, generation: i64, status: Value) -> ReadCache {
        let metadata = json!({ "namespace": "shop", "name": name, "generation": generation,
            "creationTimestamp": "2026-01-01T00:00:00Z" });
        serde_json::from_value(json!({ "metadata": metadata, "status": status })).unwrap()
    }

    #[test]
    fn rows_show_counts_and_mark_unprocessed_edits() {
        let counts =
            json!({ "desired": 6, "cached": 4, "pulling": 1, "failed": 1, "unreachable": 0 });
        let status = json!({ "status": "Processing", "reason": "ImageCacheUpdate", "message": "m",
            "startTime": "2026-01-01T00:01:00Z", "observedGeneration": 2, "counts": counts });
        let caches = Overviews::new(&[
            mk_cache("web", 2, status.clone()),
            mk_cache("edited", 3, status),
            mk_cache("new", 1, Value::Null),
        ]);
        let now = "2026-01-01T00:03:05Z".parse().unwrap();
        assert_eq!(
            table(&caches.image_caches, true, now).render(),
            "\
NAMESPACE   NAME     STATUS       ACTION             DESIRED   CACHED   PULLING   FAILED   UNREACHABLE    AGE
shop        web      Processing   ImageCacheUpdate         6        4         1        1             0   3m5s
shop        edited   NotTakenUp   ImageCacheUpdate         6        4         1        1             0   3m5s
shop        new      NotTakenUp   -                        0        0         0        0             0   3m5s
"
        );
    }
}
