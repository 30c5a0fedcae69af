//! `CriRuntime` with a fake runtime, for behaviour that cannot be provoked in a real one.
mod detection;
mod inventory;
mod pulls;
mod removals;
mod runtime;

use fledged_core::error::Failure;
use fledged_core::model::ImageRef;
use fledged_core::port::{ImageRuntime, PullRequest, RuntimeImage};
use fledged_cri::cri::CriRuntime;
use fledged_tests::{CriRequest, FakeCri};

const APP: &str = "registry.example/team/app:1.2";

fn runtime_of(fake: &FakeCri) -> CriRuntime {
    CriRuntime::connect(fake.socket())
}

fn image(text: &str) -> ImageRef {
    ImageRef::parse(text).unwrap()
}

async fn pull(runtime: &CriRuntime, name: &str) -> Result<RuntimeImage, Failure> {
    runtime.pull(PullRequest::new(image(name))).await
}

fn pulls(fake: &FakeCri) -> Vec<CriRequest> {
    let mut requests = fake.requests();
    requests.retain(|request| matches!(request, CriRequest::PullImage { .. }));
    requests
}

fn removals(fake: &FakeCri) -> Vec<CriRequest> {
    let mut requests = fake.requests();
    requests.retain(|request| matches!(request, CriRequest::RemoveImage(_)));
    requests
}
