//! Nodes without agents: Kubernetes Jobs pull and remove images.
//!
//! [`JobDriver`] goes into [`ControllerConfig::driver`](crate::controller::ControllerConfig::driver).
//! It watches Jobs, pods, nodes and NodeImageCaches. For each affected node it runs one pure function,
//! `reconcile`, of the assignment, the observed objects and the memory of the node. Then it creates and
//! deletes Jobs and writes the node's status. The back-off is that of an agent. A restart needs no special
//! path: the function runs on the existing objects and the last written status.
//!
//! # Pulls
//!
//! One Job pulls all images that a node lacks (one per namespace whose caches want some, of at most
//! [`images_per_job`](JobOptions::images_per_job) images), with the pull secrets of the caches and of their
//! ServiceAccounts. Each image has a container, and has been pulled once that container has started. With
//! [`PullMethod::ImageVolume`] the container runs the operator's program and mounts the image; with
//! [`PullMethod::Container`] it runs the image, with the operator's program in place of its entry point.
//! Nothing of an image is ever run. The kubelet's reason is reported as soon as it fails; the Job stays
//! while the kubelet retries, until its deadline.
//!
//! A round begins at the Job's `creationTimestamp`. A kubelet pulls the images of a pod one after another
//! and reports none before it has tried all, so `activeDeadlineSeconds` is the sum of the images'
//! deadlines. Until a kubelet has accepted the pod, the round ends after one deadline.
//!
//! # Removals
//!
//! A Job in the operator's namespace mounts the runtime's socket and runs `fledged-operator job remove`
//! with the images as arguments, never a shell. Its termination message has the outcome of each image. The
//! Job stays until the kubelet's list of images is newer than the removal, so that no restart forgets it.
//!
//! # Presence
//!
//! The driver can't read a runtime. An image counts as present once its container has started, or when
//! the node's status lists it, until the node's status is complete, newer and does not list it. No evidence
//! counts that is older than the driver's own last removal of the image. A kubelet's list of 50 images is
//! incomplete: absence from it proves nothing. A refresh on demand adds no further check: a fixed tag gets
//! a Job only if it is not known to be present.
//!
//! # Which Jobs count
//!
//! Jobs that this driver created, recognised by UID or field manager, and by their content; pods that such
//! a Job owns and that run its template. Labels and names alone prove nothing.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use fledged_operator::controller::{Controller, ControllerConfig};
//! use fledged_operator::jobs::{JobDriver, JobOptions};
//!
//! let client = kube::Client::try_default().await?;
//! let image = "registry.example.com/fledged-operator:0.1.0".parse()?;
//! let driver = JobDriver::new(client.clone(), JobOptions::new(image, "kube-fledged"));
//! let mut config = ControllerConfig::default();
//! config.driver = Some(Arc::new(driver));
//! let controller = Controller::new(client, config);
//! controller.run(std::future::pending()).await?;
//! # Ok(())
//! # }
//! ```

mod driver;
mod job_object;
mod memory;
mod objects;
mod observe;
mod options;
mod pod;
mod reconcile;
mod removal_program;
mod requests;

pub use driver::JobDriver;
pub use options::{JobOptions, PullMethod, Retention};
pub use removal_program::{MESSAGE_MAX, RemovalOutcomes, remove_images};

/// Field manager of the Jobs and node statuses that this driver writes.
pub const FIELD_MANAGER: &str = "fledged-job-driver";
