//! containerd's settings that decide how images are pulled and unpacked.
//!
//! Names and defaults are those of containerd's `internal/cri/config` and `plugins/transfer`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;
use toml::Table;

use super::containerd_file::{ConfigContent, ConfigFile, read_files};
use super::{Fact, Release, Unread};

/// The first release that pulls for CRI through its transfer service.
const TRANSFER_SERVICE: Release = Release(2, 1, 0);
/// The first release with folders of `hosts.toml` files by default.
const DEFAULT_CONFIG_PATH: Release = Release(2, 2, 0);
const CONFIG_PATH: [&str; 2] = ["/etc/containerd/certs.d", "/etc/docker/certs.d"];
/// The file that a remedy names if containerd's own is not known.
const DEFAULT_FILE: &str = "/etc/containerd/config.toml";
/// Registry settings of the form before `hosts.toml`.
const OLD_REGISTRY_KEYS: [&str; 3] = ["mirrors", "configs", "auths"];

/// Where settings were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettingsOrigin {
    /// The verbose CRI status, which has what containerd uses. Up to containerd 1.7.
    Status,
    /// The configuration file. containerd reads it when it starts, and it may have been edited since.
    File,
    /// There is no configuration file, so that containerd uses its defaults.
    Defaults,
}

/// Settings in a table that containerd does not read, because the file has a newer version.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnusedSettings {
    /// The file.
    pub file: PathBuf,
    /// The table, such as `plugins."io.containerd.grpc.v1.cri"`.
    pub table: String,
    /// The settings in it that have moved to another table.
    pub keys: Vec<String>,
}

/// The settings of the plugin that pulls for CRI.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImagesPlugin {
    /// `snapshotter`.
    pub snapshotter: String,
    /// `discard_unpacked_layers`.
    pub discard_unpacked_layers: bool,
    /// `disable_snapshot_annotations`.
    pub disable_snapshot_annotations: bool,
    /// `max_concurrent_downloads`: layers of one image at a time; 0 is no limit.
    pub max_concurrent_downloads: i64,
    /// `concurrent_layer_fetch_buffer`: bytes of each part of a layer.
    pub concurrent_layer_fetch_buffer: i64,
    /// `image_pull_with_sync_fs`.
    pub image_pull_with_sync_fs: bool,
    /// `use_local_image_pull`.
    pub use_local_image_pull: bool,
    /// `registry.config_path`.
    pub config_path: Vec<PathBuf>,
    /// Those of `registry.mirrors`, `registry.configs` and `registry.auths` that are set.
    pub old_registry_keys: Vec<String>,
}

impl Default for ImagesPlugin {
    /// containerd's defaults.
    fn default() -> Self {
        Self {
            snapshotter: "overlayfs".to_owned(),
            discard_unpacked_layers: false,
            disable_snapshot_annotations: true,
            max_concurrent_downloads: 3,
            concurrent_layer_fetch_buffer: 0,
            image_pull_with_sync_fs: false,
            use_local_image_pull: false,
            config_path: Vec::new(),
            old_registry_keys: Vec::new(),
        }
    }
}

/// The settings of the transfer service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransferPlugin {
    /// `max_concurrent_downloads`: layers of one image at a time; 0 is no limit.
    pub max_concurrent_downloads: i64,
    /// `concurrent_layer_fetch_buffer`: bytes of each part of a layer.
    pub concurrent_layer_fetch_buffer: i64,
    /// `max_concurrent_unpacks`: layers that are unpacked at a time.
    pub max_concurrent_unpacks: i64,
}

impl Default for TransferPlugin {
    /// containerd's defaults.
    fn default() -> Self {
        Self {
            max_concurrent_downloads: 3,
            concurrent_layer_fetch_buffer: 0,
            max_concurrent_unpacks: 1,
        }
    }
}

