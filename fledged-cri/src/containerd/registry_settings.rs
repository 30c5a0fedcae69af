//! The runtime's settings of registries, and whether this process sees all of them.

use std::path::{Path, PathBuf};

use super::settings::Settings;
use crate::inspection::images_plugin_of;

/// The name of containerd's configuration in its folder.
const CONFIG: &str = "config.toml";
/// Where containerd looks for `hosts.toml` files after the folder of its configuration.
const DOCKER_HOSTS_DIR: &str = "/etc/docker/certs.d";

/// Completes what the runtime's status has by its configuration in the first of these folders. With `in_container`, only
/// these folders of the machine are visible.
///
/// # Errors
///
/// This process does not see all settings, or some of them are only followed by the runtime.
pub(super) fn complete(
    mut settings: Settings,
    config_dirs: &[PathBuf],
    in_container: bool,
) -> Result<Settings, String> {
    // containerd 2 does not have them in its status.
    if settings.hosts_dirs.is_none()
        && let Some(config_dir) = config_dirs.first()
    {
        let file = config_dir.join(CONFIG);
        let plugin = images_plugin_of(&file).map_err(|unread| unread.to_string())?;
        let plugin = plugin.ok_or_else(|| format!("there is no {}", file.display()))?;
        if let Some(key) = plugin.old_registry_keys.first() {
            return Err(format!("containerd is configured with registry.{key}"));
        }
        let mut dirs = plugin.config_path;
        if dirs.is_empty() {
            // containerd's default.
            dirs = vec![config_dir.join("certs.d"), DOCKER_HOSTS_DIR.into()];
        }
        settings.hosts_dirs = Some(dirs);
        settings.snapshotter = plugin.snapshotter;
    }
    let dirs = settings.hosts_dirs.iter().flatten();
    if in_container {
        for dir in dirs {
            check_visible(dir, config_dirs)?;
        }
    }
    Ok(settings)
}

/// Whether a folder of `hosts.toml` files is in one of these folders, and no link leads out of them.
fn check_visible(dir: &Path, config_dirs: &[PathBuf]) -> Result<(), String> {
    let hidden = |path: &Path| {
        let path = path.display();
        format!("{path} of the runtime's settings is not visible to this process")
    };
    let is_inside = |path: &Path| config_dirs.iter().any(|config| path.starts_with(config));
    if !is_inside(dir) {
        return Err(hidden(dir));
    }
    let folders = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let folders: Vec<PathBuf> = folders.map(|entry| entry.path()).collect();
    let files = folders.iter().map(|folder| folder.join("hosts.toml"));
    for path in std::iter::once(dir.to_owned())
        .chain(folders.iter().cloned())
        .chain(files)
    {
        // What does not exist has no settings; a link does.
        if path.symlink_metadata().is_ok()
            && !path.canonicalize().is_ok_and(|path| is_inside(&path))
        {
            return Err(hidden(&path));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn settings(dirs: Option<&[&Path]>) -> Settings {
        Settings {
            hosts_dirs: dirs.map(|dirs| dirs.iter().map(|dir| dir.to_path_buf()).collect()),
            snapshotter: "overlayfs".to_owned(),
        }
    }

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn config_dir(&self) -> PathBuf {
            self.0.path().canonicalize().unwrap().join("containerd")
        }

        fn with_config(text: &str) -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(machine.config_dir().join("certs.d/r.lan")).unwrap();
            fs::write(machine.config_dir().join(CONFIG), text).unwrap();
            machine
        }

        fn complete(&self, found: Option<&[&Path]>) -> Result<Vec<PathBuf>, String> {
            let completed = complete(settings(found), &[self.config_dir()], true)?;
            Ok(completed.hosts_dirs.unwrap_or_default())
        }
    }

    fn registry(text: &str) -> String {
        format!("version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\n{text}\n")
    }

    #[test]
    fn folders_of_the_status_have_to_be_visible() {
        let machine = Machine::with_config("");
        let certs = machine.config_dir().join("certs.d");
        assert_eq!(machine.complete(Some(&[])), Ok(Vec::new()));
        assert_eq!(machine.complete(Some(&[&certs])), Ok(vec![certs.clone()]));
        let missing = machine.config_dir().join("missing");
        assert!(machine.complete(Some(&[&missing])).is_ok());
        // The folder exists, but is that of the container.
        let other = Path::new("/opt");
        let refused = machine.complete(Some(&[&certs, other])).unwrap_err();
        assert!(
            refused.starts_with("/opt of the runtime's settings"),
            "{refused}"
        );
        let on_the_machine = complete(settings(Some(&[other])), &[], false);
        assert_eq!(on_the_machine, Ok(settings(Some(&[other]))));
    }

    #[test]
    fn links_that_lead_out_are_refused() {
        for (link, target) in [
            ("certs.d/r.lan/hosts.toml", "/no-such-file"),
            ("certs.d/docker.io", "/opt"),
            ("linked", "/no-such-folder"),
        ] {
            let machine = Machine::with_config("");
            let link = machine.config_dir().join(link);
            symlink(target, &link).unwrap();
            let dir = match link.ends_with("linked") {
                true => link.clone(),
                false => machine.config_dir().join("certs.d"),
            };
            let refused = machine.complete(Some(&[&dir])).unwrap_err();
            let expected = format!("{} of the", link.display());
            assert!(refused.starts_with(&expected), "{refused}");
        }
    }

    #[test]
    fn without_them_in_the_status_the_configuration_decides() {
        let machine = Machine::with_config(&registry(""));
        let certs = machine.config_dir().join("certs.d");
        // The second default is not visible.
        let refused = machine.complete(None).unwrap_err();
        assert!(refused.starts_with(DOCKER_HOSTS_DIR), "{refused}");
        let both = [machine.config_dir(), DOCKER_HOSTS_DIR.into()];
        let completed = complete(settings(None), &both, true).unwrap();
        let expected = vec![certs.clone(), DOCKER_HOSTS_DIR.into()];
        assert_eq!(completed.hosts_dirs, Some(expected));

        let text = registry(&format!("config_path = '{}'", certs.display()));
        let machine_of = |text: &str| {
            fs::write(machine.config_dir().join(CONFIG), text).unwrap();
            machine.complete(None)
        };
        assert_eq!(machine_of(&text), Ok(vec![certs]));
        for (text, problem) in [
            (
                registry("mirrors.'docker.io'.endpoint = ['https://m.test']"),
                "registry.mirrors",
            ),
            (registry("config_path = '/opt/hosts'"), "/opt/hosts of"),
            ("garbage = [".to_owned(), "config.toml"),
            (
                "imports = ['missing.toml']".to_owned(),
                "missing.toml, which is imported",
            ),
        ] {
            let refused = machine_of(&text).unwrap_err();
            assert!(refused.contains(problem), "{text}: {refused}");
        }
        fs::remove_file(machine.config_dir().join(CONFIG)).unwrap();
        let refused = machine.complete(None).unwrap_err();
        assert!(refused.starts_with("there is no"), "{refused}");
    }

    #[test]
    fn the_snapshotter_is_that_of_the_configuration() {
        let text = "version = 3\n[plugins.'io.containerd.cri.v1.images']\nsnapshotter = 'native'\n";
        let machine = Machine::with_config(text);
        let completed = complete(settings(None), &[machine.config_dir()], false).unwrap();
        assert_eq!(completed.snapshotter, "native");
    }
}
