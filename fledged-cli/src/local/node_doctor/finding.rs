//! A check, and what it found.

use fledged_cri::inspection::Unread;
use serde::Serialize;

/// The part of the node that a check is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Category {
    Runtime,
    Registries,
    Kubelet,
    Disk,
    Pressure,
}

impl Category {
    /// As the report shows it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::Registries => "registries",
            Self::Kubelet => "kubelet",
            Self::Disk => "disk",
            Self::Pressure => "pressure",
        }
    }
}

/// A check. Its name does not change between releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) category: Category,
}

impl Check {
    pub(super) const RUNTIME_ANSWERS: Self = Self::new("runtime-answers", Category::Runtime);
    pub(super) const CONTAINERD_SETTINGS: Self =
        Self::new("containerd-settings", Category::Runtime);
    pub(super) const LAYER_DOWNLOADS: Self = Self::new("layer-downloads", Category::Runtime);
    pub(super) const LAYER_RANGES: Self = Self::new("layer-ranges", Category::Runtime);
    pub(super) const PARALLEL_UNPACK: Self = Self::new("parallel-unpack", Category::Runtime);
    pub(super) const SNAPSHOTTER: Self = Self::new("snapshotter", Category::Runtime);
    pub(super) const UNPACKED_LAYERS: Self = Self::new("unpacked-layers", Category::Runtime);
    pub(super) const CONFIG_PATH: Self = Self::new("registry-config-path", Category::Registries);
    pub(super) const HOSTS_FILES: Self = Self::new("registry-hosts-files", Category::Registries);
    pub(super) const OLD_FORM: Self = Self::new("registry-old-form", Category::Registries);
    pub(super) const KUBELET_SETTINGS: Self = Self::new("kubelet-settings", Category::Kubelet);
    pub(super) const IMAGE_GC: Self = Self::new("image-gc-threshold", Category::Kubelet);
    pub(super) const IMAGE_AGE: Self = Self::new("image-gc-age", Category::Kubelet);
    pub(super) const IMAGE_PULLS: Self = Self::new("kubelet-image-pulls", Category::Kubelet);
    pub(super) const DISK_SPACE: Self = Self::new("image-disk-space", Category::Disk);
    pub(super) const DISK_EVICTION: Self = Self::new("image-disk-eviction", Category::Disk);
    pub(super) const DISK_INODES: Self = Self::new("image-disk-inodes", Category::Disk);
    pub(super) const PRESSURE_IO: Self = Self::new("pressure-io", Category::Pressure);
    pub(super) const PRESSURE_MEMORY: Self = Self::new("pressure-memory", Category::Pressure);
    pub(super) const PRESSURE_CPU: Self = Self::new("pressure-cpu", Category::Pressure);

    const fn new(name: &'static str, category: Category) -> Self {
        Self { name, category }
    }
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// Nothing to change.
    Ok,
    /// Something slows pulls down or puts images at risk.
    Advice,
    /// Images cannot be pulled or kept.
    Failed,
    /// It could not be read.
    Skipped,
}

/// What a check found. Advice and failures have a cost and a remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) check: Check,
    pub(super) result: Verdict,
    /// What was found, with its value; of a skipped check, why it was skipped.
    pub(super) found: String,
    pub(super) cost: Option<String>,
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: Check, found: impl Into<String>) -> Self {
        Self {
            check,
            result: Verdict::Ok,
            found: found.into(),
            cost: None,
            remedy: None,
        }
    }

    pub(super) fn advice(
        check: Check,
        found: impl Into<String>,
        cost: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            result: Verdict::Advice,
            cost: Some(cost.into()),
            remedy: Some(remedy.into()),
            ..Self::ok(check, found)
        }
    }

    /// A configuration file that its program cannot read.
    pub(super) fn broken_file(check: Check, found: impl Into<String>, program: &str) -> Self {
        Self::advice(
            check,
            found,
            format!(
                "{program} uses the settings that it started with, and may not start again with this file"
            ),
            format!("correct the file; then restart {program}"),
        )
    }

    /// The same finding as a failure.
    pub(super) fn into_failed(self) -> Self {
        Self {
            result: Verdict::Failed,
            ..self
        }
    }

    pub(super) fn skipped(check: Check, unread: &Unread) -> Self {
        Self {
            result: Verdict::Skipped,
            ..Self::ok(check, unread.to_string())
        }
    }
}
