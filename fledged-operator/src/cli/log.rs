//! The log, on stderr.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use super::args::{Level, LogFormat};

/// Turns the log on. Other crates log their warnings only.
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
    // It logs each failed attempt as an error; what failed is said by whoever asked for it.
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
    // One that is there already, in a program around this one, is left alone.
    let _ = tracing_subscriber::registry().with(layer).try_init();
}