/// containerd's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContainerdSettings {
    /// The release; `None` if the version has no number.
    pub release: Option<Release>,
    /// The configuration file.
    pub file: PathBuf,
    /// `version` of the file; `None` if it was not read.
    pub file_version: Option<i64>,
    /// Why the file was not read, if the settings come from the status.
    pub file_problem: Option<Unread>,
    /// Where the settings were read.
    pub origin: SettingsOrigin,
    /// The plugin that pulls for CRI.
    pub images: ImagesPlugin,
    /// The transfer service.
    pub transfer: TransferPlugin,
    /// Settings that have no effect.
    pub unused: Vec<UnusedSettings>,
}

impl Default for ContainerdSettings {
    /// The defaults of a containerd whose release is not known.
    fn default() -> Self {
        Self {
            release: None,
            file: PathBuf::from(DEFAULT_FILE),
            file_version: None,
            file_problem: None,
            origin: SettingsOrigin::Defaults,
            images: ImagesPlugin::default(),
            transfer: TransferPlugin::default(),
            unused: Vec::new(),
        }
    }
}

impl ContainerdSettings {
    /// The settings in the verbose status, else those in the file.
    pub(super) fn new(
        release: Option<Release>,
        status: Option<&HashMap<String, String>>,
        file: Fact<ConfigFile>,
    ) -> Fact<Self> {
        let status = status.and_then(images_of_status);
        let (path, content) = match file {
            Ok(file) => (file.path, file.content),
            Err(unread) => (PathBuf::from(DEFAULT_FILE), Err(unread)),
        };
        let mut settings = Self {
            release,
            file: path,
            ..Self::default()
        };
        match content {
            Ok(content) => settings.set_file(&content),
            Err(unread) if status.is_some() => settings.file_problem = Some(unread),
            Err(unread) => return Err(unread),
        }
        if let Some(images) = status {
            settings.images = images;
            settings.origin = SettingsOrigin::Status;
        }
        Ok(settings)
    }

    fn set_file(&mut self, content: &ConfigContent) {
        if !content.exists {
            return;
        }
        self.origin = SettingsOrigin::File;
        self.file_version = Some(content.version);
        self.images = images_of_table(&content.images);
        self.transfer = transfer_of_table(&content.transfer);
        self.unused.clone_from(&content.unused);
    }

    /// Why the transfer service does not pull: the release is too old, or a setting that it does not support.
    /// `None`: it pulls.
    #[must_use]
    pub fn local_pull(&self) -> Option<String> {
        if self.is_before_transfer_service() {
            return Some(format!("containerd before {TRANSFER_SERVICE}"));
        }
        if let Some(reason) = self.unsupported_setting() {
            return Some(reason);
        }
        let is_set = self.images.max_concurrent_downloads != 3;
        is_set.then(|| "max_concurrent_downloads of the images plugin is not 3".to_owned())
    }

    /// Whether only `max_concurrent_downloads` of the images plugin keeps the transfer service from pulling, or
    /// nothing does.
    #[must_use]
    pub fn could_transfer(&self) -> bool {
        !self.is_before_transfer_service() && self.unsupported_setting().is_none()
    }

    fn is_before_transfer_service(&self) -> bool {
        self.release
            .is_none_or(|release| release < TRANSFER_SERVICE)
    }

    /// A setting for which containerd's `CheckLocalImagePullConfigs` gives up the transfer service, but for
    /// `max_concurrent_downloads`.
    fn unsupported_setting(&self) -> Option<String> {
        let images = &self.images;
        let old = images.old_registry_keys.first();
        let reasons = [
            (images.use_local_image_pull, "use_local_image_pull is true"),
            (
                !images.disable_snapshot_annotations,
                "disable_snapshot_annotations is false",
            ),
            (
                images.discard_unpacked_layers,
                "discard_unpacked_layers is true",
            ),
            (
                images.image_pull_with_sync_fs,
                "image_pull_with_sync_fs is true",
            ),
        ];
        let set = reasons.iter().find(|(is_set, _)| *is_set);
        let set = set.map(|(_, reason)| (*reason).to_owned());
        set.or_else(|| old.map(|key| format!("registry.{key} is set")))
    }

    /// Layers of one image that are fetched at a time; 0 is no limit.
    #[must_use]
    pub fn max_concurrent_downloads(&self) -> i64 {
        match self.local_pull() {
            Some(_) => self.images.max_concurrent_downloads,
            None => self.transfer.max_concurrent_downloads,
        }
    }

