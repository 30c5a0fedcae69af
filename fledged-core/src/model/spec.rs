//! The ImageCache spec as written by users, before validation.
//!
//! A superset of kube-fledged's `kubefledged.io/v1alpha2`. [`ImageCacheSpec::validate`] turns it
//! into an [`ImageCache`](super::ImageCache), in which every value is valid.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::names::is_dns_subdomain;
use super::value::shown;
use super::{
    ByteQuantity, CacheId, CountOrPercent, GoDuration, ImageRef, NodeAffinity, NodeFacts,
    ObjectName, PullLimit, PullRate, PullRateError, Taint, Toleration,
};

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
    /// Longest duration of the pull of one image, such as `30m`; the operator's default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
}

impl ImageCacheSpec {
    /// A spec with these entries, and defaults for all other fields.
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

    /// With this ServiceAccount.
    #[must_use]
    pub fn with_service_account_name(mut self, name: impl Into<String>) -> Self {
        self.service_account_name = Some(name.into());
        self
    }

    /// With this deletion policy.
    #[must_use]
    pub fn with_deletion_policy(mut self, policy: DeletionPolicy) -> Self {
        self.deletion_policy = Some(policy);
        self
    }

    /// With these limits of the rollout.
    #[must_use]
    pub fn with_rollout(mut self, rollout: Rollout) -> Self {
        self.rollout = Some(rollout);
        self
    }

    /// With this deadline of each pull, in Go's syntax: `30m`.
    #[must_use]
    pub fn with_deadline(mut self, deadline: impl Into<String>) -> Self {
        self.deadline = Some(deadline.into());
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
    /// Taints that are tolerated; absent: every taint except those of control-plane nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerations: Option<Vec<Toleration>>,
    /// Node affinity, beside `nodeSelector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<NodeAffinity>,
    /// Longest duration of the pull of one image of this entry, such as `30m`; the deadline of the
    /// ImageCache where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
}

impl CacheSpecImages {
    /// An entry with these images, for all nodes.
    pub fn new<I: Into<String>>(images: impl IntoIterator<Item = I>) -> Self {
        Self {
            images: images.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// Adds labels that a node must have.
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

    /// With this pull policy.
    #[must_use]
    pub fn with_image_pull_policy(mut self, policy: ImagePullPolicy) -> Self {
        self.image_pull_policy = Some(policy);
        self
    }

    /// With these tolerations: only nodes whose taints are tolerated get the images.
    #[must_use]
    pub fn with_tolerations(mut self, tolerations: impl IntoIterator<Item = Toleration>) -> Self {
        self.tolerations = Some(tolerations.into_iter().collect());
        self
    }

    /// With this affinity: only nodes that match get the images.
    #[must_use]
    pub fn with_node_affinity(mut self, affinity: NodeAffinity) -> Self {
        self.node_affinity = Some(affinity);
        self
    }

    /// With this deadline of each pull, in Go's syntax: `30m`.
    #[must_use]
    pub fn with_deadline(mut self, deadline: impl Into<String>) -> Self {
        self.deadline = Some(deadline.into());
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
    /// A reference to the object of this name.
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

/// The error for a string that is not a pull policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image pull policy \"{}\": it must be IfNotPresent or Always", shown(.value))]
pub struct ParsePullPolicyError {
    value: String,
}

impl ImagePullPolicy {
    /// Every policy.
    pub const ALL: [Self; 2] = [Self::IfNotPresent, Self::Always];

    /// The policy as written in a spec.
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

    /// Ignores case, unlike the parser of a spec.
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
    /// Bytes of layers that a node receives in a second for this cache, such as `20Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pull_rate_per_node: Option<ByteQuantity>,
}

impl Rollout {
    /// With this limit of nodes that pull at the same time.
    #[must_use]
    pub fn with_max_concurrent_nodes(mut self, nodes: CountOrPercent) -> Self {
        self.max_concurrent_nodes = Some(nodes);
        self
    }

    /// With this limit of bytes a second on each node, as Kubernetes writes quantities: `20Mi`.
    #[must_use]
    pub fn with_max_pull_rate_per_node(mut self, rate: impl Into<String>) -> Self {
        self.max_pull_rate_per_node = Some(ByteQuantity::new(rate));
        self
    }
}

/// Largest number of images in one list, so that objects stay below an API server's size limit.
pub const IMAGES_MAX: usize = 2_000;

/// Largest number of pull secrets of one cache. Each is tried for each image on each node.
pub const PULL_SECRETS_MAX: usize = 10;

/// Largest number of entries of one list or map that selects nodes: labels, tolerations, terms, expressions, values.
pub const SELECTORS_MAX: usize = 100;

/// Largest number of entries of all lists and maps that select nodes in one cache. The planner evaluates them for every
/// node.
pub const SELECTORS_TOTAL_MAX: usize = 10_000;

/// Shortest deadline of a pull.
pub const DEADLINE_MIN: Duration = Duration::from_secs(1);

/// Longest deadline of a pull.
pub const DEADLINE_MAX: Duration = Duration::from_secs(24 * 3_600);

/// An invalid field of a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidField {
    /// Path of the field, `spec.cacheSpec[0].images[2]`.
    pub field: String,
    /// The value as written.
    pub value: String,
    /// The problem with the value.
    pub problem: String,
}

impl InvalidField {
    /// An invalid field with its value and the problem.
    pub fn new(
        field: impl Into<String>,
        value: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        Self {
            field: field.into(),
            value: value.into(),
            problem: problem.into(),
        }
    }
}

impl fmt::Display for InvalidField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value.is_empty() {
            return write!(f, "{}: {}", self.field, self.problem);
        }
        write!(
            f,
            "{}: \"{}\": {}",
            self.field,
            shown(&self.value),
            self.problem
        )
    }
}

/// An invalid spec, with all its invalid fields; there is at least one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .fields.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
#[non_exhaustive]
pub struct InvalidSpec {
    /// Every invalid field, in the order of the spec.
    pub fields: Vec<InvalidField>,
}

impl InvalidSpec {
    /// A spec in which these fields are invalid.
    pub fn new(fields: impl IntoIterator<Item = InvalidField>) -> Self {
        Self {
            fields: fields.into_iter().collect(),
        }
    }
}

/// A valid image cache, created by [`ImageCacheSpec::validate`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageCache {
    /// Identity of the cache.
    pub id: CacheId,
    /// Images, and the nodes they belong on.
    pub groups: Vec<ImageGroup>,
    /// Secrets with registry credentials.
    pub pull_secrets: Vec<ObjectName>,
    /// ServiceAccount whose pull secrets are used as well.
    pub service_account: Option<ObjectName>,
    /// What happens to the images when the cache is deleted.
    pub deletion_policy: DeletionPolicy,
    /// How fast the images go out.
    pub rollout: Rollout,
    /// Bytes of layers that a node receives in a second for this cache; `None`: no limit of its own.
    pub max_pull_rate: Option<PullRate>,
}

impl ImageCache {
    /// The limit of its pulls on each node.
    #[must_use]
    pub fn pull_limit(&self) -> Option<PullLimit> {
        Some(PullLimit::new(self.id.clone(), self.max_pull_rate?))
    }

