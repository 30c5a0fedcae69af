//! Entry points for fuzzing: answers of a CRI runtime.

use std::path::Path;

use prost::Message as _;
use tonic::{Code, Status};

use super::grpc_status::{failure_of_status, is_unserved};
use super::images::{ImageUser, image_named, images_in_use, runtime_image, sandbox_images};
use super::proto::{ListContainersResponse, ListImagesResponse, StatusResponse};

/// A list of images followed by a list of containers, as protobuf. The first byte is the length of the second.
pub fn lists(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first() else {
        return;
    };
    let (containers, images) = rest.split_at(rest.len().min(usize::from(*length)));
    let Ok(images) = ListImagesResponse::decode(images) else {
        return;
    };
    for image in &images.images {
        for name in &runtime_image(image).references {
            let _ = image_named(image, name);
        }
    }
    let containers = ListContainersResponse::decode(containers).unwrap_or_default();
    let users = containers
        .containers
        .into_iter()
        .map(|container| ImageUser {
            container,
            volumes: vec!["docker.io/library/app:1".to_owned()],
        });
    let _ = images_in_use(&images.images, &users.collect::<Vec<_>>());
}

/// A verbose status, as protobuf.
pub fn verbose_status(bytes: &[u8]) {
    if let Ok(status) = StatusResponse::decode(bytes) {
        let _ = sandbox_images(&status.info);
    }
}

/// The text of an error. The first byte is the gRPC code.
pub fn error(bytes: &[u8]) {
    let Some((code, text)) = bytes.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(text).into_owned();
    let status = Status::new(Code::from_i32(i32::from(*code)), text);
    let _ = is_unserved(&status);
    let _ = failure_of_status(&status, Path::new("/run/cri.sock"), &["secret"]);
}
