//! Permissions: of the user, and of the ServiceAccounts of the operator, as the API server answers reviews.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};

use super::agent_checks::Driver;
use super::installation::{Component, Workload, acting_controller, of_component, some_of};
use super::reader::{Fact, Reader, Unread, request, within_limit};
use crate::doctor::{Check, Finding};

const GROUP: &str = "kubefledged.io";
const LEASE: &str = fledged_kube::lease::CONTROLLER_LEASE;

/// One permission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Permission {
    verb: &'static str,
    group: &'static str,
    /// Plural, and after a slash the subresource.
    resource: &'static str,
    /// All namespaces if there is none.
    namespace: Option<String>,
    name: Option<String>,
}

impl std::fmt::Display for Permission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        if let Some(name) = &self.name {
            write!(f, " {name}")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in {namespace}"),
            None => Ok(()),
        }
    }
}

impl Permission {
    fn attributes(&self) -> ResourceAttributes {
        let (resource, subresource) = match self.resource.split_once('/') {
            Some((resource, part)) => (resource, Some(part.to_owned())),
            None => (self.resource, None),
        };
        ResourceAttributes {
            group: Some(self.group.to_owned()),
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            resource: Some(resource.to_owned()),
            subresource,
            verb: Some(self.verb.to_owned()),
            ..ResourceAttributes::default()
        }
    }
}

/// Permissions for some verbs on one resource.
fn each(
    verbs: &[&'static str],
    group: &'static str,
    resource: &'static str,
    namespace: Option<&str>,
) -> Vec<Permission> {
    let permission = |verb: &&'static str| Permission {
        verb,
        group,
        resource,
        namespace: namespace.map(str::to_owned),
        name: None,
    };
    verbs.iter().map(permission).collect()
}

/// What `get`, `status`, `wait`, `why`, `plan` and `node status` need.
pub(super) fn to_read(namespace: &str) -> Vec<Permission> {
    let reads = ["get", "list", "watch"];
    [
        each(&reads, GROUP, "imagecaches", Some(namespace)),
        each(&reads, GROUP, "nodeimagecaches", None),
        each(&reads, "", "nodes", None),
    ]
    .concat()
}

/// What `refresh` and `purge` need.
pub(super) fn to_write(namespace: &str) -> Vec<Permission> {
    each(&["patch"], GROUP, "imagecaches", Some(namespace))
}

/// What the bytes of running pulls need.
pub(super) fn to_show_bytes(operator: &str) -> Vec<Permission> {
    [
        each(&["list"], "", "pods", Some(operator)),
        each(&["get"], "", "pods/proxy", Some(operator)),
    ]
    .concat()
}

/// What the controller needs, as `templates/rbac-controller.yaml` of the chart grants it.
fn of_controller(driver: Driver, watched: Option<&str>, namespace: &str) -> Vec<Permission> {
    let mut all = [
        each(&["list", "watch"], "", "nodes", None),
        each(
            &["list", "watch", "create", "patch", "delete"],
            GROUP,
            "nodeimagecaches",
            None,
        ),
        each(
            &["get", "list", "watch", "patch"],
            GROUP,
            "imagecaches",
            watched,
        ),
        each(&["patch"], GROUP, "imagecaches/status", watched),
        each(&["create"], "", "events", watched),
        each(
            &["create"],
            "coordination.k8s.io",
            "leases",
            Some(namespace),
        ),
    ]
    .concat();
    let lease = each(
        &["get", "update"],
        "coordination.k8s.io",
        "leases",
        Some(namespace),
    );
    all.extend(named(lease, LEASE));
    if driver == Driver::Jobs {
        all.extend(each(&["patch"], GROUP, "nodeimagecaches/status", None));
        all.extend(each(&["get"], "", "serviceaccounts", watched));
        all.extend(each(
            &["list", "watch", "create", "delete"],
            "batch",
            "jobs",
            watched,
        ));
        all.extend(each(&["list", "watch"], "", "pods", watched));
        all.extend(each(&["list"], "", "events", watched));
    }
    all
}

fn of_agent() -> Vec<Permission> {
    [
        each(&["list", "watch"], GROUP, "nodeimagecaches", None),
        each(&["patch"], GROUP, "nodeimagecaches/status", None),
    ]
    .concat()
}