    /// The longest deadline of its images, if that is longer than `longest`, which counts in its place.
    #[must_use]
    pub fn deadline_above(&self, longest: Duration) -> Option<Duration> {
        let deadlines = self.groups.iter().filter_map(|group| group.deadline);
        deadlines.filter(|deadline| *deadline > longest).max()
    }
}

/// Images that belong on the same nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageGroup {
    /// The images in the order of the spec, each once.
    pub images: Vec<ImageRef>,
    /// Labels a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Affinity a node must match.
    pub node_affinity: NodeAffinity,
    /// Taints that are tolerated; `None`: all but those of control-plane nodes.
    pub tolerations: Option<Vec<Toleration>>,
    /// When to pull an image that is present; `None`: the operator's default.
    pub pull_policy: Option<ImagePullPolicy>,
    /// Deadline of each pull; `None`: the operator's default.
    pub deadline: Option<Duration>,
}

impl ImageGroup {
    /// Whether the group matches a node by labels, affinity and taints. Readiness does not matter. A virtual node
    /// matches nothing.
    #[must_use]
    pub fn matches(&self, node: &NodeFacts) -> bool {
        self.selects(node) && self.untolerated(node).is_none() && node.virtual_mark().is_none()
    }

    /// The first taint of the node that the group does not tolerate. Without tolerations, a group tolerates every
    /// taint except those of control-plane nodes, where etcd shares the disk.
    #[must_use]
    pub fn untolerated<'n>(&self, node: &'n NodeFacts) -> Option<&'n Taint> {
        let tolerated = |taint: &Taint| match &self.tolerations {
            None => !taint.marks_control_plane(),
            Some(list) => list.iter().any(|toleration| toleration.tolerates(taint)),
        };
        let mut taints = node.taints.iter();
        taints.find(|taint| taint.repels() && !tolerated(taint))
    }

    /// Whether the group selects a node by labels and affinity. Taints do not matter.
    #[must_use]
    pub fn selects(&self, node: &NodeFacts) -> bool {
        self.node_selector
            .iter()
            .all(|(key, value)| node.labels.get(key) == Some(value))
            && self.node_affinity.matches(node.name.as_str(), &node.labels)
    }
}

