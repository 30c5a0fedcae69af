//! Shared test support: real containerd, Docker Engine and registries in temporary folders, images
//! to push, a proxy that injects registry faults, and a runner for the `fledged` binary.
//!
//! All functions block, and may be called from a plain test and from inside an async runtime. A fixture
//! that cannot start panics, which fails the test. Dropping a fixture stops its processes by PID, unmounts
//! their file systems and deletes its folder, also while a test panics.
//!
//! ```no_run
//! use fledged_tests::{Containerd, Fledged, ImageBuilder, Registry, require};
//!
//! if !require(&["containerd", "docker-registry"]) {
//!     return; // printed "skipped: ..."; with CI=true it panics instead
//! }
//! let registry = Registry::start(); // or Registry::start_with_htpasswd("user", "password")
//! let containerd = Containerd::start(); // .socket() .uri() .kill9() .restart() .ctr(&[..])
//! let pushed = ImageBuilder::new()
//!     .random_layer("data", 1, 64 * 1024) // name, seed, bytes
//!     .push(&registry, "team/app", "1.0");
//! let output = Fledged::new()
//!     .args(["node", "apply", "-f", "cache.yaml", "--runtime", &containerd.uri()])
//!     .run();
//! assert_eq!(output.code, Some(0), "{output}");
//! assert_eq!(registry.requests_matching("GET", "/blobs/").len(), 2);
//! println!("{} {}", pushed.reference, pushed.digest);
//! ```
//!
//! | fixture | what it starts |
//! |---|---|
//! | [`Registry`] | docker-registry on a loopback port, plain or with htpasswd; its request log |
//! | [`Containerd`] | containerd with the CRI plugin, overlayfs; `kill9`, `restart`, `ctr` |
//! | [`Dockerd`] | Docker Engine with its own containerd; `kill9`, `stop`, `restart` |
//! | [`FakeCri`] | a CRI runtime in memory: scripted failures, delays and images in use; records its requests |
//! | [`FaultProxy`] | a proxy in front of a registry with scripted [`Fault`]s, and a timed request log |
//! | [`ImageBuilder`], [`ImageIndexBuilder`] | deterministic OCI images, pushed over HTTP |
//! | [`ManifestFile`] | an ImageCache in a file that tests can edit |
//! | [`simulation`] | the real controller and agents on simulated time, with faults from a seed |
//! | [`campaign`] | random faults against real containerd, docker-registry, API server and operator |
//! | [`kube::World`] | an API server, the operator's controller, nodes with agents on runtimes in memory |
//! | [`Fledged`] | the `fledged` or `fledged-operator` binary, with a deadline, its output captured |
//! | [`pull_like_the_kubelet`] | pulls over CRI as the kubelet does, without code of fledged |
//! | [`check_layout`] | checks that an OCI image layout is valid |
//! | [`poll_until`] | waits for a condition, with a deadline |

// A fixture that fails must fail the test that uses it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

pub mod arguments;
pub mod campaign;
mod command;
mod containerd;
mod cri_proto;
mod docker;
mod fake_cri;
mod fault_proxy;
mod fault_script;
pub mod hostile_bytes;
pub mod http;
mod images;
pub mod kube;
mod kubelet;
mod layers;
mod layout_check;
pub mod leftovers;
mod manifest;
mod poll;
mod process;
mod push;
mod registry;
mod require;
pub mod simulation;

pub use command::{Fledged, Output, Running, find_fledged, find_operator, fledged_binary};
pub use containerd::Containerd;
pub use docker::Dockerd;
pub use fake_cri::{Code, CriRequest, FakeContainer, FakeCri, FakeImage, Interface, SentAuth};
pub use fault_proxy::FaultProxy;
pub use fault_script::{Fault, ProxiedRequest, Rule};
pub use images::{Image, ImageBuilder, ImageIndexBuilder, Platform, images_with_shared_base};
pub use kubelet::pull_like_the_kubelet;
pub use layers::{Compression, Layer};
pub use layout_check::{LayoutContent, check_layout};
pub use leftovers::unmount_below;
pub use manifest::ManifestFile;
pub use poll::{SOON, poll_until};
pub use push::Pushed;
pub use registry::{LoggedRequest, Registry, RegistryEndpoint};
pub use require::{require, skipped};
