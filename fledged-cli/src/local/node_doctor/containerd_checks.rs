//! The runtime: whether it answers, and how containerd is set to fetch and unpack layers.
//!
//! What each release of containerd can do is in its `RELEASES.md` and `docs/cri/config.md`.

use fledged_core::model::ByteSize;
use fledged_cri::inspection::{
    AnsweringRuntime, ContainerdSettings, Fact, Release, SettingsOrigin, Unread,
};

use super::checks;
use crate::doctor::Finding;
use crate::output::pluralised;

/// containerd's default for `max_concurrent_downloads`.
const DOWNLOADS: i64 = 3;
/// The first release that fetches parts of one layer at a time.
const RANGES: Release = Release(2, 1, 0);
/// The smallest part of a layer for which containerd uses several connections, in bytes.
const RANGE_MIN: i64 = 512;
/// The first release that unpacks layers of one image at a time.
const PARALLEL_UNPACK: Release = Release(2, 2, 0);
/// The first release that does so without files that a layer deletes appearing again.
const CORRECT_PARALLEL_UNPACK: Release = Release(2, 2, 3);
/// The snapshotters that support it.
const REBASING: [&str; 2] = ["overlayfs", "erofs"];
/// Snapshotters that fetch layers when a container reads them.
const LAZY: [&str; 6] = [
    "stargz",
    "soci",
    "nydus",
    "overlaybd",
    "cvmfs-snapshotter",
    "estargz",
];

/// A table of containerd's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// `max_concurrent_downloads` and others of the plugin that pulls for CRI.
    Images,
    /// `snapshotter`, `discard_unpacked_layers`.
    Containerd,
    /// `config_path`.
    Registry,
    /// The transfer service.
    Transfer,
}

/// What to set, where: in the table of the file's version.
pub(super) fn setting(settings: &ContainerdSettings, part: Part, line: &str) -> String {
    let table = if settings.has_new_tables() {
        match part {
            Part::Images | Part::Containerd => r#"[plugins."io.containerd.cri.v1.images"]"#,
            Part::Registry => r#"[plugins."io.containerd.cri.v1.images".registry]"#,
            Part::Transfer => r#"[plugins."io.containerd.transfer.v1.local"]"#,
        }
    } else if settings.file_version == Some(1) {
        match part {
            Part::Images => "[plugins.cri]",
            Part::Containerd => "[plugins.cri.containerd]",
            Part::Registry => "[plugins.cri.registry]",
            Part::Transfer => r#"[plugins."io.containerd.transfer.v1.local"]"#,
        }
    } else {
        match part {
            Part::Images => r#"[plugins."io.containerd.grpc.v1.cri"]"#,
            Part::Containerd => r#"[plugins."io.containerd.grpc.v1.cri".containerd]"#,
            Part::Registry => r#"[plugins."io.containerd.grpc.v1.cri".registry]"#,
            Part::Transfer => r#"[plugins."io.containerd.transfer.v1.local"]"#,
        }
    };
    let file = file(settings);
    format!("{line} under {table} in {file}; then restart containerd")
}

/// The file to edit. k3s and RKE2 write containerd's file from a template beside it.
fn file(settings: &ContainerdSettings) -> String {
    let path = settings.file.display();
    if settings
        .file
        .components()
        .any(|part| part.as_os_str() == "rancher")
    {
        let template = if settings.has_new_tables() {
            "config-v3.toml.tmpl"
        } else {
            "config.toml.tmpl"
        };
        return format!("{template} beside {path}, which k3s and RKE2 write from it");
    }
    let is_new = settings.file_version.is_none() && settings.file_problem.is_none();
    let version = if settings.has_new_tables() { 3 } else { 2 };
    if is_new {
        return format!("a new {path} with version = {version}");
    }
    path.to_string()
}

/// The settings with the release, which decides what containerd can do.
fn with_release(containerd: &Fact<ContainerdSettings>) -> Fact<(&ContainerdSettings, Release)> {
    let settings = containerd.as_ref().map_err(Clone::clone)?;
    let release = settings.release;
    let release = release.ok_or_else(|| Unread::new("containerd's version has no number"))?;
    Ok((settings, release))
}

