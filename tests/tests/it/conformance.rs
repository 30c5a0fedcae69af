//! The conformance suite of `fledged_core`, on every runtime that can be started here.
use fledged_core::conformance::{self, Images, PrivateImage};
use fledged_core::model::ImageRef;
use fledged_core::port::{ImageRuntime, RegistryAuth};
use fledged_core::tokio::TokioClock;
use fledged_cri::cri::CriRuntime;
use fledged_cri::docker::DockerRuntime;
use fledged_cri::oci::{OciLayoutOptions, OciLayoutRuntime};
use fledged_tests::{
    Containerd, Dockerd, Fault, FaultProxy, ImageBuilder, Registry, Rule, require,
};

fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}

/// The registries of one run.
struct Registries {
    public: Registry,
    private: Registry,
    slow: FaultProxy,
}

impl Registries {
    fn start() -> Self {
        let public = Registry::start();
        // 400 KiB at 50 KiB/s.
        let slow = FaultProxy::start(public.addr());
        slow.add(
            Rule::new(Fault::Throttle {
                bytes_per_second: 50 * 1024,
            })
            .path("/blobs/")
            .always(),
        );
        Self {
            slow,
            public,
            private: Registry::start_with_htpasswd("ann", "correct-horse"),
        }
    }

    fn images(&self) -> Images {
        let build = |seed| {
            ImageBuilder::new()
                .random_layer("data", seed, 64 * 1024)
                .build()
        };
        let app = build(1).push(&self.public, "team/app", "1");
        let copy = build(1).push(&self.public, "team/copy", "1");
        let other = build(2).push(&self.public, "team/other", "1");
        let secret = build(3).push(&self.private, "team/secret", "1");
        ImageBuilder::new()
            .random_layer("data", 4, 400 * 1024)
            .push(&self.public, "team/slow", "1");

        let mut images = Images::new(
            image(&app.reference),
            image(&copy.reference),
            image(&other.reference),
            image(&format!("{}/team/missing:1", self.public.addr())),
        );
        images.by_digest = Some(image(&app.by_digest()));
        images.private = Some(PrivateImage {
            image: image(&secret.reference),
            accepted: RegistryAuth::basic("ann", "correct-horse"),
            refused: RegistryAuth::basic("ann", "wrong-horse"),
        });
        images.slow = Some(image(&format!("{}/team/slow:1", self.slow.addr())));
        // Port 1 is reserved; nothing listens there.
        images.unreachable = Some(image("127.0.0.1:1/team/app:1"));
        images
    }
}

/// Runs the suite with every image given, so that nothing stays unchecked.
async fn assert_conforms(runtime: &dyn ImageRuntime) {
    let registries = Registries::start();
    let report = conformance::check(runtime, &TokioClock::new(), &registries.images()).await;
    assert!(report.violations.is_empty(), "{report}");
    assert!(report.not_checked.is_empty(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_conforms() {
    if !require(&["containerd", "docker-registry"]) {
        return;
    }
    let containerd = Containerd::start();
    assert_conforms(&CriRuntime::connect(containerd.socket())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_engine_conforms() {
    if !require(&["dockerd", "containerd", "runc", "docker-registry"]) {
        return;
    }
    let dockerd = Dockerd::start();
    assert_conforms(&DockerRuntime::new(dockerd.socket())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oci_layout_conforms() {
    if !require(&["docker-registry"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let runtime = OciLayoutRuntime::open(folder.path(), OciLayoutOptions::default()).unwrap();
    assert_conforms(&runtime).await;
}
