//! Helpers of the OCI layout's tests.

use std::path::Path;
use std::process::Command;

use fledged_core::error::{Failure, Reason};
use fledged_core::model::ImageRef;
use fledged_core::port::{
    Credentials, CredentialsRequest, ImageRuntime, PullRequest, RegistryAuth, RuntimeImage,
};
use fledged_cri::credentials::DockerConfig;
use fledged_cri::oci::{OciLayoutOptions, OciLayoutRuntime};
use fledged_tests::{Registry, unmount_below};

pub(crate) fn open(folder: &Path) -> OciLayoutRuntime {
    OciLayoutRuntime::open(folder, OciLayoutOptions::default()).unwrap()
}

pub(crate) fn image(reference: &str) -> ImageRef {
    reference.parse().unwrap()
}

pub(crate) async fn pull(
    runtime: &OciLayoutRuntime,
    reference: &str,
) -> Result<RuntimeImage, Failure> {
    runtime.pull(PullRequest::new(image(reference))).await
}

pub(crate) async fn reason(runtime: &OciLayoutRuntime, reference: &str) -> Reason {
    pull(runtime, reference).await.unwrap_err().reason
}

pub(crate) async fn auth(registry: &str, username: &str, password: &str) -> Option<RegistryAuth> {
    let config = serde_json::json!({
        "auths": {registry: {"username": username, "password": password}}
    });
    let request = CredentialsRequest::new(image(&format!("{registry}/any")));
    let credentials = DockerConfig::from_json(config.to_string().as_bytes()).unwrap();
    credentials.resolve(&request).await.auths.into_iter().next()
}

pub(crate) fn skopeo(args: &[&str]) -> String {
    run("skopeo", args)
}

pub(crate) fn umoci(args: &[&str]) -> String {
    run("umoci", args)
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Paths of the blobs that were read from the registry.
pub(crate) fn blobs_read(registry: &Registry) -> Vec<String> {
    let requests = registry.requests_matching("GET", "/blobs/");
    requests.into_iter().map(|r| r.path).collect()
}

/// A mount on a folder, which is unmounted when dropped.
pub(crate) struct Unmount<'a>(pub(crate) &'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        unmount_below(self.0);
    }
}
