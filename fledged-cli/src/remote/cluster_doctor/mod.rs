//! `fledged doctor`: whether the operator in a cluster works, and what keeps it from working.
//!
//! Reads and access reviews only; each has a time limit. What the user may not read is shown as skipped, with
//! the missing permission.

mod access_checks;
mod agent_checks;
mod api_server_checks;
mod checks;
mod clock_checks;
mod controller_checks;
mod definition_checks;
mod installation;
mod reader;
mod report_checks;
mod version_checks;
mod webhook_checks;

use fledged_kube::crd::{ReadCache, ReadNodeCache, definitions};
use fledged_kube::lease::{CONTROLLER_LEASE, CONTROLLER_NAMESPACE};
use fledged_operator::controller::ReadNode;
use futures_util::future::join_all;
use futures_util::join;
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::ResourceExt as _;
use kube::api::ListParams;

use self::access_checks::{Account, Reviewed};
use self::agent_checks::Driver;
use self::definition_checks::Definition;
use self::installation::{Component, LABELS, acting_controller, of_component};
use self::reader::{Fact, Reader, ServerAnswer, Unread, request};
use self::webhook_checks::{Webhook, WebhookService};
use super::kubeconfig::{ClusterError, Connection, connect};
use crate::args::ClusterDoctorArgs;
use crate::command_result::{CommandError, Exit, print};
use crate::doctor::{Finding, Report};

const CRDS: &str = "customresourcedefinitions.apiextensions.k8s.io";
const LEASES: &str = "leases.coordination.k8s.io";
const WEBHOOKS: &str = "validatingwebhookconfigurations.admissionregistration.k8s.io";
/// The namespace of the Leases that kubelets renew.
const NODE_LEASES: &str = "kube-node-lease";

/// `fledged doctor`.
pub(super) async fn doctor(args: ClusterDoctorArgs) -> Result<Exit, CommandError> {
    let connection = connect(&args.connection).await?;
    let reader = Reader::new(&connection);
    let server = reader.server().await;
    let state = match &server {
        Ok(answer) => {
            let now = answer.date.unwrap_or(answer.received);
            let operator = args.operator_namespace.as_deref();
            ClusterState::read(&reader, &connection, operator, now).await
        }
        Err(_) => ClusterState::unread(&Unread::nothing("the API server does not answer")),
    };
    let report = Report::new(findings(&server, &state, &connection.url));
    print(&super::render(args.output.output, &report, Report::text)?)?;
    Ok(report.exit())
}

/// What was read of the cluster.
struct ClusterState {
    /// The time of the API server.
    now: Timestamp,
    definitions: [Definition; 2],
    deployments: Fact<Vec<Deployment>>,
    daemon_sets: Fact<Vec<DaemonSet>>,
    /// Pods of the operator.
    pods: Fact<Vec<Pod>>,
    nodes: Fact<Vec<ReadNode>>,
    caches: Fact<Vec<ReadCache>>,
    records: Fact<Vec<ReadNodeCache>>,
    /// Leases of controllers, in any namespace.
    leases: Fact<Vec<Lease>>,
    node_leases: Fact<Vec<Lease>>,
    webhooks: Fact<Vec<Webhook>>,
    services: Vec<WebhookService>,
    /// The namespace of the agents, or of the controller.
    namespace: Fact<Option<Namespace>>,
    to_read: Fact<Reviewed>,
    to_write: Fact<Reviewed>,
    to_show_bytes: Fact<Reviewed>,
    controller: Fact<(Account, Reviewed)>,
    agent: Fact<(Account, Reviewed)>,
    webhook_server: Fact<(Account, Reviewed)>,
}

impl ClusterState {
    /// Nothing was read, for this reason.
    fn unread(reason: &Unread) -> Self {
        let reason = || reason.clone();
        Self {
            now: Timestamp::now(),
            definitions: [Err(reason()), Err(reason())],
            deployments: Err(reason()),
            daemon_sets: Err(reason()),
            pods: Err(reason()),
            nodes: Err(reason()),
            caches: Err(reason()),
            records: Err(reason()),
            leases: Err(reason()),
            node_leases: Err(reason()),
            webhooks: Err(reason()),
            services: Vec::new(),
            namespace: Err(reason()),
            to_read: Err(reason()),
            to_write: Err(reason()),
            to_show_bytes: Err(reason()),
            controller: Err(reason()),
            agent: Err(reason()),
            webhook_server: Err(reason()),
        }
    }

