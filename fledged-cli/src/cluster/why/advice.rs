//! What to do about a pull that failed.

use fledged_core::error::Reason;

/// For the reason that the node's agent gives.
pub(super) fn advice(reason: Reason, architecture: &str) -> String {
    match reason {
        Reason::Unauthorized => {
            "name a Secret with the registry's credentials in spec.imagePullSecrets, or a ServiceAccount that has one in spec.serviceAccountName".to_owned()
        }
        Reason::CredentialsUnavailable => {
            "make the Secrets that spec.imagePullSecrets or the ServiceAccount names, in the namespace of the ImageCache, and let the agents read them".to_owned()
        }
        Reason::ImageNotFound => {
            "push the image, or correct its reference in spec.cacheSpec".to_owned()
        }
        Reason::PlatformNotFound => format!(
            "publish the image for {}, or keep it from such nodes with a nodeSelector on kubernetes.io/arch",
            match architecture {
                "" => "the node's platform",
                known => known,
            }
        ),
        Reason::TooManyRequests => {
            "wait; a lower spec.rollout.maxConcurrentNodes asks the registry for less at a time".to_owned()
        }
        Reason::RegistryError | Reason::ConnectionFailed => {
            "see that the node reaches the registry and that it is up; it is tried again by itself".to_owned()
        }
        Reason::DeadlineExceeded => {
            "see how fast the node reaches the registry; the controller's --image-pull-deadline-duration gives it longer".to_owned()
        }
        Reason::DigestMismatch | Reason::InvalidImage => {
            "push the image again: what the registry serves is not what it should be".to_owned()
        }
        Reason::DiskFull => "make room on the node's image file system".to_owned(),
        Reason::InvalidReference => "correct the reference in spec.cacheSpec".to_owned(),
        Reason::RuntimeUnavailable | Reason::RuntimeUnsupported | Reason::StoreUnusable => {
            "look at the container runtime of the node".to_owned()
        }
        _ => "read what the runtime says, above".to_owned(),
    }
}
