//! Entry points for fuzzing: answers of Docker Engine.

use std::path::Path;

use bollard::errors::Error;
use bollard::models::{CreateImageInfo, ImageInspect, ImageSummary};
use fledged_core::model::ImageRef;

use super::images::{from_inspect, from_summary, is_last_name};
use super::{failure, progress::PullEvents};

/// The events of a pull, one a line.
pub fn pull_events(bytes: &[u8]) {
    let mut events = PullEvents::default();
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Ok(event) = serde_json::from_slice::<CreateImageInfo>(line) {
            let _ = events.fold(&event);
        }
    }
    let _ = events.digest();
}

/// A list of images, or one inspected image.
pub fn images(bytes: &[u8]) {
    let Ok(image) = ImageRef::parse("app:1") else {
        return;
    };
    let summaries = serde_json::from_slice::<Vec<ImageSummary>>(bytes);
    for summary in summaries.iter().flatten() {
        let found = from_summary(summary);
        let _ = (found.digest_of(&image), is_last_name(&found, &image));
    }
    if let Ok(inspect) = serde_json::from_slice::<ImageInspect>(bytes) {
        let _ = from_inspect(&inspect);
    }
}

/// The text of an error. The first two bytes are the HTTP status.
pub fn error(bytes: &[u8]) {
    let (status, text) = bytes.split_at(bytes.len().min(2));
    let status_code = status.iter().fold(0, |n, byte| n * 256 + u16::from(*byte));
    let message = String::from_utf8_lossy(text).into_owned();
    let error = Error::DockerResponseServerError {
        status_code,
        message,
    };
    let _ = failure::of(&error, Path::new("/run/docker.sock"), Some("secret"));
}
