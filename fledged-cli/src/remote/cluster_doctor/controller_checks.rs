//! The controller: its Deployment and its Lease.

use fledged_kube::lease::CONTROLLER_LEASE;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;

use super::checks;
use super::clock_checks::last_write;
use super::installation::{Component, full_name, of_component, pods_of, replicas, some_of};
use super::reader::Fact;
use crate::doctor::Finding;
use crate::output::span;
use crate::remote::agent_pod::trouble;

/// What a cluster without a controller does not do.
const COST: &str =
    "no image is assigned to nodes, pulled or removed for a change, and no status changes";
/// The validity of a Lease that does not name one, as the program sets it.
const LEASE_SECONDS: i32 = 15;
/// How much longer than its validity a Lease may be unchanged: the leader tries again every two seconds.
const LEASE_GRACE: i64 = 5;

/// `lease` is the one that its holder renews.
pub(super) fn deployment(
    deployments: &Fact<Vec<Deployment>>,
    pods: &Fact<Vec<Pod>>,
    lease: Option<&Lease>,
) -> Finding {
    let check = checks::CONTROLLER_DEPLOYMENT;
    let failed =
        |found: String, remedy: String| Finding::advice(check, found, COST, remedy).into_failed();
    let deployments = match deployments {
        Ok(deployments) => of_component(deployments, Component::Controller),
        Err(unread) => return Finding::skipped(check, unread),
    };
    if let ([], Some(lease)) = (deployments.as_slice(), lease) {
        let found = format!(
            "no Deployment of a controller, but {} renews {}: a controller runs elsewhere, as in fledged demo",
            holder(lease).unwrap_or_default(),
            full_name(lease),
        );
        return Finding::ok(check, found);
    }
    if deployments.is_empty() {
        let remedy =
            "install the operator: docs/install.md; --operator-namespace names its namespace";
        return failed(
            "no Deployment of a controller".to_owned(),
            remedy.to_owned(),
        );
    }
    let active: Vec<&Deployment> = deployments
        .iter()
        .copied()
        .filter(|one| replicas(one) > 0)
        .collect();
    let Some(&one) = active.first() else {
        let names: Vec<String> = deployments.iter().map(|one| full_name(*one)).collect();
        return failed(
            format!("{}: scaled to 0", some_of(&names)),
            "set controllerReplicaCount to 1 or more".to_owned(),
        );
    };
    if active.len() > 1 {
        let names: Vec<String> = active.iter().map(|one| full_name(*one)).collect();
        return Finding::advice(
            check,
            format!(
                "{} Deployments of a controller: {}",
                active.len(),
                some_of(&names)
            ),
            "controllers with Leases in different namespaces undo each other's assignments",
            "keep one; a second release for other nodes has controllerReplicaCount=0",
        )
        .into_failed();
    }
    let available = one
        .status
        .as_ref()
        .and_then(|status| status.available_replicas);
    let (available, wanted) = (available.unwrap_or(0), replicas(one));
    let found = format!("{}: {available} of {wanted} available", full_name(one));
    let namespace = one.metadata.namespace.as_deref().unwrap_or_default();
    let name = one.metadata.name.as_deref().unwrap_or_default();
    let cause = pods.as_ref().ok().and_then(|pods| {
        let mut pods = pods_of(pods, Component::Controller);
        pods.find_map(|pod| Some((full_name(pod), trouble(pod)?)))
    });
    let found_with_cause = match cause {
        Some((pod, (field, value))) => format!("{found}; Pod {pod} {field}: {value}"),
        None => found.clone(),
    };
    let remedy = format!(
        "`kubectl describe deployment -n {namespace} {name}`, `kubectl logs -n {namespace} deployment/{name}`"
    );
    match available {
        available if available >= wanted => Finding::ok(check, found),
        available if available > 0 => Finding::advice(
            check,
            found_with_cause,
            "fewer replicas can take over when the leader ends",
            remedy,
        ),
        _ => failed(found_with_cause, remedy),
    }
}

/// A Lease that its holder renews.
fn is_current(lease: &Lease, now: Timestamp) -> bool {
    holder(lease).is_some()
        && last_renewal(lease).is_some_and(|at| seconds(at, now) <= validity(lease))
}

fn holder(lease: &Lease) -> Option<&str> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref()?;
    Some(holder).filter(|holder| !holder.is_empty())
}

