//! Entry points for fuzzing: the files of a node.

use std::path::{Path, PathBuf};

use super::containerd_file::{ConfigContent, ConfigFile, parse};
use super::{ContainerdSettings, KubeletSettings, Release, kubelet_settings};
use crate::pressure;

/// containerd's configuration file.
pub fn containerd_settings(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(table) = parse(&text) else {
        return;
    };
    let mut content = ConfigContent::default();
    content.add(Path::new("/etc/containerd/config.toml"), &table);
    content.exists = true;
    let file = ConfigFile {
        path: PathBuf::from("/etc/containerd/config.toml"),
        content: Ok(content),
    };
    if let Ok(settings) = ContainerdSettings::new(Some(Release(2, 2, 3)), None, Ok(file)) {
        let _ = (settings.local_pull(), settings.hosts_dirs());
    }
}

/// A KubeletConfiguration.
pub fn kubelet_config(bytes: &[u8]) {
    if let Ok(config) = kubelet_settings::parse(&String::from_utf8_lossy(bytes)) {
        KubeletSettings::default().set_config(&config);
    }
}

/// A file of pressure stall information.
pub fn pressure(bytes: &[u8]) {
    let _ = pressure::parse(&String::from_utf8_lossy(bytes));
}
