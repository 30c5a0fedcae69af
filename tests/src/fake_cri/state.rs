//! The state of a fake runtime: its images and scripted failures.

use std::collections::VecDeque;

use sha2::{Digest as _, Sha256};
use tonic::{Code, Status};

use crate::cri_proto as proto;

/// One image in a fake runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FakeImage {
    /// Its ID, `sha256:…` as containerd's or bare as CRI-O's.
    pub id: String,
    /// `repo_tags`.
    pub tags: Vec<String>,
    /// `repo_digests`.
    pub digests: Vec<String>,
    /// Size in bytes.
    pub size: u64,
    /// Whether it is pinned.
    pub pinned: bool,
}

impl FakeImage {
    /// Returns an image with one normalised name, from which its ID and digest are derived.
    ///
    /// # Panics
    ///
    /// Never, as long as the name has a repository.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let (repository, tags, digest) = match name.split_once('@') {
            Some((repository, digest)) => (repository, Vec::new(), digest.to_owned()),
            None => {
                let repository = name
                    .rsplit_once(':')
                    .map_or(name, |(repository, _)| repository);
                let manifest = sha256(&format!("manifest of {name}"));
                (repository, vec![name.to_owned()], manifest)
            }
        };
        Self {
            id: sha256(name),
            tags,
            digests: vec![format!("{repository}@{digest}")],
            size: 4096,
            pinned: false,
        }
    }

    pub(super) fn answers_to(&self, name: &str) -> bool {
        self.id == name
            || self.tags.iter().any(|tag| tag == name)
            || self.digests.iter().any(|digest| digest == name)
    }

    pub(super) fn to_proto(&self) -> proto::Image {
        proto::Image {
            id: self.id.clone(),
            repo_tags: self.tags.clone(),
            repo_digests: self.digests.clone(),
            size: self.size,
            spec: None,
            pinned: self.pinned,
        }
    }
}

fn sha256(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A container in a fake runtime. Empty fields are left out of the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FakeContainer {
    /// Its ID.
    pub id: String,
    /// Its name within the pod.
    pub name: String,
    /// The image from which it was created (`image.image`).
    pub image: String,
    /// `image_ref`.
    pub image_ref: String,
    /// `image_id`.
    pub image_id: String,
    /// The images that it mounts as volumes.
    pub volumes: Vec<String>,
}

impl FakeContainer {
    /// Its status, which has the mounts. As in a runtime, there is one that is no image.
    pub(super) fn status(&self) -> proto::ContainerStatus {
        let image = |image: &String| proto::Mount {
            image: Some(proto::ImageSpec {
                image: image.clone(),
                ..proto::ImageSpec::default()
            }),
        };
        let images = self.volumes.iter().map(image);
        proto::ContainerStatus {
            mounts: std::iter::once(proto::Mount { image: None })
                .chain(images)
                .collect(),
        }
    }

    pub(super) fn to_proto(&self) -> proto::Container {
        proto::Container {
            id: self.id.clone(),
            metadata: Some(proto::ContainerMetadata {
                name: self.name.clone(),
            }),
            image: Some(proto::ImageSpec {
                image: self.image.clone(),
                ..proto::ImageSpec::default()
            }),
            image_ref: self.image_ref.clone(),
            image_id: self.image_id.clone(),
        }
    }
}

/// Which interfaces a fake runtime serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// CRI v1 without `StreamImages`: what runtimes serve up to Kubernetes 1.35.
    V1,
    /// CRI v1 with `StreamImages`.
    V1Streaming,
    /// CRI v1alpha2 alone, as containerd before 1.6.
    V1Alpha2,
    /// None: containerd with its CRI plugin disabled.
    None,
}

/// The credentials of a pull, unmasked because tests compare them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SentAuth {
    /// `username`.
    pub username: String,
    /// `password`.
    pub password: String,
    /// `server_address`.
    pub server_address: String,
    /// `identity_token`.
    pub identity_token: String,
    /// `registry_token`.
    pub registry_token: String,
}

/// One request that reached a fake runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CriRequest {
    /// `Version`.
    Version,
    /// `ListContainers`.
    ListContainers,
    /// `ContainerStatus` of a container.
    ContainerStatus(String),
    /// `Status`.
    Status,
    /// `ListImages`.
    ListImages,
    /// `StreamImages`.
    StreamImages,
    /// `ImageStatus` of an image.
    ImageStatus(String),
    /// `PullImage`.
    PullImage {
        /// The image.
        image: String,
        /// The credentials, if there are any.
        auth: Option<SentAuth>,
    },
    /// `RemoveImage` of an image.
    RemoveImage(String),
    /// `ImageFsInfo`.
    ImageFsInfo,
}

/// The state of a fake runtime, which survives restarts.
#[derive(Debug)]
pub(super) struct State {
    pub(super) interface: Interface,
    /// Name and version, as `Version` has them.
    pub(super) runtime: (String, String),
    pub(super) images: Vec<FakeImage>,
    pub(super) containers: Vec<FakeContainer>,
    /// What `Status` has as `info["config"]`.
    pub(super) config: Option<String>,
    pub(super) filesystems: Vec<(String, u64)>,
    pub(super) pull_failures: VecDeque<(Code, String)>,
    pub(super) removal_failures: VecDeque<(Code, String)>,
    pub(super) pulls_are_forgotten: bool,
    pub(super) unresponsive: bool,
    pub(super) requests: Vec<CriRequest>,
    pub(super) pulls_running: usize,
    pub(super) pulls_cancelled: usize,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            interface: Interface::V1,
            runtime: ("fake".to_owned(), "1.5.9".to_owned()),
            images: Vec::new(),
            containers: Vec::new(),
            config: None,
            filesystems: Vec::new(),
            pull_failures: VecDeque::new(),
            removal_failures: VecDeque::new(),
            pulls_are_forgotten: false,
            unresponsive: false,
            requests: Vec::new(),
            pulls_running: 0,
            pulls_cancelled: 0,
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<&FakeImage> {
        self.images.iter().find(|image| image.answers_to(name))
    }

    /// Stores a pulled image and returns its ID.
    pub(super) fn pulled(&mut self, name: &str) -> String {
        if let Some(image) = self.find(name) {
            return image.id.clone();
        }
        let image = FakeImage::named(name);
        let id = image.id.clone();
        if !self.pulls_are_forgotten {
            self.images.push(image);
        }
        id
    }

    /// Removes the image with all its names, or fails as scripted.
    pub(super) fn remove(&mut self, name: &str) -> Result<(), Status> {
        if let Some((code, text)) = self.removal_failures.pop_front() {
            return Err(Status::new(code, text));
        }
        self.images.retain(|image| !image.answers_to(name));
        Ok(())
    }
}
