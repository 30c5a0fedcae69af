//! `fledged node doctor`: settings and conditions of this node that slow pulls down or cause images to be deleted.

mod checks;
mod containerd_checks;
mod disk_checks;
mod kubelet_checks;
mod registry_checks;

use std::path::{Path, PathBuf};

use fledged_cri::inspection::{Inspection, Unread};
use fledged_cri::target::{DetectError, RuntimeUri};

use crate::args::{DoctorArgs, OutputFormat};
use crate::command_result::{CommandError, Exit, json, print};
use crate::doctor::{Finding, Report};
use crate::local::SessionError;

/// Why the arguments are invalid.
#[derive(Debug, thiserror::Error)]
enum DoctorError {
    /// `--runtime oci:DIR`.
    #[error("{0} is an image layout without a daemon; node doctor reads a container runtime")]
    Layout(RuntimeUri),
    /// `--root` is no directory.
    #[error("--root {}: {problem}", .root.display())]
    Root { root: PathBuf, problem: String },
}

pub(super) async fn doctor(args: DoctorArgs) -> Result<Exit, CommandError> {
    let bad_input = |error| CommandError::part(Exit::BadInput, error);
    check_root(&args.root).map_err(bad_input)?;
    let inspection = match args.runtime.runtime {
        Some(uri @ RuntimeUri::Oci(_)) => return Err(bad_input(DoctorError::Layout(uri))),
        Some(uri) => Inspection::read(Some(&uri), &args.root).await,
        None => inspect_detected(&args.root).await?,
    };
    let report = Report::new(findings(&inspection));
    match args.output.output {
        OutputFormat::Json => print(&json(&report)?)?,
        OutputFormat::Table => print(&report.text())?,
    }
    Ok(report.exit())
}

fn check_root(root: &Path) -> Result<(), DoctorError> {
    let problem = match std::fs::metadata(root) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => "it is not a directory".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(DoctorError::Root {
        root: root.to_owned(),
        problem,
    })
}

/// With the runtime of this machine. Several runtimes are bad input: the user has to choose.
async fn inspect_detected(root: &Path) -> Result<Inspection, CommandError> {
    match RuntimeUri::detect().await {
        Ok(uri) => Ok(Inspection::read(Some(&uri), root).await),
        Err(error @ DetectError::NotFound(_)) => {
            let mut inspection = Inspection::read(None, root).await;
            inspection.runtime = Err(Unread::new(error.to_string()));
            Ok(inspection)
        }
        Err(error) => Err(SessionError::NotDetected(error).into()),
    }
}

/// Every check in its order.
fn findings(inspection: &Inspection) -> Vec<Finding> {
    let containerd = &inspection.containerd;
    let kubelet = &inspection.kubelet;
    let disk = &inspection.disk;
    vec![
        containerd_checks::runtime_answers(&inspection.runtime),
        containerd_checks::settings(containerd),
        containerd_checks::layer_downloads(containerd),
        containerd_checks::layer_ranges(containerd),
        containerd_checks::parallel_unpack(containerd),
        containerd_checks::snapshotter(containerd),
        containerd_checks::unpacked_layers(containerd),
        registry_checks::config_path(containerd, &inspection.hosts),
        registry_checks::hosts_files(&inspection.hosts),
        registry_checks::old_form(containerd),
        kubelet_checks::settings(kubelet),
        kubelet_checks::image_gc(kubelet),
        kubelet_checks::image_age(kubelet),
        kubelet_checks::image_pulls(kubelet),
        disk_checks::space(disk, kubelet),
        disk_checks::eviction(disk, kubelet),
        disk_checks::inodes(disk),
        disk_checks::pressure(checks::PRESSURE_IO, &inspection.io_pressure),
        disk_checks::pressure(checks::PRESSURE_MEMORY, &inspection.memory_pressure),
        disk_checks::pressure(checks::PRESSURE_CPU, &inspection.cpu_pressure),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::doctor::{Verdict, has_each_category_once};

    #[test]
    fn a_root_that_is_no_directory_is_named_with_its_flag() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display();
        for (root, expected) in [
            (file.path(), format!("--root {path}: it is not a directory")),
            (
                &file.path().join("x"),
                format!("--root {path}/x: Not a directory (os error 20)"),
            ),
            (
                "/nope".as_ref(),
                "--root /nope: No such file or directory (os error 2)".to_owned(),
            ),
        ] {
            assert_eq!(check_root(root).unwrap_err().to_string(), expected);
        }
        assert!(check_root("/".as_ref()).is_ok());
    }

    #[test]
    fn every_check_is_shown_once_in_the_order_of_categories() {
        let inspection = Inspection::unread(&Unread::new("no answer"));
        let findings = findings(&inspection);
        let names: BTreeSet<&str> = findings.iter().map(|finding| finding.check.name).collect();
        assert_eq!(names.len(), findings.len());
        assert!(has_each_category_once(&findings));
        for finding in &findings[1..] {
            assert_eq!(finding.result, Verdict::Skipped, "{finding:?}");
            assert_eq!(finding.found, "no answer");
        }
        assert_eq!(findings[0].result, Verdict::Failed);
    }
}
