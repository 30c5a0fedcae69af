//! `CriRuntime` with a real containerd and real registries.
mod faults;
mod fetcher;
mod images;
mod leases;
mod pull_rate;

use fledged_core::error::Failure;
use fledged_core::model::ImageRef;
use fledged_core::port::{ImageRuntime, PullRequest, RuntimeImage};
use fledged_cri::cri::CriRuntime;

const PARTS: &[&str] = &["containerd", "docker-registry"];

fn image(text: &str) -> ImageRef {
    ImageRef::parse(text).unwrap()
}

async fn pull(runtime: &CriRuntime, name: &str) -> Result<RuntimeImage, Failure> {
    runtime.pull(PullRequest::new(image(name))).await
}
