//! Registries: containerd's `hosts.toml` files, and the form before them.

use fledged_cri::inspection::{ContainerdSettings, Fact, HostsFolders};

use super::checks;
use super::containerd_checks::{Part, setting};
use crate::doctor::Finding;
use crate::output::pluralised;

/// Most files that one line names.
const NAMED_MAX: usize = 3;

pub(super) fn config_path(
    containerd: &Fact<ContainerdSettings>,
    hosts: &Fact<HostsFolders>,
) -> Finding {
    let check = checks::CONFIG_PATH;
    let (settings, hosts) = match (containerd, hosts) {
        (Ok(settings), Ok(hosts)) => (settings, hosts),
        (Err(unread), _) | (_, Err(unread)) => return Finding::skipped(check, unread),
    };
    let dirs = joined(
        settings
            .hosts_dirs()
            .iter()
            .map(|dir| dir.display().to_string()),
    );
    if dirs.is_empty() {
        let keys = old_keys(settings);
        let instead = if keys.is_empty() {
            "reaches registries directly".to_owned()
        } else {
            format!("reaches registries as {} say", keys.join(", "))
        };
        return Finding::ok(
            check,
            format!("config_path is not set: containerd uses no hosts.toml, and {instead}"),
        );
    }
    if settings.images.config_path.is_empty() {
        return Finding::ok(
            check,
            format!("config_path is not set: the default is {dirs}"),
        );
    }
    if hosts.found.is_empty() && hosts.problems.is_empty() {
        return Finding::advice(
            check,
            format!("config_path is {dirs}, which does not exist"),
            "no mirror and no certificate authority is used",
            format!(
                "create it with a folder for each registry, or correct it: {}",
                setting(settings, Part::Registry, "config_path = \"DIR\"")
            ),
        );
    }
    Finding::ok(check, format!("config_path is {dirs}"))
}

pub(super) fn hosts_files(hosts: &Fact<HostsFolders>) -> Finding {
    let check = checks::HOSTS_FILES;
    let hosts = match hosts {
        Ok(hosts) => hosts,
        Err(unread) => return Finding::skipped(check, unread),
    };
    if hosts.problems.is_empty() && hosts.certificates.is_empty() {
        let files = pluralised(hosts.registries.len(), "valid hosts.toml file");
        let names = joined(hosts.registries.iter().cloned());
        let separator = if names.is_empty() { "" } else { ": " };
        return Finding::ok(check, format!("{files}{separator}{names}"));
    }
    let (invalid, certificates) = (&hosts.problems, &hosts.certificates);
    let problems = invalid.iter().chain(certificates);
    let problems: Vec<String> = problems
        .map(|problem| format!("{}: {}", problem.path.display(), problem.problem))
        .collect();
    let of_invalid = "containerd logs the error and pulls without that file: without its mirrors and certificates";
    let of_certificates =
        "containerd pulls nothing from a registry with a certificate file that it cannot use";
    let cost = match (invalid.is_empty(), certificates.is_empty()) {
        (false, true) => of_invalid.to_owned(),
        (true, _) => of_certificates.to_owned(),
        (false, false) => format!("{of_invalid}; {of_certificates}"),
    };
    Finding::advice(
        check,
        joined(problems.into_iter()),
        cost,
        "correct the file; containerd reads it at each pull",
    )
}

pub(super) fn old_form(containerd: &Fact<ContainerdSettings>) -> Finding {
    let check = checks::OLD_FORM;
    let settings = match containerd {
        Ok(settings) => settings,
        Err(unread) => return Finding::skipped(check, unread),
    };
    let keys = old_keys(settings);
    if keys.is_empty() {
        return Finding::ok(
            check,
            "registry.mirrors, registry.configs and registry.auths are not set",
        );
    }
    Finding::advice(
        check,
        format!("of the form before hosts.toml: {}", keys.join(", ")),
        "deprecated since containerd 1.5, to be removed in 2.4; from 2.1 on, containerd pulls without its transfer service; mirrors and config_path together keep its CRI from starting; --pull-via auto has no effect",
        format!(
            "write a hosts.toml for each registry (containerd's docs/hosts.md), remove these settings, and {}",
            setting(
                settings,
                Part::Registry,
                "config_path = \"/etc/containerd/certs.d\""
            )
        ),
    )
}

