//! 1. A cluster comes up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fledged_core::model::ByteSize;
use fledged_operator::api::lease::LeaseName;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::PostParams;
use kube::runtime::wait::await_condition;

use crate::demo::DemoError;
use crate::demo::labels::written;
use crate::demo::node::DemoNode;
use crate::demo::stage::Stage;
use crate::output::pluralised;

/// Between two looks at a part of this process.
const INTERVAL: Duration = Duration::from_millis(10);
/// Nodes that are named one by one.
const NAMED: usize = 6;

/// An API server, a registry, a controller that is elected, and Ready nodes with agents.
pub(in crate::demo) async fn cluster(stage: &mut Stage, nodes: usize) -> Result<(), DemoError> {
    let start = Instant::now();
    let facts: Result<Vec<_>, DemoError> = (0..nodes).map(|node| stage.facts(node)).collect();
    // Before anything is shown: it may be that there is nothing to show.
    let unmet = stage.written.unmet(&facts?)?;
    stage.screen.first_act(
        "1. A cluster in this process: nothing is installed, nothing is fetched from outside.",
    )?;
    let images = stage.written.images();
    stage.screen.say(format_args!(
        "API server   {}\nkubeconfig   {}\nregistry     {} with {} of {} together, base layers shared",
        stage.url(),
        stage.kubeconfig.display(),
        stage.registry.host(),
        pluralised(images.len(), "generated image"),
        ByteSize::new(stage.registry.stored()),
    ))?;
    namespaces(stage).await?;
    let lease = stage.start_controller().await?;
    let holder = stage.within("the election", elected(stage, &lease)).await?;
    stage.screen.say(format_args!(
        "controller   {holder:?} holds the Lease {lease}"
    ))?;
    for _ in 0..nodes {
        stage.add_node().await?;
    }
    stage
        .within("the start of the agents", agents(stage))
        .await?;
    for node in &stage.nodes {
        node.turn_ready().await?;
    }
    stage.screen.say(format_args!(
        "nodes        {} Ready, each with an agent and an OCI image layout for a runtime",
        stage.nodes.len()
    ))?;
    for (labels, nodes) in by_labels(&stage.nodes) {
        stage
            .screen
            .say(format_args!("             {labels}: {nodes}"))?;
    }
    for entry in unmet {
        stage.screen.terminal.warn(entry);
    }
    stage.screen.say(format_args!(
        "Up after {:.1} s. kubectl and fledged can be used on it while this runs:\n  export KUBECONFIG={}",
        start.elapsed().as_secs_f64(),
        stage.kubeconfig.display()
    ))
}

/// The namespaces of the controller and of the ImageCaches; a server has `default` by itself.
async fn namespaces(stage: &Stage) -> Result<(), DemoError> {
    let api: Api<Namespace> = Api::all(stage.client.clone());
    let names = stage.caches.iter().map(|cache| cache.id.namespace.as_str());
    for name in names.chain(["kube-fledged"]) {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.to_owned());
        match api.create(&PostParams::default(), &namespace).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            Err(error) => {
                return Err(DemoError::refused(format!("create the namespace {name}"))(
                    error,
                ));
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Who holds the Lease, once somebody does.
async fn elected(stage: &Stage, lease: &LeaseName) -> Result<String, DemoError> {
    let api: Api<Lease> = Api::namespaced(stage.client.clone(), &lease.namespace);
    let what = format!("watch the Lease {lease}");
    let held = |lease: Option<&Lease>| holder(lease).is_some();
    let lease = await_condition(api, &lease.name, held).await;
    match lease {
        Ok(lease) => Ok(holder(lease.as_ref()).unwrap_or_default()),
        Err(error) => Err(DemoError::Failed {
            act: "the election",
            seen: format!("cannot {what}: {error}"),
        }),
    }
}

fn holder(lease: Option<&Lease>) -> Option<String> {
    let holder = lease?.spec.as_ref()?.holder_identity.clone();
    holder.filter(|name| !name.is_empty())
}

/// Waits until every agent knows what its node is to hold, and what it holds.
async fn agents(stage: &Stage) -> Result<(), DemoError> {
    while stage.nodes.iter().any(|node| node.agent_ready().is_err()) {
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(())
}

/// The nodes that have labels which are dealt out.
fn by_labels(nodes: &[DemoNode]) -> BTreeMap<String, String> {
    let mut by_labels: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for node in nodes {
        let mut labels = node.facts.labels.clone();
        labels.retain(|key, _| !key.starts_with("kubernetes.io/"));
        if !labels.is_empty() {
            let names = by_labels.entry(written(&labels)).or_default();
            names.push(node.name().to_string());
        }
    }
    let named = by_labels.into_iter().map(|(labels, names)| {
        let first: Vec<&str> = names.iter().take(NAMED).map(String::as_str).collect();
        let mut text = first.join(", ");
        if names.len() > NAMED {
            text.push_str(&format!(" and {} more", names.len() - NAMED));
        }
        (labels, text)
    });
    named.collect()
}
