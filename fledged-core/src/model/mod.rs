//! What things are: images, nodes, caches, and the contract between the two machines.
//!
//! Values are parsed once, at the edge; inside the crate a value of one of these types is valid.

mod assignment;
mod cache;
mod count;
mod digest;
mod duration;
mod grammar;
mod image;
mod names;
mod node;
mod report;
mod selector;
mod shown;
mod size;
mod spec;

pub use assignment::{AssignedImage, Assignment, AssignmentDefaults, DesiredState};
pub use cache::{IMAGES_MAX, ImageCache, ImageGroup, InvalidField, InvalidSpec};
pub use count::{CountOrPercent, ParseCountError};
pub use digest::{Digest, ParseDigestError};
pub use duration::{GoDuration, ParseDurationError};
pub use image::{ImageRef, ParseImageRefError};
pub use names::{CacheId, InvalidNodeName, NodeName, ObjectName};
pub use node::{NodeFacts, Taint, Toleration};
pub use report::{ImagePhase, ImageReport, NodeReport};
pub use selector::{InvalidSelector, NodeAffinity, NodeSelector, NodeSelectorTerm, Requirement};
pub use size::ByteSize;
pub use spec::{
    CacheSpecImages, DeletionPolicy, ImageCacheSpec, ImagePullPolicy, LocalObjectReference,
    ParsePullPolicyError, Rollout,
};
