//! Who fetches the layers: fledged, containerd for fledged, or `ctr`, side by side.

mod figures;
mod limited;
mod node;

use std::fmt;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use fledged_core::model::Digest;
use fledged_tests::{
    Compression, Fault, FaultProxy, ImageBuilder, Layer, Registry, Rule, pull_like_the_kubelet,
};

pub(crate) use self::figures::FetchRow;
use self::figures::{Figures, Rates};
use self::limited::{LIMITS, Limit, RATE};
use self::node::{Node, Running, Way};
use crate::measure::measure_here;

const MIB: u64 = 1 << 20;
/// What a connection to a distant registry receives in a second.
const CONNECTION: u64 = 40 * MIB;
const AT_CONNECTION: &str = "40 MiB/s a connection";
/// The largest layer.
const LARGE: u64 = 1024 * MIB;
/// Size of a small layer: 200 of them are enough for fledged to fetch them.
const SMALL: u64 = 100 * 1024;
/// Interval at which the progress of a pull is looked at.
const LOOK: Duration = Duration::from_millis(2);

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Work {
    /// One layer of 1 GiB, each connection limited to 40 MiB/s; also the peak memory with eight connections.
    OneLayer,
    /// Ten layers of 100 MiB over the loopback interface.
    LargeLayers,
    /// 200 layers of 100 KiB.
    SmallLayers,
    /// The pulling process is killed at 90 % of a layer of 1 GiB, and started again.
    PullerKilled,
    /// containerd is killed at 50 % of a layer of 1 GiB, and started again.
    ContainerdKilled,
    /// The pull of a pod beside images of 4 GiB, compared with the same alone.
    PodBeside,
    /// A rate of 20 MiB/s, over any two seconds.
    Rate,
}

/// The parameters of the rows.
#[derive(Debug)]
pub(crate) struct Fetching<'a> {
    pub(crate) fledged: &'a Path,
    pub(crate) runs: usize,
    /// Of the sizes, in percent.
    pub(crate) scale: u64,
    /// All if it is empty.
    pub(crate) rows: &'a [Work],
}

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Killed {
    Puller,
    Containerd,
}

impl Fetching<'_> {
    /// Measures all rows.
    ///
    /// # Errors
    ///
    /// When a tool cannot pull.
    pub(crate) fn run(&self) -> Result<Vec<FetchRow>, String> {
        let all = Work::value_variants().iter();
        let wanted = all.filter(|work| self.rows.is_empty() || self.rows.contains(work));
        wanted.map(|work| self.row(*work)).collect()
    }

    fn row(&self, work: Work) -> Result<FetchRow, String> {
        match work {
            Work::OneLayer => {
                let layer = self.scaled(LARGE, 32 * MIB);
                let source = Source::start(&[vec![layer]], Some(CONNECTION));
                let name = format!("one layer of {source}, {AT_CONNECTION}");
                self.compare(&name, &source)
            }
            Work::LargeLayers => {
                let layers = vec![self.scaled(100 * MIB, 4 * MIB); 10];
                let source = Source::start(&[layers], None);
                self.compare(&format!("ten layers, together {source}"), &source)
            }
            Work::SmallLayers => {
                let count = self.scaled(200, 10);
                let layers = vec![SMALL; usize::try_from(count).unwrap_or_default()];
                let source = Source::start(&[layers], None);
                self.compare(&format!("{count} layers of 100 KiB"), &source)
            }
            Work::PullerKilled => self.killed(Killed::Puller, 90),
            Work::ContainerdKilled => self.killed(Killed::Containerd, 50),
            Work::PodBeside => self.pod_beside(),
            Work::Rate => self.rate(),
        }
    }

    fn scaled(&self, full: u64, least: u64) -> u64 {
        (full * self.scale / 100).max(least)
    }

    /// Runs each side in turn (A B C A B C), so that other load affects all of them.
    fn in_turn(
        &self,
        row: &mut FetchRow,
        mut measured: impl FnMut(usize) -> Result<Figures, String>,
    ) -> Result<(), String> {
        for run in 1..=self.runs {
            for (number, side) in row.sides.iter_mut().enumerate() {
                let figures = measured(number)?;
                eprintln!(
                    "{}: run {run} of {}: {} {:.2} s",
                    row.name, self.runs, side.name, figures.sample.seconds
                );
                side.runs.push(figures);
            }
        }
        Ok(())
    }

    /// Compares the time of all ways.
    fn compare(&self, name: &str, source: &Source) -> Result<FetchRow, String> {
        let mut row = FetchRow::new(name, Way::ALL.map(|way| way.to_string()));
        self.in_turn(&mut row, |number| {
            let node = Node::start(self.fledged)?;
            let sample = node.pull(side(&Way::ALL, number)?, &source.references)?;
            Ok(sample.into())
        })?;
        Ok(row)
    }

    /// Kills one part of a pull when that share of the layer has arrived, and pulls again.
    fn killed(&self, killed: Killed, percent: u64) -> Result<FetchRow, String> {
        let layer = self.scaled(LARGE, 64 * MIB);
        let source = Source::start(&[vec![layer]], Some(CONNECTION));
        let what = match killed {
            Killed::Puller => "the pulling process",
            Killed::Containerd => "containerd",
        };
        let name = format!(
            "{what} killed at {percent} % of one layer of {source}, {AT_CONNECTION}, then the rest"
        );
        let mut row = FetchRow::new(name, Way::ALL.map(|way| way.to_string()));
        self.in_turn(&mut row, |number| {
            let mut node = Node::start(self.fledged)?;
            let way = side(&Way::ALL, number)?;
            let before = source.sent();
            let mut running = node.begin(way, &source.references)?;
            wait_until(&mut running, || {
                (source.sent() - before) * 100 >= source.bytes * percent
            })?;
            let sample = measure_here(|| {
                match killed {
                    Killed::Puller => running.kill9(),
                    Killed::Containerd => {
                        node.containerd.kill9();
                        node.containerd.restart();
                        // fledged tries again by itself.
                        if running.wait()?.success() {
                            return Ok(());
                        }
                    }
                }
                node.pull(way, &source.references).map(drop)
            })?;
            node.check(&source.references)?;
            Ok(Figures {
                fetched_twice: Some((source.sent() - before).saturating_sub(source.bytes)),
                ..sample.into()
            })
        })?;
        Ok(row)
    }

    /// Compares the pull of a pod alone with the same beside other images.
    fn pod_beside(&self) -> Result<FetchRow, String> {
        let image = vec![self.scaled(512 * MIB, 32 * MIB)];
        let others = Source::start(&vec![image; 8], Some(CONNECTION));
        let pod = Source::start(&[vec![self.scaled(64 * MIB, 2 * MIB); 4]], Some(CONNECTION));
        let name = format!(
            "the pull of a pod, {pod}, beside eight images, together {others}, {AT_CONNECTION}"
        );
        let sides = std::iter::once("alone".to_owned())
            .chain(Way::ALL.iter().map(|way| format!("beside {way}")));
        let mut row = FetchRow::new(name, sides);
        row.has_baseline = true;
        self.in_turn(&mut row, |number| {
            let node = Node::start(self.fledged)?;
            let mut beside = None;
            if let Some(number) = number.checked_sub(1) {
                let before = others.sent();
                let way = side(&Way::ALL, number)?;
                let mut running = node.begin(way, &others.references)?;
                wait_until(&mut running, || {
                    (others.sent() - before) * 20 >= others.bytes
                })?;
                beside = Some(running);
            }
            let socket = node.containerd.socket();
            let sample = measure_here(|| {
                pull_like_the_kubelet(&socket, &pod.references, NonZeroUsize::MIN)
            })?;
            if let Some(running) = &mut beside
                && running.ended()?.is_some()
            {
                eprintln!("bench-node: the other images were complete before the pod's");
            }
            Ok(sample.into())
        })?;
        Ok(row)
    }

    /// Measures the rate of limited pulls. The program does not show what it has received, so they are made in this
    /// process.
    fn rate(&self) -> Result<FetchRow, String> {
        let source = Source::start(&[vec![self.scaled(256 * MIB, 128 * MIB)]], None);
        let name = format!("one layer of {source} with a rate of {RATE}");
        let mut row = FetchRow::new(name, LIMITS.map(|limit| limit.to_string()));
        self.in_turn(&mut row, |number| {
            let node = Node::start(self.fledged)?;
            let limit: Limit = side(&LIMITS, number)?;
            let mut received = Vec::new();
            let sample = measure_here(|| {
                received = limited::pull(&node.containerd, limit, &source.references)?;
                Ok(())
            })?;
            node.check(&source.references)?;
            Ok(Figures {
                rates: Rates::of(&received),
                ..sample.into()
            })
        })?;
        Ok(row)
    }
}

