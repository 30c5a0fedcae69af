//! What containerd's CRI plugin is configured with, as far as its verbose status has it.

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::Value;

/// containerd's default.
const SNAPSHOTTER: &str = "overlayfs";

/// The settings that decide how containerd itself would pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// The folders of `hosts.toml` files. `None`: the status does not have them (containerd 2.0 and later).
    pub(super) hosts_dirs: Option<Vec<PathBuf>>,
    pub(super) snapshotter: String,
}

impl Settings {
    /// Reads the `info` of a verbose status.
    ///
    /// # Errors
    ///
    /// Registries are configured in a way that only containerd itself follows.
    pub(super) fn read(info: &HashMap<String, String>) -> Result<Self, &'static str> {
        let config: Value = info
            .get("config")
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let registry = config.get("registry");
        for (field, problem) in [
            ("mirrors", "containerd is configured with registry.mirrors"),
            ("configs", "containerd is configured with registry.configs"),
            ("auths", "containerd is configured with registry.auths"),
        ] {
            let value = registry.and_then(|registry| registry.get(field));
            if value
                .and_then(Value::as_object)
                .is_some_and(|map| !map.is_empty())
            {
                return Err(problem);
            }
        }
        let hosts_dirs = registry
            .and_then(|registry| registry.get("configPath")?.as_str())
            .map(|paths| std::env::split_paths(paths).filter(|path| !path.as_os_str().is_empty()));
        let snapshotter = config
            .get("containerd")
            .and_then(|containerd| containerd.get("snapshotter")?.as_str())
            .filter(|name| !name.is_empty());
        Ok(Self {
            hosts_dirs: hosts_dirs.map(Iterator::collect),
            snapshotter: snapshotter.unwrap_or(SNAPSHOTTER).to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &str) -> Result<Settings, &'static str> {
        let info = [
            ("config", config),
            ("golang", "go1"),
            ("lastCNILoadStatus", "OK"),
        ];
        let info = info.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Settings::read(&HashMap::from(info))
    }

    #[test]
    fn the_status_has_folders_and_snapshotter() {
        let found = read(
            r#"{"containerd":{"snapshotter":"native"},
                "registry":{"configPath":"/a:/b","mirrors":null,"configs":{},"auths":null}}"#,
        );
        let expected = Settings {
            hosts_dirs: Some(vec!["/a".into(), "/b".into()]),
            snapshotter: "native".to_owned(),
        };
        assert_eq!(found, Ok(expected));
        let found = read(r#"{"registry":{"configPath":""}}"#).unwrap();
        assert_eq!(found.hosts_dirs, Some(Vec::new()));
        for other in ["{}", "", "null", "[]"] {
            let found = read(other).unwrap();
            assert_eq!((found.hosts_dirs, &*found.snapshotter), (None, SNAPSHOTTER));
        }
    }

    #[test]
    fn old_registry_settings_are_only_containerds() {
        for field in ["mirrors", "configs", "auths"] {
            let text = format!(r#"{{"registry":{{"{field}":{{"r.lan":{{}}}}}}}}"#);
            assert!(read(&text).unwrap_err().contains(field));
        }
    }
}
