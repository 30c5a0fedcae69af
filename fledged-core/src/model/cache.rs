//! A valid image cache, and how a spec becomes one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::names::is_dns_subdomain;
use super::shown::shown;
use super::{
    CacheId, DeletionPolicy, ImageCacheSpec, ImagePullPolicy, ImageRef, NodeAffinity, NodeFacts,
    ObjectName, Rollout, Toleration,
};

/// Most images one list may name; keeps objects within what an API server stores.
pub const IMAGES_MAX: usize = 2_000;

/// One field of a spec that is not valid.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidField {
    /// Path of the field, `spec.cacheSpec[0].images[2]`.
    pub field: String,
    /// The value, as it was written.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
}

impl InvalidField {
    /// What is wrong with that value of that field.
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

/// A spec with at least one invalid field; says all of them.
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

/// An image cache whose every value is valid; [`ImageCacheSpec::validate`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageCache {
    /// Which cache this is.
    pub id: CacheId,
    /// Images, and the nodes they belong on.
    pub groups: Vec<ImageGroup>,
    /// Secrets with registry credentials.
    pub pull_secrets: Vec<ObjectName>,
    /// ServiceAccount whose pull secrets are used as well.
    pub service_account: Option<ObjectName>,
    /// What a deletion does to the images.
    pub deletion_policy: DeletionPolicy,
    /// How fast the images go out.
    pub rollout: Rollout,
}

/// Images that belong on the same nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageGroup {
    /// The images, each once, in the order written.
    pub images: Vec<ImageRef>,
    /// Labels a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Affinity a node must match.
    pub node_affinity: NodeAffinity,
    /// Taints that are tolerated; `None`: all.
    pub tolerations: Option<Vec<Toleration>>,
    /// When to pull what is present; `None`: the operator's default.
    pub pull_policy: Option<ImagePullPolicy>,
}

impl ImageGroup {
    /// Whether that node is meant, by labels, affinity and taints. Readiness is not asked here.
    #[must_use]
    pub fn matches(&self, node: &NodeFacts) -> bool {
        let tolerated = |taint| match &self.tolerations {
            None => true,
            Some(list) => list.iter().any(|t: &Toleration| t.tolerates(taint)),
        };
        self.selects(node) && node.taints.iter().filter(|t| t.repels()).all(tolerated)
    }

    /// Whether that node is meant by labels and affinity, whatever its taints.
    #[must_use]
    pub fn selects(&self, node: &NodeFacts) -> bool {
        self.node_selector
            .iter()
            .all(|(key, value)| node.labels.get(key) == Some(value))
            && self.node_affinity.matches(node.name.as_str(), &node.labels)
    }
}

/// Checks the name of an object that is to be read from an API server.
fn object_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if !is_dns_subdomain(name) {
        return Err("must be a DNS subdomain".to_owned());
    }
    Ok(())
}

impl ImageCacheSpec {
    /// Checks every field and returns the cache it describes.
    ///
    /// An image written twice in one list in the same words is refused, as kube-fledged's webhook
    /// does; one written twice in different words (`nginx`, `nginx:latest`) is taken once.
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
        let mut groups = Vec::with_capacity(self.cache_spec.len());
        for (i, entry) in self.cache_spec.iter().enumerate() {
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
            let node_affinity = entry.node_affinity.clone().unwrap_or_default();
            if let Err(error) = node_affinity.validate() {
                refuse(format!("{at}.nodeAffinity"), &error.key, error.problem);
            }
            for (j, toleration) in entry.tolerations.iter().flatten().enumerate() {
                if let Err((field, value, problem)) = toleration.validate() {
                    refuse(format!("{at}.tolerations[{j}].{field}"), value, problem);
                }
            }
            groups.push(ImageGroup {
                images,
                node_selector: entry.node_selector.clone().unwrap_or_default(),
                node_affinity,
                tolerations: entry.tolerations.clone(),
                pull_policy: entry.image_pull_policy,
            });
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
            id,
        })
    }
}
