//! A Node, as far as Jobs on it matter.

use std::collections::BTreeSet;

use fledged_core::model::{ByteSize, ImageRef, NodeName};
use fledged_core::port::RuntimeImage;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Serialize};

use super::options::PullMethod;
use super::spec::Method;

/// From these versions on, `image` volumes are there without anybody switching them on: the kubelet's
/// (KEP-4639: on by default from 1.35), containerd's and CRI-O's (which mount them).
const KUBELET: (u32, u32) = (1, 35);
const CONTAINERD: (u32, u32) = (2, 1);
const CRI_O: (u32, u32) = (1, 33);
/// Names that a kubelet tells of one image at most (`MaxNamesPerImageInNodeStatus`): those with a digest
/// first, then the tags.
const NAMES_MAX: usize = 5;

/// A Node with the images that its kubelet tells of.
#[derive(Resource, Debug, Clone, Default, Serialize, Deserialize)]
#[resource(inherit = Node)]
pub(super) struct ReadNodeImages {
    #[serde(default)]
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    conditions: Vec<Condition>,
    node_info: Info,
    images: Vec<Image>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    last_heartbeat_time: Option<Time>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Info {
    kubelet_version: String,
    container_runtime_version: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Image {
    names: Option<Vec<String>>,
    size_bytes: u64,
}

/// What is known of a node.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeView {
    /// Whether its kubelet runs pods.
    pub(super) ready: bool,
    /// The images that its kubelet tells of.
    pub(super) images: Vec<RuntimeImage>,
    /// How many entries its list has, also of images without a name.
    pub(super) listed: usize,
    /// What is known of images that may have more names than were told.
    pub(super) cut: Vec<Cut>,
    /// When it told of them; `None` before it told anything.
    pub(super) told_at: Option<Timestamp>,
    pub(super) image_volumes: bool,
    pub(super) runtime: String,
}

/// An image of which not all names may have been told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cut {
    /// Other names of these repositories, which tags of it are in.
    Of(BTreeSet<String>),
    /// Any others.
    Any,
}

impl ReadNodeImages {
    pub(super) fn name(&self) -> Option<NodeName> {
        NodeName::new(self.name_any()).ok()
    }

    pub(super) fn into_view(self) -> NodeView {
        let mut conditions = self.status.conditions.into_iter();
        let ready = conditions.find(|condition| condition.kind == "Ready");
        let info = self.status.node_info;
        NodeView {
            ready: ready.as_ref().is_some_and(|c| c.status == "True"),
            told_at: ready.and_then(|c| c.last_heartbeat_time).map(|at| at.0),
            listed: self.status.images.len(),
            cut: self.status.images.iter().filter_map(cut).collect(),
            images: self.status.images.into_iter().filter_map(image).collect(),
            image_volumes: has_image_volumes(&info),
            runtime: info.container_runtime_version,
        }
    }
}

/// The image with every name that can be read, in the words of a runtime.
fn image(image: Image) -> Option<RuntimeImage> {
    let names = image.names.unwrap_or_default();
    let references = names.iter().filter_map(|name| ImageRef::parse(name).ok());
    let references: Vec<ImageRef> = references.collect();
    let id = names.into_iter().next()?;
    let digest = references.iter().find_map(|r| r.digest().cloned());
    let found = RuntimeImage::new(id, references).with_digest(digest);
    Some(found.with_size(ByteSize::new(image.size_bytes)))
}

/// Names that may be missing from an entry. A tag that was pulled comes with a digest of its repository,
/// and all digests were told where a tag was.
fn cut(image: &Image) -> Option<Cut> {
    let names = image.names.as_deref().unwrap_or_default();
    if names.len() < NAMES_MAX {
        return None;
    }
    let (digests, tags): (Vec<_>, Vec<_>) = names.iter().partition(|name| name.contains('@'));
    if digests.is_empty() || tags.is_empty() {
        return Some(Cut::Any);
    }
    let references = names.iter().filter_map(|name| ImageRef::parse(name).ok());
    Some(Cut::Of(references.map(|r| r.name().to_owned()).collect()))
}

fn has_image_volumes(info: &Info) -> bool {
    let Some((runtime, version)) = info.container_runtime_version.split_once("://") else {
        return false;
    };
    let least = match runtime {
        "containerd" => CONTAINERD,
        "cri-o" => CRI_O,
        _ => return false,
    };
    let at_least = |text: &str, least| version_of(text).is_some_and(|found| found >= least);
    at_least(&info.kubelet_version, KUBELET) && at_least(version, least)
}

/// Major and minor of `v1.35.2+k3s1`, `2.1.4` and the like.
fn version_of(text: &str) -> Option<(u32, u32)> {
    let mut parts = text
        .trim_start_matches('v')
        .split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

impl NodeView {
    /// Whether one of the images that it tells of may have that name, too, without its being told.
    pub(super) fn may_hide(&self, image: &ImageRef) -> bool {
        self.cut.iter().any(|cut| match cut {
            Cut::Of(repositories) => repositories.contains(image.name()),
            Cut::Any => true,
        })
    }

    /// How images are pulled there. `refused` says that the API server does not know of image volumes.
    pub(super) fn method(&self, wanted: PullMethod, refused: bool) -> Method {
        match wanted {
            PullMethod::ImageVolume => Method::ImageVolume,
            PullMethod::Container => Method::Container,
            PullMethod::Auto if self.image_volumes && !refused => Method::ImageVolume,
            PullMethod::Auto => Method::Container,
        }
    }

    /// Where its runtime listens.
    pub(super) fn socket(&self, given: Option<&str>) -> Socket {
        let runtime = self.runtime.split("://").next().unwrap_or_default();
        let usual = match runtime {
            "cri-o" => "/var/run/crio/crio.sock",
            "docker" => "/var/run/docker.sock",
            _ => "/run/containerd/containerd.sock",
        };
        let path = given.unwrap_or(usual);
        Socket {
            docker: path.ends_with("/docker.sock"),
            path: path.to_owned(),
        }
    }
}

/// The socket of a runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Socket {
    /// Where it is on the node.
    pub(super) path: String,
    docker: bool,
}