    /// Reads all of it. `operator` is the namespace of the operator if the user names it.
    async fn read(
        reader: &Reader,
        connection: &Connection,
        operator: Option<&str>,
        now: Timestamp,
    ) -> Self {
        let usual = operator.unwrap_or(CONTROLLER_NAMESPACE);
        let (definitions, deployments, daemon_sets, pods, nodes, caches, records, webhooks) = join!(
            read_definitions(reader),
            reader.list_labelled("deployments.apps", &LABELS, operator, usual),
            reader.list_labelled("daemonsets.apps", &LABELS, operator, usual),
            reader.list_labelled("pods", &LABELS, operator, usual),
            list_all::<ReadNode>(reader, "nodes"),
            list_all::<ReadCache>(reader, "imagecaches.kubefledged.io"),
            list_all::<ReadNodeCache>(reader, "nodeimagecaches.kubefledged.io"),
            list_all::<ValidatingWebhookConfiguration>(reader, WEBHOOKS),
        );
        let webhooks = webhooks.map(|all| webhook_checks::webhooks(&all));
        let driver = Driver::of(&deployments);
        let home = home(&deployments, &daemon_sets);
        let found = home.as_deref().unwrap_or(usual);
        let own = |needs| access_checks::review_own(reader, needs);
        let (leases, node_leases, services, namespace) = join!(
            read_leases(reader, operator, found),
            read_node_leases(reader),
            read_services(reader, &webhooks),
            read_namespace(reader, home.as_deref()),
        );
        let (to_read, to_write, to_show_bytes, controller, agent, webhook_server) = join!(
            own(access_checks::to_read(&connection.namespace)),
            own(access_checks::to_write(&connection.namespace)),
            own(access_checks::to_show_bytes(found)),
            access_checks::review_account(
                reader,
                access_checks::controller_account(driver, &deployments)
            ),
            access_checks::review_account(reader, access_checks::agent_account(&daemon_sets)),
            access_checks::review_account(reader, access_checks::webhook_account(&deployments)),
        );
        Self {
            now,
            definitions,
            deployments,
            daemon_sets,
            pods,
            nodes,
            caches,
            records,
            leases,
            node_leases,
            webhooks,
            services,
            namespace,
            to_read,
            to_write,
            to_show_bytes,
            controller,
            agent,
            webhook_server,
        }
    }
}

/// The namespace of the agents, or of a cluster without agents, of the controller.
fn home(deployments: &Fact<Vec<Deployment>>, daemon_sets: &Fact<Vec<DaemonSet>>) -> Option<String> {
    let agents = daemon_sets.as_ref().map(Vec::as_slice).unwrap_or_default();
    let agents = of_component(agents, Component::Agent);
    let deployments = deployments.as_ref().map(Vec::as_slice).unwrap_or_default();
    let of_agents = agents.first().and_then(|agents| agents.namespace());
    of_agents.or_else(|| acting_controller(deployments)?.namespace())
}

async fn list_all<K>(reader: &Reader, resource: &'static str) -> Fact<Vec<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::all(reader.client.clone());
    let what = request("list", resource, None, None);
    reader.list(&api, &what, ListParams::default()).await
}

async fn read_definitions(reader: &Reader) -> [Definition; 2] {
    let api: Api<CustomResourceDefinition> = Api::all(reader.client.clone());
    let [caches, records] = definitions().map(|definition| definition.name_any());
    let read = async |name: String| {
        let what = request("get", CRDS, None, Some(&name));
        reader.find(&api, &what).await
    };
    let (caches, records) = join!(read(caches), read(records));
    [caches, records]
}

/// The Leases of controllers: of all namespaces, or of the operator's.
async fn read_leases(reader: &Reader, operator: Option<&str>, found: &str) -> Fact<Vec<Lease>> {
    let named = || ListParams::default().fields(&format!("metadata.name={CONTROLLER_LEASE}"));
    if operator.is_none() {
        let all: Api<Lease> = Api::all(reader.client.clone());
        let what = request("list", LEASES, None, None);
        match reader.list(&all, &what, named()).await {
            Err(unread) if unread.is_forbidden() => {}
            listed => return listed,
        }
    }
    let namespace = operator.unwrap_or(found);
    let api: Api<Lease> = Api::namespaced(reader.client.clone(), namespace);
    let what = request("get", LEASES, Some(namespace), Some(CONTROLLER_LEASE));
    let lease = reader.find(&api, &what).await?;
    Ok(lease.into_iter().collect())
}

async fn read_node_leases(reader: &Reader) -> Fact<Vec<Lease>> {
    let api: Api<Lease> = Api::namespaced(reader.client.clone(), NODE_LEASES);
    let what = request("list", LEASES, Some(NODE_LEASES), None);
    reader.list(&api, &what, ListParams::default()).await
}

async fn read_services(reader: &Reader, webhooks: &Fact<Vec<Webhook>>) -> Vec<WebhookService> {
    let webhooks = webhooks.as_ref().map(Vec::as_slice).unwrap_or_default();
    let mut names: Vec<_> = webhooks.iter().filter_map(Webhook::service).collect();
    names.dedup();
    let read = async |name: &k8s_openapi::api::admissionregistration::v1::ServiceReference| {
        let namespace = Some(name.namespace.as_str());
        let services: Api<Service> = Api::namespaced(reader.client.clone(), &name.namespace);
        let slices: Api<EndpointSlice> = Api::namespaced(reader.client.clone(), &name.namespace);
        let labels = format!("kubernetes.io/service-name={}", name.name);
        let get = request("get", "services", namespace, Some(&name.name));
        let list = request("list", "endpointslices.discovery.k8s.io", namespace, None);
        let (service, slices) = join!(
            reader.find(&services, &get),
            reader.list(&slices, &list, ListParams::default().labels(&labels)),
        );
        WebhookService {
            name: name.clone(),
            service,
            slices,
        }
    };
    join_all(names.into_iter().map(read)).await
}