fn side<T: Copy>(sides: &[T], number: usize) -> Result<T, String> {
    let side = sides.get(number).copied();
    side.ok_or_else(|| format!("there is no side {number}"))
}

/// Waits until a condition is true while a pull runs.
fn wait_until(running: &mut Running, reached: impl Fn() -> bool) -> Result<(), String> {
    while !reached() {
        if let Some(status) = running.ended()? {
            return Err(format!("the pull ended too early, with {status}"));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Images in a registry, behind a proxy that counts what is sent.
struct Source {
    proxy: FaultProxy,
    references: Vec<String>,
    layers: Vec<Digest>,
    /// Of all layers.
    bytes: u64,
    _registry: Registry,
}

/// The size of all layers.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.bytes / MIB)
    }
}

impl Source {
    /// Images with layers of these sizes; none share any. `connection`: bytes that a connection receives in a second.
    fn start(images: &[Vec<u64>], connection: Option<u64>) -> Self {
        let registry = Registry::start();
        let proxy = FaultProxy::start(registry.addr());
        if let Some(bytes_per_second) = connection {
            let slow = Rule::new(Fault::Throttle { bytes_per_second });
            proxy.add(slow.path("/blobs/").always());
        }
        let (mut references, mut digests, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (number, layers) in images.iter().enumerate() {
            let mut image = ImageBuilder::new();
            for size in layers {
                let seed = 1 + digests.len() as u64;
                let size = usize::try_from(*size).unwrap_or(usize::MAX);
                let name = format!("layer-{seed}");
                let layer = Layer::random(&name, seed, size, Compression::Stored);
                bytes += layer.size();
                digests.push(layer.digest.clone());
                image = image.layer(layer);
            }
            let pushed = image.push(&registry, &format!("image-{number}"), "1");
            references.push(pushed.reference_at(proxy.addr()));
        }
        Self {
            proxy,
            references,
            layers: digests,
            bytes,
            _registry: registry,
        }
    }

    /// Bytes of layers that were sent so far.
    fn sent(&self) -> u64 {
        let requests = self.proxy.requests_matching("GET", "/blobs/");
        let of_layer = |path: &str| {
            self.layers
                .iter()
                .any(|layer| path.contains(layer.as_str()))
        };
        let of_layers = requests.iter().filter(|request| of_layer(&request.path));
        of_layers.map(|request| request.sent).sum()
    }
}
