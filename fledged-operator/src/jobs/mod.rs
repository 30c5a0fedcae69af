//! Nodes without agents: images are pulled and removed by Kubernetes Jobs.
//!
//! [`JobDriver`] is handed to [`ControllerBuilder::driver`](crate::controller::ControllerBuilder::driver).
//! For each node that something is assigned to, it runs the same state machine that an agent runs
//! (`fledged_core::warmer::Warmer`), in the controller's process, over a runtime that makes the node's
//! kubelet act. What decides is therefore the same: deadlines, delays, refreshes, what may be removed.
//!
//! # Pulls
//!
//! All images that a node lacks are pulled by one Job (one for each namespace whose caches want some, of
//! at most [`images_per_job`](JobOptions::images_per_job) images), with the pull secrets of the caches and
//! of their ServiceAccounts. Each image has a container, and has been pulled once that container exists. By
//! [`PullMethod::ImageVolume`] the container runs our own program and mounts the image; by
//! [`PullMethod::Container`] it runs the image, with our program in place of its own. Nothing of an image
//! is ever run. Why an image can't be pulled is told as soon as the kubelet says so; the Job stays while
//! the kubelet goes on trying and somebody waits, and whoever comes back waits for the same Job.
//!
//! A kubelet pulls the images of a pod one after another and tells of none before it has come to all, so
//! each of them has as many deadlines as there are images in the pod, once a kubelet has taken the pod.
//!
//! # Removals
//!
//! A Job in the operator's namespace mounts the runtime's socket and runs `fledged-operator job remove`
//! with the images as arguments, never a shell; what became of each stands in its termination message.
//!
//! # Presence
//!
//! From afar nobody can read a runtime. An image counts as present from when its container existed, or
//! when the node's status names it, until the node's status, complete and newer, does not. A kubelet's list
//! of 50 images is cut: absence from it says nothing. A refresh on demand looks no further: of an image
//! that does not move, it has a Job only where it is not known to be there.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use fledged_operator::controller::Controller;
//! use fledged_operator::jobs::{JobDriver, JobOptions};
//!
//! let client = kube::Client::try_default().await?;
//! let image = "registry.example.com/fledged-operator:0.1.0".parse()?;
//! let driver = JobDriver::new(client.clone(), JobOptions::new(image, "kube-fledged"));
//! let controller = Controller::builder(client).driver(Arc::new(driver)).build();
//! controller.run(std::future::pending()).await?;
//! # Ok(())
//! # }
//! ```

mod answers;
mod batch;
mod driver;
mod hub;
mod job;
mod listing;
mod live_job;
mod metrics;
mod names;
mod node;
mod node_task;
mod options;
mod outcome;
mod pace;
mod plans;
mod pod;
mod presence;
mod removals;
mod remove;
mod requests;
mod runtime;
mod scope;
mod slot;
mod spec;
mod told;
mod upkeep;
mod wanted;
mod watched;
mod worker;

pub use driver::JobDriver;
pub use metrics::JobMetrics;
pub use options::{JobOptions, PullMethod, Retention};
pub use outcome::{MESSAGE_MAX, RemovalOutcomes};
pub use remove::remove_images;

/// Field manager of the statuses that this driver writes of nodes.
pub const FIELD_MANAGER: &str = "fledged-job-driver";
