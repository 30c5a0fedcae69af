//! `fledged-operator controller`.

use fledged_core::cluster::PlannerConfig;
use fledged_core::model::AssignmentDefaults;
use fledged_cri::signals::Shutdown;
use prometheus_client::registry::Registry;
use tracing::info;

use super::args::{ControllerArgs, ElectionArgs, NodeDriver};
use super::connect::connect;
use super::dispatch::ProgramError;
use super::listen::{listen, serving};
use crate::controller::{Controller, ControllerBuilder};
use crate::lease::{CONTROLLER_NAMESPACE, LeaseName, LeaseTimes, identity};
use crate::serve::Routes;

pub(super) async fn run(args: ControllerArgs, mut shutdown: Shutdown) -> Result<(), ProgramError> {
    if args.node_driver == NodeDriver::Job {
        return Err(ProgramError::Usage(
            "--node-driver: \"job\": this version has the agent driver only".to_owned(),
        ));
    }
    let times = lease_times(&args.election)?;
    let client = connect(&args.common).await?;
    let mut registry = Registry::default();
    let config = PlannerConfig::default()
        .with_defaults(
            AssignmentDefaults::default()
                .with_pull_policy(args.image_pull_policy)
                .with_deadline(args.image_pull_deadline_duration),
        )
        .with_max_concurrent_nodes(args.max_concurrent_nodes.clone())
        .with_refresh_interval(args.image_cache_refresh_frequency);
    let builder = Controller::builder(client)
        .config(config)
        .metrics(&mut registry);
    let builder = match &args.watch_namespace {
        Some(namespace) if !namespace.is_empty() => builder.namespace(namespace),
        _ => builder,
    };
    let controller = elected(builder, &args.election, times).build();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        "starting the controller"
    );
    let health = controller.health();
    let (live, ready) = (health.clone(), health);
    let routes = Routes::new()
        .with_liveness("loop", move || live.live())
        .with_readiness("controller", move || ready.ready());
    let served = listen(&args.common, registry, routes).await?;
    let stop = async {
        shutdown.requested().await;
    };
    serving(served, controller.run(stop)).await??;
    Ok(())
}

fn lease_times(args: &ElectionArgs) -> Result<LeaseTimes, ProgramError> {
    let times = LeaseTimes {
        lease_duration: args.leader_elect_lease_duration,
        renew_deadline: args.leader_elect_renew_deadline,
        retry_period: args.leader_elect_retry_period,
    };
    let refuse = |flag: &str, value, problem: &str| {
        let text = format!("{flag}: {value:?}: it must be {problem}");
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
    let namespace = match args.namespace.as_str() {
        "" => CONTROLLER_NAMESPACE,
        namespace => namespace,
    };
    let lease = LeaseName::of_controller(namespace);
    builder.election(lease, identity(args.identity.as_deref()), times)
}
