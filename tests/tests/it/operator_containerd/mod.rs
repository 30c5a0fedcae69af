//! The operator's own binary on real containerd and real registries.
mod private;
mod program;
mod pull_via;
mod refresh;
mod superseded;

use fledged_tests::kube::{World, WorldOptions};
use fledged_tests::{Containerd, Registry, require};

/// A cluster without a controller, a registry and a containerd. `None` if their programs are missing.
async fn real_parts() -> Option<(World, Registry, Containerd)> {
    if !require(&["containerd", "docker-registry"]) {
        return None;
    }
    let world = World::without_controller(WorldOptions::default()).await;
    let started = tokio::task::spawn_blocking(|| (Registry::start(), Containerd::start()));
    let (registry, containerd) = started.await.unwrap();
    Some((world, registry, containerd))
}
