//! `DockerRuntime` and `fledged` with a real Docker Engine and a real registry.
mod command;
mod engine;
mod pull;
mod removal;

use fledged_core::error::Failure;
use fledged_core::model::ImageRef;
use fledged_core::port::{ImageId, ImageRuntime, PullRequest};
use fledged_cri::docker::DockerRuntime;
use fledged_tests::require;

fn parts() -> bool {
    require(&["dockerd", "containerd", "runc", "docker-registry"])
}

fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}

async fn pull(runtime: &DockerRuntime, text: &str) -> Result<ImageId, Failure> {
    let pulled = runtime.pull(PullRequest::new(image(text))).await?;
    Ok(pulled.id)
}
