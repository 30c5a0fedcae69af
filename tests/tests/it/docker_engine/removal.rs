//! Removals: one name, the last name, images in use.

use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptions};
use fledged_core::port::{ImageId, ImageRuntime, ImageUse, Removal, RemovalScope};
use fledged_cri::docker::DockerRuntime;
use fledged_tests::{Dockerd, ImageBuilder, Registry};

use crate::docker_engine::{image, parts, pull};

#[tokio::test(flavor = "multi_thread")]
async fn the_last_name_removes_the_image() {
    if !parts() {
        return;
    }
    let registry = Registry::start();
    let engine = Dockerd::start();
    let runtime = DockerRuntime::new(engine.socket());
    assert_eq!(
        runtime.info().await.unwrap().removal,
        RemovalScope::ReferenceAndDigests
    );
    let built = ImageBuilder::new().random_layer("data", 1, 50_000).build();
    let one = built.push(&registry, "app", "1");
    let two = built.push(&registry, "app", "2");
    let by_digest = image(&one.by_digest());
    for text in [&one.reference, &two.reference] {
        pull(&runtime, text).await.unwrap();
    }
    assert_eq!(runtime.list().await.unwrap().len(), 1);
    let absent = image(&format!("{}/app:none", registry.addr()));
    assert_eq!(runtime.remove(&absent).await, Ok(Removal::Absent));

    assert_eq!(runtime.remove(&by_digest).await, Ok(Removal::Removed));
    assert_eq!(runtime.lookup(&by_digest).await, Ok(None));
    assert_eq!(runtime.remove(&one.image()).await, Ok(Removal::Removed));
    assert_eq!(runtime.lookup(&one.image()).await, Ok(None));
    let left = runtime.lookup(&two.image()).await.unwrap().unwrap();
    assert_eq!(left.references, [two.image()]);
    assert_eq!(runtime.remove(&two.image()).await, Ok(Removal::Removed));
    assert_eq!(runtime.remove(&two.image()).await, Ok(Removal::Absent));
    assert_eq!(runtime.list().await, Ok(vec![]));

    pull(&runtime, by_digest.as_str()).await.unwrap();
    assert_eq!(runtime.remove(&by_digest).await, Ok(Removal::Removed));
    assert_eq!(runtime.list().await, Ok(vec![]));
    assert_eq!(runtime.filesystems().await.unwrap()[0].used.bytes(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_tag_of_a_repository_removes_its_digest() {
    if !parts() {
        return;
    }
    let registry = Registry::start();
    let engine = Dockerd::start();
    let runtime = DockerRuntime::new(engine.socket());
    let built = ImageBuilder::new().build();
    let app = built.push(&registry, "app", "1");
    let other = built.push(&registry, "other", "1");
    for text in [&app.reference, &app.by_digest(), &other.reference] {
        pull(&runtime, text).await.unwrap();
    }
    assert_eq!(runtime.remove(&app.image()).await, Ok(Removal::Removed));
    // A rule of the Engine. The other repository keeps the image and its own digest.
    let digest = image(&app.by_digest());
    assert_eq!(runtime.lookup(&digest).await, Ok(None));
    let left = runtime.lookup(&other.image()).await.unwrap().unwrap();
    assert_eq!(left.references, [other.image(), image(&other.by_digest())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_in_use_stays() {
    if !parts() {
        return;
    }
    let registry = Registry::start();
    let engine = Dockerd::start();
    let runtime = DockerRuntime::new(engine.socket());
    let built = ImageBuilder::new().build();
    let one = built.push(&registry, "app", "1");
    let two = built.push(&registry, "app", "2");
    let idle = ImageBuilder::new()
        .label("idle")
        .push(&registry, "idle", "1");
    for pushed in [&one, &two, &idle] {
        pull(&runtime, &pushed.reference).await.unwrap();
    }
    assert_eq!(runtime.in_use().await, Ok(vec![]));
    let socket = engine.socket();
    let client =
        Docker::connect_with_unix(socket.to_str().unwrap(), 60, bollard::API_DEFAULT_VERSION)
            .unwrap();
    // Created and never started: a stopped container also uses its image.
    let options = CreateContainerOptionsBuilder::new().name("keeper").build();
    let body = ContainerCreateBody {
        image: Some(one.reference.clone()),
        ..ContainerCreateBody::default()
    };
    client.create_container(Some(options), body).await.unwrap();

    let id = ImageId(one.config_digest.to_string());
    let users = ImageUse::new(id, "container keeper");
    assert_eq!(runtime.in_use().await, Ok(vec![users]));
    assert_eq!(
        runtime.remove(&one.image()).await,
        Ok(Removal::Removed),
        "another name holds the image"
    );
    assert_eq!(
        runtime.remove(&two.image()).await,
        Ok(Removal::InUse("container keeper".to_owned()))
    );
    assert!(runtime.lookup(&two.image()).await.unwrap().is_some());
    assert_eq!(runtime.remove(&idle.image()).await, Ok(Removal::Removed));

    let force = None::<RemoveContainerOptions>;
    client.remove_container("keeper", force).await.unwrap();
    assert_eq!(runtime.remove(&two.image()).await, Ok(Removal::Removed));
}