/// What the webhook server needs; with its own certificate, also the objects that it writes it to.
fn of_webhook_server(server: &Deployment, namespace: &str) -> Vec<Permission> {
    let mut all = each(&["list", "watch"], "", "nodes", None);
    if let Some(name) = server.flag("webhook-configuration") {
        let group = "admissionregistration.k8s.io";
        let resource = "validatingwebhookconfigurations";
        all.extend(named(each(&["get", "patch"], group, resource, None), name));
    }
    if let Some(name) = server.flag("secret-name") {
        let verbs = ["get", "update"];
        all.extend(named(each(&verbs, "", "secrets", Some(namespace)), name));
    }
    all
}

/// The permissions, on the object of that name.
fn named(all: Vec<Permission>, name: &str) -> impl Iterator<Item = Permission> {
    let name = name.to_owned();
    all.into_iter().map(move |permission| Permission {
        name: Some(name.clone()),
        ..permission
    })
}

/// A ServiceAccount of the operator, and what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    namespace: String,
    name: String,
    needs: Vec<Permission>,
}

impl Account {
    fn of<W: Workload + kube::Resource>(workload: &W, needs: Vec<Permission>) -> Self {
        Self {
            namespace: workload.meta().namespace.clone().unwrap_or_default(),
            name: workload.account().to_owned(),
            needs,
        }
    }

    fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }

    fn groups(&self) -> Vec<String> {
        vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{}", self.namespace),
            "system:authenticated".to_owned(),
        ]
    }
}

/// The account of the controller, if it was found.
pub(super) fn controller_account(
    driver: Option<Driver>,
    deployments: &Fact<Vec<Deployment>>,
) -> Fact<Account> {
    let all = deployments.as_ref().map_err(Clone::clone)?;
    let controller = acting_controller(all);
    let controller = controller.ok_or_else(|| Unread::nothing("no controller was found"))?;
    let namespace = controller.metadata.namespace.clone().unwrap_or_default();
    let watched = controller
        .flag("watch-namespace")
        .filter(|name| !name.is_empty());
    let needs = of_controller(driver.unwrap_or(Driver::Agents), watched, &namespace);
    Ok(Account::of(controller, needs))
}

/// The account of the agents, if they were found.
pub(super) fn agent_account(daemon_sets: &Fact<Vec<DaemonSet>>) -> Fact<Account> {
    let all = daemon_sets.as_ref().map_err(Clone::clone)?;
    let agents = of_component(all, Component::Agent);
    let agent = agents
        .first()
        .ok_or_else(|| Unread::nothing("there are no agents"))?;
    Ok(Account::of(*agent, of_agent()))
}

/// The account of the webhook server, if it was found.
pub(super) fn webhook_account(deployments: &Fact<Vec<Deployment>>) -> Fact<Account> {
    let all = deployments.as_ref().map_err(Clone::clone)?;
    let servers = of_component(all, Component::WebhookServer);
    let server = servers.first();
    let server = server.ok_or_else(|| Unread::nothing("no webhook server is installed"))?;
    let namespace = server.metadata.namespace.as_deref().unwrap_or_default();
    Ok(Account::of(*server, of_webhook_server(server, namespace)))
}

/// Which of the permissions are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reviewed {
    /// The number of permissions that were asked for.
    pub(super) asked: usize,
    pub(super) missing: Vec<Permission>,
}

/// Asks for permissions of the user.
pub(super) async fn review_own(reader: &Reader, needs: Vec<Permission>) -> Fact<Reviewed> {
    let resource = "selfsubjectaccessreviews.authorization.k8s.io";
    let what = request("create", resource, None, None);
    let ask = async |permission: &Permission| {
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(permission.attributes()),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        let status = reader.review(&what, &review).await?.status;
        Ok(status.is_some_and(|status| status.allowed))
    };
    within_limit(&what, missing_of(&needs, ask)).await
}

/// Asks for the permissions of a ServiceAccount, which only administrators may.
pub(super) async fn review_account(
    reader: &Reader,
    account: Fact<Account>,
) -> Fact<(Account, Reviewed)> {
    let account = account?;
    let resource = "subjectaccessreviews.authorization.k8s.io";
    let what = request("create", resource, None, None);
    let ask = async |permission: &Permission| {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(account.user()),
                groups: Some(account.groups()),
                resource_attributes: Some(permission.attributes()),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let status = reader.review(&what, &review).await?.status;
        Ok(status.is_some_and(|status| status.allowed))
    };
    let reviewed = within_limit(&what, missing_of(&account.needs, ask)).await?;
    Ok((account, reviewed))
}

/// The permissions that are not granted. Ends with the first review that fails.
async fn missing_of(
    needs: &[Permission],
    ask: impl AsyncFn(&Permission) -> Fact<bool>,
) -> Fact<Reviewed> {
    let mut missing = Vec::new();
    for permission in needs {
        if !ask(permission).await? {
            missing.push(permission.clone());
        }
    }
    let asked = needs.len();
    Ok(Reviewed { asked, missing })
}