    /// Bytes of each part of a layer that is fetched in parts at a time.
    #[must_use]
    pub fn concurrent_layer_fetch_buffer(&self) -> i64 {
        match self.local_pull() {
            Some(_) => self.images.concurrent_layer_fetch_buffer,
            None => self.transfer.concurrent_layer_fetch_buffer,
        }
    }

    /// The folders of `hosts.toml` files that are set, or containerd's default.
    #[must_use]
    pub fn hosts_dirs(&self) -> Vec<PathBuf> {
        let has_default = self
            .release
            .is_some_and(|release| release >= DEFAULT_CONFIG_PATH);
        let images = &self.images;
        if images.config_path.is_empty() && images.old_registry_keys.is_empty() && has_default {
            return CONFIG_PATH.map(PathBuf::from).into();
        }
        images.config_path.clone()
    }

    /// Whether the file has, or should have, the tables of version 3 and later.
    #[must_use]
    pub fn has_new_tables(&self) -> bool {
        match self.file_version {
            Some(version) => version >= 3,
            None => self
                .release
                .is_some_and(|release| release >= Release(2, 0, 0)),
        }
    }
}

/// The plugin that pulls for CRI, by this file and those that it imports. `None`: there is no file.
pub(crate) fn images_plugin_of(file: &Path) -> Fact<Option<ImagesPlugin>> {
    let content = read_files(Path::new("/"), file)?;
    Ok(content.exists.then(|| images_of_table(&content.images)))
}

fn split(paths: &str) -> Vec<PathBuf> {
    std::env::split_paths(paths)
        .filter(|path| path != Path::new(""))
        .collect()
}

/// The settings in the status, if it has them: containerd 2.0 and later leave them out.
fn images_of_status(info: &HashMap<String, String>) -> Option<ImagesPlugin> {
    let config: Value = serde_json::from_str(info.get("config")?).ok()?;
    let max_concurrent_downloads = config.get("maxConcurrentDownloads")?.as_i64()?;
    let containerd = |key: &str| config.get("containerd")?.get(key);
    let registry = |key: &str| config.get("registry")?.get(key);
    let defaults = ImagesPlugin::default();
    let snapshotter = containerd("snapshotter").and_then(Value::as_str);
    let snapshotter = snapshotter.filter(|name| !name.is_empty());
    let flag = |value: Option<&Value>, default| value.and_then(Value::as_bool).unwrap_or(default);
    let is_set = |key: &str| {
        let table = registry(key).and_then(Value::as_object);
        table.is_some_and(|table| !table.is_empty())
    };
    Some(ImagesPlugin {
        snapshotter: snapshotter.map_or(defaults.snapshotter, str::to_owned),
        discard_unpacked_layers: flag(containerd("discardUnpackedLayers"), false),
        disable_snapshot_annotations: flag(containerd("disableSnapshotAnnotations"), true),
        max_concurrent_downloads,
        concurrent_layer_fetch_buffer: 0,
        image_pull_with_sync_fs: flag(config.get("imagePullWithSyncFs"), false),
        use_local_image_pull: false,
        config_path: split(registry("configPath").and_then(Value::as_str).unwrap_or("")),
        old_registry_keys: old_keys(is_set),
    })
}

fn old_keys(is_set: impl Fn(&str) -> bool) -> Vec<String> {
    let keys = OLD_REGISTRY_KEYS.into_iter().filter(|key| is_set(key));
    keys.map(str::to_owned).collect()
}

