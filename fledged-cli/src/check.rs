//! `fledged check`: asks the registries whether every image of the manifests can be pulled.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ByteSize, Digest, GoDuration, ImageCache, ImageRef};
use fledged_core::port::{Credentials, CredentialsRequest};
use fledged_core::tokio::ShutdownSignal;
use fledged_cri::registry::{Platform, Probe, Registry};
use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Serialize;

use crate::args::{CheckArgs, OutputFormat, RegistryArgs};
use crate::command_result::{CommandError, Exit, json, print};
use crate::local::{Client, SessionError, credentials, platform, registry_hint, registry_options};
use crate::manifest;
use crate::output::{Align, Table, Terminal, pluralised, printable, rounded_seconds, short_digest};

/// The result, as `-o json` prints it.
#[derive(Debug, Serialize)]
struct CheckResult {
    images: Vec<CheckedImage>,
    summary: CheckSummary,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CheckedImage {
    reference: String,
    available: bool,
    digest: Option<Digest>,
    size_bytes: Option<ByteSize>,
    platforms: Vec<String>,
    reason: Option<String>,
    message: Option<String>,
    /// What to change so that the image can be pulled.
    #[serde(skip)]
    hint: Option<String>,
}

#[derive(Debug, Serialize)]
struct CheckSummary {
    checked: usize,
    available: usize,
    failed: usize,
    platform: String,
    seconds: f64,
}

pub(crate) async fn check(args: CheckArgs, terminal: &Terminal) -> Result<Exit, CommandError> {
    let start = Instant::now();
    let manifests = manifest::load(args.manifests.files, terminal).await?;
    let has_credentials = args.registry.has_credentials();
    manifest::warn_unsupported(&manifests.caches, has_credentials, terminal);
    let prober = Prober::open(&args.registry)?;
    manifest::warn_no_credentials(&args.registry, terminal);
    let mut shutdown = ShutdownSignal::listen().map_err(CommandError::Signals)?;
    let requests = requests(&manifests.caches);
    let probes = stream::iter(requests.iter().map(|request| {
        let prober = &prober;
        async move {
            let result = prober.probe(request.clone(), args.deadline).await;
            checked_image(&request.image, result)
        }
    }))
    .buffered(args.max_parallel_checks.get())
    .collect::<Vec<CheckedImage>>();
    let images = tokio::select! {
        images = probes => images,
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
        platform: prober.platform.to_string(),
        seconds: rounded_seconds(start.elapsed()),
    };
    let result = CheckResult { images, summary };
    match args.output.output {
        OutputFormat::Json => print(&json(&result)?)?,
        OutputFormat::Table => print(&table(&result))?,
    }
    terminal.line(format_args!(
        "{}: {available} can be pulled for {}, {} cannot, {:.1} s",
        pluralised(result.summary.checked, "image"),
        result.summary.platform,
        result.summary.failed,
        result.summary.seconds
    ));
    Ok(if result.summary.failed == 0 {
        Exit::Done
    } else {
        Exit::Failed
    })
}

/// Every image of every cache once, in the order of the manifests, with the credentials of all its caches.
fn requests(caches: &[ImageCache]) -> Vec<CredentialsRequest> {
    let mut requests: Vec<CredentialsRequest> = Vec::new();
    let mut indexes: BTreeMap<&ImageRef, usize> = BTreeMap::new();
    for cache in caches {
        for image in cache.groups.iter().flat_map(|group| &group.images) {
            let index = *indexes.entry(image).or_insert_with(|| {
                requests.push(CredentialsRequest::new(image.clone()));
                requests.len() - 1
            });
            let Some(request) = requests.get_mut(index) else {
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

/// An image that can be pulled.
struct Checked {
    probe: Probe,
    /// The credentials that could not be used, and were not needed.
    warning: Option<String>,
}

/// A registry client with credentials, for one platform.
struct Prober {
    registry: Registry,
    credentials: Arc<dyn Credentials>,
    platform: Platform,
}

impl Prober {
    /// # Errors
    ///
    /// [`SessionError`] when the credentials or this machine's certificates cannot be read.
    fn open(args: &RegistryArgs) -> Result<Self, SessionError> {
        Ok(Self {
            registry: Registry::new(registry_options(args)).map_err(SessionError::Registries)?,
            credentials: credentials(args)?,
            platform: platform(args),
        })
    }

    /// Checks one image, with each set of credentials in turn until the registry accepts one; without credentials
    /// where those of the image cannot be read, as a pull does.
    ///
    /// # Errors
    ///
    /// The failure that a pull would end with.
    async fn probe(
        &self,
        request: CredentialsRequest,
        deadline: Duration,
    ) -> Result<Checked, Failure> {
        let ends = tokio::time::Instant::now() + deadline;
        let request = request.within(deadline);
        let found = self.credentials.resolve(&request).await;
        let probe = |auth| {
            let probe = self.registry.probe(&request.image, auth, &self.platform);
            let probe = tokio::time::timeout_at(ends, probe);
            async move {
                probe.await.unwrap_or_else(|_| {
                    let deadline = GoDuration(deadline);
                    let text = format!("the registry did not answer by the deadline of {deadline}");
                    Err(Failure::new(Reason::DeadlineExceeded, text))
                })
            }
        };
        let warning = found.warning();
        let probe = found.attempt(probe).await?;
        Ok(Checked { probe, warning })
    }
}

fn checked_image(image: &ImageRef, result: Result<Checked, Failure>) -> CheckedImage {
    let reference = image.original().to_owned();
    match result {
        Ok(Checked { probe, warning }) => CheckedImage {
            reference,
            available: true,
            digest: Some(probe.digest),
            size_bytes: Some(probe.size),
            platforms: probe.platforms.iter().map(ToString::to_string).collect(),
            reason: warning
                .as_ref()
                .map(|_| Reason::CredentialsUnavailable.to_string()),
            message: warning.map(|text| format!("not used: {text}")),
            hint: None,
        },
        Err(failure) => CheckedImage {
            reference,
            available: false,
            digest: None,
            size_bytes: None,
            platforms: Vec::new(),
            hint: match failure.reason {
                Reason::DeadlineExceeded => {
                    Some("raise --deadline; check how fast the registry answers".to_owned())
                }
                reason => registry_hint(image, reason, &failure.message, Client::Own),
            },
            reason: Some(failure.reason.to_string()),
            message: Some(failure.message),
        },
    }
}

fn table(result: &CheckResult) -> String {
    let mut table = Table::new(&[
        ("IMAGE", Align::Left),
        ("PULLABLE", Align::Left),
        ("DIGEST", Align::Left),
        ("SIZE", Align::Right),
        ("PLATFORMS", Align::Left),
        ("REASON", Align::Left),
    ]);
    for image in &result.images {
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
    for image in &result.images {
        if let Some(message) = &image.message {
            text.push_str(&format!("{}: {}\n", image.reference, printable(message)));
        }
        if let Some(hint) = &image.hint {
            text.push_str(&format!("  hint: {hint}\n"));
        }
    }
    text
}
