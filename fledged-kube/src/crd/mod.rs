//! The custom resources, and their conversion to and from the model of core.
//!
//! Group `kubefledged.io`, version `v1alpha2`. [`ImageCache`] is a superset of kube-fledged's, so every manifest,
//! annotation and status reader keeps working. [`NodeImageCache`] is the interface between the controller and the
//! agents.

mod definitions;
mod image_cache;
mod node_image_cache;

pub use definitions::{INSTALLER, InstallError, definitions, definitions_yaml, install};
pub use image_cache::{ImageCache, ImageCacheSpec, ImageCacheStatus, NodeReasonMessage, ReadCache};
pub use node_image_cache::as_recorded;
pub use node_image_cache::{
    CacheReference, InvalidAssignment, NodeImage, NodeImageCache, NodeImageCacheSpec,
    NodeImageCacheStatus, NodeImageStatus, ReadNodeCache,
};

/// API group of the custom resources.
pub const GROUP: &str = "kubefledged.io";
/// Version of the custom resources.
pub const VERSION: &str = "v1alpha2";
/// Annotation on an [`ImageCache`] that requests a refresh. The value is ignored.
pub const REFRESH_ANNOTATION: &str = "kubefledged.io/refresh-imagecache";
/// Annotation on an [`ImageCache`] that requests a purge. The value is ignored.
pub const PURGE_ANNOTATION: &str = "kubefledged.io/purge-imagecache";
/// Finalizer on an [`ImageCache`] whose images are removed before it is deleted.
pub const FINALIZER: &str = "kubefledged.io/purge-images";
