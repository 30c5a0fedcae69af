//! The kubelet's settings that decide how images are pulled and when they are deleted.
//!
//! Names and defaults are those of `KubeletConfiguration` (`kubelet.config.k8s.io/v1beta1`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fledged_core::model::{ByteSize, GoDuration};
use serde_json::Value;

use super::{FILE_MAX, Fact, Unread};
use crate::kubelet::{CONFIG, CONFIG_FLAG, below, embeds_kubelet, flag, processes, program};
use crate::text_file::read_text;

/// The flag of a directory whose files are merged over the configuration file.
const CONFIG_DIR_FLAG: &str = "--config-dir";
/// Most files of that directory that are read.
const FILES_MAX: usize = 256;

/// A threshold of `evictionHard`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum EvictionThreshold {
    /// A share of the file system in percent.
    Percent(f64),
    /// A number of bytes.
    Bytes(ByteSize),
    /// A text that is neither.
    Invalid(String),
}

/// The settings of a kubelet.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct KubeletSettings {
    /// Whether a kubelet runs, or only its configuration file is here.
    pub running: bool,
    /// The configuration file; `None` if the kubelet runs without one.
    pub file: Option<PathBuf>,
    /// The flags that set some of these values, and take precedence over the file.
    pub flags: Vec<&'static str>,
    /// `imageGCHighThresholdPercent`: used share from which images are deleted; 100 disables it.
    pub image_gc_high_threshold_percent: i64,
    /// `imageGCLowThresholdPercent`: used share down to which images are deleted.
    pub image_gc_low_threshold_percent: i64,
    /// `imageMaximumGCAge`: unused images are deleted after this time; zero disables it.
    pub image_maximum_gc_age: Duration,
    /// `serializeImagePulls`.
    pub serialize_image_pulls: bool,
    /// `maxParallelImagePulls`.
    pub max_parallel_image_pulls: Option<i64>,
    /// `imagefs.available` of `evictionHard`.
    pub image_eviction: Option<EvictionThreshold>,
}

impl Default for KubeletSettings {
    /// The kubelet's defaults on Linux.
    fn default() -> Self {
        Self {
            running: true,
            file: None,
            flags: Vec::new(),
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            image_maximum_gc_age: Duration::ZERO,
            serialize_image_pulls: true,
            max_parallel_image_pulls: None,
            image_eviction: Some(EvictionThreshold::Percent(15.0)),
        }
    }
}

/// The settings of the kubelet that runs, or else those in its usual file.
pub(super) fn read(root: &Path) -> Fact<KubeletSettings> {
    for arguments in processes(root) {
        let program = program(&arguments);
        if embeds_kubelet(program) {
            return Err(Unread::new(format!(
                "the kubelet is a part of {program}, which passes it settings that no command line shows"
            )));
        }
        if program == "kubelet" {
            return of_process(root, &arguments);
        }
    }
    let file = Path::new(CONFIG);
    match read_file(root, file) {
        Ok(config) => {
            let mut settings = KubeletSettings {
                running: false,
                file: Some(file.to_owned()),
                ..KubeletSettings::default()
            };
            settings.set_config(&config);
            Ok(settings)
        }
        Err(FileError::Missing) => Err(Unread::new(format!(
            "no kubelet runs here, and there is no {CONFIG}"
        ))),
        Err(FileError::Unread(unread)) => Err(unread),
    }
}

enum FileError {
    Missing,
    Unread(Unread),
}

fn of_process(root: &Path, arguments: &[String]) -> Fact<KubeletSettings> {
    let mut settings = KubeletSettings::default();
    let mut config = Value::Null;
    if let Some(file) = flag(arguments, CONFIG_FLAG) {
        let file = PathBuf::from(file);
        config = read_file(root, &file).map_err(|error| match error {
            FileError::Missing => Unread::new(format!("there is no {}", file.display())),
            FileError::Unread(unread) => unread,
        })?;
        settings.file = Some(file);
    }
    if let Some(folder) = flag(arguments, CONFIG_DIR_FLAG) {
        for file in drop_ins(root, Path::new(folder))? {
            match read_file(root, &file) {
                Ok(more) => merge(&mut config, more),
                Err(FileError::Missing) => {}
                Err(FileError::Unread(unread)) => return Err(unread),
            }
        }
    }
    settings.set_config(&config);
    settings.set_flags(arguments);
    Ok(settings)
}

