//! The installed operator: its components, found by the labels that the chart gives them.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodTemplateSpec};
use kube::ResourceExt as _;

/// Labels of the operator's objects and pods: of the plain YAML, and of the chart.
pub(super) const LABELS: [&str; 2] = [
    "app=kubefledged",
    "app.kubernetes.io/component in (agent,controller,webhook-server),app.kubernetes.io/instance,app.kubernetes.io/part-of",
];
/// The label with the version of the chart's program.
const VERSION_LABEL: &str = "app.kubernetes.io/version";

/// A component of the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Component {
    Controller,
    Agent,
    WebhookServer,
}

impl Component {
    /// The component of a pod with these labels.
    pub(super) fn of(labels: &BTreeMap<String, String>) -> Option<Self> {
        let label = |name: &str| labels.get(name).map(String::as_str);
        let plain = label("kubefledged").and_then(|value| value.strip_prefix("kubefledged-"));
        let of_chart = || {
            let instance = label("app.kubernetes.io/instance")?;
            let part = label("app.kubernetes.io/part-of")?.strip_prefix(instance)?;
            part.strip_prefix('-')
                .filter(|part| label("app.kubernetes.io/component") == Some(part))
        };
        match plain.or_else(of_chart)? {
            "controller" => Some(Self::Controller),
            "agent" => Some(Self::Agent),
            "webhook-server" => Some(Self::WebhookServer),
            _ => None,
        }
    }
}

/// A Deployment or DaemonSet of a component.
pub(super) trait Workload {
    fn template(&self) -> Option<&PodTemplateSpec>;

    fn component(&self) -> Option<Component> {
        let labels = self.template()?.metadata.as_ref()?.labels.as_ref()?;
        Component::of(labels)
    }

    fn pod_spec(&self) -> Option<&PodSpec> {
        self.template()?.spec.as_ref()
    }

    /// The container of the program. Others are sidecars.
    fn container(&self) -> Option<&Container> {
        self.pod_spec()?.containers.first()
    }

    /// The name of its ServiceAccount.
    fn account(&self) -> &str {
        let name = self
            .pod_spec()
            .and_then(|spec| spec.service_account_name.as_deref());
        name.unwrap_or("default")
    }

    /// The program in it.
    fn program(&self) -> Option<Program> {
        let image = self.container()?.image.as_deref()?;
        let labels = self.template()?.metadata.as_ref()?.labels.as_ref();
        let label = labels.and_then(|labels| labels.get(VERSION_LABEL));
        Some(Program::new(image, label.map(String::as_str)))
    }

    /// The value of a flag of the program, if it is set.
    fn flag(&self, name: &str) -> Option<&str> {
        let mut arguments = self.container()?.args.iter().flatten();
        let flag = format!("--{name}");
        while let Some(argument) = arguments.next() {
            match argument.strip_prefix(&flag) {
                Some("") => return arguments.next().map(String::as_str),
                Some(value) if value.starts_with('=') => return value.get(1..),
                _ => {}
            }
        }
        None
    }
}

impl Workload for Deployment {
    fn template(&self) -> Option<&PodTemplateSpec> {
        Some(&self.spec.as_ref()?.template)
    }
}

impl Workload for DaemonSet {
    fn template(&self) -> Option<&PodTemplateSpec> {
        Some(&self.spec.as_ref()?.template)
    }
}

/// The workloads of one component.
pub(super) fn of_component<W: Workload>(all: &[W], component: Component) -> Vec<&W> {
    let of = |workload: &&W| workload.component() == Some(component);
    all.iter().filter(of).collect()
}

/// The controller that is meant to act: of several Deployments, one with replicas.
pub(super) fn acting_controller(all: &[Deployment]) -> Option<&Deployment> {
    let controllers = of_component(all, Component::Controller);
    let mut sorted = controllers;
    sorted.sort_by_key(|one| replicas(one) == 0);
    sorted.into_iter().next()
}

/// The replicas that a Deployment is to have.
pub(super) fn replicas(deployment: &Deployment) -> i32 {
    let spec = deployment.spec.as_ref();
    spec.and_then(|spec| spec.replicas).unwrap_or(1)
}

/// The pods of one component that are not being deleted.
pub(super) fn pods_of(all: &[Pod], component: Component) -> impl Iterator<Item = &Pod> {
    all.iter().filter(move |pod| {
        pod.metadata.deletion_timestamp.is_none() && Component::of(pod.labels()) == Some(component)
    })
}

/// Whether the pod is Ready.
pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter());
    let mut conditions = conditions.flatten();
    conditions.any(|one| one.type_ == "Ready" && one.status == "True")
}

/// `namespace/name`.
pub(super) fn full_name<K: kube::Resource>(object: &K) -> String {
    let meta = object.meta();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let name = meta.name.as_deref().unwrap_or_default();
    format!("{namespace}/{name}")
}

/// Some of the names, and how many more there are.
pub(super) fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// A program in a container: its image without the repository, and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    /// Tag and digest, as the image has them.
    pub(super) tag: String,
    /// The version in the tag, or else in the label.
    pub(super) version: Option<String>,
}

