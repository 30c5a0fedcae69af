//! The checks of `fledged node doctor`.

use crate::doctor::{Category, Check, Finding};

const RUNTIME: Category = Category::new("runtime");
const REGISTRIES: Category = Category::new("registries");
const KUBELET: Category = Category::new("kubelet");
const DISK: Category = Category::new("disk");
const PRESSURE: Category = Category::new("pressure");

pub(super) const RUNTIME_ANSWERS: Check = Check::new("runtime-answers", RUNTIME);
pub(super) const CONTAINERD_SETTINGS: Check = Check::new("containerd-settings", RUNTIME);
pub(super) const LAYER_DOWNLOADS: Check = Check::new("layer-downloads", RUNTIME);
pub(super) const LAYER_RANGES: Check = Check::new("layer-ranges", RUNTIME);
pub(super) const PARALLEL_UNPACK: Check = Check::new("parallel-unpack", RUNTIME);
pub(super) const SNAPSHOTTER: Check = Check::new("snapshotter", RUNTIME);
pub(super) const UNPACKED_LAYERS: Check = Check::new("unpacked-layers", RUNTIME);
pub(super) const CONFIG_PATH: Check = Check::new("registry-config-path", REGISTRIES);
pub(super) const HOSTS_FILES: Check = Check::new("registry-hosts-files", REGISTRIES);
pub(super) const OLD_FORM: Check = Check::new("registry-old-form", REGISTRIES);
pub(super) const KUBELET_SETTINGS: Check = Check::new("kubelet-settings", KUBELET);
pub(super) const IMAGE_GC: Check = Check::new("image-gc-threshold", KUBELET);
pub(super) const IMAGE_AGE: Check = Check::new("image-gc-age", KUBELET);
pub(super) const IMAGE_PULLS: Check = Check::new("kubelet-image-pulls", KUBELET);
pub(super) const DISK_SPACE: Check = Check::new("image-disk-space", DISK);
pub(super) const DISK_EVICTION: Check = Check::new("image-disk-eviction", DISK);
pub(super) const DISK_INODES: Check = Check::new("image-disk-inodes", DISK);
pub(super) const PRESSURE_IO: Check = Check::new("pressure-io", PRESSURE);
pub(super) const PRESSURE_MEMORY: Check = Check::new("pressure-memory", PRESSURE);
pub(super) const PRESSURE_CPU: Check = Check::new("pressure-cpu", PRESSURE);

/// A configuration file that its program cannot read.
pub(super) fn broken_file(check: Check, found: impl Into<String>, program: &str) -> Finding {
    Finding::advice(
        check,
        found,
        format!(
            "{program} uses the settings that it started with, and may not start again with this file"
        ),
        format!("correct the file; then restart {program}"),
    )
}