/// The files `*.conf` of the directory, in the order in which the kubelet merges them.
fn drop_ins(root: &Path, folder: &Path) -> Fact<Vec<PathBuf>> {
    let entries = match fs::read_dir(below(root, &folder.to_string_lossy())) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Unread::io(folder, &error)),
    };
    let files = entries
        .flatten()
        .map(|entry| folder.join(entry.file_name()));
    let mut files: Vec<PathBuf> = files
        .filter(|file| {
            file.extension()
                .is_some_and(|extension| extension == "conf")
        })
        .collect();
    if files.len() > FILES_MAX {
        return Err(Unread::file(folder, format!("more than {FILES_MAX} files")));
    }
    files.sort();
    Ok(files)
}

/// A KubeletConfiguration, in YAML or JSON.
fn read_file(root: &Path, file: &Path) -> Result<Value, FileError> {
    let text =
        read_text(&below(root, &file.to_string_lossy()), FILE_MAX).map_err(|error| match error
            .kind()
        {
            io::ErrorKind::NotFound => FileError::Missing,
            _ => FileError::Unread(Unread::io(file, &error)),
        })?;
    parse(&text).map_err(|problem| FileError::Unread(Unread::file(file, problem)))
}

/// The object of a KubeletConfiguration, or null, or what is wrong with the text.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let config: Value = match serde_json::from_str(text) {
        Ok(config) => config,
        // JSON is YAML, so that only this parser's position counts.
        Err(_) => serde_saphyr::from_str(text).map_err(|error| match error.location() {
            Some(at) => format!("line {} is not valid YAML", at.line()),
            None => "it is not valid YAML".to_owned(),
        })?,
    };
    match config {
        Value::Object(_) | Value::Null => Ok(config),
        _ => Err("it is not a KubeletConfiguration".to_owned()),
    }
}

/// Merges as RFC 7386 does, but for null, which is left out here.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (_, Value::Null) => {}
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

impl KubeletSettings {
    /// Whether a flag sets this value.
    #[must_use]
    pub fn has_flag(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }

    pub(super) fn set_config(&mut self, config: &Value) {
        let number = |key: &str| config.get(key).and_then(Value::as_i64);
        if let Some(percent) = number("imageGCHighThresholdPercent") {
            self.image_gc_high_threshold_percent = percent;
        }
        if let Some(percent) = number("imageGCLowThresholdPercent") {
            self.image_gc_low_threshold_percent = percent;
        }
        let age = config.get("imageMaximumGCAge").and_then(Value::as_str);
        if let Some(GoDuration(age)) = age.and_then(|age| age.parse().ok()) {
            self.image_maximum_gc_age = age;
        }
        self.max_parallel_image_pulls = number("maxParallelImagePulls");
        let serialize = config.get("serializeImagePulls").and_then(Value::as_bool);
        // As the kubelet sets its default.
        let parallel = self
            .max_parallel_image_pulls
            .is_some_and(|pulls| pulls >= 2);
        self.serialize_image_pulls = serialize.unwrap_or(!parallel);
        let Some(eviction) = config.get("evictionHard").and_then(Value::as_object) else {
            return;
        };
        let defaults = config.get("mergeDefaultEvictionSettings");
        let keeps_defaults = defaults.and_then(Value::as_bool).unwrap_or(false);
        match eviction.get("imagefs.available").and_then(Value::as_str) {
            Some(text) => self.image_eviction = Some(threshold(text)),
            // One threshold replaces all defaults.
            None if !keeps_defaults && !eviction.is_empty() => self.image_eviction = None,
            None => {}
        }
    }

    fn set_flags(&mut self, arguments: &[String]) {
        for (name, value) in [
            (
                "--image-gc-high-threshold",
                &mut self.image_gc_high_threshold_percent,
            ),
            (
                "--image-gc-low-threshold",
                &mut self.image_gc_low_threshold_percent,
            ),
        ] {
            if let Some(percent) = flag(arguments, name).and_then(|text| text.parse().ok()) {
                *value = percent;
                self.flags.push(name);
            }
        }
        if let Some(serialize) = boolean(arguments, "--serialize-image-pulls") {
            self.serialize_image_pulls = serialize;
            self.flags.push("--serialize-image-pulls");
        }
        if let Some(eviction) = flag(arguments, "--eviction-hard") {
            let signals = eviction.split(',').filter_map(|part| part.split_once('<'));
            let mut signals = signals.filter(|(signal, _)| *signal == "imagefs.available");
            self.image_eviction = signals.next().map(|(_, text)| threshold(text));
            self.flags.push("--eviction-hard");
        }
    }
}

/// A boolean flag, whose value can only follow `=`.
fn boolean(arguments: &[String], name: &str) -> Option<bool> {
    let mut values = arguments
        .iter()
        .filter_map(|argument| argument.strip_prefix(name));
    match values.find(|value| value.is_empty() || value.starts_with('='))? {
        "" => Some(true),
        value => value.get(1..)?.parse().ok(),
    }
}

