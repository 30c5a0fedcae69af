//! `CriRuntime` on a real containerd and real registries.
mod faults;
mod images;

use fledged_core::error::RuntimeError;
use fledged_core::model::ImageRef;
use fledged_core::port::{ImageRuntime, PullRequest, RuntimeImage};
use fledged_cri::cri::CriRuntime;

const PARTS: &[&str] = &["containerd", "docker-registry"];

fn image(text: &str) -> ImageRef {
    ImageRef::parse(text).unwrap()
}

async fn pull(runtime: &CriRuntime, name: &str) -> Result<RuntimeImage, RuntimeError> {
    runtime.pull(PullRequest::new(image(name))).await
}