pub(super) fn runtime_answers(runtime: &Fact<AnsweringRuntime>) -> Finding {
    let check = checks::RUNTIME_ANSWERS;
    match runtime {
        Ok(AnsweringRuntime { uri, info, .. }) => {
            let api = match uri {
                fledged_cri::RuntimeUri::Cri(_) => "CRI",
                _ => "API",
            };
            let (name, version) = (&info.name, &info.version);
            let api_version = &info.api_version;
            Finding::ok(
                check,
                format!("{name} {version} answers {api} {api_version} at {uri}"),
            )
        }
        Err(unread) => Finding::advice(
            check,
            unread.to_string(),
            "no image can be listed, pulled or removed",
            "start the runtime, or name its socket with --runtime",
        )
        .into_failed(),
    }
}

/// Where the settings come from, and whether some of them have no effect.
pub(super) fn settings(containerd: &Fact<ContainerdSettings>) -> Finding {
    let check = checks::CONTAINERD_SETTINGS;
    let settings = match containerd {
        Ok(settings) => settings,
        Err(unread) if unread.is_broken() => {
            return checks::broken_file(check, unread.to_string(), "containerd");
        }
        Err(unread) => return Finding::skipped(check, unread),
    };
    if let Some(unused) = settings.unused.first() {
        let keys = unused.keys.join(", ");
        let file = unused.file.display();
        return Finding::advice(
            check,
            format!("{file} has {keys} under [{}]", unused.table),
            "containerd ignores them there, because the file has version 3 or later",
            r#"move them to [plugins."io.containerd.cri.v1.images"]; then restart containerd"#,
        );
    }
    let file = settings.file.display();
    let file_state = match (&settings.file_problem, settings.file_version) {
        (Some(problem), _) => format!("its file was not read: {problem}"),
        (None, Some(version)) => format!("its file is {file}, version {version}"),
        (None, None) => format!("there is no {file}"),
    };
    let origin = match settings.origin {
        SettingsOrigin::Status => "read from the runtime's status",
        SettingsOrigin::File => {
            "read from its file, which may have changed since containerd started"
        }
        _ => "containerd's defaults",
    };
    let found = format!("{origin}; {file_state}");
    if settings
        .file_problem
        .as_ref()
        .is_some_and(Unread::is_broken)
    {
        return checks::broken_file(check, found, "containerd");
    }
    Finding::ok(check, found)
}

pub(super) fn layer_downloads(containerd: &Fact<ContainerdSettings>) -> Finding {
    let check = checks::LAYER_DOWNLOADS;
    let settings = match containerd {
        Ok(settings) => settings,
        Err(unread) => return Finding::skipped(check, unread),
    };
    // The transfer service has one limit, and CRI's own pull has one for each image.
    let (part, of) = match settings.local_pull() {
        Some(_) => (Part::Images, "of an image"),
        None => (Part::Transfer, "of all images together"),
    };
    let limit = settings.max_concurrent_downloads();
    let Some(layers) = usize::try_from(limit).ok().filter(|limit| *limit > 0) else {
        let found = format!("max_concurrent_downloads is {limit}: no limit on the layers {of}");
        return Finding::ok(check, found);
    };
    let layers = pluralised(layers, "layer");
    let found = format!("max_concurrent_downloads is {limit}: at most {layers} {of} at a time");
    if limit >= DOWNLOADS {
        return Finding::ok(check, found);
    }
    Finding::advice(
        check,
        found,
        "the other layers wait, also where the network and the registry have room for more",
        downloads_remedy(settings, part),
    )
}

fn downloads_remedy(settings: &ContainerdSettings, part: Part) -> String {
    let set = "max_concurrent_downloads = 3 (containerd's default) or more";
    // There, any other value than 3 would turn the transfer service off.
    if part == Part::Images && settings.could_transfer() {
        let moved = setting(settings, Part::Transfer, set);
        return format!("remove it from the images plugin, and {moved}");
    }
    setting(settings, part, set)
}

pub(super) fn layer_ranges(containerd: &Fact<ContainerdSettings>) -> Finding {
    let check = checks::LAYER_RANGES;
    let (settings, release) = match with_release(containerd) {
        Ok(read) => read,
        Err(unread) => return Finding::skipped(check, &unread),
    };
    let cost = "a layer of several GB arrives at the speed of one connection";
    if release < RANGES {
        return Finding::advice(
            check,
            format!("containerd {release} fetches each layer over one connection"),
            cost,
            "pull with fledged node apply or run and --pull-via auto, which fetches layers over several connections; or use containerd 2.1 or later with concurrent_layer_fetch_buffer",
        );
    }
    let part = match settings.local_pull() {
        Some(_) => Part::Images,
        None => Part::Transfer,
    };
    let buffer = settings.concurrent_layer_fetch_buffer();
    if buffer < RANGE_MIN {
        return Finding::advice(
            check,
            format!(
                "concurrent_layer_fetch_buffer is {buffer}: each layer is fetched over one connection"
            ),
            cost,
            setting(
                settings,
                part,
                "concurrent_layer_fetch_buffer = 8388608 (8 MiB for each connection)",
            ),
        );
    }
    let size = ByteSize::new(u64::try_from(buffer).unwrap_or(0));
    if settings.max_concurrent_downloads() == 1 {
        return Finding::advice(
            check,
            format!("concurrent_layer_fetch_buffer is {size}, and max_concurrent_downloads is 1"),
            cost,
            downloads_remedy(settings, part),
        );
    }
    Finding::ok(
        check,
        format!(
            "concurrent_layer_fetch_buffer is {size}: a layer is fetched in such parts over several connections"
        ),
    )
}

