//! The subcommands: from flags to the library.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use fledged_core::model::{AssignmentDefaults, ImageRef, ProtectedImages};
use fledged_core::tokio::TokioClock;
use fledged_cri::target::RuntimeUri;
use fledged_cri::{
    CredentialProviderError, CredentialProviders, FetcherOptions, OpenOptions, PressureLimits,
    PullSlowdowns,
};
use fledged_kube::lease::{CONTROLLER_NAMESPACE, LeaseName, LeaseTimes, identity};
use fledged_kube::serve::Routes;
use fledged_webhook::{CertificateSource, SelfIssued, Webhook, WebhookConfig};
use prometheus_client::registry::Registry;
use tokio::runtime::Builder;
use tracing::info;

use super::flags::{
    AgentArgs, ControllerArgs, DriverKind, ElectionArgs, JobCommand, PullVia, RemoveArgs,
    WebhookArgs,
};
use super::program::{ProgramError, Stop, connect, serving};
use fledged_operator::agent::{Agent, AgentConfig, credentials_with_providers};
use fledged_operator::controller::{Candidate, Controller, ControllerConfig};
use fledged_operator::jobs::{JobDriver, JobOptions, remove_images};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs the agent.
pub(super) async fn agent(args: &AgentArgs, stop: Stop) -> Result<(), ProgramError> {
    let uri = match &args.runtime {
        Some(uri) => uri.clone(),
        None => RuntimeUri::detect().await?,
    };
    let mut config = AgentConfig::default();
    let runtime = fledged_cri::open(&uri, open_options(args, &uri, &config.slowdowns)?)?;
    let providers = credential_providers(args)?;
    let client = connect(&args.common).await?;
    config.credentials = providers
        .map(|providers| Arc::new(credentials_with_providers(&client, providers)) as Arc<_>);
    config.warmer.max_parallel_pulls = args.max_parallel_pulls;
    config.warmer.inventory_interval = args.inventory_interval;
    config.warmer.image_fs_high_threshold = args.image_fs_high_threshold.percent();
    config.warmer.protected = args.protect.images();
    let agent = Agent::new(client, args.node_name.clone(), runtime, config);
    let mut registry = Registry::default();
    agent.register_metrics(&mut registry);
    let (live, ready) = (agent.health(), agent.health());
    let pulls = agent.running_pulls();
    let metrics = metrics(registry).with_document("/pulls", move || pulls.to_json());
    let probes = Routes::new()
        .with_liveness("loop", move || live.live())
        .with_readiness("agent", move || ready.ready());
    info!(version = VERSION, node = %args.node_name, runtime = %uri, "agent starting");
    serving(&args.common, metrics, probes, agent.run(stop)).await
}

/// The routes at the metrics address.
fn metrics(registry: Registry) -> Routes {
    Routes::new().with_metrics(Arc::new(registry))
}

/// How the runtime pulls. `slowdowns` counts what slows pulls down.
fn open_options(
    args: &AgentArgs,
    uri: &RuntimeUri,
    slowdowns: &PullSlowdowns,
) -> Result<OpenOptions, ProgramError> {
    let (io, memory) = (args.max_io_pressure, args.max_memory_pressure);
    let pressure = PressureLimits::new(io.percent(), memory.percent());
    let mut options = OpenOptions::default();
    options.layout.max_connections = args.max_connections;
    options.layout.max_pull_rate = args.max_pull_rate;
    options.layout.pressure = pressure.clone();
    options.layout.slowdowns = slowdowns.clone();
    if args.pull_via == PullVia::Auto {
        let mut fetcher = FetcherOptions::default();
        fetcher.config_dirs.clone_from(&args.runtime_config_dirs);
        fetcher.in_container = true;
        fetcher.max_connections = args.max_connections;
        fetcher.max_pull_rate = args.max_pull_rate;
        fetcher.pressure = pressure;
        fetcher.slowdowns = slowdowns.clone();
        options.fetcher = Some(fetcher);
    }
    let fetches = match uri {
        RuntimeUri::Cri(_) => options.fetcher.is_some(),
        RuntimeUri::Oci(_) => true,
        _ => false,
    };
    if args.max_pull_rate.is_some() && !fetches {
        return Err(ProgramError::Usage(format!(
            "--max-pull-rate: {uri} pulls by itself; only oci: and, with --pull-via=auto, containerd can be limited"
        )));
    }
    Ok(options)
}

