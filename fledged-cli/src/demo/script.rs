//! What the demo shows, act by act.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fledged_core::driver::{NodeInput, NodeObserver};
use fledged_core::error::RuntimeError;
use fledged_core::model::{
    AssignedImage, Assignment, ByteSize, ImagePhase, ImageRef, ImageReport, NodeReport,
    ParseImageRefError,
};
use fledged_core::node::WarmerConfig;
use fledged_core::ports::PullProgress;
use futures_util::StreamExt as _;
use futures_util::stream;
use tokio::sync::mpsc;

use super::images::generate;
use super::registry::DemoRegistry;
use crate::args::DemoArgs;
use crate::exit::Exit;
use crate::output::{LiveProgress, Outcome, Terminal, pluralised};
use crate::session::{Session, SessionError};
use fledged_cri::signals::Shutdown;

/// How often the demo looks whether an image got lost: as often as the warmer does at most.
const INVENTORY_INTERVAL: Duration = Duration::from_secs(1);
/// Longest an act may take; on a slow machine one takes seconds.
const ACT_MAX: Duration = Duration::from_secs(60);

/// Why the demo could not be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// There is no temporary folder to be had.
    #[error("cannot create a folder for the demo's images: {0}")]
    Folder(#[source] io::Error),
    /// There is no loopback port to be had.
    #[error("cannot start the demo's registry on a loopback port: {0}")]
    Registry(#[source] io::Error),
    /// The signals can't be caught.
    #[error("cannot catch SIGINT and SIGTERM: {0}")]
    Signals(#[source] io::Error),
    /// The generated references are not valid.
    #[error("the demo's own image has {0}")]
    Reference(#[from] ParseImageRefError),
    /// There is no store.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The store refused.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// An act did not end.
    #[error("the demo hung: {act} took longer than {} s", ACT_MAX.as_secs())]
    Hung {
        /// Which act.
        act: &'static str,
    },
}

/// Shows the demo. Its folder is gone afterwards, unless it is to be kept.
///
/// # Errors
///
/// [`DemoError`].
pub async fn run(args: &DemoArgs, terminal: &Terminal) -> Result<Exit, DemoError> {
    let mut shutdown = Shutdown::catch().map_err(DemoError::Signals)?;
    let folder = tempfile::Builder::new()
        .prefix("fledged-demo-")
        .disable_cleanup(args.keep)
        .tempdir()
        .map_err(DemoError::Folder)?;
    let path = folder.path().to_owned();
    let exit = tokio::select! {
        shown = show(path.clone(), terminal) => shown?,
        signal = shutdown.requested() => {
            terminal.error("interrupted");
            Exit::Signalled(signal)
        }
    };
    if args.keep {
        terminal.line(format_args!(
            "The images are kept in {0}; see them with: fledged node list --runtime oci:{0}",
            path.display()
        ));
    }
    Ok(exit)
}

async fn show(path: PathBuf, terminal: &Terminal) -> Result<Exit, DemoError> {
    let start = Instant::now();
    let host = fledged_cri::registry::Platform::host();
    let (images, content) = generate(host.os(), host.architecture());
    let bytes = ByteSize::new(content.bytes());
    let registry = DemoRegistry::start(content)
        .await
        .map_err(DemoError::Registry)?;
    let references = images
        .iter()
        .map(|image| {
            ImageRef::parse(&format!(
                "{}/{}:{}",
                registry.host(),
                image.repository,
                image.tag
            ))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let session = Session::layout(&path, vec![registry.host()])?;
    let stage = Stage {
        terminal,
        session,
        registry,
        references,
    };
    terminal.line(format_args!(
        "1. A registry is up on {} with {} of {bytes} together; base layers are shared.",
        stage.registry.host(),
        pluralised(images.len(), "image"),
    ));
    terminal.line(format_args!(
        "2. Applying them to an empty OCI image layout, {}.",
        path.display()
    ));
    let first = stage.apply().await?;
    terminal.line(first.table().trim_end());
    let fetched = ByteSize::new(stage.registry.traffic().bytes);
    terminal.line(format_args!(
        "   {fetched} fetched in {:.1} s: each layer once.",
        first.summary.seconds
    ));
    let again = stage.again().await?;
    let repaired = stage.repair().await?;
    let done = first.summary.failed == 0 && again.summary.failed == 0 && repaired;
    let images = pluralised(stage.references.len(), "image");
    terminal.line(format_args!(
        "{}: {images} put in place, verified and repaired in {:.1} s.",
        if done { "Done" } else { "Failed" },
        start.elapsed().as_secs_f64()
    ));
    Ok(if done { Exit::Done } else { Exit::Failed })
}

/// What the acts play with.
struct Stage<'a> {
    terminal: &'a Terminal,
    session: Session,
    registry: DemoRegistry,
    references: Vec<ImageRef>,
}

impl Stage<'_> {
    fn assignment(&self) -> Assignment {
        Assignment::new(
            1,
            self.references.iter().cloned().map(AssignedImage::present),
        )
    }

    async fn apply(&self) -> Result<Outcome, DemoError> {
        let progress = Arc::new(LiveProgress::with_bars(
            self.terminal,
            self.references.len(),
        ));
        let mut node = self
            .session
            .node_loop(WarmerConfig::default(), Arc::clone(&progress));
        let start = Instant::now();
        let report = within("applying", node.settle(self.assignment())).await?;
        progress.finish();
        Ok(Outcome::new(&report, start.elapsed()))
    }

    async fn again(&self) -> Result<Outcome, DemoError> {
        self.terminal.line("3. Applying again.");
        let before = self.registry.traffic().requests;
        let outcome = self.apply().await?;
        self.terminal.line(format_args!(
            "   {} of {} there already, {} to the registry, {:.1} s.",
            outcome.count(ImagePhase::Cached),
            pluralised(outcome.images.len(), "image"),
            pluralised(
                usize::try_from(self.registry.traffic().requests - before).unwrap_or(usize::MAX),
                "request"
            ),
            outcome.summary.seconds
        ));
        Ok(outcome)
    }

    /// Keeps the images, loses one, and ends when it is back.
    async fn repair(&self) -> Result<bool, DemoError> {
        let Some(victim) = self.references.last() else {
            return Ok(false);
        };
        self.terminal.line(format_args!(
            "4. Keeping them there, and removing {victim} behind its back."
        ));
        let before = self.registry.traffic().bytes;
        let (reports, mut reported) = mpsc::unbounded_channel();
        let observer = Arc::new(Watch {
            progress: LiveProgress::lines(self.terminal),
            reports,
        });
        let mut config = WarmerConfig::default();
        config.inventory_interval = INVENTORY_INTERVAL;
        let mut node = self.session.node_loop(config, observer);
        let inputs = stream::iter([NodeInput::Assign(self.assignment())]).chain(stream::pending());
        let lost = async {
            cached(&mut reported, victim).await;
            let removal = self.session.runtime.remove(victim).await;
            if removal.is_ok() {
                cached(&mut reported, victim).await;
            }
            removal
        };
        let mut removal = None;
        let report: NodeReport = within(
            "repairing",
            node.run(inputs, async {
                removal = Some(lost.await);
            }),
        )
        .await?;
        removal.transpose()?;
        let fetched = ByteSize::new(self.registry.traffic().bytes - before);
        self.terminal.line(format_args!(
            "   It is back; {fetched} were fetched, the shared layers were still there."
        ));
        Ok(report
            .images
            .iter()
            .all(|image| image.phase == ImagePhase::Cached))
    }
}

/// Waits until that image is reported to be there.
async fn cached(reported: &mut mpsc::UnboundedReceiver<ImageReport>, image: &ImageRef) {
    while let Some(report) = reported.recv().await {
        if report.image == *image && report.phase == ImagePhase::Cached {
            return;
        }
    }
}

async fn within<T>(act: &'static str, work: impl Future<Output = T>) -> Result<T, DemoError> {
    tokio::time::timeout(ACT_MAX, work)
        .await
        .map_err(|_| DemoError::Hung { act })
}

/// Shows progress and passes every report on.
#[derive(Debug)]
struct Watch {
    progress: LiveProgress,
    reports: mpsc::UnboundedSender<ImageReport>,
}

impl NodeObserver for Watch {
    fn report(&self, report: &ImageReport) {
        self.progress.report(report);
        // Nobody listens any more once the act is over.
        let _ = self.reports.send(report.clone());
    }

    fn progress(&self, image: &ImageRef, progress: PullProgress) {
        self.progress.progress(image, progress);
    }
}
