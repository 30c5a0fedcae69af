//! `fledged-operator controller`.

use fledged_core::planner::PlannerConfig;
use std::sync::Arc;

use fledged_core::model::{AssignmentDefaults, ImageRef};
use fledged_core::tokio::ShutdownSignal;
use prometheus_client::registry::Registry;
use tracing::info;

use super::args::{ControllerArgs, ElectionArgs, NodeDriver};
use super::connect::connect;
use super::dispatch::ProgramError;
use super::job_args::{JobPullMethod, JobRetention};
use super::listen::{listen, serving};
use fledged_operator::api::lease::{CONTROLLER_NAMESPACE, LeaseName, LeaseTimes, identity};
use fledged_operator::controller::{Controller, ControllerBuilder};
use fledged_operator::jobs::{JobDriver, JobOptions, PullMethod, Retention};
use fledged_operator::serve::Routes;

pub(super) async fn run(
    args: ControllerArgs,
    mut shutdown: ShutdownSignal,
) -> Result<(), ProgramError> {
    let jobs = job_options(&args)?;
    let times = lease_times(&args.election)?;
    let client = connect(&args.common).await?;
    let mut registry = Registry::default();
    let mut config = PlannerConfig::default();
    config.defaults = AssignmentDefaults::default()
        .with_pull_policy(args.image_pull_policy)
        .with_deadline(args.image_pull_deadline_duration);
    config.max_concurrent_nodes = args.max_concurrent_nodes.clone();
    config.refresh_interval = args.image_cache_refresh_frequency;
    let builder = Controller::builder(client.clone())
        .config(config)
        .metrics(&mut registry);
    let jobs = jobs.map(|options| {
        let driver = JobDriver::new(client, options).with_metrics(&mut registry);
        Arc::new(driver)
    });
    let builder = match &jobs {
        Some(driver) => builder.driver(Arc::clone(driver) as Arc<_>),
        None => builder,
    };
    let builder = match &args.watch_namespace {
        Some(namespace) if !namespace.is_empty() => builder.namespace(namespace),
        _ => builder,
    };
    let controller = elected(builder, &args.election, times).build();
    info!(version = env!("CARGO_PKG_VERSION"), "controller starting");
    let health = controller.health();
    let (live, ready) = (health.clone(), health);
    let routes = Routes::new()
        .with_liveness("loop", move || live.live())
        .with_readiness("controller", move || ready.ready());
    let routes = match jobs {
        Some(driver) => routes.with_readiness("jobs", move || driver.ready()),
        None => routes,
    };
    let served = listen(&args.common, registry, routes).await?;
    let stop = async {
        shutdown.recv().await;
    };
    serving(served, controller.run(stop)).await??;
    Ok(())
}

/// The options of the job driver; `None` with agents.
fn job_options(args: &ControllerArgs) -> Result<Option<JobOptions>, ProgramError> {
    let jobs = &args.jobs;
    let image = jobs.job_image.as_deref().filter(|image| !image.is_empty());
    let image = image.map(|image| {
        ImageRef::parse(image).map_err(|error| {
            ProgramError::Usage(format!("--job-image: {image:?}: {}", error.problem()))
        })
    });
    let image = image.transpose()?;
    if args.node_driver == NodeDriver::Agent {
        return Ok(None);
    }
    let image = image.ok_or_else(|| {
        ProgramError::Usage(
            "--node-driver: \"job\": every Job runs an image with this program: name it with \
             --job-image, or by KUBEFLEDGED_CRI_CLIENT_IMAGE"
                .to_owned(),
        )
    })?;
    let named = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    let mut options = JobOptions::new(image, operator_namespace(&args.election));
    options.pull_method = match jobs.job_pull_method {
        JobPullMethod::Auto => PullMethod::Auto,
        JobPullMethod::ImageVolume => PullMethod::ImageVolume,
        JobPullMethod::Container => PullMethod::Container,
    };
    options.retention = match jobs.job_retention_policy {
        JobRetention::Delete => Retention::Delete,
        JobRetention::Retain => Retention::Retain,
    };
    options.ttl = jobs.job_ttl;
    options.priority_class = named(&jobs.job_priority_class_name);
    options.service_account = named(&jobs.service_account_name);
    let secrets = jobs.job_image_pull_secrets.iter();
    options.image_pull_secrets = secrets.filter(|name| !name.is_empty()).cloned().collect();
    options.socket = named(&jobs.cri_socket_path);
    options.removal_host_network = jobs.image_delete_job_host_network;
    options.removal_selinux_type = named(&jobs.job_removal_selinux_type);
    options.list_max = jobs.node_status_max_images;
    options.caches_namespace = named(&args.watch_namespace);
    Ok(Some(options))
}

fn operator_namespace(args: &ElectionArgs) -> &str {
    match args.namespace.as_str() {
        "" => CONTROLLER_NAMESPACE,
        namespace => namespace,
    }
}

fn lease_times(args: &ElectionArgs) -> Result<LeaseTimes, ProgramError> {
    let mut times = LeaseTimes::default();
    times.lease_duration = args.leader_elect_lease_duration;
    times.renew_deadline = args.leader_elect_renew_deadline;
    times.retry_period = args.leader_elect_retry_period;
    let refuse = |flag: &str, value, problem: &str| {
        let text = format!("{flag}: {value:?}: must be {problem}");
        Err(ProgramError::Usage(text))
    };
    if times.lease_duration <= times.renew_deadline {
        return refuse(
            "--leader-elect-lease-duration",
            times.lease_duration,
            "longer than --leader-elect-renew-deadline",
        );
    }
    if times.lease_duration.subsec_nanos() > 0 {
        return refuse(
            "--leader-elect-lease-duration",
            times.lease_duration,
            "whole seconds",
        );
    }
    if times.renew_deadline <= times.retry_period {
        return refuse(
            "--leader-elect-renew-deadline",
            times.renew_deadline,
            "longer than --leader-elect-retry-period",
        );
    }
    Ok(times)
}

fn elected(
    builder: ControllerBuilder,
    args: &ElectionArgs,
    times: LeaseTimes,
) -> ControllerBuilder {
    if !args.leader_elect {
        return builder;
    }
    let lease = LeaseName::of_controller(operator_namespace(args));
    builder.election(lease, identity(args.identity.as_deref()), times)
}