impl Program {
    pub(super) fn new(image: &str, label: Option<&str>) -> Self {
        let path = image.rsplit('/').next().unwrap_or(image);
        let end = path.find([':', '@']).unwrap_or(path.len());
        let tag = path.get(end..).unwrap_or_default();
        let tag = tag.strip_prefix(':').unwrap_or(tag);
        let named = tag.split('@').next().unwrap_or_default();
        let named = named.strip_prefix('v').unwrap_or(named);
        let version = Some(named).filter(|text| is_version(text)).or(label);
        Self {
            tag: tag.to_owned(),
            version: version.map(str::to_owned),
        }
    }
}

/// Whether the text begins with three numbers.
fn is_version(text: &str) -> bool {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<&str> = core.split('.').collect();
    parts.len() == 3 && parts.iter().all(|part| part.parse::<u32>().is_ok())
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A controller's Deployment of the plain YAML.
    pub(in crate::remote::cluster_doctor) fn mk_controller(
        change: impl FnOnce(&mut Value),
    ) -> Deployment {
        let mut object = json!({
            "metadata": { "namespace": "kube-fledged", "name": "kubefledged-controller" },
            "spec": {
                "replicas": 1,
                "selector": { "matchLabels": { "kubefledged": "kubefledged-controller" } },
                "template": {
                    "metadata": { "labels": { "kubefledged": "kubefledged-controller" } },
                    "spec": { "serviceAccountName": "kubefledged-controller", "containers": [{
                        "name": "controller", "image": "localhost/fledged-operator:0.1.0",
                        "args": ["controller", "--node-driver=agent"],
                    }] },
                },
            },
            "status": { "availableReplicas": 1 },
        });
        change(&mut object);
        serde_json::from_value(object).unwrap()
    }

    /// An agents' DaemonSet of the plain YAML, on two nodes.
    pub(in crate::remote::cluster_doctor) fn mk_agents(
        change: impl FnOnce(&mut Value),
    ) -> DaemonSet {
        let mut object = json!({
            "metadata": { "namespace": "kube-fledged", "name": "kubefledged-agent" },
            "spec": {
                "selector": { "matchLabels": { "kubefledged": "kubefledged-agent" } },
                "template": {
                    "metadata": { "labels": { "kubefledged": "kubefledged-agent" } },
                    "spec": { "serviceAccountName": "kubefledged-agent", "containers": [{
                        "name": "agent", "image": "localhost/fledged-operator:0.1.0",
                    }] },
                },
            },
            "status": { "desiredNumberScheduled": 2, "currentNumberScheduled": 2, "numberMisscheduled": 0,
                "numberReady": 2, "updatedNumberScheduled": 2 },
        });
        change(&mut object);
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn components_are_known_by_the_labels_of_chart_and_yaml() {
        let of = |labels: Value| Component::of(&serde_json::from_value(labels).unwrap());
        let plain = json!({ "kubefledged": "kubefledged-webhook-server" });
        assert_eq!(of(plain), Some(Component::WebhookServer));
        let chart = |part: &str, component: &str| {
            of(
                json!({ "app.kubernetes.io/instance": "kf", "app.kubernetes.io/part-of": part,
                "app.kubernetes.io/component": component }),
            )
        };
        assert_eq!(chart("kf-agent", "agent"), Some(Component::Agent));
        assert_eq!(
            chart("kf-controller", "controller"),
            Some(Component::Controller)
        );
        assert_eq!(chart("kf-agent", "controller"), None);
        assert_eq!(chart("datadog", "agent"), None);
    }

    #[test]
    fn flags_are_read_in_both_forms() {
        let of = |args: Value| {
            mk_controller(|d| d["spec"]["template"]["spec"]["containers"][0]["args"] = args)
        };
        let joined = of(json!(["controller", "--node-driver=job"]));
        assert_eq!(joined.flag("node-driver"), Some("job"));
        let apart = of(json!(["controller", "--watch-namespace", "shop"]));
        assert_eq!(apart.flag("watch-namespace"), Some("shop"));
        assert_eq!(apart.flag("node-driver"), None);
    }

    #[test]
    fn the_version_is_that_of_the_tag_or_the_label() {
        let of = |image: &str, label| {
            let program = Program::new(image, label);
            (program.tag, program.version.unwrap_or_default())
        };
        let pair = |tag: &str, version: &str| (tag.to_owned(), version.to_owned());
        assert_eq!(
            of("r.lan:5000/a/op:v1.2.3", Some("1.0.0")),
            pair("v1.2.3", "1.2.3")
        );
        assert_eq!(
            of("r.lan:5000/a/op:main", Some("1.0.0")),
            pair("main", "1.0.0")
        );
        assert_eq!(of("r.lan:5000/op@sha256:ab", None), pair("@sha256:ab", ""));
        assert_eq!(
            of("op:1.2.3-rc.1@sha256:ab", None),
            pair("1.2.3-rc.1@sha256:ab", "1.2.3-rc.1")
        );
        assert_eq!(of("op", None), pair("", ""));
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..7).map(|i| format!("n{i}")).collect();
        assert_eq!(some_of(&names), "n0, n1, n2, n3, n4 and 2 more");
        assert_eq!(some_of(&names[..2]), "n0, n1");
    }
}
