//! What a job driver is told by whoever sets it up.

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use fledged_core::model::ImageRef;

/// How a Job gets the kubelet to pull.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PullMethod {
    /// `ImageVolume` where a node's kubelet and runtime have it, else `Container`.
    #[default]
    Auto,
    /// Images are mounted as `image` volumes (KEP-4639): nothing of them is run.
    ImageVolume,
    /// Images are run with a static program of our own in place of theirs, copied in by an init
    /// container.
    Container,
}

/// What becomes of Jobs that nobody waits for any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retention {
    /// They are deleted.
    #[default]
    Delete,
    /// They stay for whoever wants to look at them, until their time to live is over.
    Retain,
}

/// Options of a [`JobDriver`](super::JobDriver).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct JobOptions {
    /// Image with the program `fledged-operator` as its entry point, statically linked.
    pub image: ImageRef,
    /// Namespace of the operator, where Jobs that remove images live: they mount the runtime's socket
    /// and are root, which other namespaces may well forbid. Jobs that pull live in the namespaces of
    /// the ImageCaches that want the images.
    pub namespace: String,
    /// The only namespace whose ImageCaches are served, where it is only one: Jobs are then watched there
    /// and in the operator's own. By default they are watched everywhere.
    pub caches_namespace: Option<String>,
    /// How images are pulled. Default [`PullMethod::Auto`].
    pub pull_method: PullMethod,
    /// What becomes of Jobs that are done. Default [`Retention::Delete`].
    pub retention: Retention,
    /// `ttlSecondsAfterFinished` of every Job: also of those that would have been deleted, had their
    /// controller lived. Default 1 h.
    pub ttl: Duration,
    /// `priorityClassName` of the pods.
    pub priority_class: Option<String>,
    /// `serviceAccountName` of the pods; the namespace's default where there is none. Its token is not
    /// mounted.
    pub service_account: Option<String>,
    /// Secrets that `image` is pulled with, by name: in the operator's namespace for Jobs that remove images,
    /// in that of the ImageCaches for Jobs that pull, after the caches' own. One that is not there does no
    /// harm. Those of the pods' ServiceAccount are named with them, as a pod that names any gets none from
    /// its account. Default none.
    pub image_pull_secrets: Vec<String>,
    /// The runtime's socket on every node; by default the usual one of the node's runtime.
    pub socket: Option<String>,
    /// Whether pods that remove images use the host's network. Default no.
    pub removal_host_network: bool,
    /// SELinux type of pods that remove images, `spc_t` for instance: the usual one of a container may not
    /// use the runtime's socket. Default: what the runtime gives them.
    pub removal_selinux_type: Option<String>,
    /// Images of one Job, at most: each takes a container. Default 50.
    pub images_per_job: NonZeroUsize,
    /// Jobs that are created in a second, at most. Default 20.
    pub creations_per_second: NonZeroU32,
    /// How long is waited for more images that a new Job can take along. Default 100 ms.
    pub debounce: Duration,
    /// How often what a node holds is looked at without any other cause. Default 60 s.
    pub inventory_interval: Duration,
    /// How much later than a pull a node's list of images must be to say anything of that pull. The
    /// kubelet's own reading is up to 30 s old when it is told. Default 60 s.
    pub list_margin: Duration,
    /// Images that a kubelet lists at most (its `nodeStatusMaxImages`): absence from a list as long
    /// proves nothing. Default 50.
    pub list_max: usize,
}

impl JobOptions {
    /// With that image, which every Job runs, in the operator's namespace.
    #[must_use]
    pub fn new(image: ImageRef, namespace: impl Into<String>) -> Self {
        Self {
            image,
            namespace: namespace.into(),
            caches_namespace: None,
            pull_method: PullMethod::default(),
            retention: Retention::default(),
            ttl: Duration::from_secs(3600),
            priority_class: None,
            service_account: None,
            image_pull_secrets: Vec::new(),
            socket: None,
            removal_host_network: false,
            removal_selinux_type: None,
            images_per_job: NonZeroUsize::MIN.saturating_add(49),
            creations_per_second: NonZeroU32::MIN.saturating_add(19),
            debounce: Duration::from_millis(100),
            inventory_interval: Duration::from_secs(60),
            list_margin: Duration::from_secs(60),
            list_max: 50,
        }
    }

    /// With ImageCaches of that namespace alone, if any.
    #[must_use]
    pub fn with_caches_namespace(mut self, namespace: impl Into<Option<String>>) -> Self {
        self.caches_namespace = namespace.into();
        self
    }

    /// Namespaces whose Jobs are watched; `None` stands for all.
    pub(super) fn scopes(&self) -> Vec<Option<String>> {
        match &self.caches_namespace {
            None => vec![None],
            Some(caches) if *caches == self.namespace => vec![Some(caches.clone())],
            Some(caches) => vec![Some(caches.clone()), Some(self.namespace.clone())],
        }
    }

    /// With another way to pull.
    #[must_use]
    pub fn with_pull_method(mut self, method: PullMethod) -> Self {
        self.pull_method = method;
        self
    }

    /// With something else done to Jobs that are done.
    #[must_use]
    pub fn with_retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// With another time to live of Jobs that have ended.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// With that `priorityClassName`, if any.
    #[must_use]
    pub fn with_priority_class(mut self, name: impl Into<Option<String>>) -> Self {
        self.priority_class = name.into();
        self
    }

    /// With that `serviceAccountName`, if any.
    #[must_use]
    pub fn with_service_account(mut self, name: impl Into<Option<String>>) -> Self {
        self.service_account = name.into();
        self
    }

    /// With the Secrets of those names for the image that every Job runs.
    #[must_use]
    pub fn with_image_pull_secrets<N: Into<String>>(
        mut self,
        names: impl IntoIterator<Item = N>,
    ) -> Self {
        self.image_pull_secrets = names.into_iter().map(Into::into).collect();
        self
    }

    /// With the runtime's socket there, on every node.
    #[must_use]
    pub fn with_socket(mut self, path: impl Into<Option<String>>) -> Self {
        self.socket = path.into();
        self
    }

    /// With the host's network for pods that remove images, or without.
    #[must_use]
    pub fn with_removal_host_network(mut self, host: bool) -> Self {
        self.removal_host_network = host;
        self
    }

    /// With that SELinux type of pods that remove images, if any.
    #[must_use]
    pub fn with_removal_selinux_type(mut self, name: impl Into<Option<String>>) -> Self {
        self.removal_selinux_type = name.into();
        self
    }

    /// With another number of images in one Job, at most.
    #[must_use]
    pub fn with_images_per_job(mut self, images: NonZeroUsize) -> Self {
        self.images_per_job = images;
        self
    }

    /// With another number of Jobs that are created in a second.
    #[must_use]
    pub fn with_creations_per_second(mut self, jobs: NonZeroU32) -> Self {
        self.creations_per_second = jobs;
        self
    }

    /// With another wait for more images.
    #[must_use]
    pub fn with_debounce(mut self, debounce: Duration) -> Self {
        self.debounce = debounce;
        self
    }

    /// With another time between looks at what a node holds.
    #[must_use]
    pub fn with_inventory_interval(mut self, interval: Duration) -> Self {
        self.inventory_interval = interval;
        self
    }

    /// With another margin between a pull and the lists that count.
    #[must_use]
    pub fn with_list_margin(mut self, margin: Duration) -> Self {
        self.list_margin = margin;
        self
    }

    /// With another length of kubelets' lists.
    #[must_use]
    pub fn with_list_max(mut self, images: usize) -> Self {
        self.list_max = images;
        self
    }
}
