//! Whether the controller, the agents and this program are of the same version.

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Pod;

use super::checks;
use super::installation::{
    Component, Program, Workload as _, acting_controller, of_component, pods_of, some_of,
};
use super::reader::Fact;
use crate::doctor::Finding;

/// The version of this program.
const OWN: &str = env!("CARGO_PKG_VERSION");

const COST: &str = "fields and reasons that only the newer one knows are dropped or not shown";

pub(super) fn versions(
    deployments: &Fact<Vec<Deployment>>,
    daemon_sets: &Fact<Vec<DaemonSet>>,
    pods: &Fact<Vec<Pod>>,
) -> Finding {
    let check = checks::VERSIONS;
    let deployments = match deployments {
        Ok(deployments) => deployments,
        Err(unread) => return Finding::skipped(check, unread),
    };
    let Some(controller) = acting_controller(deployments).and_then(|one| one.program()) else {
        return Finding::skipped(check, "not checked: no controller was found");
    };
    let advice = |found: String, remedy: &str| Finding::advice(check, found, COST, remedy);
    let agents = daemon_sets.as_ref().map(Vec::as_slice).unwrap_or_default();
    for agent in of_component(agents, Component::Agent) {
        let Some(program) = agent.program() else {
            continue;
        };
        if program.tag != controller.tag {
            return advice(
                format!(
                    "the image of the agents is {}, of the controller {}",
                    shown(&program),
                    shown(&controller)
                ),
                "install both from one chart: image.tag and image.digest; an empty kubefledgedControllerRepository",
            );
        }
    }
    let old = not_updated(pods, &controller);
    if !old.is_empty() {
        return advice(
            format!(
                "agents with another image than the controller's {}: {}",
                shown(&controller),
                some_of(&old)
            ),
            "wait for the update of the DaemonSet: `kubectl rollout status daemonset`; with updateStrategy OnDelete, \
             delete the pods",
        );
    }
    if let Some(version) = controller
        .version
        .as_ref()
        .filter(|version| *version != OWN)
    {
        return advice(
            format!("the controller is {version}, this program {OWN}"),
            "use the fledged of the controller's version",
        );
    }
    if let (Err(unread), _) | (_, Err(unread)) = (daemon_sets, pods) {
        return Finding::skipped(check, unread);
    }
    let compared = match of_component(agents, Component::Agent).as_slice() {
        [] => "the controller",
        _ => "controller and agents",
    };
    Finding::ok(
        check,
        match &controller.version {
            Some(_) => format!("{compared}: {OWN}, as this program"),
            None => format!(
                "{compared}: image {}; not compared with this program, {OWN}: the tag is no version",
                shown(&controller)
            ),
        },
    )
}

/// The nodes whose agent has another image than this.
fn not_updated(pods: &Fact<Vec<Pod>>, expected: &Program) -> Vec<String> {
    let pods = pods.as_ref().map(Vec::as_slice).unwrap_or_default();
    let mut old: Vec<String> = pods_of(pods, Component::Agent)
        .filter_map(|pod| {
            let spec = pod.spec.as_ref()?;
            let image = spec.containers.first()?.image.as_deref()?;
            let differs = Program::new(image, None).tag != expected.tag;
            differs.then(|| {
                spec.node_name
                    .clone()
                    .unwrap_or_else(|| "no node".to_owned())
            })
        })
        .collect();
    old.sort();
    old
}

/// Tag and digest, or that there is none.
fn shown(program: &Program) -> &str {
    match program.tag.as_str() {
        "" => "without a tag",
        tag => tag,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::Verdict;
    use crate::remote::cluster_doctor::installation::tests::{mk_agents, mk_controller};
    use crate::remote::cluster_doctor::reader::{Unread, request};

    const IMAGE: &str = "/spec/template/spec/containers/0/image";

    fn judge(controller: &str, agents: &str, pod: &str) -> Finding {
        let controller = mk_controller(|d| *d.pointer_mut(IMAGE).unwrap() = controller.into());
        let agents = mk_agents(|d| *d.pointer_mut(IMAGE).unwrap() = agents.into());
        let pod = json!({
            "metadata": { "name": "p", "labels": { "kubefledged": "kubefledged-agent" } },
            "spec": { "nodeName": "node-7", "containers": [{ "name": "agent", "image": pod }] },
        });
        let pod = serde_json::from_value(pod).unwrap();
        versions(&Ok(vec![controller]), &Ok(vec![agents]), &Ok(vec![pod]))
    }

    #[test]
    fn one_version_everywhere_is_ok() {
        let image = format!("r.lan/op:{OWN}");
        let finding = judge(&image, &image, &format!("mirror.lan/op:{OWN}"));
        assert_eq!(finding.result, Verdict::Ok, "{finding:?}");
        let finding = judge("op:main", "op:main", "op:main");
        assert_eq!(finding.result, Verdict::Ok);
        assert!(
            finding.found.contains("the tag is no version"),
            "{finding:?}"
        );
    }

    #[test]
    fn each_other_version_is_named() {
        let finding = judge("op:9.9.9", "op:9.9.9", "op:9.9.9");
        assert_eq!(finding.result, Verdict::Advice);
        assert_eq!(
            finding.found,
            format!("the controller is 9.9.9, this program {OWN}")
        );
        let finding = judge("op:2.0.0", "op:1.0.0", "op:1.0.0");
        assert_eq!(
            finding.found,
            "the image of the agents is 1.0.0, of the controller 2.0.0"
        );
        let finding = judge("op:2.0.0", "op:2.0.0", "op:1.0.0");
        assert!(finding.found.ends_with("2.0.0: node-7"), "{finding:?}");
        let what = request("list", "pods", None, None);
        let controller = mk_controller(|d| {
            *d.pointer_mut(IMAGE).unwrap() = format!("op:{OWN}").into();
        });
        let unread = versions(
            &Ok(vec![controller]),
            &Ok(Vec::new()),
            &Err(Unread::Forbidden(what)),
        );
        assert_eq!(unread.result, Verdict::Skipped, "{unread:?}");
        let none = versions(&Ok(Vec::new()), &Ok(Vec::new()), &Ok(Vec::new()));
        assert_eq!(none.result, Verdict::Skipped);
    }
}