/// `15%`, or a quantity of Kubernetes such as `10Gi`.
fn threshold(text: &str) -> EvictionThreshold {
    let text = text.trim();
    if let Some(percent) = text
        .strip_suffix('%')
        .and_then(|text| text.parse::<f64>().ok())
        && percent.is_finite()
    {
        return EvictionThreshold::Percent(percent);
    }
    let units: [(&str, u64); 9] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("", 1),
    ];
    let bytes = units.iter().find_map(|(unit, factor)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*factor)
    });
    match bytes {
        Some(bytes) => EvictionThreshold::Bytes(ByteSize::new(bytes)),
        None => EvictionThreshold::Invalid(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(files: &[(&str, &str)]) -> Fact<KubeletSettings> {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        read(root.path())
    }

    #[test]
    fn the_running_kubelet_names_its_files() {
        let found = settings(&[
            (
                "proc/12/cmdline",
                "/usr/bin/kubelet\0--config=/etc/kubelet.yaml\0--config-dir\0/etc/kubelet.d\0--image-gc-high-threshold=90\0--serialize-image-pulls=false\0",
            ),
            (
                "etc/kubelet.yaml",
                "kind: KubeletConfiguration\nimageGCHighThresholdPercent: 70\nimageGCLowThresholdPercent: 60\nimageMaximumGCAge: 12h0m0s\nevictionHard:\n  imagefs.available: 10Gi\n  memory.available: 1Gi\n",
            ),
            ("etc/kubelet.d/10.conf", "imageGCLowThresholdPercent: 50\nevictionHard:\n  imagefs.available: 5%\n"),
            ("etc/kubelet.d/README", ":"),
        ])
        .unwrap();
        assert!(found.running);
        assert_eq!(found.file.as_deref(), Some(Path::new("/etc/kubelet.yaml")));
        assert_eq!(found.image_gc_high_threshold_percent, 90);
        assert!(found.has_flag("--image-gc-high-threshold"));
        assert_eq!(found.image_gc_low_threshold_percent, 50);
        assert!(!found.has_flag("--image-gc-low-threshold"));
        assert_eq!(found.image_maximum_gc_age, Duration::from_secs(12 * 3600));
        assert!(!found.serialize_image_pulls);
        assert_eq!(found.image_eviction, Some(EvictionThreshold::Percent(5.0)));
    }

    #[test]
    fn defaults_are_those_of_the_kubelet() {
        let found = settings(&[("proc/12/cmdline", "kubelet\0")]).unwrap();
        assert_eq!(found, KubeletSettings::default());
        let config = "maxParallelImagePulls: 5\nevictionHard:\n  memory.available: 1Gi\n";
        let found = settings(&[("var/lib/kubelet/config.yaml", config)]).unwrap();
        assert!(!found.running && !found.serialize_image_pulls);
        assert_eq!(found.image_eviction, None, "one threshold replaces all");
        let config = format!("{config}mergeDefaultEvictionSettings: true\n");
        let found = settings(&[("var/lib/kubelet/config.yaml", &config)]).unwrap();
        assert_eq!(found.image_eviction, Some(EvictionThreshold::Percent(15.0)));
    }

    #[test]
    fn unread_settings_name_the_file() {
        for (files, words) in [
            (vec![], "no kubelet runs here"),
            (
                vec![("proc/12/cmdline", "kubelet\0--config=/etc/missing.yaml\0")],
                "there is no /etc/missing.yaml",
            ),
            (
                vec![("var/lib/kubelet/config.yaml", "a: 1\nb: [")],
                "/var/lib/kubelet/config.yaml: line ",
            ),
            (
                vec![("var/lib/kubelet/config.yaml", "- a\n")],
                "it is not a KubeletConfiguration",
            ),
            (vec![("proc/12/cmdline", "k3s server\0")], "a part of k3s"),
        ] {
            let unread = settings(&files).unwrap_err().to_string();
            assert!(unread.contains(words), "{unread}");
        }
    }

    #[test]
    fn thresholds_are_shares_or_quantities() {
        for (text, expected) in [
            ("15%", EvictionThreshold::Percent(15.0)),
            ("10Gi", EvictionThreshold::Bytes(ByteSize::new(10 << 30))),
            ("500M", EvictionThreshold::Bytes(ByteSize::new(500_000_000))),
            ("1024", EvictionThreshold::Bytes(ByteSize::new(1024))),
            ("lots", EvictionThreshold::Invalid("lots".to_owned())),
            ("NaN%", EvictionThreshold::Invalid("NaN%".to_owned())),
        ] {
            assert_eq!(threshold(text), expected, "{text}");
        }
    }
}
