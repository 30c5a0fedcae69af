//! The ImageCache spec as it stands on the wire: everything a user may write, not yet checked.
//!
//! A superset of kube-fledged's `kubefledged.io/v1alpha2`. [`ImageCacheSpec::validate`] turns it
//! into an [`ImageCache`](super::ImageCache), in which every value is valid.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::shown::shown;
use super::{CountOrPercent, NodeAffinity, Toleration};

/// `spec` of an ImageCache.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
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

impl ImageCacheSpec {
    /// These images on these nodes, and nothing else said.
    pub fn new(entries: impl IntoIterator<Item = CacheSpecImages>) -> Self {
        Self {
            cache_spec: entries.into_iter().collect(),
            ..Self::default()
        }
    }

    /// With secrets of these names.
    #[must_use]
    pub fn with_image_pull_secrets<N: Into<String>>(
        mut self,
        names: impl IntoIterator<Item = N>,
    ) -> Self {
        let names = names.into_iter();
        self.image_pull_secrets = names.map(LocalObjectReference::new).collect();
        self
    }

    /// With that ServiceAccount.
    #[must_use]
    pub fn with_service_account_name(mut self, name: impl Into<String>) -> Self {
        self.service_account_name = Some(name.into());
        self
    }

    /// With that deletion policy.
    #[must_use]
    pub fn with_deletion_policy(mut self, policy: DeletionPolicy) -> Self {
        self.deletion_policy = Some(policy);
        self
    }

    /// At that pace.
    #[must_use]
    pub fn with_rollout(mut self, rollout: Rollout) -> Self {
        self.rollout = Some(rollout);
        self
    }
}

/// One entry of `spec.cacheSpec`: images, and the nodes they belong on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
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

impl CacheSpecImages {
    /// These images, on all nodes.
    pub fn new<I: Into<String>>(images: impl IntoIterator<Item = I>) -> Self {
        Self {
            images: images.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// Only on nodes with these labels, beside those that were named before.
    #[must_use]
    pub fn with_node_selector<K: Into<String>, V: Into<String>>(
        mut self,
        labels: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let labels = labels
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()));
        self.node_selector.get_or_insert_default().extend(labels);
        self
    }

    /// With that pull policy.
    #[must_use]
    pub fn with_image_pull_policy(mut self, policy: ImagePullPolicy) -> Self {
        self.image_pull_policy = Some(policy);
        self
    }

    /// Only on nodes whose taints these tolerate.
    #[must_use]
    pub fn with_tolerations(mut self, tolerations: impl IntoIterator<Item = Toleration>) -> Self {
        self.tolerations = Some(tolerations.into_iter().collect());
        self
    }

    /// Only on nodes that match that affinity.
    #[must_use]
    pub fn with_node_affinity(mut self, affinity: NodeAffinity) -> Self {
        self.node_affinity = Some(affinity);
        self
    }
}

/// The name of an object in the same namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LocalObjectReference {
    /// Its name.
    pub name: String,
}

impl LocalObjectReference {
    /// The object of that name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }
}

/// When an image that is present is pulled again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub enum ImagePullPolicy {
    /// Pulled where absent; references that move (no tag, `:latest`) are pulled again on a refresh.
    #[default]
    IfNotPresent,
    /// Pulled again whenever the cache is applied or refreshed.
    Always,
}

/// Why a string is not a pull policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image pull policy \"{}\": it must be IfNotPresent or Always", shown(.value))]
pub struct ParsePullPolicyError {
    value: String,
}

impl ImagePullPolicy {
    /// Every policy.
    pub const ALL: [Self; 2] = [Self::IfNotPresent, Self::Always];

    /// The word as it stands in a spec.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IfNotPresent => "IfNotPresent",
            Self::Always => "Always",
        }
    }
}

impl fmt::Display for ImagePullPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ImagePullPolicy {
    type Err = ParsePullPolicyError;

    /// Case does not matter here; in a spec it does.
    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let same = |policy: &Self| policy.as_str().eq_ignore_ascii_case(value);
        let found = Self::ALL.into_iter().find(same);
        found.ok_or_else(|| ParsePullPolicyError {
            value: value.to_owned(),
        })
    }
}

/// What happens to the images of an ImageCache that is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
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
#[non_exhaustive]
pub struct Rollout {
    /// Nodes that pull for this cache at once: a number, or a percentage of the matching nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent_nodes: Option<CountOrPercent>,
}

impl Rollout {
    /// With at most that many nodes at once.
    #[must_use]
    pub fn with_max_concurrent_nodes(mut self, nodes: CountOrPercent) -> Self {
        self.max_concurrent_nodes = Some(nodes);
        self
    }
}