/// The last renewal, by the API server's clock if it is recorded.
fn last_renewal(lease: &Lease) -> Option<Timestamp> {
    last_write(&lease.metadata).or_else(|| Some(lease.spec.as_ref()?.renew_time.as_ref()?.0))
}

fn validity(lease: &Lease) -> i64 {
    let duration = lease
        .spec
        .as_ref()
        .and_then(|spec| spec.lease_duration_seconds);
    i64::from(duration.unwrap_or(LEASE_SECONDS)).saturating_add(LEASE_GRACE)
}

fn seconds(since: Timestamp, now: Timestamp) -> i64 {
    now.as_second().saturating_sub(since.as_second())
}

/// The one Lease that its holder renews.
pub(super) fn current_lease(leases: &[Lease], now: Timestamp) -> Option<&Lease> {
    leases.iter().find(|lease| is_current(lease, now))
}

pub(super) fn lease(leases: &Fact<Vec<Lease>>, now: Timestamp) -> Finding {
    let check = checks::CONTROLLER_LEASE;
    let leases = match leases {
        Ok(leases) => leases,
        Err(unread) => return Finding::skipped(check, unread),
    };
    let failed = |found: String| {
        let remedy = "read the controller's log: `kubectl logs -n NAMESPACE deployment/NAME`; controller-access \
                      shows whether it may write the Lease";
        Finding::advice(check, found, COST, remedy).into_failed()
    };
    let current: Vec<&Lease> = leases
        .iter()
        .filter(|lease| is_current(lease, now))
        .collect();
    match (current.as_slice(), leases.first()) {
        (&[one], _) => {
            let renewed = last_renewal(one).unwrap_or(now);
            Finding::ok(
                check,
                format!(
                    "{} is held by {}, renewed {} ago",
                    full_name(one),
                    holder(one).unwrap_or_default(),
                    span(seconds(renewed, now)),
                ),
            )
        }
        ([], None) => failed(format!(
            "there is no Lease {CONTROLLER_LEASE}: no controller has led"
        )),
        ([], Some(one)) => failed(match (holder(one), last_renewal(one)) {
            (Some(holder), Some(at)) => format!(
                "{}: its holder {holder} has not renewed it for {}",
                full_name(one),
                span(seconds(at, now)),
            ),
            _ => format!("{} has no holder: no controller leads", full_name(one)),
        }),
        (several, _) => {
            let names: Vec<String> = several.iter().map(|lease| full_name(*lease)).collect();
            Finding::advice(
                check,
                format!("{} controllers lead: {}", names.len(), some_of(&names)),
                "they undo each other's assignments",
                "keep one controller in the cluster",
            )
            .into_failed()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::doctor::Verdict;
    use crate::remote::cluster_doctor::installation::tests::mk_controller;
    use crate::remote::cluster_doctor::reader::{Unread, request};

    const NOW: &str = "2026-01-01T00:10:00Z";

    fn mk_lease(namespace: &str, holder: &str, renewed: &str) -> Lease {
        let write = json!({ "manager": "c", "operation": "Update", "time": renewed });
        let object = json!({
            "metadata": { "namespace": namespace, "name": CONTROLLER_LEASE, "managedFields": [write] },
            "spec": { "holderIdentity": holder, "leaseDurationSeconds": 15,
                "renewTime": "2026-01-01T00:09:58.000000Z" },
        });
        serde_json::from_value(object).unwrap()
    }

    fn judge(leases: Vec<Lease>) -> Finding {
        lease(&Ok(leases), NOW.parse().unwrap())
    }

    #[test]
    fn one_renewed_lease_is_ok() {
        let good = mk_lease("kube-fledged", "pod-x_1", "2026-01-01T00:09:58Z");
        let finding = judge(vec![good.clone()]);
        assert_eq!(finding.result, Verdict::Ok, "{finding:?}");
        let text = "kube-fledged/kubefledged-controller is held by pod-x_1, renewed 2s ago";
        assert_eq!(finding.found, text);
        // The holder's clock is not believed.
        let stale = mk_lease("kube-fledged", "pod-x_1", "2026-01-01T00:05:00Z");
        let finding = judge(vec![stale]);
        assert_eq!(finding.result, Verdict::Failed);
        assert!(
            finding.found.ends_with("has not renewed it for 5m"),
            "{finding:?}"
        );
        let released = mk_lease("kube-fledged", "", "2026-01-01T00:09:58Z");
        assert!(judge(vec![released]).found.contains("has no holder"));
        assert!(judge(Vec::new()).found.contains("there is no Lease"));
        let other = mk_lease("other", "pod-y_1", "2026-01-01T00:09:58Z");
        let finding = judge(vec![good, other]);
        assert_eq!(finding.result, Verdict::Failed);
        assert!(
            finding.found.starts_with("2 controllers lead"),
            "{finding:?}"
        );
    }

    #[test]
    fn leases_that_may_not_be_read_are_skipped() {
        let what = request("list", "leases.coordination.k8s.io", None, None);
        let finding = lease(&Err(Unread::Forbidden(what)), NOW.parse().unwrap());
        assert_eq!(finding.result, Verdict::Skipped);
        assert!(
            finding.found.starts_with("not checked: no permission"),
            "{finding:?}"
        );
    }

    fn judge_deployments(all: Vec<Deployment>) -> Finding {
        deployment(&Ok(all), &Ok(Vec::new()), None)
    }

    #[test]
    fn a_renewed_lease_is_enough_without_a_deployment() {
        let renewed = mk_lease("kube-fledged", "demo", "2026-01-01T00:09:58Z");
        let judge = |all: Vec<Deployment>| deployment(&Ok(all), &Ok(Vec::new()), Some(&renewed));
        let finding = judge(Vec::new());
        assert_eq!(finding.result, Verdict::Ok, "{finding:?}");
        let text = "no Deployment of a controller, but demo renews kube-fledged/kubefledged-controller: \
                    a controller runs elsewhere, as in fledged demo";
        assert_eq!(finding.found, text);
        // The Deployment that exists is judged.
        let scaled = mk_controller(|d| d["spec"]["replicas"] = 0.into());
        assert_eq!(judge(vec![scaled]).result, Verdict::Failed);
    }

    #[test]
    fn a_deployment_is_judged_by_its_available_replicas() {
        let of = |replicas: Value, available: Value| {
            judge_deployments(vec![mk_controller(|d| {
                d["spec"]["replicas"] = replicas;
                d["status"]["availableReplicas"] = available;
            })])
        };
        assert_eq!(of(json!(1), json!(1)).result, Verdict::Ok);
        assert_eq!(of(json!(2), json!(1)).result, Verdict::Advice);
        assert_eq!(of(json!(1), Value::Null).result, Verdict::Failed);
        let scaled = of(json!(0), Value::Null);
        assert_eq!(scaled.result, Verdict::Failed);
        assert!(scaled.found.ends_with("scaled to 0"), "{scaled:?}");
        assert_eq!(judge_deployments(Vec::new()).result, Verdict::Failed);
    }

    #[test]
    fn a_second_controller_is_a_failure_unless_scaled_to_zero() {
        let other = |replicas: i32| {
            mk_controller(|d| {
                d["metadata"]["namespace"] = "other".into();
                d["spec"]["replicas"] = replicas.into();
            })
        };
        let first = mk_controller(|_| {});
        assert_eq!(
            judge_deployments(vec![other(0), first.clone()]).result,
            Verdict::Ok
        );
        let finding = judge_deployments(vec![other(1), first]);
        assert_eq!(finding.result, Verdict::Failed);
        assert!(
            finding.found.contains("other/kubefledged-controller"),
            "{finding:?}"
        );
    }

    #[test]
    fn the_cause_in_the_pod_is_shown() {
        let pod = json!({
            "metadata": { "namespace": "kube-fledged", "name": "c-1",
                "labels": { "kubefledged": "kubefledged-controller" } },
            "status": { "containerStatuses": [{ "name": "controller", "ready": false, "restartCount": 3,
                "image": "", "imageID": "", "state": { "waiting": { "reason": "ErrImagePull" } } }] },
        });
        let pods = Ok(vec![serde_json::from_value(pod).unwrap()]);
        let broken = mk_controller(|d| d["status"] = json!({}));
        let finding = deployment(&Ok(vec![broken]), &pods, None);
        assert!(
            finding.found.ends_with("state.waiting: ErrImagePull"),
            "{finding:?}"
        );
    }
}