/// Checks the name of an object that will be read from an API server.
fn object_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if !is_dns_subdomain(name) {
        return Err("must be a DNS subdomain".to_owned());
    }
    Ok(())
}

/// Parses a deadline of pulls.
fn pull_deadline(text: &str) -> Result<Duration, String> {
    match text.parse::<GoDuration>() {
        Ok(GoDuration(deadline)) if (DEADLINE_MIN..=DEADLINE_MAX).contains(&deadline) => {
            Ok(deadline)
        }
        _ => Err(format!(
            "must be a duration from {} to {}, for example 30m",
            GoDuration(DEADLINE_MIN),
            GoDuration(DEADLINE_MAX)
        )),
    }
}

impl ImageCacheSpec {
    /// Validates every field and returns the cache.
    ///
    /// An image that occurs twice in one list with the same spelling is refused, as by kube-fledged's
    /// webhook. Different spellings of one image (`nginx`, `nginx:latest`) are merged.
    ///
    /// # Errors
    ///
    /// [`InvalidSpec`] with every invalid field, its path and its value.
    pub fn validate(&self, id: CacheId) -> Result<ImageCache, InvalidSpec> {
        let mut invalid = Vec::new();
        let mut refuse = |field: String, value: &str, problem: String| {
            invalid.push(InvalidField {
                field,
                value: value.to_owned(),
                problem,
            });
        };
        if self.cache_spec.is_empty() {
            refuse(
                "spec.cacheSpec".to_owned(),
                "",
                "must have at least one entry".to_owned(),
            );
        }
        let mut deadline = |field: String, text: &Option<String>| {
            let text = text.as_deref()?;
            let parsed = pull_deadline(text);
            parsed.map_err(|problem| refuse(field, text, problem)).ok()
        };
        let of_cache = deadline("spec.deadline".to_owned(), &self.deadline);
        let entries = self.cache_spec.iter().enumerate();
        let deadlines: Vec<Option<Duration>> = entries
            .map(|(i, entry)| {
                let of_entry = deadline(format!("spec.cacheSpec[{i}].deadline"), &entry.deadline);
                of_entry.or(of_cache)
            })
            .collect();
        let mut selectors = 0;
        let mut groups = Vec::with_capacity(self.cache_spec.len());
        for (i, (entry, deadline)) in self.cache_spec.iter().zip(deadlines).enumerate() {
            let at = format!("spec.cacheSpec[{i}]");
            if entry.images.is_empty() {
                refuse(
                    format!("{at}.images"),
                    "",
                    "must name at least one image".to_owned(),
                );
            }
            if entry.images.len() > IMAGES_MAX {
                refuse(
                    format!("{at}.images"),
                    "",
                    format!(
                        "names {} images, the limit is {IMAGES_MAX}",
                        entry.images.len()
                    ),
                );
            }
            let mut written = BTreeSet::new();
            let mut known = BTreeSet::new();
            let mut images = Vec::with_capacity(entry.images.len());
            for (j, text) in entry.images.iter().enumerate() {
                let field = || format!("{at}.images[{j}]");
                if !written.insert(text) {
                    refuse(field(), text, "is named twice in this list".to_owned());
                    continue;
                }
                match ImageRef::parse(text) {
                    Ok(image) => {
                        if known.insert(image.clone()) {
                            images.push(image);
                        }
                    }
                    Err(error) => refuse(field(), text, error.problem().to_owned()),
                }
            }
            if let Some((field, count)) = over_limit(entry) {
                let problem = format!("has {count} entries, the limit is {SELECTORS_MAX}");
                refuse(format!("{at}.{field}"), "", problem);
            }
            selectors += selector_count(entry);
            let node_affinity = entry.node_affinity.clone().unwrap_or_default();
            for error in node_affinity.problems() {
                refuse(format!("{at}.nodeAffinity"), &error.key, error.problem);
            }
            for (j, toleration) in entry.tolerations.iter().flatten().enumerate() {
                for (field, value, problem) in toleration.problems() {
                    refuse(format!("{at}.tolerations[{j}].{field}"), value, problem);
                }
            }
            groups.push(ImageGroup {
                images,
                node_selector: entry.node_selector.clone().unwrap_or_default(),
                node_affinity,
                tolerations: entry.tolerations.clone(),
                pull_policy: entry.image_pull_policy,
                deadline,
            });
        }
        if selectors > SELECTORS_TOTAL_MAX {
            let problem = format!(
                "selects nodes by {selectors} labels, tolerations and values, the limit is \
                 {SELECTORS_TOTAL_MAX}"
            );
            refuse("spec.cacheSpec".to_owned(), "", problem);
        }
        let secrets = self.image_pull_secrets.len();
        if secrets > PULL_SECRETS_MAX {
            let problem = format!("names {secrets} secrets, the limit is {PULL_SECRETS_MAX}");
            refuse("spec.imagePullSecrets".to_owned(), "", problem);
        }
        for (i, secret) in self.image_pull_secrets.iter().enumerate() {
            if let Err(problem) = object_name(&secret.name) {
                refuse(
                    format!("spec.imagePullSecrets[{i}].name"),
                    &secret.name,
                    problem,
                );
            }
        }
        if let Some(account) = &self.service_account_name
            && let Err(problem) = object_name(account)
        {
            refuse("spec.serviceAccountName".to_owned(), account, problem);
        }
        let rollout = self.rollout.clone().unwrap_or_default();
        if let Some(limit) = &rollout.max_concurrent_nodes
            && let Err(error) = limit.check()
        {
            refuse(
                "spec.rollout.maxConcurrentNodes".to_owned(),
                &limit.to_string(),
                error.problem().to_owned(),
            );
        }
        let rate = rollout.max_pull_rate_per_node.as_ref();
        let max_pull_rate = rate.and_then(|rate| {
            let parsed = rate.as_str().parse::<PullRate>();
            let field = || "spec.rollout.maxPullRatePerNode".to_owned();
            let refused = |error: PullRateError| refuse(field(), rate.as_str(), error.to_string());
            parsed.map_err(refused).ok()
        });
        if !invalid.is_empty() {
            return Err(InvalidSpec { fields: invalid });
        }
        let named = |name: &String| ObjectName {
            namespace: id.namespace.clone(),
            name: name.clone(),
        };
        Ok(ImageCache {
            groups,
            pull_secrets: self
                .image_pull_secrets
                .iter()
                .map(|s| named(&s.name))
                .collect(),
            service_account: self.service_account_name.as_ref().map(named),
            deletion_policy: self.deletion_policy.unwrap_or_default(),
            rollout,
            max_pull_rate,
            id,
        })
    }
}

