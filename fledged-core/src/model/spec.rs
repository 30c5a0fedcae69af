//! The ImageCache spec as it stands on the wire: everything a user may write, not yet checked.
//!
//! A superset of kube-fledged's `kubefledged.io/v1alpha2`. [`ImageCacheSpec::validate`] turns it
//! into an [`ImageCache`](super::ImageCache), in which every value is valid.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{NodeAffinity, Toleration};

/// `spec` of an ImageCache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageCacheSpec {
    /// Which images on which nodes.
    pub cache_spec: Vec<CacheSpecImages>,
    /// Secrets with registry credentials, in the ImageCache's own namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// ServiceAccount whose `imagePullSecrets` are used as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// What happens to the images when the ImageCache is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_policy: Option<DeletionPolicy>,
    /// How fast the images go out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}

/// One entry of `spec.cacheSpec`: images, and the nodes they belong on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct CacheSpecImages {
    /// Image references.
    pub images: Vec<String>,
    /// Labels a node must have; absent or empty: all nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// When to pull an image that is present; the operator's default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Taints that are tolerated; absent: every taint is (as in kube-fledged).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,
    /// Node affinity, beside `nodeSelector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<NodeAffinity>,
}

/// The name of an object in the same namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LocalObjectReference {
    /// Its name.
    pub name: String,
}

/// When an image that is present is pulled again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ImagePullPolicy {
    /// Pulled where absent; references that move (no tag, `:latest`) are pulled again on a refresh.
    #[default]
    IfNotPresent,
    /// Pulled again whenever the cache is applied or refreshed.
    Always,
}

/// What happens to the images of an ImageCache that is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum DeletionPolicy {
    /// They stay on the nodes (kube-fledged's behaviour).
    #[default]
    Retain,
    /// They are removed first, where no other cache wants and no container uses them.
    Purge,
}

/// How fast images go out to nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Nodes that pull for this cache at once: a number, or a percentage of the matching nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent_nodes: Option<CountOrPercent>,
}

/// A number, or a percentage such as `"25%"` (`intstr.IntOrString`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CountOrPercent {
    /// That many.
    Count(u32),
    /// That share of the whole, written `N%`.
    Percent(String),
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for CountOrPercent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CountOrPercent".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "x-kubernetes-int-or-string": true,
        })
    }
}

impl fmt::Display for CountOrPercent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(text) => f.write_str(text),
        }
    }
}

impl CountOrPercent {
    /// The number it comes to among `whole`, rounded up; at least one. `None` when it is malformed.
    #[must_use]
    pub fn of(&self, whole: usize) -> Option<usize> {
        let count = match self {
            Self::Count(0) => return None,
            Self::Count(n) => usize::try_from(*n).ok()?,
            Self::Percent(text) => {
                let digits = text.strip_suffix('%')?;
                if !digits.bytes().all(|b| b.is_ascii_digit()) {
                    return None;
                }
                let share: usize = digits.parse().ok()?;
                if !(1..=100).contains(&share) {
                    return None;
                }
                whole.saturating_mul(share).div_ceil(100)
            }
        };
        Some(count.max(1))
    }
}