/// The settings of the form before `hosts.toml`.
fn old_keys(settings: &ContainerdSettings) -> Vec<String> {
    let keys = settings.images.old_registry_keys.iter();
    keys.map(|key| format!("registry.{key}")).collect()
}

/// The first texts of a list, and how many more there are.
fn joined(texts: impl ExactSizeIterator<Item = String>) -> String {
    let more = texts.len().saturating_sub(NAMED_MAX);
    let mut named: Vec<String> = texts.take(NAMED_MAX).collect();
    if more > 0 {
        named.push(format!("and {more} more"));
    }
    named.join(", ")
}

#[cfg(test)]
mod tests {
    use fledged_cri::inspection::{HostsProblem, Release};

    use super::*;
    use crate::doctor::Verdict;

    fn containerd(paths: &[&str]) -> Fact<ContainerdSettings> {
        let mut settings = ContainerdSettings::default();
        settings.release = Some(Release(2, 1, 0));
        settings.file_version = Some(3);
        settings.images.config_path = paths.iter().map(Into::into).collect();
        Ok(settings)
    }

    #[test]
    fn a_config_path_that_is_missing_is_advice() {
        let mut hosts = HostsFolders::default();
        let unset = config_path(&containerd(&[]), &Ok(hosts.clone()));
        assert_eq!(unset.result, Verdict::Ok);
        let missing = config_path(&containerd(&["/a"]), &Ok(hosts.clone()));
        assert_eq!(missing.result, Verdict::Advice);
        let remedy = missing.remedy.unwrap();
        assert!(
            remedy.contains(r#"[plugins."io.containerd.cri.v1.images".registry]"#),
            "{remedy}"
        );
        hosts.found.push("/a".into());
        let found = config_path(&containerd(&["/a"]), &Ok(hosts));
        assert_eq!(
            (found.result, &*found.found),
            (Verdict::Ok, "config_path is /a")
        );
    }

    #[test]
    fn invalid_hosts_files_are_named() {
        let mut hosts = HostsFolders::default();
        hosts.registries.push("r.lan".to_owned());
        let finding = hosts_files(&Ok(hosts.clone()));
        assert_eq!(finding.found, "1 valid hosts.toml file: r.lan");
        for n in 0..5 {
            let path = format!("/a/r{n}/hosts.toml");
            hosts.problems.push(HostsProblem::new(path, "line 1: bad"));
        }
        let finding = hosts_files(&Ok(hosts.clone()));
        assert_eq!(finding.result, Verdict::Advice);
        assert!(
            finding.found.starts_with("/a/r0/hosts.toml: line 1: bad, "),
            "{finding:?}"
        );
        assert!(finding.found.ends_with("and 2 more"), "{finding:?}");
        hosts.problems.clear();
        let problem = HostsProblem::new("/a/r.lan/hosts.toml", "host m.lan, ca /ca.pem: none");
        hosts.certificates.push(problem);
        let finding = hosts_files(&Ok(hosts));
        assert_eq!(finding.result, Verdict::Advice);
        assert_eq!(
            finding.found,
            "/a/r.lan/hosts.toml: host m.lan, ca /ca.pem: none"
        );
        assert!(
            finding.cost.unwrap().contains("pulls nothing from"),
            "not that of an invalid file"
        );
    }

    #[test]
    fn the_old_form_is_advice() {
        let mut settings = containerd(&[]).unwrap();
        assert_eq!(old_form(&Ok(settings.clone())).result, Verdict::Ok);
        settings.images.old_registry_keys = vec!["mirrors".to_owned(), "configs".to_owned()];
        let path = config_path(&Ok(settings.clone()), &Ok(HostsFolders::default()));
        assert_eq!(
            path.found,
            "config_path is not set: containerd uses no hosts.toml, and reaches registries as registry.mirrors, registry.configs say"
        );
        let finding = old_form(&Ok(settings));
        assert_eq!(finding.result, Verdict::Advice);
        assert_eq!(
            finding.found,
            "of the form before hosts.toml: registry.mirrors, registry.configs"
        );
    }
}
