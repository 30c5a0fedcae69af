//! `fledged status`: one ImageCache on its nodes, once or continuously.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use console::Term;
use fledged_core::model::CacheId;
use fledged_kube::crd::{ReadCache, ReadNodeCache};
use fledged_kube::request_error::with_causes;
use fledged_kube::watch::{Change, ListedKeys, try_watch};
use fledged_operator::controller::ReadNode;
use futures_util::{Stream, StreamExt as _, stream};
use jiff::Timestamp;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt as _};
use tokio::time::MissedTickBehavior;

use super::kubeconfig::{ClusterError, Connection, connect};
use super::matrix::Matrix;
use super::matrix_rows::MatrixRows;
use super::matrix_text::{Layout, matrix_text};
use super::pull_bytes::PullSource;
use super::{render, render_in_stream};
use crate::args::{Format, StatusArgs};
use crate::command_result::{CommandError, Exit, print};
use crate::output::{Frames, Terminal};

/// Interval at which running agents are asked and the output is renewed.
pub(super) const ROUND: Duration = Duration::from_secs(2);
/// Rounds after which the output is renewed although nothing has changed.
const ROUNDS_SKIPPED: u32 = 5;

pub(super) async fn status(args: StatusArgs, terminal: &Terminal) -> Result<Exit, CommandError> {
    let connection = connect(&args.connection).await?;
    let mut objects = Objects::read(&connection, &args.name).await?;
    let mut source = PullSource::new(&connection);
    if args.watch {
        return watch(&connection, &args, objects, source, terminal).await;
    }
    let matrix = objects.matrix(&mut source).await;
    let text = matrix.map(|matrix| {
        let layout = layout(&args);
        render(args.output.output, &matrix, |matrix| {
            matrix_text(matrix, layout, Timestamp::now())
        })
    });
    print(&text.transpose()?.unwrap_or_default())?;
    Ok(Exit::Done)
}

fn layout(args: &StatusArgs) -> Layout {
    match args.all {
        true => Layout::all(),
        false => Layout::for_terminal(&Term::stdout(), args.max_nodes),
    }
}

/// What the matrix is made of.
struct Objects {
    /// The ImageCache.
    id: CacheId,
    /// Whether all ImageCaches may be listed. They share the room of a node's record.
    all_caches: bool,
    caches: Known<CacheId, ReadCache>,
    nodes: Known<String, ReadNode>,
    records: Known<String, ReadNodeCache>,
}

/// Objects of one kind.
struct Known<K, O> {
    keys: ListedKeys<K>,
    objects: BTreeMap<K, O>,
}

impl<K: Ord + Clone, O: Clone> Known<K, O> {
    fn new(objects: Vec<O>, key: impl Fn(&O) -> K) -> Self {
        let objects = objects.into_iter().map(|object| (key(&object), object));
        let (objects, mut keys): (BTreeMap<K, O>, _) = (objects.collect(), ListedKeys::default());
        objects.keys().for_each(|key| keys.insert(key.clone()));
        Self { keys, objects }
    }

    fn apply(&mut self, event: Event<O>, key: impl Fn(&O) -> K) {
        match self.keys.apply(event, |object| Some(key(object))) {
            Change::Applied(key, object) => {
                self.objects.insert(key, object);
            }
            Change::Gone(keys) => keys.iter().for_each(|key| {
                self.objects.remove(key);
            }),
        }
    }

    fn all(&self) -> Vec<O> {
        self.objects.values().cloned().collect()
    }
}

/// A change of an object that the matrix is made of.
enum ObjectEvent {
    Cache(Event<ReadCache>),
    Node(Event<ReadNode>),
    Record(Event<ReadNodeCache>),
}

impl Objects {
    async fn read(connection: &Connection, name: &str) -> Result<Self, CommandError> {
        let cache = connection.cache(name).await?;
        let id = cache.id();
        let (mut caches, all_caches) = match connection.list_caches(true).await {
            Err(ClusterError::Forbidden { .. }) => (Vec::new(), false),
            listed => (listed?, true),
        };
        caches.push(cache);
        Ok(Self {
            id,
            all_caches,
            caches: Known::new(caches, ReadCache::id),
            nodes: Known::new(connection.list_nodes().await?, ReadNode::name_any),
            records: Known::new(connection.list_records().await?, ReadNodeCache::name_any),
        })
    }