/// `None` if the operator was not found.
async fn read_namespace(reader: &Reader, name: Option<&str>) -> Fact<Option<Namespace>> {
    let Some(name) = name else {
        return Ok(None);
    };
    let api: Api<Namespace> = Api::all(reader.client.clone());
    let what = request("get", "namespaces", None, Some(name));
    reader.find(&api, &what).await
}

/// Every check in its order.
fn findings(
    server: &Result<ServerAnswer, ClusterError>,
    state: &ClusterState,
    url: &str,
) -> Vec<Finding> {
    let unanswered = "not checked: the API server does not answer";
    let of_server = |check, judge: fn(&ServerAnswer) -> Finding| match server {
        Ok(answer) => judge(answer),
        Err(_) => Finding::skipped(check, unanswered),
    };
    let [caches, records] = definitions();
    let [found_caches, found_records] = &state.definitions;
    let driver = Driver::of(&state.deployments);
    let lease = state.leases.as_ref().map_err(Clone::clone);
    let lease = lease.map(|leases| controller_checks::current_lease(leases, state.now));
    vec![
        api_server_checks::answers(server, url),
        of_server(checks::API_SERVER_VERSION, |answer| {
            api_server_checks::version(&answer.version)
        }),
        definition_checks::definition(checks::CRD_IMAGE_CACHES, found_caches, &caches),
        definition_checks::definition(checks::CRD_NODE_IMAGE_CACHES, found_records, &records),
        definition_checks::stored_versions([found_caches, found_records]),
        controller_checks::deployment(
            &state.deployments,
            &state.pods,
            lease.as_ref().ok().copied().flatten(),
        ),
        controller_checks::lease(&state.leases, state.now),
        agent_checks::daemon_set(driver, &state.daemon_sets),
        agent_checks::on_nodes(driver, &state.nodes, &state.pods, state.now),
        agent_checks::restarts(driver, &state.pods, state.now),
        agent_checks::pod_security(driver, &state.namespace),
        report_checks::node_reports(&state.caches, &state.nodes, &state.records, state.now),
        version_checks::versions(&state.deployments, &state.daemon_sets, &state.pods),
        webhook_checks::configuration(&state.webhooks, &state.deployments),
        webhook_checks::ca_bundle(&state.webhooks, state.now),
        webhook_checks::endpoints(&state.webhooks, &state.services),
        access_checks::own(
            checks::OWN_READ_ACCESS,
            "fledged get, status, wait, why, plan and node status",
            "bind a ClusterRole that reads them: the chart adds ImageCaches to view (clusterRole.aggregate);              NodeImageCaches and nodes need a ClusterRoleBinding",
            &state.to_read,
        ),
        access_checks::own(
            checks::OWN_WRITE_ACCESS,
            "fledged refresh and purge",
            "bind the ClusterRole edit, to which the chart adds ImageCaches (clusterRole.aggregate), in this namespace",
            &state.to_write,
        ),
        access_checks::own(
            checks::OWN_PULL_BYTES,
            "bytes of running pulls in fledged status and get -w",
            "bind the Role under \"Progress of pulls\" in docs/operations.md",
            &state.to_show_bytes,
        ),
        access_checks::account(
            checks::CONTROLLER_ACCESS,
            "the controller cannot lead, or cannot assign images or write statuses",
            &state.controller,
        ),
        access_checks::account(
            checks::AGENT_ACCESS,
            "agents cannot read their assignments or report",
            &state.agent,
        ),
        access_checks::account(
            checks::WEBHOOK_ACCESS,
            "the webhook server cannot warn about entries that match no node, or not renew its certificate",
            &state.webhook_server,
        ),
        of_server(checks::CLOCK_HERE, clock_checks::here),
        clock_checks::controller(&lease),
        clock_checks::nodes(&state.node_leases, state.now),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::doctor::{Verdict, has_each_category_once};

    #[test]
    fn no_check_is_ok_if_the_api_server_does_not_answer() {
        let error = || ClusterError::Refused {
            request: request("get", "/version", None, None),
            problem: "closed".to_owned(),
        };
        let state = ClusterState::unread(&Unread::nothing("the API server does not answer"));
        let findings = findings(&Err(error()), &state, "https://a:6443");
        let names: BTreeSet<&str> = findings.iter().map(|finding| finding.check.name).collect();
        assert_eq!(names.len(), findings.len());
        assert!(has_each_category_once(&findings));
        assert_eq!(findings[0].result, Verdict::Failed);
        for finding in &findings[1..] {
            assert_eq!(finding.result, Verdict::Skipped, "{finding:?}");
            let text = "not checked: the API server does not answer";
            assert_eq!(finding.found, text, "{finding:?}");
        }
    }
}
