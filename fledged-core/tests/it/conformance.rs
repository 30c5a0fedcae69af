//! The conformance suite: the simulated runtime passes, and runtimes that misbehave do not.
use fledged_core::conformance::{self, Images, PrivateImage, Report};
use fledged_core::error::{Failure, Reason};
use fledged_core::model::{ByteSize, ImageRef};
use fledged_core::port::{
    ImageRuntime, ImageUse, PullRequest, RegistryAuth, Removal, RemovalScope, RuntimeImage,
    RuntimeInfo,
};
use fledged_core::sim::{SimClock, SimImage, SimRegistry, SimRuntime};

use async_trait::async_trait;

fn mk_ref(text: &str) -> ImageRef {
    text.parse().unwrap()
}

fn mk_images() -> Images {
    Images::new(
        mk_ref("registry.example/app:1"),
        mk_ref("registry.example/copy:1"),
        mk_ref("registry.example/other:1"),
        mk_ref("registry.example/missing:1"),
    )
}

fn mk_runtime(clock: &SimClock, scope: RemovalScope) -> SimRuntime {
    let app = SimImage::new("app", &[("layer", ByteSize::new(1_000))]);
    let registry = SimRegistry::new()
        .with("registry.example/app:1", app.clone())
        .with("registry.example/copy:1", app.clone())
        .with(
            "registry.example/other:1",
            SimImage::new("other", &[("more", ByteSize::new(10))]),
        )
        .with("registry.example/private:1", app.private())
        .with(
            "registry.example/slow:1",
            SimImage::new("slow", &[("long", ByteSize::new(10_000))]),
        );
    SimRuntime::new(clock.clone(), registry, 1)
        .with_removal(scope)
        .with_bandwidth(1_000)
}

fn check(clock: &SimClock, runtime: &dyn ImageRuntime, images: &Images) -> Report {
    clock
        .block_on(conformance::check(runtime, clock, images))
        .unwrap()
}

#[test]
fn the_simulated_runtime_conforms_in_every_removal_scope() {
    for scope in [
        RemovalScope::Image,
        RemovalScope::Reference,
        RemovalScope::ReferenceAndDigests,
    ] {
        let clock = SimClock::new();
        let mut images = mk_images();
        images.slow = Some(mk_ref("registry.example/slow:1"));
        images.private = Some(PrivateImage {
            image: mk_ref("registry.example/private:1"),
            accepted: RegistryAuth::basic("ann", "correct"),
            refused: RegistryAuth::basic("ann", "wrong"),
        });
        let report = check(&clock, &mk_runtime(&clock, scope), &images);
        // The simulated registry accepts any credentials.
        let violated: Vec<&str> = report.violations.iter().map(|v| v.behaviour).collect();
        assert_eq!(
            violated,
            ["credentials decide whether a private image is pulled"],
            "{scope:?}: {report}"
        );
        assert_eq!(report.not_checked.len(), 2, "{report}");
    }
}

/// What a [`Broken`] runtime does wrong.
#[derive(Debug, Clone, Copy)]
enum Defect {
    ListIsEmpty,
    MissingIsRetryable,
    RemoveDoesNothing,
    RemovesOtherNames,
    PullFindsNothing,
    EverythingInUse,
    NoName,
}

struct Broken {
    runtime: SimRuntime,
    defect: Defect,
}

#[async_trait]
impl ImageRuntime for Broken {
    async fn info(&self) -> Result<RuntimeInfo, Failure> {
        let mut info = self.runtime.info().await?;
        match self.defect {
            Defect::NoName => info.name.clear(),
            // Says that other names stay, but removes them.
            Defect::RemovesOtherNames => info.removal = RemovalScope::Reference,
            _ => {}
        }
        Ok(info)
    }

    async fn list(&self) -> Result<Vec<RuntimeImage>, Failure> {
        match self.defect {
            Defect::ListIsEmpty => Ok(Vec::new()),
            _ => self.runtime.list().await,
        }
    }

    async fn lookup(&self, image: &ImageRef) -> Result<Option<RuntimeImage>, Failure> {
        self.runtime.lookup(image).await
    }

    async fn in_use(&self) -> Result<Vec<ImageUse>, Failure> {
        match self.defect {
            Defect::EverythingInUse => {
                let images = self.runtime.list().await?;
                Ok(images.into_iter().map(|image| image.id.into()).collect())
            }
            _ => self.runtime.in_use().await,
        }
    }

    async fn pull(&self, request: PullRequest) -> Result<RuntimeImage, Failure> {
        let image = request.image.clone();
        match (self.defect, self.runtime.pull(request).await) {
            (Defect::MissingIsRetryable, Err(failure)) => {
                Err(Failure::new(Reason::RegistryError, failure.message))
            }
            (Defect::PullFindsNothing, Ok(pulled)) => {
                self.runtime.remove(&image).await?;
                Ok(pulled)
            }
            (_, result) => result,
        }
    }

    async fn remove(&self, image: &ImageRef) -> Result<Removal, Failure> {
        match self.defect {
            Defect::RemoveDoesNothing => Ok(Removal::Removed),
            _ => self.runtime.remove(image).await,
        }
    }
}

#[test]
fn every_defect_violates_the_behaviour_it_breaks() {
    for (defect, behaviour) in [
        (
            Defect::ListIsEmpty,
            "a pulled image is listed as the pull returned it",
        ),
        (
            Defect::MissingIsRetryable,
            "a missing image fails with ImageNotFound",
        ),
        (
            Defect::RemoveDoesNothing,
            "a removed image is absent, a second removal too",
        ),
        (
            Defect::RemovesOtherNames,
            "a removal takes along the names of its scope",
        ),
        (
            Defect::PullFindsNothing,
            "pulls at the same time all succeed",
        ),
        (
            Defect::EverythingInUse,
            "an image without containers is not in use",
        ),
        (Defect::NoName, "info names the runtime"),
    ] {
        let clock = SimClock::new();
        let broken = Broken {
            runtime: mk_runtime(&clock, RemovalScope::Image),
            defect,
        };
        let report = check(&clock, &broken, &mk_images());
        assert!(
            report.violations.iter().any(|v| v.behaviour == behaviour),
            "{defect:?}: {report}"
        );
    }
}