    /// The changes since then. Never ends.
    fn changes(
        &self,
        connection: &Connection,
    ) -> impl Stream<Item = Result<ObjectEvent, watcher::Error>> + use<> {
        let config = watcher::Config::default;
        let client = || connection.client.clone();
        let caches = match self.all_caches {
            true => try_watch(connection.all_caches(), config()),
            false => {
                let one = config().fields(&format!("metadata.name={}", self.id.name));
                try_watch(connection.caches(), one)
            }
        };
        let caches = caches.map(|event| event.map(ObjectEvent::Cache));
        let nodes = try_watch(Api::all(client()), config());
        let nodes = nodes.map(|event| event.map(ObjectEvent::Node));
        let records = try_watch(Api::all(client()), config());
        let records = records.map(|event| event.map(ObjectEvent::Record));
        stream::select(
            caches.boxed(),
            stream::select(nodes.boxed(), records.boxed()),
        )
    }

    fn apply(&mut self, change: ObjectEvent) {
        match change {
            ObjectEvent::Cache(event) => self.caches.apply(event, ReadCache::id),
            ObjectEvent::Node(event) => self.nodes.apply(event, ReadNode::name_any),
            ObjectEvent::Record(event) => self.records.apply(event, ReadNodeCache::name_any),
        }
    }

    /// The matrix, with the bytes of running pulls. `None` if the ImageCache is deleted.
    async fn matrix(&mut self, source: &mut PullSource) -> Option<Matrix> {
        let cache = self.caches.objects.get(&self.id)?;
        let (caches, nodes) = (self.caches.all(), self.nodes.all());
        let mut matrix = Matrix::new(
            cache,
            &caches,
            &nodes,
            &self.records.all(),
            Timestamp::now(),
        );
        let pulling = matrix.pulling_nodes();
        if !pulling.is_empty() {
            matrix.add_pulls(&source.round(&pulling).await);
        }
        Some(matrix)
    }
}

/// Shows the matrix whenever it changes, until the ImageCache is deleted.
async fn watch(
    connection: &Connection,
    args: &StatusArgs,
    mut objects: Objects,
    mut source: PullSource,
    terminal: &Terminal,
) -> Result<Exit, CommandError> {
    let mut view = View::new(args);
    let mut changes = pin!(objects.changes(connection));
    let mut ticks = tokio::time::interval(ROUND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut interrupted = false;
    // Ages change also without a change of an object.
    let (mut due, mut rounds) = (true, 0);
    loop {
        tokio::select! {
            Some(change) = changes.next() => match change {
                Ok(change) => {
                    // A listing begins also while the server is gone.
                    interrupted &= matches!(
                        change,
                        ObjectEvent::Cache(Event::Init) | ObjectEvent::Node(Event::Init) | ObjectEvent::Record(Event::Init)
                    );
                    objects.apply(change);
                    due = true;
                }
                Err(error) => if !std::mem::replace(&mut interrupted, true) {
                    terminal.warn(format_args!(
                        "the watch was interrupted, retrying: {}",
                        with_causes(&error)
                    ));
                }
            },
            _ = ticks.tick() => {
                rounds += 1;
                if !due && rounds < ROUNDS_SKIPPED {
                    continue;
                }
                let Some(matrix) = objects.matrix(&mut source).await else {
                    let CacheId { namespace, name, .. } = &objects.id;
                    terminal.line(format_args!("ImageCache {namespace}/{name} was deleted"));
                    return Ok(Exit::Failed);
                };
                (due, rounds) = (!matrix.pulling_nodes().is_empty(), 0);
                view.show(&matrix)?;
            }
        }
    }
}

/// How the matrix is shown again and again: redrawn on a terminal, elsewhere a line or a document for each change.
enum View<'a> {
    Frames(&'a StatusArgs, Frames),
    Rows(MatrixRows),
    Documents(Format, String),
}

impl<'a> View<'a> {
    fn new(args: &'a StatusArgs) -> Self {
        match (args.output.output, Frames::on_stdout()) {
            (Format::Table, Some(frames)) => Self::Frames(args, frames),
            (Format::Table, None) => Self::Rows(MatrixRows::default()),
            (format, _) => Self::Documents(format, String::new()),
        }
    }

    fn show(&mut self, matrix: &Matrix) -> Result<(), CommandError> {
        let now = Timestamp::now();
        match self {
            Self::Frames(args, frames) => frames.show(&matrix_text(matrix, layout(args), now)),
            Self::Rows(rows) => print(&rows.changes(matrix, now)),
            Self::Documents(format, last) => {
                let text = render_in_stream(*format, matrix, |_| String::new())?;
                if text == *last {
                    return Ok(());
                }
                last.clone_from(&text);
                print(&text)
            }
        }
    }
}
