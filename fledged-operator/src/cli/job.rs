//! `fledged-operator job`: the commands of the Jobs of the job driver.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fledged_core::tokio::TokioClock;
use fledged_cri::oci::{OciLayoutOptions, OpenError};

use super::job_args::{JobCommand, RemoveArgs};
use fledged_operator::jobs::remove_images;

/// Why the container of a Job failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum JobError {
    #[error("cannot locate the executable: {0}")]
    Program(#[source] io::Error),
    #[error("cannot copy {from} to {to}: {source}", from = .from.display(), to = .to.display())]
    Copy {
        from: PathBuf,
        to: PathBuf,
        source: io::Error,
    },
    #[error("--runtime: {0}")]
    OpenRuntime(#[from] OpenError),
    #[error("cannot start the async runtime: {0}")]
    Runtime(#[source] io::Error),
    #[error("--termination-log: cannot write {path}: {source}", path = .path.display())]
    Write { path: PathBuf, source: io::Error },
}

pub(super) fn run(command: JobCommand) -> Result<(), JobError> {
    match command {
        JobCommand::Noop => Ok(()),
        JobCommand::Copy { path } => copy(&path),
        JobCommand::Remove(args) => remove(&args),
    }
}

/// Copies the executable with its permissions, so that other containers can run it.
fn copy(to: &Path) -> Result<(), JobError> {
    let from = std::env::current_exe().map_err(JobError::Program)?;
    let copied = fs::copy(&from, to);
    copied.map(drop).map_err(|source| JobError::Copy {
        from,
        to: to.to_owned(),
        source,
    })
}

fn remove(args: &RemoveArgs) -> Result<(), JobError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(JobError::Runtime)?;
    let outcomes = runtime.block_on(async {
        let images = fledged_cri::open(&args.runtime, OciLayoutOptions::default())?;
        let clock = Arc::new(TokioClock::new());
        Ok::<_, JobError>(remove_images(images, clock, &args.images, &args.keep).await)
    })?;
    let message = outcomes.to_message();
    println!("{message}");
    fs::write(&args.termination_log, message).map_err(|source| JobError::Write {
        path: args.termination_log.clone(),
        source,
    })
}