fn images_of_table(table: &Table) -> ImagesPlugin {
    let defaults = ImagesPlugin::default();
    let flag = |key: &str, default| {
        let value = table.get(key).and_then(toml::Value::as_bool);
        value.unwrap_or(default)
    };
    let registry = |key: &str| table.get("registry")?.get(key);
    let snapshotter = table.get("snapshotter").and_then(toml::Value::as_str);
    let snapshotter = snapshotter.filter(|name| !name.is_empty());
    let is_set = |key: &str| {
        let table = registry(key).and_then(toml::Value::as_table);
        table.is_some_and(|table| !table.is_empty())
    };
    let config_path = registry("config_path").and_then(toml::Value::as_str);
    ImagesPlugin {
        snapshotter: snapshotter.map_or(defaults.snapshotter, str::to_owned),
        discard_unpacked_layers: flag("discard_unpacked_layers", false),
        disable_snapshot_annotations: flag("disable_snapshot_annotations", true),
        max_concurrent_downloads: number(table, "max_concurrent_downloads", 3),
        concurrent_layer_fetch_buffer: number(table, "concurrent_layer_fetch_buffer", 0),
        image_pull_with_sync_fs: flag("image_pull_with_sync_fs", false),
        use_local_image_pull: flag("use_local_image_pull", false),
        config_path: split(config_path.unwrap_or_default()),
        old_registry_keys: old_keys(is_set),
    }
}

fn transfer_of_table(table: &Table) -> TransferPlugin {
    TransferPlugin {
        max_concurrent_downloads: number(table, "max_concurrent_downloads", 3),
        concurrent_layer_fetch_buffer: number(table, "concurrent_layer_fetch_buffer", 0),
        max_concurrent_unpacks: number(table, "max_concurrent_unpacks", 1),
    }
}

/// containerd does not start with a value of another type.
fn number(table: &Table, key: &str, default: i64) -> i64 {
    let value = table.get(key).and_then(toml::Value::as_integer);
    value.unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(config: &str) -> HashMap<String, String> {
        HashMap::from([("config".to_owned(), config.to_owned())])
    }

    fn settings(release: Release) -> ContainerdSettings {
        ContainerdSettings {
            release: Some(release),
            ..ContainerdSettings::default()
        }
    }

    #[test]
    fn the_status_has_the_settings_in_use() {
        let info = status(
            r#"{"maxConcurrentDownloads":9,
                "containerd":{"snapshotter":"native","discardUnpackedLayers":true},
                "registry":{"configPath":"/a:/b","mirrors":{"r.lan":{}},"auths":null}}"#,
        );
        let unread = Unread::new("no file");
        let found =
            ContainerdSettings::new(Some(Release(1, 7, 0)), Some(&info), Err(unread.clone()));
        let found = found.unwrap();
        assert_eq!(found.origin, SettingsOrigin::Status);
        assert_eq!(found.file_problem, Some(unread.clone()));
        assert_eq!(found.max_concurrent_downloads(), 9);
        assert_eq!(found.images.snapshotter, "native");
        assert!(found.images.discard_unpacked_layers);
        assert_eq!(found.hosts_dirs(), ["/a", "/b"].map(PathBuf::from));
        assert_eq!(found.images.old_registry_keys, ["mirrors"]);
        for info in ["", "{}", "[]", r#"{"maxConcurrentDownloads":"x"}"#] {
            let info = status(info);
            let found = ContainerdSettings::new(None, Some(&info), Err(unread.clone()));
            assert_eq!(found, Err(unread.clone()));
        }
    }

    #[test]
    fn a_setting_that_the_transfer_service_lacks_is_a_local_pull() {
        assert!(settings(Release(2, 0, 9)).local_pull().is_some());
        let mut newer = settings(Release(2, 1, 0));
        newer.transfer.max_concurrent_downloads = 8;
        assert_eq!(newer.local_pull(), None);
        assert_eq!(newer.max_concurrent_downloads(), 8);
        newer.images.max_concurrent_downloads = 5;
        assert_eq!(newer.max_concurrent_downloads(), 5);
        assert!(
            newer
                .local_pull()
                .unwrap()
                .contains("max_concurrent_downloads")
        );
        newer.images = ImagesPlugin {
            old_registry_keys: vec!["auths".to_owned()],
            ..ImagesPlugin::default()
        };
        assert_eq!(newer.local_pull().unwrap(), "registry.auths is set");
    }

    #[test]
    fn newer_releases_have_default_folders() {
        assert!(settings(Release(2, 1, 9)).hosts_dirs().is_empty());
        let newer = settings(Release(2, 2, 0));
        assert_eq!(newer.hosts_dirs(), CONFIG_PATH.map(PathBuf::from));
    }
}
