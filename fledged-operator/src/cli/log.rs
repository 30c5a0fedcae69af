//! The log, on stderr.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use super::args::{Level, LogFormat};

/// Initializes the log. Other crates log only warnings.
pub(super) fn init(level: Level, format: LogFormat) {
    let level = match level {
        Level::Trace => LevelFilter::TRACE,
        Level::Debug => LevelFilter::DEBUG,
        Level::Info => LevelFilter::INFO,
        Level::Warning => LevelFilter::WARN,
        Level::Error => LevelFilter::ERROR,
    };
    let targets = Targets::new().with_default(level.min(LevelFilter::WARN));
    let ours = ["fledged_core", "fledged_cri", "fledged_operator"];
    let targets = targets.with_targets(ours.map(|name| (name, level)));
    // kube logs each failed attempt as an error. The callers log the failures that matter.
    let theirs = match level {
        LevelFilter::TRACE | LevelFilter::DEBUG => LevelFilter::WARN,
        _ => LevelFilter::OFF,
    };
    let targets = targets.with_target("kube_client", theirs);
    let layer = fmt::layer().with_writer(io::stderr).with_ansi(false);
    let layer = match format {
        LogFormat::Text => layer.with_filter(targets).boxed(),
        LogFormat::Json => layer
            .json()
            .flatten_event(true)
            .with_filter(targets)
            .boxed(),
    };
    // Keep the subscriber of an embedding program.
    let _ = tracing_subscriber::registry().with(layer).try_init();
}
