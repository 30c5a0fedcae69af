//! Removals, and images that must stay.

use fledged_core::error::Reason;
use fledged_core::port::{ImageRuntime, ImageUse, Removal};
use fledged_tests::{Code, CriRequest, FakeContainer, FakeCri, FakeImage};

use crate::cri_fake::{APP, image, removals, runtime_of};

/// A container for each form in which runtimes name its image.
fn users_of(used: &FakeImage) -> Vec<FakeContainer> {
    let container = |name: &str| FakeContainer {
        id: "f00d".repeat(16),
        name: name.to_owned(),
        ..FakeContainer::default()
    };
    vec![
        FakeContainer {
            image_id: used.id.clone(),
            image_ref: "registry.example/other:1".to_owned(),
            ..container("by-image-id")
        },
        FakeContainer {
            image_ref: used.id.clone(),
            ..container("by-id")
        },
        FakeContainer {
            image_ref: used.digests[0].clone(),
            ..container("by-digest")
        },
        FakeContainer {
            image: used.tags[0].clone(),
            ..container("by-tag")
        },
    ]
}

#[tokio::test]
async fn an_image_in_use_stays() {
    let fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    let used = fake.put(APP);
    let other = fake.put("registry.example/other:1");
    for container in users_of(&used) {
        let name = container.name.clone();
        fake.remove_all_containers();
        fake.put_container(container);
        let in_use = runtime.in_use().await.unwrap();
        let by = format!("container {name} (f00df00df00df)");
        assert_eq!(in_use, [ImageUse::new(used.id.clone(), by)], "{name}");
        let removal = runtime.remove(&image(APP)).await.unwrap();
        assert!(
            matches!(&removal, Removal::InUse(who) if who.contains(&name)),
            "{name}: {removal:?}"
        );
        assert!(fake.holds(APP), "{name}");
    }
    assert_eq!(removals(&fake), []);
    // An unused image is removed.
    let name = image(&other.tags[0]);
    assert_eq!(runtime.remove(&name).await.unwrap(), Removal::Removed);
    assert!(!fake.holds(&other.id) && fake.holds(APP));
}

#[tokio::test]
async fn an_unused_image_is_removed_by_its_id() {
    let fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    let used = fake.put(APP);
    fake.use_image(&used.id);
    let removal = runtime.remove(&image(APP)).await.unwrap();
    assert_eq!(
        removal,
        Removal::InUse("container user (c0ffeec0ffeec)".to_owned())
    );
    fake.remove_all_containers();
    fake.clear_requests();
    assert_eq!(runtime.remove(&image(APP)).await.unwrap(), Removal::Removed);
    assert_eq!(removals(&fake), [CriRequest::RemoveImage(used.id)]);
    // Containers were listed right before the removal.
    let requests = fake.requests();
    assert_eq!(requests[requests.len() - 2], CriRequest::ListContainers);
    assert_eq!(runtime.remove(&image(APP)).await.unwrap(), Removal::Absent);
}

#[tokio::test]
async fn a_refused_removal_is_in_use_or_an_error() {
    let fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    fake.put(APP);
    let refusal = "unable to delete image: image is in use by a container";
    fake.fail_removals(1, Code::Unknown, refusal);
    let removal = runtime.remove(&image(APP)).await.unwrap();
    assert_eq!(removal, Removal::InUse(refusal.to_owned()));

    fake.fail_removals(1, Code::Internal, "database is broken");
    let error = runtime.remove(&image(APP)).await.unwrap_err();
    assert_eq!(error.message, "database is broken");
    // Another client has removed it.
    fake.fail_removals(1, Code::NotFound, "no such image");
    assert_eq!(runtime.remove(&image(APP)).await.unwrap(), Removal::Removed);
}

#[tokio::test]
async fn a_pinned_image_is_listed_as_pinned_and_stays() {
    let fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    fake.put(APP);
    fake.set_pinned(APP, true);
    assert!(runtime.list().await.unwrap()[0].pinned);
    let error = runtime.remove(&image(APP)).await.unwrap_err();
    assert_eq!(error.reason, Reason::Pinned);
    assert_eq!(removals(&fake), []);
    fake.set_pinned(APP, false);
    assert_eq!(runtime.remove(&image(APP)).await.unwrap(), Removal::Removed);
}

#[tokio::test]
async fn an_image_that_only_a_volume_uses_stays() {
    let fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    let data = fake.put(APP);
    let other = fake.put("registry.example/other:1");
    for volume in [&data.id, &data.digests[0], &data.tags[0]] {
        fake.remove_all_containers();
        let name = format!("reader-{}", volume.len());
        fake.put_container(FakeContainer {
            id: name.repeat(8),
            name: name.clone(),
            image_id: other.id.clone(),
            volumes: vec![volume.clone()],
            ..FakeContainer::default()
        });
        let removal = runtime.remove(&image(APP)).await.unwrap();
        assert!(
            matches!(&removal, Removal::InUse(who) if who.contains(&name)),
            "{volume}: {removal:?}"
        );
        assert_eq!(runtime.in_use().await.unwrap().len(), 2, "{volume}");
    }
    assert_eq!(removals(&fake), []);
}

#[tokio::test]
async fn each_container_is_asked_for_its_volumes_once() {
    let fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    let used = fake.put(APP);
    let asked = || {
        let requests = fake.requests().into_iter();
        let status = |r: &CriRequest| matches!(r, CriRequest::ContainerStatus(_));
        requests.filter(status).count()
    };
    fake.use_image(&used.id);
    for _ in 0..3 {
        assert_eq!(runtime.in_use().await.unwrap().len(), 1);
    }
    assert_eq!(asked(), 1);
    fake.remove_all_containers();
    assert_eq!(runtime.in_use().await.unwrap(), []);
    fake.use_image(&used.id);
    assert_eq!(runtime.in_use().await.unwrap().len(), 1);
    assert_eq!(asked(), 2);
}

#[tokio::test]
async fn the_sandbox_image_of_the_configuration_stays() {
    let fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    let pause = "registry.example/infra/sandbox:3.6";
    let sandbox = fake.put(pause);
    fake.put(APP);
    assert_eq!(runtime.in_use().await.unwrap(), []);
    let expected = ImageUse::new(sandbox.id, "pod sandboxes");
    for config in [
        format!(r#"{{"sandboxImage":"{pause}","systemdCgroup":true}}"#),
        format!(r#"{{"imageConfig":{{"pinnedImages":{{"sandbox":"{pause}"}}}}}}"#),
    ] {
        fake.set_config(&config);
        let in_use = runtime.in_use().await.unwrap();
        assert_eq!(in_use, std::slice::from_ref(&expected), "{config}");
        let removal = runtime.remove(&image(pause)).await.unwrap();
        assert_eq!(
            removal,
            Removal::InUse("pod sandboxes".to_owned()),
            "{config}"
        );
    }
    fake.set_config("not JSON");
    assert_eq!(runtime.in_use().await.unwrap(), []);
    assert_eq!(runtime.remove(&image(APP)).await.unwrap(), Removal::Removed);
}