pub(super) fn parallel_unpack(containerd: &Fact<ContainerdSettings>) -> Finding {
    let check = checks::PARALLEL_UNPACK;
    let (settings, release) = match with_release(containerd) {
        Ok(read) => read,
        Err(unread) => return Finding::skipped(check, &unread),
    };
    let cost =
        "unpacking a large image uses one processor and often takes longer than its download";
    if release < PARALLEL_UNPACK {
        return Finding::advice(
            check,
            format!("containerd {release} unpacks the layers of an image one after another"),
            cost,
            format!(
                "use containerd {CORRECT_PARALLEL_UNPACK} or later with max_concurrent_unpacks"
            ),
        );
    }
    let unpacks = settings.transfer.max_concurrent_unpacks;
    let is_correct = release >= CORRECT_PARALLEL_UNPACK;
    if unpacks > 1 && !is_correct {
        return Finding::advice(
            check,
            format!("max_concurrent_unpacks is {unpacks} with containerd {release}"),
            "files that a layer deletes can appear in containers (containerd issue 13030)",
            format!(
                "use containerd {CORRECT_PARALLEL_UNPACK} or later; until then, {}",
                setting(settings, Part::Transfer, "max_concurrent_unpacks = 1")
            ),
        );
    }
    if let Some(reason) = settings.local_pull() {
        return Finding::advice(
            check,
            format!("layers are unpacked one after another, because {reason}"),
            cost,
            "remove that setting, so that containerd pulls with its transfer service, which alone unpacks in parallel",
        );
    }
    let snapshotter = &settings.images.snapshotter;
    if !REBASING.contains(&snapshotter.as_str()) {
        return Finding::ok(
            check,
            format!(
                "max_concurrent_unpacks is {unpacks}; of containerd's snapshotters only overlayfs and erofs unpack in parallel, and this one is {snapshotter}"
            ),
        );
    }
    if unpacks <= 1 {
        let set = setting(settings, Part::Transfer, "max_concurrent_unpacks = 4");
        let remedy = if is_correct {
            set
        } else {
            format!("use containerd {CORRECT_PARALLEL_UNPACK} or later; there, {set}")
        };
        return Finding::advice(
            check,
            format!("max_concurrent_unpacks is {unpacks}: layers are unpacked one after another"),
            cost,
            remedy,
        );
    }
    Finding::ok(
        check,
        format!(
            "max_concurrent_unpacks is {unpacks}: at most {unpacks} layers are unpacked at a time"
        ),
    )
}

