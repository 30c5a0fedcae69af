//! The images of a runtime, asked over CRI without code of fledged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use crate::cri_proto::ListImagesRequest;
use crate::cri_proto::image_service_client::ImageServiceClient;
use crate::kubelet::connect;

/// Time limit of one list.
const LIMIT: Duration = Duration::from_secs(2);

/// An image of the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) id: String,
    /// `REPOSITORY@DIGEST`.
    pub(super) digests: BTreeSet<String>,
}

/// Lists all images by tag (`REPOSITORY:TAG`); `None` if the runtime does not answer.
pub(super) async fn list(socket: &Path) -> Option<BTreeMap<String, Held>> {
    tokio::time::timeout(LIMIT, listed(socket)).await.ok()?
}

async fn listed(socket: &Path) -> Option<BTreeMap<String, Held>> {
    let channel = connect(socket).await.ok()?;
    let mut service = ImageServiceClient::new(channel);
    let answer = service.list_images(ListImagesRequest {}).await.ok()?;
    let mut held = BTreeMap::new();
    for image in answer.into_inner().images {
        let one = Held {
            id: image.id,
            digests: image.repo_digests.into_iter().collect(),
        };
        held.extend(image.repo_tags.into_iter().map(|tag| (tag, one.clone())));
    }
    Some(held)
}
