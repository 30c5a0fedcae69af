//! Pulls images as the kubelet does, for comparisons.

use std::num::NonZeroUsize;
use std::path::Path;

use futures_util::stream::{self, TryStreamExt};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

use crate::cri_proto::image_service_client::ImageServiceClient;
use crate::cri_proto::{ImageSpec, ImageStatusRequest, PullImageRequest};

/// Pulls images into the CRI runtime at a socket with the kubelet's calls on one connection: `ImageStatus`,
/// `PullImage`, `ImageStatus`. Uses no code of fledged.
///
/// The kubelet pulls one image at a time by default (`serializeImagePulls: true`), and up to
/// `maxParallelImagePulls` otherwise.
///
/// # Errors
///
/// The runtime's error for the first image that failed.
pub fn pull_like_the_kubelet(
    socket: &Path,
    images: &[String],
    at_once: NonZeroUsize,
) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no async runtime: {error}"))?;
    runtime.block_on(async {
        let channel = connect(socket).await?;
        stream::iter(images.iter().map(Ok))
            .try_for_each_concurrent(at_once.get(), |image| {
                pull(ImageServiceClient::new(channel.clone()), image)
            })
            .await
    })
}

pub(crate) async fn connect(socket: &Path) -> Result<Channel, String> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(connector).await;
    channel.map_err(|error| format!("no connection to {}: {error}", socket.display()))
}

async fn pull(mut service: ImageServiceClient<Channel>, image: &str) -> Result<(), String> {
    let failed = |status: tonic::Status| format!("{image}: {}", status.message());
    let spec = Some(ImageSpec {
        image: image.to_owned(),
        ..ImageSpec::default()
    });
    let status = ImageStatusRequest {
        image: spec.clone(),
    };
    let found = service.image_status(status.clone()).await.map_err(failed)?;
    if found.into_inner().image.is_some() {
        return Ok(());
    }
    let pull = PullImageRequest {
        image: spec,
        ..PullImageRequest::default()
    };
    service.pull_image(pull).await.map_err(failed)?;
    let found = service.image_status(status).await.map_err(failed)?;
    match found.into_inner().image {
        Some(_) => Ok(()),
        None => Err(format!("{image} was pulled but is not present")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Code, CriRequest, FakeCri};

    fn names(count: usize) -> Vec<String> {
        (0..count)
            .map(|n| format!("registry.test/app-{n}:1"))
            .collect()
    }

    #[test]
    fn only_missing_images_are_pulled() {
        let cri = FakeCri::start();
        cri.put("registry.test/app-0:1");
        let images = names(3);
        pull_like_the_kubelet(&cri.socket(), &images, NonZeroUsize::MIN).unwrap();
        assert!(images.iter().all(|image| cri.holds(image)));
        let pulls = cri.requests().into_iter();
        let pulls = pulls.filter(|request| matches!(request, CriRequest::PullImage { .. }));
        assert_eq!(pulls.count(), 2);
    }

    #[test]
    fn a_failure_has_the_runtimes_message() {
        let cri = FakeCri::start();
        cri.fail_pulls(1, Code::NotFound, "no such image");
        let error = pull_like_the_kubelet(&cri.socket(), &names(2), NonZeroUsize::MIN);
        assert!(error.unwrap_err().contains("no such image"));
    }
}
