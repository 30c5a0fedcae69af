//! `fledged check`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ByteSize, Digest, ImageCache, ImageRef};
use fledged_core::port::CredentialsRequest;
use fledged_cri::registry::Probe;
use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Serialize;

use super::print::print;
use super::{CommandError, input};
use crate::args::{CheckArgs, OutputFormat};
use crate::exit::Exit;
use crate::output::{Align, Table, Terminal, pluralised, rounded_seconds, short_digest};
use crate::printable::printable;
use crate::probing::Prober;
use fledged_core::model::GoDuration;
use fledged_core::tokio::ShutdownSignal;

/// What `-o json` prints.
#[derive(Debug, Serialize)]
struct CheckOutcome {
    images: Vec<Row>,
    summary: CheckSummary,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    reference: String,
    available: bool,
    digest: Option<Digest>,
    size_bytes: Option<ByteSize>,
    platforms: Vec<String>,
    reason: Option<String>,
    message: Option<String>,
}

#[derive(Debug, Serialize)]
struct CheckSummary {
    checked: usize,
    available: usize,
    failed: usize,
    platform: String,
    seconds: f64,
}

pub(super) async fn check(args: CheckArgs, terminal: &Terminal) -> Result<Exit, CommandError> {
    let start = Instant::now();
    let manifests = input::manifests(args.manifests.files, terminal).await?;
    let has_credentials = args.registry.registry_config.is_some();
    input::warn_unhonoured(&manifests.caches, has_credentials, terminal);
    let prober = Prober::open(&args.registry)?;
    input::warn_no_credentials(&args.registry, terminal);
    let mut shutdown = ShutdownSignal::listen().map_err(CommandError::Signals)?;
    let requests = requests(&manifests.caches);
    let deadline = args.deadline;
    let asked = stream::iter(requests.iter().map(|request| {
        let prober = &prober;
        async move { row(&request.image, probe(prober, request, deadline).await) }
    }))
    .buffered(args.max_parallel_checks.get())
    .collect::<Vec<Row>>();
    let images = tokio::select! {
        images = asked => images,
        signal = shutdown.recv() => {
            terminal.error("interrupted; nothing was changed");
            return Ok(Exit::Signalled(signal));
        }
    };
    let available = images.iter().filter(|image| image.available).count();
    let summary = CheckSummary {
        checked: images.len(),
        available,
        failed: images.len() - available,
        platform: prober.platform().to_string(),
        seconds: rounded_seconds(start.elapsed()),
    };
    let outcome = CheckOutcome { images, summary };
    match args.output.output {
        OutputFormat::Json => {
            let json = serde_json::to_string_pretty(&outcome)
                .map_err(|error| CommandError::Output(error.into()))?;
            print(&(json + "\n"))?;
        }
        OutputFormat::Table => print(&table(&outcome))?,
    }
    terminal.line(format_args!(
        "{}: {available} can be pulled for {}, {} can't, {:.1} s",
        pluralised(outcome.summary.checked, "image"),
        outcome.summary.platform,
        outcome.summary.failed,
        outcome.summary.seconds
    ));
    Ok(if outcome.summary.failed == 0 {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// Every image of every cache once, in the order written, with all credentials it may need.
fn requests(caches: &[ImageCache]) -> Vec<CredentialsRequest> {
    let mut requests: Vec<CredentialsRequest> = Vec::new();
    let mut places: BTreeMap<&ImageRef, usize> = BTreeMap::new();
    for cache in caches {
        for image in cache.groups.iter().flat_map(|group| &group.images) {
            let place = *places.entry(image).or_insert_with(|| {
                requests.push(CredentialsRequest::new(image.clone()));
                requests.len() - 1
            });
            let Some(request) = requests.get_mut(place) else {
                continue;
            };
            request
                .pull_secrets
                .extend(cache.pull_secrets.iter().cloned());
            request
                .service_accounts
                .extend(cache.service_account.iter().cloned());
        }
    }
    requests
}

async fn probe(
    prober: &Prober,
    request: &CredentialsRequest,
    deadline: Duration,
) -> Result<Probe, Failure> {
    tokio::time::timeout(deadline, prober.probe(request))
        .await
        .unwrap_or_else(|_| {
            let text = format!(
                "the registry did not answer within {}",
                GoDuration(deadline)
            );
            Err(Failure::new(Reason::DeadlineExceeded, text))
        })
}

fn row(image: &ImageRef, result: Result<Probe, Failure>) -> Row {
    let reference = image.original().to_owned();
    match result {
        Ok(probe) => Row {
            reference,
            available: true,
            digest: Some(probe.digest),
            size_bytes: Some(probe.size),
            platforms: probe.platforms.iter().map(ToString::to_string).collect(),
            reason: None,
            message: None,
        },
        Err(failure) => Row {
            reference,
            available: false,
            digest: None,
            size_bytes: None,
            platforms: Vec::new(),
            reason: Some(failure.reason.to_string()),
            message: Some(failure.message),
        },
    }
}

fn table(outcome: &CheckOutcome) -> String {
    let mut table = Table::new(&[
        ("IMAGE", Align::Left),
        ("PULLABLE", Align::Left),
        ("DIGEST", Align::Left),
        ("SIZE", Align::Right),
        ("PLATFORMS", Align::Left),
        ("REASON", Align::Left),
    ]);
    for image in &outcome.images {
        table.row([
            image.reference.clone(),
            if image.available { "yes" } else { "no" }.to_owned(),
            image.digest.as_ref().map(short_digest).unwrap_or_default(),
            image.size_bytes.map(|s| s.to_string()).unwrap_or_default(),
            image.platforms.join(","),
            image.reason.clone().unwrap_or_default(),
        ]);
    }
    let mut text = table.render();
    for image in &outcome.images {
        if let Some(message) = &image.message {
            let message = printable(message);
            text.push_str(&format!("{}: {message}\n", image.reference));
        }
    }
    text
}
