//! Listing images and looking them up.

use std::path::Path;

use fledged_core::model::ByteSize;
use fledged_core::port::{ImageId, ImageRuntime};
use fledged_tests::{CriRequest, FakeCri, FakeImage, Interface};

use crate::cri_fake::{APP, image, runtime_of};

#[tokio::test]
async fn lookup_is_exact() {
    let fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    fake.put("registry.example/team/app:1.21");
    assert!(runtime.lookup(&image(APP)).await.unwrap().is_none());
    // A runtime that resolves another name: the returned image does not have the requested one.
    fake.put_image(FakeImage {
        id: APP.to_owned(),
        ..FakeImage::named("docker.io/team/app:1.2")
    });
    assert!(runtime.lookup(&image(APP)).await.unwrap().is_none());
    fake.remove_all_images();
    fake.put(APP);
    assert!(runtime.lookup(&image(APP)).await.unwrap().is_some());
}

/// Adds images whose list takes more than `bytes` bytes, mostly in names that are not references.
fn fill(fake: &FakeCri, bytes: usize) -> usize {
    const NAME: usize = 10 * 1024;
    let images = bytes / NAME + 1;
    for i in 0..images {
        let mut image = FakeImage::named(&format!("registry.example/app:{i}"));
        image.tags.push(format!("<none>:{}", "a".repeat(NAME)));
        fake.put_image(image);
    }
    images
}

#[tokio::test]
async fn a_list_above_grpcs_default_limit_is_read() {
    let fake = FakeCri::start();
    let images = fill(&fake, 5 * 1024 * 1024);
    let list = runtime_of(&fake).list().await.unwrap();
    assert_eq!(list.len(), images);
    assert_eq!(list[0].references.len(), 2);
}

#[tokio::test]
async fn a_list_above_the_limit_needs_a_stream() {
    let fake = FakeCri::start();
    let images = fill(&fake, 17 * 1024 * 1024);
    let error = runtime_of(&fake).list().await.unwrap_err();
    assert!(error.to_string().contains("16777216"), "{error}");

    fake.serve(Interface::V1Streaming);
    fake.clear_requests();
    let list = runtime_of(&fake).list().await.unwrap();
    assert_eq!(list.len(), images);
    assert_eq!(fake.requests(), [CriRequest::StreamImages]);
}

#[tokio::test]
async fn an_unserved_stream_is_requested_once() {
    let fake = FakeCri::start();
    let runtime = runtime_of(&fake);
    fake.put(APP);
    for _ in 0..3 {
        assert_eq!(runtime.list().await.unwrap().len(), 1);
    }
    assert_eq!(fake.requests(), vec![CriRequest::ListImages; 3]);
}

#[tokio::test]
async fn file_systems_report_available_bytes_if_visible() {
    let fake = FakeCri::start();
    let folder = tempfile::tempdir().unwrap();
    fake.put_filesystem(folder.path(), 1_000_000);
    fake.put_filesystem(Path::new("/nowhere/on/this/machine"), 7);
    let filesystems = runtime_of(&fake).filesystems().await.unwrap();
    assert_eq!(filesystems[0].path, folder.path().display().to_string());
    assert_eq!(filesystems[0].used, ByteSize::new(1_000_000));
    assert!(filesystems[0].available.unwrap() > ByteSize::ZERO);
    assert_eq!(filesystems[1].used, ByteSize::new(7));
    assert_eq!(filesystems[1].available, None);
}

#[tokio::test]
async fn an_image_without_names_is_listed_by_its_id() {
    let fake = FakeCri::start();
    fake.put_image(FakeImage {
        id: "1".repeat(64),
        tags: vec!["<none>:<none>".to_owned()],
        digests: vec!["<none>@<none>".to_owned()],
        ..FakeImage::default()
    });
    let list = runtime_of(&fake).list().await.unwrap();
    assert_eq!(list[0].id, ImageId("1".repeat(64)));
    assert!(list[0].references.is_empty() && list[0].digest.is_none());
}
