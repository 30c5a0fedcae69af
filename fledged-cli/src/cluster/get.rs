//! `fledged get`.

use std::collections::BTreeSet;

use fledged_core::model::CacheId;
use fledged_operator::crd::ReadCache;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};

use super::args::{Format, GetArgs};
use super::connect::{Connection, connect};
use super::document::{render, render_one_of_many};
use super::overview::{CacheOverview, Overview, table};
use crate::commands::{CommandError, print};
use crate::exit::Exit;
use crate::output::{Terminal, Widths};

pub(super) async fn get(args: GetArgs, terminal: &Terminal) -> Result<Exit, CommandError> {
    let connection = connect(&args.connection).await?;
    let caches = match &args.name {
        Some(name) => vec![connection.cache(name).await?],
        None => connection.list_caches(args.all_namespaces).await?,
    };
    let overview = Overview {
        image_caches: caches.iter().map(CacheOverview::new).collect(),
    };
    let (format, namespaces) = (args.output.output, args.all_namespaces);
    if args.watch {
        let printer = Printer::new(&overview, format, namespaces);
        let name = args.name.as_deref();
        let forever = |_: &ReadCache| false;
        watch(&connection, name, printer, terminal, forever).await?;
        return Ok(Exit::Done);
    }
    if format == Format::Table && overview.image_caches.is_empty() {
        terminal.line(match namespaces {
            true => "no ImageCaches in the cluster".to_owned(),
            false => format!("no ImageCaches in namespace {}", connection.namespace),
        });
        return Ok(Exit::Done);
    }
    let now = Timestamp::now();
    let text = render(format, &overview, |view| {
        table(&view.image_caches, namespaces, now).render()
    })?;
    print(&text)?;
    Ok(Exit::Done)
}

/// `get -w`, with `-A` if that is wanted, that ends once `until` says so of what was printed last.
#[cfg(feature = "demo")]
pub(crate) async fn get_until(
    connection: &Connection,
    all_namespaces: bool,
    terminal: &Terminal,
    until: impl FnMut(&ReadCache) -> bool,
) -> Result<(), CommandError> {
    let caches = connection.list_caches(all_namespaces).await?;
    let overview = Overview {
        image_caches: caches.iter().map(CacheOverview::new).collect(),
    };
    let printer = Printer::new(&overview, Format::Table, all_namespaces);
    watch(connection, None, printer, terminal, until).await
}

async fn watch(
    connection: &Connection,
    name: Option<&str>,
    mut printer: Printer,
    terminal: &Terminal,
    mut until: impl FnMut(&ReadCache) -> bool,
) -> Result<(), CommandError> {
    let mut config = watcher::Config::default();
    if let Some(name) = name {
        config = config.fields(&format!("metadata.name={name}"));
    }
    let api = match printer.namespaces {
        true => connection.all_caches(),
        false => connection.caches(),
    };
    let mut events = watcher::watcher(api, config).default_backoff().boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                let cache = match &event {
                    Event::InitApply(cache) | Event::Apply(cache) => Some(cache.clone()),
                    _ => None,
                };
                printer.heard(event)?;
                if cache.is_some_and(|cache| until(&cache)) {
                    break;
                }
            }
            Err(error) => terminal.warn(format_args!(
                "the watch was interrupted and is begun again: {}",
                fledged_operator::api::error::with_causes(&error)
            )),
        }
    }
    Ok(())
}

/// Writes a row or a document for whatever is new.
struct Printer {
    format: Format,
    namespaces: bool,
    widths: Widths,
    begun: bool,
    told: Vec<(CacheId, CacheOverview)>,
    listed: BTreeSet<CacheId>,
}

impl Printer {
    fn new(first: &Overview, format: Format, namespaces: bool) -> Self {
        let now = Timestamp::now();
        let mut widths = table(&first.image_caches, namespaces, now).widths();
        let names = table([], namespaces, now).widths();
        widths.resize(names.len(), None);
        // Later rows may have longer words; those of a cache that nothing is wrong with are known.
        let mut usual = CacheOverview::new(&ReadCache::default());
        usual.status = Some("Processing".to_owned());
        usual.action = Some("ImageCacheRefresh".to_owned());
        let usual = table([&usual], namespaces, now).widths();
        for ((width, names), usual) in widths.iter_mut().zip(names).zip(usual) {
            *width = (*width).max(names).max(usual);
        }
        Self {
            format,
            namespaces,
            widths,
            begun: false,
            told: Vec::new(),
            listed: BTreeSet::new(),
        }
    }

    fn heard(&mut self, event: Event<ReadCache>) -> Result<(), CommandError> {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(cache) => {
                self.listed.insert(cache.id());
                self.tell(&cache)?;
            }
            Event::Apply(cache) => self.tell(&cache)?,
            Event::InitDone => {
                let gone = self.told.iter().map(|(id, _)| id);
                let gone: Vec<CacheId> = gone
                    .filter(|id| !self.listed.contains(id))
                    .cloned()
                    .collect();
                for id in gone {
                    self.forget(&id)?;
                }
            }
            Event::Delete(cache) => self.forget(&cache.id())?,
        }
        Ok(())
    }

    /// Once for each change of what is shown.
    fn tell(&mut self, cache: &ReadCache) -> Result<(), CommandError> {
        let (id, view) = (cache.id(), CacheOverview::new(cache));
        let known = self.told.iter_mut().find(|(known, _)| *known == id);
        match known {
            Some((_, told)) if *told == view => return Ok(()),
            Some((_, told)) => told.clone_from(&view),
            None => self.told.push((id, view.clone())),
        }
        self.write(&view)
    }

    fn forget(&mut self, id: &CacheId) -> Result<(), CommandError> {
        let Some(at) = self.told.iter().position(|(known, _)| known == id) else {
            return Ok(());
        };
        let (_, mut view) = self.told.swap_remove(at);
        view.status = Some("Deleted".to_owned());
        view.taken_up = true;
        self.write(&view)
    }

    fn write(&mut self, view: &CacheOverview) -> Result<(), CommandError> {
        let table = table([view], self.namespaces, Timestamp::now());
        let header = match std::mem::replace(&mut self.begun, true) {
            true => String::new(),
            false => table.header(&self.widths),
        };
        let text = render_one_of_many(self.format, view, |_| header + &table.body(&self.widths))?;
        print(&text)
    }
}
