//! Clocks: of this machine, of the controller and of the nodes, compared with the API server's.
//!
//! A Lease has the time of its holder (`renewTime`) and, of the same write, that of the API server
//! (`managedFields`). Their difference is the difference of the clocks, whatever the age of the Lease.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::checks;
use super::installation::some_of;
use super::reader::{Fact, ServerAnswer};
use crate::doctor::Finding;
use crate::output::{pluralised, span};

/// The largest difference that is not reported. The API server records whole seconds, and a write takes time.
const TOLERANCE: i64 = 5;
/// Leases of kubelets that were not renewed for that long belong to nodes that are NotReady.
const KUBELET_LEASE_MAX: i64 = 60;

const REMEDY: &str = "synchronise the clock with NTP (chrony, systemd-timesyncd)";

/// The time of the last write of an object, by the API server's clock.
pub(super) fn last_write(meta: &ObjectMeta) -> Option<Timestamp> {
    let writes = meta.managed_fields.iter().flatten();
    writes
        .filter_map(|write| write.time.as_ref().map(|at| at.0))
        .max()
}

pub(super) fn here(server: &ServerAnswer) -> Finding {
    let check = checks::CLOCK_HERE;
    let Some(date) = server.date else {
        return Finding::skipped(check, "not checked: the API server's answer has no Date");
    };
    let skew = server.received.as_second().saturating_sub(date.as_second());
    if skew.abs() <= TOLERANCE {
        let found = format!("differs by at most {TOLERANCE}s from the API server's clock");
        return Finding::ok(check, found);
    }
    Finding::advice(
        check,
        format!("this machine's clock is {}", ahead_or_behind(skew)),
        "ages and remaining times that fledged shows here are wrong by that, and valid certificates can be refused",
        REMEDY,
    )
}

/// The controller's clock, from the Lease that it renews.
pub(super) fn controller(lease: &Fact<Option<&Lease>>) -> Finding {
    let check = checks::CONTROLLER_CLOCK;
    let lease = match lease {
        Ok(Some(lease)) => lease,
        Ok(None) => {
            return Finding::skipped(check, "not checked: no controller renews its Lease");
        }
        Err(unread) => return Finding::skipped(check, unread),
    };
    match skew(lease) {
        None => Finding::skipped(
            check,
            "not checked: the Lease has no times of its last write",
        ),
        Some(skew) if skew.abs() <= TOLERANCE => {
            let found = format!("differs by at most {TOLERANCE}s from the API server's clock");
            Finding::ok(check, found)
        }
        Some(skew) => Finding::advice(
            check,
            format!("the controller's clock is {}", ahead_or_behind(skew)),
            "agents are taken for unresponsive too early or too late, and refreshes begin at the wrong time",
            format!("{REMEDY} on the controller's node"),
        ),
    }
}

/// The clocks of nodes, from the Leases that their kubelets renew.
pub(super) fn nodes(leases: &Fact<Vec<Lease>>, now: Timestamp) -> Finding {
    let check = checks::NODE_CLOCKS;
    let leases = match leases {
        Ok(leases) => leases,
        Err(unread) => return Finding::skipped(check, unread),
    };
    let age = |at: Timestamp| now.as_second().saturating_sub(at.as_second());
    let skews: Vec<(i64, &str)> = leases
        .iter()
        .filter(|lease| last_write(&lease.metadata).is_some_and(|at| age(at) <= KUBELET_LEASE_MAX))
        .filter_map(|lease| Some((skew(lease)?, lease.metadata.name.as_deref()?)))
        .collect();
    if skews.is_empty() {
        let found =
            "not checked: no kubelet has renewed a Lease in kube-node-lease in the last minute";
        return Finding::skipped(check, found);
    }
    let mut wrong: Vec<&(i64, &str)> = skews
        .iter()
        .filter(|(skew, _)| skew.abs() > TOLERANCE)
        .collect();
    if wrong.is_empty() {
        let found = format!(
            "{}: differ by at most {TOLERANCE}s from the API server's clock",
            pluralised(skews.len(), "node")
        );
        return Finding::ok(check, found);
    }
    wrong.sort_by_key(|(skew, name)| (-skew.abs(), *name));
    let named: Vec<String> = wrong
        .iter()
        .map(|(skew, name)| format!("{name} {}", ahead_or_behind(*skew)))
        .collect();
    Finding::advice(
        check,
        format!("{}: {}", pluralised(wrong.len(), "clock"), some_of(&named)),
        "certificates of registries and tokens can be refused there as expired or not yet valid; times in the reports \
         of these nodes are wrong",
        format!("{REMEDY} on these nodes"),
    )
}