/// A permission of the user that a command needs.
pub(super) fn own(check: Check, commands: &str, role: &str, reviewed: &Fact<Reviewed>) -> Finding {
    match reviewed {
        Err(unread) => Finding::skipped(check, unread),
        Ok(reviewed) if reviewed.missing.is_empty() => {
            Finding::ok(check, format!("you have the permissions for {commands}"))
        }
        Ok(reviewed) => Finding::advice(
            check,
            format!("you have no permission to {}", listed(&reviewed.missing)),
            format!("these do not work for you: {commands}"),
            role,
        ),
    }
}

/// The permissions of a component of the operator.
pub(super) fn account(check: Check, cost: &str, reviewed: &Fact<(Account, Reviewed)>) -> Finding {
    match reviewed {
        Err(unread) => Finding::skipped(check, unread),
        Ok((account, reviewed)) if reviewed.missing.is_empty() => Finding::ok(
            check,
            format!(
                "ServiceAccount {}/{} has its {} permissions",
                account.namespace, account.name, reviewed.asked
            ),
        ),
        Ok((account, reviewed)) => Finding::advice(
            check,
            format!(
                "ServiceAccount {}/{} may not {}",
                account.namespace,
                account.name,
                listed(&reviewed.missing)
            ),
            cost,
            "apply the chart again with clusterRole.create and clusterRoleBinding.create, or deploy/kubefledged.yaml",
        )
        .into_failed(),
    }
}

