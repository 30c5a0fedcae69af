//! The assignment of one node: the contract from the planner to the warmer.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    CacheId, ImageCache, ImageGroup, ImagePullPolicy, ImageRef, NodeFacts, ObjectName, PullLimit,
};

/// Everything one node should hold and should not hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Assignment {
    /// Identifies the record that the assignment was read from, such as the UID of an object;
    /// repeated in [`NodeReport::record`](super::NodeReport). `None` where nothing is recorded.
    pub record: Option<String>,
    /// Grows with every change of the record; repeated in
    /// [`NodeReport::observed_generation`](super::NodeReport).
    pub generation: u64,
    /// The images, each once.
    pub images: Vec<AssignedImage>,
}

/// Whether an image is to be there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum DesiredState {
    /// It is to be on the node.
    #[default]
    Present,
    /// It is to be removed, unless something uses it.
    Absent,
}

/// What made an image unwanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum RemovalCause {
    /// The cache does not list it any more, or does not select the node.
    #[default]
    Edit,
    /// The cache is purged.
    Purge,
    /// The cache is deleted, with the policy `Purge`.
    Deletion,
}

/// Which cache asks for the removal of an image. A removal is forgotten when its cause is gone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct RemovalOrder {
    /// The cache.
    pub cache: CacheId,
    /// What happened to it.
    pub cause: RemovalCause,
    /// When, in whole seconds.
    pub since: Timestamp,
    /// Whether the node removes the image only if it knows that it held or pulled it for its assignment: it had
    /// not reported the image when the removal was ordered.
    pub if_held: bool,
}

impl RemovalOrder {
    /// A removal that this cache asks for since that time.
    #[must_use]
    pub fn new(cache: CacheId, cause: RemovalCause, since: Timestamp) -> Self {
        let since = Timestamp::from_second(since.as_second()).unwrap_or(since);
        Self {
            cache,
            cause,
            since,
            if_held: false,
        }
    }

    /// With the condition that the node held or pulled the image.
    #[must_use]
    pub fn with_if_held(mut self, if_held: bool) -> Self {
        self.if_held = if_held;
        self
    }
}

/// One image of an assignment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct AssignedImage {
    /// The image.
    pub image: ImageRef,
    /// Present or absent.
    pub state: DesiredState,
    /// When to pull it although it is present.
    pub pull_policy: ImagePullPolicy,
    /// A revision greater than the last satisfied one requests a new pull if the policy is `Always`, and
    /// otherwise a verification: the inventory is read again, and the image is pulled if it is missing.
    /// A failed image is retried.
    pub revision: u64,
    /// Longest duration of a round, counted from the start of its first attempt. Less than a second
    /// counts as one second. A pull that still receives bytes then gets more time, see
    /// [`ImageProgress::progressed`](crate::warmer::ImageProgress::progressed).
    pub deadline: Duration,
    /// Images with a higher priority are pulled first.
    pub priority: i32,
    /// Secrets with credentials, in the order to try them.
    pub pull_secrets: Vec<ObjectName>,
    /// ServiceAccounts whose pull secrets are used as well.
    pub service_accounts: Vec<ObjectName>,
    /// The caches that list the image; empty if it should be absent.
    pub wanted_by: Vec<CacheId>,
    /// The limit of its pulls, which is that of one of these caches. A new limit also applies to a running pull, and
    /// starts none.
    pub pull_limit: Option<PullLimit>,
    /// Which cache asks for the removal, if the image should be absent. `None` where no cluster decides.
    pub removal: Option<RemovalOrder>,
}

impl AssignedImage {
    /// An image that is to be present, with the default policy, a deadline of five minutes
    /// (kube-fledged's `--image-pull-deadline-duration`) and no credentials.
    #[must_use]
    pub fn present(image: ImageRef) -> Self {
        Self {
            image,
            state: DesiredState::Present,
            pull_policy: ImagePullPolicy::IfNotPresent,
            revision: 0,
            deadline: AssignmentDefaults::default().deadline,
            priority: 0,
            pull_secrets: Vec::new(),
            service_accounts: Vec::new(),
            wanted_by: Vec::new(),
            pull_limit: None,
            removal: None,
        }
    }

    /// An image that should be absent.
    #[must_use]
    pub fn absent(image: ImageRef) -> Self {
        Self {
            state: DesiredState::Absent,
            ..Self::present(image)
        }
    }

    /// The same image with the state absent and without caches.
    #[must_use]
    pub fn into_absent(mut self) -> Self {
        self.state = DesiredState::Absent;
        self.wanted_by.clear();
        self.pull_limit = None;
        self
    }

    /// With the cache that asks for its removal.
    #[must_use]
    pub fn with_removal(mut self, order: RemovalOrder) -> Self {
        self.removal = Some(order);
        self
    }

    /// With another pull policy.
    #[must_use]
    pub fn with_pull_policy(mut self, policy: ImagePullPolicy) -> Self {
        self.pull_policy = policy;
        self
    }

    /// With another revision.
    #[must_use]
    pub fn with_revision(mut self, revision: u64) -> Self {
        self.revision = revision;
        self
    }

    /// With another deadline.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// With another priority.
    #[must_use]
    pub fn with_priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    /// With these secrets, in the order to try them.
    #[must_use]
    pub fn with_pull_secrets(mut self, secrets: impl IntoIterator<Item = ObjectName>) -> Self {
        self.pull_secrets = secrets.into_iter().collect();
        self
    }

