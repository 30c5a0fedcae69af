//! Whether the API server answers, and has a supported version.

use k8s_openapi::apimachinery::pkg::version::Info;

use super::checks;
use super::reader::ServerAnswer;
use crate::doctor::Finding;
use crate::remote::kubeconfig::ClusterError;

/// The oldest minor version of Kubernetes 1 that the chart accepts.
const OLDEST: u32 = 30;
/// The minor versions whose API is tested.
const TESTED: std::ops::RangeInclusive<u32> = 33..=36;

pub(super) fn answers(server: &Result<ServerAnswer, ClusterError>, url: &str) -> Finding {
    let check = checks::API_SERVER_ANSWERS;
    match server {
        Ok(answer) => {
            let version = &answer.version.git_version;
            Finding::ok(check, format!("Kubernetes {version} answers at {url}"))
        }
        Err(error) => Finding::advice(
            check,
            error.to_string(),
            "nothing of the cluster can be read",
            "check the cluster, the network, and the context of the kubeconfig (--context)",
        )
        .into_failed(),
    }
}

pub(super) fn version(info: &Info) -> Finding {
    let check = checks::API_SERVER_VERSION;
    let digits = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit());
        text.get(..end.unwrap_or(text.len()))?.parse::<u32>().ok()
    };
    let (Some(1), Some(minor)) = (digits(&info.major), digits(&info.minor)) else {
        let found = format!("not checked: the version is {:?}", info.git_version);
        return Finding::skipped(check, found);
    };
    let tested = format!("1.{} to 1.{}", TESTED.start(), TESTED.end());
    let remedy = format!("upgrade Kubernetes to 1.{} or later", TESTED.start());
    match minor {
        minor if minor < OLDEST => Finding::advice(
            check,
            format!("1.{minor} is older than 1.{OLDEST}"),
            "ValidatingAdmissionPolicy, or the node's name in the tokens of agents, is missing: the API server refuses \
             objects of the chart, or the reports of agents",
            remedy,
        )
        .into_failed(),
        minor if minor < *TESTED.start() => Finding::advice(
            check,
            format!("1.{minor}: supported, but not tested; tested are {tested}"),
            "errors that only this version has are not known",
            remedy,
        ),
        minor if minor > *TESTED.end() => {
            Finding::ok(check, format!("1.{minor}, newer than the tested {tested}"))
        }
        minor => Finding::ok(check, format!("1.{minor}; tested are {tested}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn versions_are_judged_by_what_the_program_needs() {
        for (minor, expected) in [
            ("29", Verdict::Failed),
            ("30", Verdict::Advice),
            ("32+", Verdict::Advice),
            ("33", Verdict::Ok),
            ("36+", Verdict::Ok),
            ("40", Verdict::Ok),
            ("", Verdict::Skipped),
        ] {
            let info = Info {
                major: "1".to_owned(),
                minor: minor.to_owned(),
                ..Info::default()
            };
            let finding = version(&info);
            assert_eq!(finding.result, expected, "{minor}: {finding:?}");
        }
    }
}