fn listed(missing: &[Permission]) -> String {
    let texts: Vec<String> = missing.iter().map(ToString::to_string).collect();
    some_of(&texts)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::doctor::Verdict;
    use crate::remote::cluster_doctor::checks;
    use crate::remote::cluster_doctor::installation::tests::{mk_agents, mk_controller};
    use crate::remote::cluster_doctor::reader::tests::mk_reader;

    fn mk_reviewed(missing: Vec<Permission>) -> Reviewed {
        Reviewed { asked: 9, missing }
    }

    #[test]
    fn missing_permissions_of_the_user_are_advice() {
        let check = checks::OWN_READ_ACCESS;
        let fine = own(check, "fledged get", "role", &Ok(mk_reviewed(Vec::new())));
        assert_eq!(fine.result, Verdict::Ok);
        let missing = to_read("shop").into_iter().take(1).collect();
        let finding = own(check, "fledged get", "role", &Ok(mk_reviewed(missing)));
        assert_eq!(finding.result, Verdict::Advice);
        assert_eq!(
            finding.found,
            "you have no permission to get imagecaches.kubefledged.io in shop"
        );
        let what = request(
            "create",
            "selfsubjectaccessreviews.authorization.k8s.io",
            None,
            None,
        );
        let finding = own(check, "fledged get", "role", &Err(Unread::Forbidden(what)));
        assert_eq!(finding.result, Verdict::Skipped);
    }

    #[test]
    fn missing_permissions_of_the_operator_are_failures() {
        let known = agent_account(&Ok(vec![mk_agents(|_| {})])).unwrap();
        assert_eq!(
            known.user(),
            "system:serviceaccount:kube-fledged:kubefledged-agent"
        );
        let check = checks::AGENT_ACCESS;
        let fine = account(check, "cost", &Ok((known.clone(), mk_reviewed(Vec::new()))));
        assert_eq!(fine.result, Verdict::Ok);
        let missing = known.needs.iter().rev().take(1).cloned().collect();
        let finding = account(check, "cost", &Ok((known, mk_reviewed(missing))));
        assert_eq!(finding.result, Verdict::Failed);
        let text = "ServiceAccount kube-fledged/kubefledged-agent may not patch nodeimagecaches/status.kubefledged.io";
        assert_eq!(finding.found, text);
        let none = agent_account(&Ok(Vec::new())).unwrap_err();
        assert_eq!(none.to_string(), "not checked: there are no agents");
    }

    #[test]
    fn the_needs_of_the_controller_depend_on_its_flags() {
        let args = json!(["controller", "--watch-namespace=shop"]);
        let controller =
            mk_controller(|d| d["spec"]["template"]["spec"]["containers"][0]["args"] = args);
        let deployments = Ok(vec![controller]);
        let needs = |driver| {
            controller_account(Some(driver), &deployments)
                .unwrap()
                .needs
        };
        let agents: Vec<String> = needs(Driver::Agents)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(agents.contains(&"patch imagecaches.kubefledged.io in shop".to_owned()));
        assert!(agents.contains(&"list nodes".to_owned()));
        assert!(agents.contains(
            &"update leases.coordination.k8s.io kubefledged-controller in kube-fledged".to_owned()
        ));
        assert!(!agents.iter().any(|need| need.contains("jobs")));
        let jobs: Vec<String> = needs(Driver::Jobs)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(jobs.contains(&"create jobs.batch in shop".to_owned()));
    }

    /// Verb, resource and group of each permission that the plain YAML grants to a component.
    fn granted(file: &str, component: &str) -> BTreeSet<String> {
        let path = format!("{}/../deploy/{file}", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).unwrap();
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        let mut granted = BTreeSet::new();
        for role in objects.iter().filter(|object| {
            let kind = object["kind"].as_str().unwrap_or_default();
            kind.ends_with("Role") && object["metadata"]["name"] == component
        }) {
            let texts = |value: &Value| -> Vec<String> {
                let items = value.as_array().into_iter().flatten();
                items
                    .map(|item| item.as_str().unwrap().to_owned())
                    .collect()
            };
            for rule in role["rules"].as_array().unwrap() {
                for group in texts(&rule["apiGroups"]) {
                    for resource in texts(&rule["resources"]) {
                        for verb in texts(&rule["verbs"]) {
                            granted.insert(format!("{verb} {resource}.{group}"));
                        }
                    }
                }
            }
        }
        granted
    }

    fn keys(needs: &[Permission]) -> BTreeSet<String> {
        let key = |need: &Permission| format!("{} {}.{}", need.verb, need.resource, need.group);
        needs.iter().map(key).collect()
    }

    #[test]
    fn the_plain_yaml_grants_what_is_checked() {
        let controller = of_controller(Driver::Agents, None, "kube-fledged");
        let expected = granted("kubefledged.yaml", "kubefledged-controller");
        assert_eq!(keys(&controller), expected);
        let expected = granted("kubefledged.yaml", "kubefledged-agent");
        assert_eq!(keys(&of_agent()), expected);
        let flags = ["webhook", "--webhook-configuration=a", "--secret-name=b"];
        let server = mk_controller(|d| {
            d["spec"]["template"]["spec"]["containers"][0]["args"] = json!(flags)
        });
        let server = of_webhook_server(&server, "kube-fledged");
        let expected = granted(
            "webhook/kubefledged-webhook.yaml",
            "kubefledged-webhook-server",
        );
        assert_eq!(keys(&server), expected);
    }

    /// An API server that denies one verb, and that forbids to ask about others.
    fn mk_reviewer(denied: &'static str, others: u16) -> Reader {
        mk_reader(move |path, mut review| {
            let own = path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
            let user = &review["spec"]["user"];
            if !own && user != "system:serviceaccount:kube-fledged:kubefledged-agent" {
                return (500, json!({ "message": format!("user {user}") }));
            }
            let verb = &review["spec"]["resourceAttributes"]["verb"];
            review["status"] = json!({ "allowed": verb != denied });
            (if own { 201 } else { others }, review)
        })
    }

    #[tokio::test]
    async fn permissions_are_those_that_the_api_server_grants() {
        let reader = mk_reviewer("watch", 201);
        let own = review_own(&reader, to_read("shop")).await.unwrap();
        assert_eq!(own.asked, 9);
        let missing = keys(&own.missing);
        let expected = [
            "imagecaches.kubefledged.io",
            "nodeimagecaches.kubefledged.io",
            "nodes.",
        ];
        assert_eq!(missing, expected.map(|what| format!("watch {what}")).into());
        let agent = || agent_account(&Ok(vec![mk_agents(|_| {})]));
        let (_, reviewed) = review_account(&reader, agent()).await.unwrap();
        assert_eq!(keys(&reviewed.missing).len(), 1);

        let reader = mk_reviewer("none", 403);
        let own = review_own(&reader, to_write("shop")).await.unwrap();
        assert!(own.missing.is_empty());
        let forbidden = review_account(&reader, agent()).await.unwrap_err();
        let text = "not checked: no permission to create subjectaccessreviews.authorization.k8s.io";
        assert_eq!(forbidden.to_string(), text);
    }

    #[test]
    fn a_subresource_is_asked_for_as_such() {
        let permission = to_show_bytes("kube-fledged").pop().unwrap();
        let attributes = permission.attributes();
        assert_eq!(attributes.resource.as_deref(), Some("pods"));
        assert_eq!(attributes.subresource.as_deref(), Some("proxy"));
        assert_eq!(attributes.namespace.as_deref(), Some("kube-fledged"));
    }
}