/// How far the clock of a Lease's holder is ahead of the API server's, in seconds.
fn skew(lease: &Lease) -> Option<i64> {
    let renewed = lease.spec.as_ref()?.renew_time.as_ref()?.0;
    let written = last_write(&lease.metadata)?;
    Some(renewed.as_second().saturating_sub(written.as_second()))
}

fn ahead_or_behind(skew: i64) -> String {
    let word = if skew > 0 { "ahead" } else { "behind" };
    format!("{} {word}", span(skew.saturating_abs()))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::version::Info;
    use serde_json::json;

    use super::*;
    use crate::doctor::Verdict;

    const NOW: &str = "2026-01-01T00:10:00Z";

    fn mk_lease(name: &str, renewed: &str, written: &str) -> Lease {
        let write = json!({ "manager": "kubelet", "operation": "Update", "time": written });
        let object = json!({
            "metadata": { "namespace": "kube-node-lease", "name": name, "managedFields": [write] },
            "spec": { "holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": renewed },
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn node_clocks_are_compared_within_one_write() {
        let at = "2026-01-01T00:09:30Z";
        let good = mk_lease("a", "2026-01-01T00:09:29.900000Z", at);
        let ahead = mk_lease("b", "2026-01-01T00:39:30.100000Z", at);
        let behind = mk_lease("c", "2026-01-01T00:09:20.000000Z", at);
        let old = mk_lease("d", "2026-01-01T00:00:00.000000Z", "2026-01-01T00:05:00Z");
        let judge = |leases: &[&Lease]| {
            let leases = leases.iter().map(|lease| (*lease).clone()).collect();
            nodes(&Ok(leases), NOW.parse().unwrap())
        };
        let finding = judge(&[&good, &old]);
        assert_eq!(finding.result, Verdict::Ok);
        assert!(finding.found.starts_with("1 node: "), "{finding:?}");
        let finding = judge(&[&good, &behind, &ahead]);
        assert_eq!(finding.result, Verdict::Advice);
        assert_eq!(finding.found, "2 clocks: b 30m ahead, c 10s behind");
        assert_eq!(judge(&[&old]).result, Verdict::Skipped);
    }

    #[test]
    fn the_clock_of_the_controller_is_that_of_its_lease() {
        let at = "2026-01-01T00:09:59Z";
        let good = mk_lease("c", "2026-01-01T00:09:59.100000Z", at);
        assert_eq!(controller(&Ok(Some(&good))).result, Verdict::Ok);
        let bad = mk_lease("c", "2026-01-01T00:12:59.100000Z", at);
        let finding = controller(&Ok(Some(&bad)));
        assert_eq!(finding.found, "the controller's clock is 3m ahead");
        assert_eq!(controller(&Ok(None)).result, Verdict::Skipped);
    }

    #[test]
    fn the_clock_here_is_compared_with_the_answer() {
        let of = |date: Option<&str>| {
            here(&ServerAnswer {
                version: Info::default(),
                date: date.map(|at| at.parse().unwrap()),
                received: NOW.parse().unwrap(),
            })
        };
        assert_eq!(of(Some("2026-01-01T00:09:58Z")).result, Verdict::Ok);
        let finding = of(Some("2026-01-01T00:11:00Z"));
        assert_eq!(finding.found, "this machine's clock is 60s behind");
        assert_eq!(of(None).result, Verdict::Skipped);
    }
}