pub(super) fn snapshotter(containerd: &Fact<ContainerdSettings>) -> Finding {
    let check = checks::SNAPSHOTTER;
    let settings = match containerd {
        Ok(settings) => settings,
        Err(unread) => return Finding::skipped(check, unread),
    };
    let name = settings.images.snapshotter.as_str();
    let overlayfs = || setting(settings, Part::Containerd, r#"snapshotter = "overlayfs""#);
    if name == "native" {
        return Finding::advice(
            check,
            "snapshotter is native: every layer is a full copy of the layers below it",
            "an image with many layers takes many times its size on disk, and the time to write it",
            format!("{}; images are pulled again", overlayfs()),
        );
    }
    if LAZY.contains(&name) {
        return Finding::advice(
            check,
            format!("snapshotter is {name}: content can be fetched when a container reads it"),
            "a pre-pulled image may still need the registry when its container runs",
            format!(
                "for images that must start without the registry, {}",
                overlayfs()
            ),
        );
    }
    Finding::ok(check, format!("snapshotter is {name}"))
}

pub(super) fn unpacked_layers(containerd: &Fact<ContainerdSettings>) -> Finding {
    let check = checks::UNPACKED_LAYERS;
    let settings = match containerd {
        Ok(settings) => settings,
        Err(unread) => return Finding::skipped(check, unread),
    };
    let found = if settings.images.discard_unpacked_layers {
        "discard_unpacked_layers is true: compressed layers are deleted after they are unpacked, which saves disk; the images cannot be exported or pushed from this node, nor served to other nodes"
    } else {
        "discard_unpacked_layers is false: compressed layers are kept beside the unpacked ones"
    };
    Finding::ok(check, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    fn containerd(release: Release) -> ContainerdSettings {
        let mut settings = ContainerdSettings::default();
        settings.release = Some(release);
        settings.file_version = Some(if release < Release(2, 0, 0) { 2 } else { 3 });
        settings
    }

    fn remedy(finding: &Finding) -> &str {
        finding.remedy.as_deref().unwrap_or_default()
    }

    #[test]
    fn a_runtime_without_answer_fails() {
        let finding = runtime_answers(&Err(Unread::new("not listening")));
        assert_eq!(finding.result, Verdict::Failed);
        assert_eq!(finding.found, "not listening");
        assert!(finding.cost.is_some() && finding.remedy.is_some());
    }

    #[test]
    fn remedies_name_the_table_of_the_files_version() {
        for (version, release, table) in [
            (
                Some(1),
                Release(1, 6, 0),
                "[plugins.cri] in /etc/containerd/config.toml;",
            ),
            (
                Some(2),
                Release(1, 7, 0),
                r#"[plugins."io.containerd.grpc.v1.cri"] in /etc/containerd/config.toml;"#,
            ),
            (
                Some(2),
                Release(2, 0, 0),
                r#"[plugins."io.containerd.grpc.v1.cri"] in"#,
            ),
            (
                Some(3),
                Release(2, 0, 0),
                r#"[plugins."io.containerd.cri.v1.images"] in"#,
            ),
            (
                None,
                Release(2, 0, 0),
                "in a new /etc/containerd/config.toml with version = 3",
            ),
            (
                None,
                Release(1, 7, 0),
                "in a new /etc/containerd/config.toml with version = 2",
            ),
        ] {
            let mut settings = containerd(release);
            settings.file_version = version;
            settings.images.max_concurrent_downloads = 1;
            let finding = layer_downloads(&Ok(settings));
            assert_eq!(finding.result, Verdict::Advice);
            assert!(remedy(&finding).contains(table), "{finding:?}");
        }
        let mut settings = containerd(Release(2, 1, 0));
        settings.transfer.max_concurrent_downloads = 1;
        settings.file = "/var/lib/rancher/k3s/agent/etc/containerd/config.toml".into();
        let finding = layer_downloads(&Ok(settings));
        assert!(
            remedy(&finding).contains("io.containerd.transfer.v1.local"),
            "{finding:?}"
        );
        assert!(
            remedy(&finding).contains("config-v3.toml.tmpl"),
            "{finding:?}"
        );
    }

    #[test]
    fn a_limit_that_turns_the_transfer_service_off_moves_there() {
        let mut settings = containerd(Release(2, 2, 3));
        settings.images.max_concurrent_downloads = 2;
        let finding = layer_downloads(&Ok(settings.clone()));
        assert!(
            remedy(&finding).contains("io.containerd.transfer.v1.local"),
            "{finding:?}"
        );
        settings.images.use_local_image_pull = true;
        let finding = layer_downloads(&Ok(settings));
        assert!(
            remedy(&finding).contains("io.containerd.cri.v1.images"),
            "{finding:?}"
        );
    }

    #[test]
    fn the_limit_of_downloads_is_shown() {
        let mut settings = containerd(Release(1, 7, 0));
        settings.images.max_concurrent_downloads = 9;
        let finding = layer_downloads(&Ok(settings.clone()));
        assert_eq!(finding.result, Verdict::Ok);
        assert!(
            finding.found.contains("is 9: at most 9 layers of an image"),
            "{finding:?}"
        );
        settings.images.max_concurrent_downloads = 0;
        assert!(layer_downloads(&Ok(settings)).found.contains("no limit"));
        let finding = layer_downloads(&Ok(containerd(Release(2, 1, 0))));
        assert!(finding.found.contains("all images together"), "{finding:?}");
    }

    #[test]
    fn a_version_without_a_number_is_skipped() {
        let mut settings = containerd(Release(2, 2, 3));
        settings.release = None;
        for check in [layer_ranges, parallel_unpack] {
            let finding = check(&Ok(settings.clone()));
            assert_eq!(finding.result, Verdict::Skipped, "{finding:?}");
        }
    }

    #[test]
    fn ranges_need_a_release_and_a_setting() {
        let finding = layer_ranges(&Ok(containerd(Release(2, 0, 9))));
        assert_eq!(finding.result, Verdict::Advice);
        assert!(remedy(&finding).contains("containerd 2.1"), "{finding:?}");
        let mut settings = containerd(Release(2, 1, 0));
        let finding = layer_ranges(&Ok(settings.clone()));
        assert!(
            remedy(&finding).contains("io.containerd.transfer.v1.local"),
            "{finding:?}"
        );
        settings.transfer.concurrent_layer_fetch_buffer = 8 << 20;
        let finding = layer_ranges(&Ok(settings.clone()));
        assert_eq!(finding.result, Verdict::Ok);
        assert!(finding.found.contains("8.0 MiB"), "{finding:?}");
        // The transfer service does not pull with this setting, so that its buffer has no effect.
        settings.images.use_local_image_pull = true;
        let finding = layer_ranges(&Ok(settings));
        assert!(
            remedy(&finding).contains("io.containerd.cri.v1.images"),
            "{finding:?}"
        );
    }

    #[test]
    fn parallel_unpack_needs_a_correct_release() {
        let finding = parallel_unpack(&Ok(containerd(Release(1, 7, 0))));
        assert_eq!(finding.result, Verdict::Advice);
        assert!(remedy(&finding).contains("2.2.3"), "{finding:?}");

        let mut settings = containerd(Release(2, 2, 1));
        settings.transfer.max_concurrent_unpacks = 4;
        let finding = parallel_unpack(&Ok(settings.clone()));
        assert_eq!(finding.result, Verdict::Advice);
        assert!(
            finding.cost.as_ref().unwrap().contains("13030"),
            "{finding:?}"
        );

        settings.release = Some(Release(2, 2, 3));
        assert_eq!(parallel_unpack(&Ok(settings.clone())).result, Verdict::Ok);
        settings.images.discard_unpacked_layers = true;
        let finding = parallel_unpack(&Ok(settings.clone()));
        assert!(
            finding.found.contains("discard_unpacked_layers"),
            "{finding:?}"
        );
        settings.images.discard_unpacked_layers = false;
        settings.transfer.max_concurrent_unpacks = 1;
        let finding = parallel_unpack(&Ok(settings.clone()));
        assert!(
            remedy(&finding).starts_with("max_concurrent_unpacks = 4"),
            "{finding:?}"
        );
        settings.images.snapshotter = "zfs".to_owned();
        assert_eq!(parallel_unpack(&Ok(settings)).result, Verdict::Ok);
    }

    #[test]
    fn slow_and_lazy_snapshotters_are_advice() {
        for (name, result, words) in [
            ("overlayfs", Verdict::Ok, "overlayfs"),
            ("devmapper", Verdict::Ok, "devmapper"),
            ("native", Verdict::Advice, "full copy"),
            (
                "stargz",
                Verdict::Advice,
                "fetched when a container reads it",
            ),
        ] {
            let mut settings = containerd(Release(1, 7, 0));
            settings.images.snapshotter = name.to_owned();
            let finding = snapshotter(&Ok(settings));
            assert_eq!(finding.result, result, "{finding:?}");
            assert!(finding.found.contains(words), "{finding:?}");
        }
    }

    #[test]
    fn discarded_layers_are_named() {
        let mut settings = containerd(Release(1, 7, 0));
        assert!(
            unpacked_layers(&Ok(settings.clone()))
                .found
                .contains("is false")
        );
        settings.images.discard_unpacked_layers = true;
        let finding = unpacked_layers(&Ok(settings));
        assert!(finding.found.contains("cannot be exported"), "{finding:?}");
    }

    #[test]
    fn a_broken_file_is_advice_also_beside_a_status() {
        let broken = Unread::broken("cannot read /f: line 2: unclosed table");
        let finding = super::settings(&Err(broken.clone()));
        assert_eq!(finding.result, Verdict::Advice);
        let mut status = containerd(Release(1, 7, 0));
        status.origin = SettingsOrigin::Status;
        status.file_problem = Some(broken);
        let finding = super::settings(&Ok(status.clone()));
        assert_eq!(finding.result, Verdict::Advice);
        assert!(finding.found.ends_with("line 2: unclosed table"));
        status.file_problem = Some(Unread::new("cannot read /f: permission denied"));
        assert_eq!(super::settings(&Ok(status)).result, Verdict::Ok);
        let unread = Err(Unread::new("no process containerd"));
        assert_eq!(super::settings(&unread).result, Verdict::Skipped);
    }
}