/// The credential-provider plugins of the flags.
fn credential_providers(
    args: &AgentArgs,
) -> Result<Option<CredentialProviders>, CredentialProviderError> {
    match (
        &args.image_credential_provider_config,
        &args.image_credential_provider_bin_dir,
    ) {
        (Some(config), Some(plugins)) => CredentialProviders::open(config, plugins).map(Some),
        _ => Ok(None),
    }
}

/// Runs the controller.
pub(super) async fn controller(args: &ControllerArgs, stop: Stop) -> Result<(), ProgramError> {
    let jobs = job_options(args)?;
    let candidate = candidate(&args.election)?;
    let client = connect(&args.common).await?;
    let jobs = jobs.map(|options| Arc::new(JobDriver::new(client.clone(), options)));
    let mut config = ControllerConfig::default();
    config.planner.defaults = AssignmentDefaults::default()
        .with_pull_policy(args.image_pull_policy)
        .with_deadline(args.image_pull_deadline_duration)
        .with_deadline_max(args.max_image_pull_deadline);
    config.planner.max_concurrent_nodes = args.max_concurrent_nodes.clone();
    config.planner.refresh_interval = args.image_cache_refresh_frequency;
    if let Some(most) = args.max_images_per_cache {
        config.planner.images_per_cache_max = most.get();
    }
    if args.max_images_per_namespace > 0 {
        config.planner.images_per_namespace_max = args.max_images_per_namespace;
    }
    config.planner.refresh_min_interval = args.refresh_min_interval;
    config.namespace = named(&args.watch_namespace);
    config.metrics_per_image_cache = args.metrics_per_image_cache;
    config.election = candidate;
    config.driver = jobs.clone().map(|driver| driver as Arc<_>);
    let controller = Controller::new(client, config);
    let mut registry = Registry::default();
    controller.register_metrics(&mut registry);
    let (live, ready) = (controller.health(), controller.health());
    let mut routes = Routes::new()
        .with_liveness("loop", move || live.live())
        .with_readiness("controller", move || ready.ready());
    if let Some(driver) = jobs {
        driver.register_metrics(&mut registry);
        routes = routes.with_readiness("jobs", move || driver.ready());
    }
    info!(version = VERSION, "controller starting");
    serving(
        &args.common,
        metrics(registry),
        routes,
        controller.run(stop),
    )
    .await
}

/// A value that is set and not empty, as manifests of kube-fledged set flags that they do not use.
fn named(value: &Option<String>) -> Option<String> {
    value.clone().filter(|value| !value.is_empty())
}

/// The namespace of the operator.
fn own_namespace(namespace: &str) -> &str {
    match namespace {
        "" => CONTROLLER_NAMESPACE,
        namespace => namespace,
    }
}

/// The options of the job driver; `None` with agents.
fn job_options(args: &ControllerArgs) -> Result<Option<JobOptions>, ProgramError> {
    let jobs = &args.jobs;
    let image = named(&jobs.job_image).map(|image| {
        ImageRef::parse(&image).map_err(|error| {
            ProgramError::Usage(format!("--job-image: {image:?}: {}", error.problem()))
        })
    });
    let image = image.transpose()?;
    if args.node_driver == DriverKind::Agent {
        return Ok(None);
    }
    let image = image.ok_or_else(|| {
        ProgramError::Usage(
            "--node-driver: \"job\": every Job runs an image with this program: name it with \
             --job-image, or by KUBEFLEDGED_CRI_CLIENT_IMAGE"
                .to_owned(),
        )
    })?;
    let mut options = JobOptions::new(image, own_namespace(&args.election.namespace));
    options.pull_method = jobs.job_pull_method;
    options.retention = jobs.job_retention_policy;
    options.ttl = jobs.job_ttl;
    options.priority_class = named(&jobs.job_priority_class_name);
    options.service_account = named(&jobs.service_account_name);
    let secrets = jobs.job_image_pull_secrets.iter();
    options.image_pull_secrets = secrets.filter(|name| !name.is_empty()).cloned().collect();
    options.socket = named(&jobs.cri_socket_path);
    options.removal_host_network = jobs.image_delete_job_host_network;
    options.removal_selinux_type = named(&jobs.job_removal_selinux_type);
    options.list_max = jobs.node_status_max_images;
    options.resources.clone_from(&jobs.job_resources);
    options.user = jobs.job_run_as_user.0;
    if let Some(labels) = &jobs.job_pod_labels {
        options.pod_labels.clone_from(&labels.0);
    }
    if let Some(annotations) = &jobs.job_pod_annotations {
        options.pod_annotations.clone_from(&annotations.0);
    }
    options.protected = args.protect.images().and_image(&options.image);
    options.caches_namespace = named(&args.watch_namespace);
    Ok(Some(options))
}

