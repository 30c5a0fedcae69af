//! The types of the domain: images, nodes, caches, assignments and reports.
//!
//! Values are parsed once, at the edge; inside the crate a value of one of these types is valid.

mod assignment;
mod image;
mod names;
mod node;
mod protected;
mod pull_rate;
mod report;
mod share_limit;
mod spec;
mod value;

pub use assignment::{
    AssignedImage, Assignment, AssignmentDefaults, DesiredState, RemovalCause, RemovalOrder,
};
pub use image::{Digest, ImageRef, ParseDigestError, ParseImageRefError};
pub use names::{CacheId, InvalidNodeName, NodeName, ObjectName};
pub use node::{
    InvalidSelector, NodeAffinity, NodeFacts, NodeSelector, NodeSelectorTerm, Requirement, Taint,
    Toleration,
};
pub use protected::ProtectedImages;
pub use pull_rate::{ByteQuantity, PullLimit, PullRate, PullRateError};
pub use report::{ImagePhase, ImageReport, NodeReport, PulledVia, SUPERSEDED_MAX};
pub use share_limit::{ShareLimit, ShareLimitError};
pub use spec::{
    CacheSpecImages, DEADLINE_MAX, DEADLINE_MIN, DeletionPolicy, IMAGES_MAX, ImageCache,
    ImageCacheSpec, ImageGroup, ImagePullPolicy, InvalidField, InvalidSpec, LocalObjectReference,
    PULL_SECRETS_MAX, ParsePullPolicyError, Rollout, SELECTORS_MAX, SELECTORS_TOTAL_MAX,
};
pub use value::{
    ByteSize, CountOrPercent, GoDuration, ParseByteSizeError, ParseCountError, ParseDurationError,
};