impl Socket {
    /// The runtime that listens there, where the socket is at that path.
    pub(super) fn uri(&self, path: &str) -> String {
        match self.docker {
            true => format!("docker://{path}"),
            false => format!("unix://{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_view(kubelet: &str, runtime: &str) -> NodeView {
        let node = json!({
            "metadata": { "name": "a" },
            "status": {
                "conditions": [
                    { "type": "DiskPressure", "status": "False" },
                    { "type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z" },
                ],
                "nodeInfo": { "kubeletVersion": kubelet, "containerRuntimeVersion": runtime },
                "images": [
                    { "names": ["nginx@sha256:".to_owned() + &"a".repeat(64), "nginx:1".to_owned()],
                      "sizeBytes": 7 },
                    { "names": null },
                    { "names": ["<none>@<none>", "<none>:<none>"], "sizeBytes": 7 },
                ],
            },
        });
        let node: ReadNodeImages = serde_json::from_value(node).unwrap();
        node.into_view()
    }

    #[test]
    fn a_method_is_chosen_by_the_versions_of_both_sides() {
        for (kubelet, runtime, volumes) in [
            ("v1.35.0", "containerd://2.1.0", true),
            ("v1.36.2+k3s1", "containerd://2.2.1-k3s1", true),
            ("v1.35.0-gke.100", "cri-o://1.33.0", true),
            ("v1.34.9", "containerd://2.1.0", false),
            ("v1.35.0", "containerd://2.0.5", false),
            ("v1.35.0", "containerd://1.7.27", false),
            ("v1.35.0", "cri-o://1.32.4", false),
            ("v1.35.0", "docker://28.0.1", false),
            ("", "", false),
            ("v1", "containerd://x", false),
        ] {
            let view = mk_view(kubelet, runtime);
            let auto = view.method(PullMethod::Auto, false);
            assert_eq!(auto == Method::ImageVolume, volumes, "{kubelet} {runtime}");
            assert_eq!(view.method(PullMethod::Auto, true), Method::Container);
            assert_eq!(
                view.method(PullMethod::ImageVolume, true),
                Method::ImageVolume
            );
            assert_eq!(view.method(PullMethod::Container, false), Method::Container);
        }
    }

    #[test]
    fn the_socket_is_that_of_the_runtime_unless_one_is_given() {
        let uri = |runtime: &str, given: Option<&str>| {
            let socket = mk_view("v1.30.0", runtime).socket(given);
            (socket.path.clone(), socket.uri("/s"))
        };
        let containerd = uri("containerd://2.0.0", None);
        assert_eq!(containerd.0, "/run/containerd/containerd.sock");
        assert_eq!(containerd.1, "unix:///s");
        assert_eq!(uri("cri-o://1.30.0", None).0, "/var/run/crio/crio.sock");
        let docker = uri("docker://28.0.1", None);
        assert_eq!(docker.0, "/var/run/docker.sock");
        assert_eq!(docker.1, "docker:///s");
        let dockerd = uri("docker://28.0.1", Some("/run/cri-dockerd.sock"));
        assert_eq!(dockerd.1, "unix:///s");
    }

    #[test]
    fn images_are_read_as_a_runtime_lists_them() {
        let view = mk_view("", "");
        assert!(view.ready && view.told_at.is_some());
        let first = view.images.first().unwrap();
        let names: Vec<&str> = first.references.iter().map(|r| r.as_str()).collect();
        assert!(names.contains(&"docker.io/library/nginx:1"), "{names:?}");
        assert!(first.digest.is_some());
        // An image without a name is one that counts, and can't be asked for.
        assert_eq!((view.images.len(), view.listed), (2, 3));
    }

    #[test]
    fn five_names_of_an_image_may_not_be_all() {
        let digest = "a".repeat(64);
        let view = |names: &[&str]| {
            let named: Vec<String> = names
                .iter()
                .map(|n| n.replace('@', &format!("@sha256:{digest}")))
                .collect();
            let node = json!({ "status": { "images": [{ "names": named, "sizeBytes": 7 }] } });
            let node: ReadNodeImages = serde_json::from_value(node).unwrap();
            node.into_view()
        };
        let app = "a.test/app:9".parse().unwrap();
        for (names, hides) in [
            (
                vec![
                    "a.test/app@",
                    "a.test/app:1",
                    "a.test/app:2",
                    "a.test/app:3",
                ],
                false,
            ),
            (
                vec![
                    "a.test/app@",
                    "a.test/app:1",
                    "a.test/app:2",
                    "a.test/app:3",
                    "a.test/app:4",
                ],
                true,
            ),
            (
                vec![
                    "a.test/x@",
                    "a.test/x:1",
                    "a.test/x:2",
                    "a.test/x:3",
                    "a.test/x:4",
                ],
                false,
            ),
            (
                vec![
                    "a.test/x@",
                    "b.test/x@",
                    "c.test/x@",
                    "d.test/x@",
                    "e.test/x@",
                ],
                true,
            ),
            (
                vec![
                    "a.test/x:1",
                    "a.test/x:2",
                    "a.test/x:3",
                    "a.test/x:4",
                    "a.test/x:5",
                ],
                true,
            ),
        ] {
            assert_eq!(view(&names).may_hide(&app), hides, "{names:?}");
        }
    }
}