/// The candidate for the lease; `None` without leader election. The times are checked in either case.
fn candidate(args: &ElectionArgs) -> Result<Option<Candidate>, ProgramError> {
    let mut times = LeaseTimes::default();
    times.lease_duration = args.leader_elect_lease_duration;
    times.renew_deadline = args.leader_elect_renew_deadline;
    times.retry_period = args.leader_elect_retry_period;
    let (lease, renew) = (
        "--leader-elect-lease-duration",
        "--leader-elect-renew-deadline",
    );
    let invalid = if times.lease_duration <= times.renew_deadline {
        Some((lease, times.lease_duration, format!("longer than {renew}")))
    } else if times.lease_duration.subsec_nanos() > 0 {
        Some((lease, times.lease_duration, "whole seconds".to_owned()))
    } else if times.renew_deadline <= times.retry_period {
        let problem = "longer than --leader-elect-retry-period".to_owned();
        Some((renew, times.renew_deadline, problem))
    } else {
        None
    };
    if let Some((flag, value, problem)) = invalid {
        let text = format!("{flag}: {value:?}: must be {problem}");
        return Err(ProgramError::Usage(text));
    }
    let lease = LeaseName::of_controller(own_namespace(&args.namespace));
    let mut candidate = Candidate::new(lease, identity(args.identity.as_deref()));
    candidate.times = times;
    Ok(args.leader_elect.then_some(candidate))
}

/// Runs the webhook.
pub(super) async fn webhook(args: &WebhookArgs, stop: Stop) -> Result<(), ProgramError> {
    let client = connect(&args.common).await?;
    let mut config = WebhookConfig::default();
    config.refresh_interval = args.image_cache_refresh_frequency;
    config.longest_deadline = args.max_image_pull_deadline;
    config.certificate = match (&args.cert_file, &args.key_file) {
        (Some(certificate), Some(key)) => CertificateSource::Files {
            certificate: certificate.clone(),
            key: key.clone(),
        },
        _ => {
            let namespace = own_namespace(&args.service_namespace);
            let mut issued = SelfIssued::new(namespace, &args.service_name);
            if let Some(secret) = &args.secret_name {
                issued.secret.clone_from(secret);
            }
            issued.configuration.clone_from(&args.webhook_configuration);
            CertificateSource::SelfIssued(issued)
        }
    };
    let webhook = Webhook::new(client, config);
    let mut registry = Registry::default();
    webhook.register_metrics(&mut registry);
    let health = webhook.health();
    let routes = Routes::new().with_readiness("certificate", move || health.ready());
    let server = webhook.bind(args.port).await?;
    info!(version = VERSION, "webhook starting");
    serving(&args.common, metrics(registry), routes, server.run(stop)).await
}

/// Runs a command of a Job.
pub(super) fn job(command: JobCommand) -> Result<(), ProgramError> {
    match command {
        JobCommand::Noop => Ok(()),
        JobCommand::Copy { path } => copy(path),
        JobCommand::Remove(args) => remove(args),
    }
}

/// Copies the executable with its permissions, so that other containers can run it.
fn copy(to: PathBuf) -> Result<(), ProgramError> {
    let from = std::env::current_exe().map_err(ProgramError::Executable)?;
    match fs::copy(&from, &to) {
        Ok(_) => Ok(()),
        Err(source) => Err(ProgramError::Copy { from, to, source }),
    }
}

/// Removes images, and writes the result of each to the termination log.
fn remove(args: RemoveArgs) -> Result<(), ProgramError> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(ProgramError::Runtime)?;
    let outcomes = runtime.block_on(async {
        let images = fledged_cri::open(&args.runtime, OpenOptions::default())?;
        let clock = Arc::new(TokioClock::new());
        let protected = ProtectedImages::new(args.protect);
        let removal = remove_images(images, clock, &args.images, &args.keep, protected);
        Ok::<_, ProgramError>(removal.await)
    })?;
    let message = outcomes.to_message();
    println!("{message}");
    let path = args.termination_log;
    fs::write(&path, message).map_err(|source| ProgramError::TerminationLog { path, source })
}