    /// With these ServiceAccounts.
    #[must_use]
    pub fn with_service_accounts(mut self, accounts: impl IntoIterator<Item = ObjectName>) -> Self {
        self.service_accounts = accounts.into_iter().collect();
        self
    }

    /// With these caches that list the image.
    #[must_use]
    pub fn with_wanted_by(mut self, caches: impl IntoIterator<Item = CacheId>) -> Self {
        self.wanted_by = caches.into_iter().collect();
        self
    }

    /// With this limit of its pulls.
    #[must_use]
    pub fn with_pull_limit(mut self, limit: impl Into<Option<PullLimit>>) -> Self {
        self.pull_limit = limit.into();
        self
    }
}

/// Defaults for fields that a cache does not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct AssignmentDefaults {
    /// Pull policy of caches without one.
    pub pull_policy: ImagePullPolicy,
    /// Deadline of each image's round.
    pub deadline: Duration,
    /// Longest deadline that a cache may set. A longer one counts as this.
    pub deadline_max: Duration,
}

impl Default for AssignmentDefaults {
    /// `IfNotPresent` and five minutes, as in kube-fledged; a cache may set up to two hours.
    fn default() -> Self {
        Self {
            pull_policy: ImagePullPolicy::IfNotPresent,
            deadline: Duration::from_secs(300),
            deadline_max: Duration::from_secs(2 * 3_600),
        }
    }
}

impl AssignmentDefaults {
    /// With another pull policy.
    #[must_use]
    pub fn with_pull_policy(mut self, policy: ImagePullPolicy) -> Self {
        self.pull_policy = policy;
        self
    }

    /// With another deadline.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// With another longest deadline that a cache may set.
    #[must_use]
    pub fn with_deadline_max(mut self, deadline: Duration) -> Self {
        self.deadline_max = deadline;
        self
    }

    /// The longest deadline that counts: [`deadline_max`](Self::deadline_max), and never less than the default.
    #[must_use]
    pub fn longest_deadline(&self) -> Duration {
        self.deadline_max.max(self.deadline)
    }

    /// The deadline of a group's images.
    fn deadline_for(&self, group: &ImageGroup) -> Duration {
        let longest = self.longest_deadline();
        group
            .deadline
            .map_or(self.deadline, |deadline| deadline.min(longest))
    }
}

impl Assignment {
    /// An assignment with these images and this generation.
    pub fn new(generation: u64, images: impl IntoIterator<Item = AssignedImage>) -> Self {
        Self {
            record: None,
            generation,
            images: images.into_iter().collect(),
        }
    }

    /// With the record that the assignment was read from.
    #[must_use]
    pub fn with_record(mut self, record: impl Into<Option<String>>) -> Self {
        self.record = record.into();
        self
    }

    /// An assignment of these images, each as [`AssignedImage::present`].
    #[must_use]
    pub fn present(images: impl IntoIterator<Item = ImageRef>) -> Self {
        Self::new(0, images.into_iter().map(AssignedImage::present))
    }

    /// Folds caches into the assignment of one node.
    ///
    /// An image that several caches list occurs once, with the secrets of all of them, the longest of
    /// their deadlines, and the highest of their pull rates if each has one. `Always` wins over `IfNotPresent`, and a mutable tag ([`ImageRef::is_mutable`]) is always pulled, as the kubelet does.
    /// The order is that of the caches and their lists.
    #[must_use]
    pub fn for_node<'a>(
        node: &NodeFacts,
        caches: impl IntoIterator<Item = &'a ImageCache>,
        defaults: AssignmentDefaults,
    ) -> Self {
        let mut images: Vec<AssignedImage> = Vec::new();
        let mut places: BTreeMap<ImageRef, usize> = BTreeMap::new();
        for cache in caches {
            for group in cache.groups.iter().filter(|group| group.matches(node)) {
                for image in &group.images {
                    let place = *places.entry(image.clone()).or_insert_with(|| {
                        images.push(AssignedImage {
                            deadline: Duration::ZERO,
                            ..AssignedImage::present(image.clone())
                        });
                        images.len() - 1
                    });
                    if let Some(entry) = images.get_mut(place) {
                        entry.deadline = entry.deadline.max(defaults.deadline_for(group));
                        entry.add(cache, group.pull_policy.unwrap_or(defaults.pull_policy));
                    }
                }
            }
        }
        Self::new(0, images)
    }

    /// The same images, all with the state absent.
    #[must_use]
    pub fn into_absent(mut self) -> Self {
        let images = self.images.into_iter();
        self.images = images.map(AssignedImage::into_absent).collect();
        self
    }
}

impl AssignedImage {
    fn add(&mut self, cache: &ImageCache, policy: ImagePullPolicy) {
        let policy = if self.image.is_mutable() {
            ImagePullPolicy::Always
        } else {
            policy
        };
        self.pull_policy = self.pull_policy.max(policy);
        for secret in &cache.pull_secrets {
            if !self.pull_secrets.contains(secret) {
                self.pull_secrets.push(secret.clone());
            }
        }
        if let Some(account) = &cache.service_account
            && !self.service_accounts.contains(account)
        {
            self.service_accounts.push(account.clone());
        }
        if !self.wanted_by.contains(&cache.id) {
            self.pull_limit = if self.wanted_by.is_empty() {
                cache.pull_limit()
            } else {
                PullLimit::higher(self.pull_limit.take(), cache.pull_limit())
            };
            self.wanted_by.push(cache.id.clone());
        }
    }
}
