//! Tests of a whole inspection, without a runtime.

use std::fs;

use super::*;

/// The root of a machine with these files.
pub(super) fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

fn fifo(path: &Path) {
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
}

/// What a containerd of this version answered, without settings in its status.
fn answers(version: &str) -> Answers {
    let info = RuntimeInfo::new(
        "containerd",
        version,
        fledged_core::port::RemovalScope::Image,
    );
    Answers {
        info: Ok(info),
        status: Ok(HashMap::new()),
        filesystems: Ok(vec![FilesystemUsage::new(
            "/",
            fledged_core::model::ByteSize::ZERO,
        )]),
    }
}

fn inspect(root: &Path, version: &str) -> Inspection {
    let uri = RuntimeUri::Cri(root.join("run/containerd/containerd.sock"));
    read_files(answers(version), Some(&uri), root)
}

#[test]
fn settings_of_containerd_2_come_from_its_file() {
    let root = machine(&[
        ("proc/7/cmdline", "containerd\0"),
        (
            "etc/containerd/config.toml",
            "version = 3\n[plugins.'io.containerd.transfer.v1.local']\nmax_concurrent_downloads = 6\nmax_concurrent_unpacks = 4\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '/etc/certs.d'\n",
        ),
        ("etc/certs.d/r.lan/hosts.toml", "server = 'https://r.lan'\n"),
        (
            "proc/pressure/io",
            "some avg10=1 avg60=2 avg300=3 total=4\n",
        ),
    ]);
    let found = inspect(root.path(), "v2.2.3");
    let settings = found.containerd.unwrap();
    assert_eq!(settings.origin, SettingsOrigin::File);
    assert_eq!(settings.max_concurrent_downloads(), 6);
    assert_eq!(settings.transfer.max_concurrent_unpacks, 4);
    assert_eq!(found.hosts.unwrap().registries, ["r.lan"]);
    assert_eq!(found.io_pressure.unwrap().some.avg60, 2.0);
    assert!(found.cpu_pressure.is_err());
    assert!(found.disk.is_ok());
    assert!(found.kubelet.is_err());
}

#[test]
fn hostile_files_are_named_and_never_waited_for() {
    let root = machine(&[
        ("proc/7/cmdline", "containerd\0"),
        ("proc/8/cmdline", "kubelet\0--config=/etc/kubelet.yaml\0"),
        ("etc/containerd/README", ""),
    ]);
    fifo(&root.path().join("etc/kubelet.yaml"));
    fifo(&root.path().join("etc/containerd/config.toml"));
    let found = inspect(root.path(), "v2.2.3");
    for (unread, file) in [
        (found.kubelet.unwrap_err(), "/etc/kubelet.yaml"),
        (found.containerd.unwrap_err(), "/etc/containerd/config.toml"),
        (found.hosts.unwrap_err(), "/etc/containerd/config.toml"),
    ] {
        assert!(unread.is_broken(), "{unread}");
        let expected = format!("cannot read {file}: not a regular file");
        assert_eq!(unread.to_string(), expected);
    }
    let root = machine(&[("proc/7/cmdline", "containerd\0")]);
    let long = root.path().join("etc/containerd/config.toml");
    fs::create_dir_all(long.parent().unwrap()).unwrap();
    fs::write(&long, "#".repeat(FILE_MAX as usize + 1)).unwrap();
    let unread = inspect(root.path(), "v2.2.3").containerd.unwrap_err();
    assert!(unread.is_broken(), "{unread}");
    assert!(unread.to_string().contains("longer than"), "{unread}");
}

#[test]
fn another_runtime_has_no_settings_of_containerd() {
    let root = machine(&[]);
    let mut answers = answers("1.31.0");
    answers.info.as_mut().unwrap().name = "cri-o".to_owned();
    let uri = RuntimeUri::Cri(root.path().join("crio.sock"));
    let found = read_files(answers, Some(&uri), root.path());
    assert!(found.runtime.is_ok());
    assert!(found.containerd.unwrap_err().to_string().contains("cri-o"));
}

#[tokio::test]
async fn without_a_runtime_the_rest_is_read() {
    let root = machine(&[
        ("proc/8/cmdline", "kubelet\0"),
        (
            "proc/pressure/cpu",
            "some avg10=1 avg60=2 avg300=3 total=4\n",
        ),
    ]);
    let found = Inspection::read(None, root.path()).await;
    assert!(found.runtime.is_err() && found.containerd.is_err() && found.disk.is_err());
    assert!(found.kubelet.is_ok() && found.cpu_pressure.is_ok());
    let dead = RuntimeUri::Cri(root.path().join("dead.sock"));
    let found = Inspection::read(Some(&dead), root.path()).await;
    let unread = found.runtime.unwrap_err().to_string();
    assert!(unread.contains("dead.sock"), "{unread}");
}

#[test]
fn links_of_the_node_stay_below_its_root() {
    let root = machine(&[
        (
            "real/containerd.toml",
            "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '/etc/certs.d'\n",
        ),
        ("real/kubelet.yaml", "imageMaximumGCAge: 12h\n"),
        ("real/certs/r.lan/hosts.toml", "server = 'https://r.lan'\n"),
        ("etc/containerd/README", ""),
        ("var/lib/kubelet/README", ""),
    ]);
    for (link, target) in [
        ("etc/containerd/config.toml", "/real/containerd.toml"),
        ("etc/certs.d", "/real/certs"),
        ("var/lib/kubelet/config.yaml", "/../../real/kubelet.yaml"),
    ] {
        std::os::unix::fs::symlink(target, root.path().join(link)).unwrap();
    }
    let found = inspect(root.path(), "v2.2.3");
    assert_eq!(found.containerd.unwrap().origin, SettingsOrigin::File);
    assert_eq!(found.hosts.unwrap().registries, ["r.lan"]);
    let age = found.kubelet.unwrap().image_maximum_gc_age;
    assert_eq!(age, Duration::from_secs(12 * 3600));
}