/// The number of entries of each list and map by which a group selects nodes.
fn selector_lists(group: &CacheSpecImages) -> Vec<(&'static str, usize)> {
    let mut lists = vec![
        (
            "nodeSelector",
            group.node_selector.as_ref().map_or(0, BTreeMap::len),
        ),
        (
            "tolerations",
            group.tolerations.as_ref().map_or(0, Vec::len),
        ),
    ];
    let affinity = group.node_affinity.as_ref();
    let required = affinity.and_then(|affinity| {
        let required = &affinity.required_during_scheduling_ignored_during_execution;
        required.as_ref()
    });
    let terms = required.map_or(&[][..], |required| &required.node_selector_terms);
    lists.push(("nodeAffinity", terms.len()));
    for term in terms {
        lists.push(("nodeAffinity", term.match_expressions.len()));
        lists.push(("nodeAffinity", term.match_fields.len()));
        let requirements = term.match_expressions.iter().chain(&term.match_fields);
        lists.extend(requirements.map(|one| ("nodeAffinity", one.values.len())));
    }
    lists
}

fn selector_count(group: &CacheSpecImages) -> usize {
    selector_lists(group)
        .into_iter()
        .map(|(_, count)| count)
        .sum()
}

/// The first list or map that is too long.
fn over_limit(group: &CacheSpecImages) -> Option<(&'static str, usize)> {
    let mut lists = selector_lists(group).into_iter();
    lists.find(|(_, count)| *count > SELECTORS_MAX)
}
