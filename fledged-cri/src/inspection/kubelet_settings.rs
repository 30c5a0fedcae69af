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
use crate::kubelet::{
    CONFIG, CONFIG_FLAG, Process, embeds_kubelet, flag, processes, sees_processes,
};
use crate::node_path::below;
use crate::text_file::read_utf8;

/// The flag of a directory whose files are merged over the configuration file.
const CONFIG_DIR_FLAG: &str = "--config-dir";
/// Most files of that directory that are read.
const FILES_MAX: usize = 256;
const HIGH: &str = "imageGCHighThresholdPercent";
const LOW: &str = "imageGCLowThresholdPercent";
const HIGH_FLAG: &str = "--image-gc-high-threshold";
const LOW_FLAG: &str = "--image-gc-low-threshold";
const MAXIMUM_AGE: &str = "imageMaximumGCAge";
const MINIMUM_AGE: &str = "imageMinimumGCAge";
const MINIMUM_AGE_DEFAULT: Duration = Duration::from_secs(120);
const PARALLEL: &str = "maxParallelImagePulls";
const SERIALIZE: &str = "serializeImagePulls";
const EVICTION: &str = "evictionHard";
const MERGE_EVICTION: &str = "mergeDefaultEvictionSettings";
/// The signal of the file system of the images.
const SIGNAL: &str = "imagefs.available";
/// What is valid.
const PERCENT: &str = "an integer from 0 to 100";
const BOOLEAN: &str = "true or false";
const DURATION: &str = "a Go duration such as 120h";
const THRESHOLD: &str = "a share from 0% to 100% or a positive quantity such as 10Gi";

/// A threshold of `evictionHard`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum EvictionThreshold {
    /// A share of the file system in percent.
    Percent(f64),
    /// A number of bytes.
    Bytes(ByteSize),
}

/// A value that the kubelet rejects: it does not start with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, which is invalid: it must be {valid}")]
#[non_exhaustive]
pub struct InvalidSetting {
    /// The field of the file, such as `imageMaximumGCAge`, or the flag.
    pub field: String,
    /// The value, as JSON; of a flag, its text.
    pub value: String,
    /// The values that are valid, as a phrase.
    pub valid: String,
    /// The field that this value would set.
    setting: &'static str,
}

impl InvalidSetting {
    /// This value of this field of the file.
    pub fn new(setting: &'static str, value: impl Into<String>, valid: impl Into<String>) -> Self {
        Self {
            field: setting.to_owned(),
            value: value.into(),
            valid: valid.into(),
            setting,
        }
    }

    fn of_flag(setting: &'static str, flag: &str, value: &str, valid: &str) -> Self {
        Self {
            field: flag.to_owned(),
            ..Self::new(setting, format!("{value:?}"), valid)
        }
    }
}

/// The settings of a kubelet.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct KubeletSettings {
    /// Whether a kubelet runs. If not, only its configuration file was found: why.
    pub process: Fact<()>,
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
    /// Values that the kubelet rejects. The fields above have the defaults in their place.
    pub invalid: Vec<InvalidSetting>,
}

impl Default for KubeletSettings {
    /// The kubelet's defaults on Linux.
    fn default() -> Self {
        Self {
            process: Ok(()),
            file: None,
            flags: Vec::new(),
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            image_maximum_gc_age: Duration::ZERO,
            serialize_image_pulls: true,
            max_parallel_image_pulls: None,
            image_eviction: Some(EvictionThreshold::Percent(15.0)),
            invalid: Vec::new(),
        }
    }
}

/// The settings of the kubelet that runs, or else those in its usual file.
pub(super) fn read(root: &Path) -> Fact<KubeletSettings> {
    for process in processes(root) {
        let program = process.program();
        if embeds_kubelet(program) {
            return Err(Unread::new(format!(
                "the kubelet is a part of {program}, which passes it settings that no command line shows"
            )));
        }
        if program == "kubelet" {
            return of_process(root, &process);
        }
    }
    let not_found = if sees_processes(root) {
        Unread::new("no kubelet runs here")
    } else {
        let root = root.display();
        Unread::new(format!(
            "no process below {root} can be seen, so none of a kubelet"
        ))
    };
    let file = Path::new(CONFIG);
    match read_file(root, file) {
        Ok(config) => {
            let mut settings = KubeletSettings {
                process: Err(not_found),
                file: Some(file.to_owned()),
                ..KubeletSettings::default()
            };
            settings.set_config(&config);
            settings.check_together(&config);
            Ok(settings)
        }
        Err(FileError::Missing) => Err(Unread::new(format!(
            "{not_found}, and there is no {CONFIG}"
        ))),
        Err(FileError::Unread(unread)) => Err(unread),
    }
}

enum FileError {
    Missing,
    Unread(Unread),
}

fn of_process(root: &Path, process: &Process) -> Fact<KubeletSettings> {
    let path = |path: &str| {
        let found = process.path(root, path);
        found.map_err(|error| Unread::working_directory("the kubelet", path, &error))
    };
    let mut settings = KubeletSettings::default();
    let mut config = Value::Null;
    if let Some(file) = process.flag(CONFIG_FLAG) {
        let file = path(file)?;
        config = read_file(root, &file).map_err(|error| match error {
            FileError::Missing => Unread::broken(format!(
                "there is no {}, which the kubelet's command line names",
                file.display()
            )),
            FileError::Unread(unread) => unread,
        })?;
        settings.file = Some(file);
    }
    if let Some(folder) = process.flag(CONFIG_DIR_FLAG) {
        for file in drop_ins(root, &path(folder)?)? {
            match read_file(root, &file) {
                Ok(more) => merge(&mut config, more),
                Err(FileError::Missing) => {}
                Err(FileError::Unread(unread)) => return Err(unread),
            }
        }
    }
    settings.set_config(&config);
    settings.set_flags(&process.arguments);
    settings.check_together(&config);
    Ok(settings)
}

/// The files `*.conf` of the directory, in the order in which the kubelet merges them.
fn drop_ins(root: &Path, folder: &Path) -> Fact<Vec<PathBuf>> {
    let entries = match below(root, folder).and_then(fs::read_dir) {
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
    let text = below(root, file).and_then(|path| read_utf8(&path, FILE_MAX));
    let text = text.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => FileError::Missing,
        _ => FileError::Unread(Unread::io(file, &error)),
    })?;
    parse(&text).map_err(|problem| FileError::Unread(Unread::file(file, problem)))
}

/// The object of a KubeletConfiguration, or what is wrong with the text.
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
        Value::Object(_) => Ok(config),
        Value::Null => Err("it is empty".to_owned()),
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

    /// The first of these fields of the file whose value is invalid, also if a flag sets it.
    #[must_use]
    pub fn invalid(&self, fields: &[&str]) -> Option<&InvalidSetting> {
        let mut invalid = self.invalid.iter();
        invalid.find(|invalid| fields.contains(&invalid.setting))
    }

    pub(super) fn set_config(&mut self, config: &Value) {
        let mut fields = Fields::of(config);
        if let Some(percent) = fields.read(HIGH, PERCENT, percent) {
            self.image_gc_high_threshold_percent = percent;
        }
        if let Some(percent) = fields.read(LOW, PERCENT, percent) {
            self.image_gc_low_threshold_percent = percent;
        }
        if let Some(age) = fields.read(MAXIMUM_AGE, DURATION, duration) {
            self.image_maximum_gc_age = age;
        }
        let minimum = fields.read(MINIMUM_AGE, DURATION, duration);
        self.max_parallel_image_pulls = fields.read(PARALLEL, "an integer from 1 on", |value| {
            value.as_i64().filter(|pulls| *pulls >= 1)
        });
        let serialize = fields.read(SERIALIZE, BOOLEAN, Value::as_bool);
        // As the kubelet sets its default.
        let parallel = self
            .max_parallel_image_pulls
            .is_some_and(|pulls| pulls >= 2);
        self.serialize_image_pulls = serialize.unwrap_or(!parallel);
        self.set_eviction(&mut fields);
        self.invalid = fields.invalid;
        let minimum = minimum.filter(|age| !age.is_zero());
        let minimum = minimum.unwrap_or(MINIMUM_AGE_DEFAULT);
        let age = self.image_maximum_gc_age;
        if !age.is_zero() && age <= minimum {
            let valid = format!("0s or more than {MINIMUM_AGE}, {}", GoDuration(minimum));
            let age = format!("\"{}\"", GoDuration(age));
            self.invalid
                .push(InvalidSetting::new(MAXIMUM_AGE, age, valid));
        }
    }

    fn set_eviction(&mut self, fields: &mut Fields<'_>) {
        let eviction = fields.read(EVICTION, "a table", Value::as_object);
        let defaults = fields.read(MERGE_EVICTION, BOOLEAN, Value::as_bool);
        let keeps_defaults = defaults.unwrap_or(false);
        let Some(eviction) = eviction else {
            return;
        };
        match eviction.get(SIGNAL).filter(|value| !value.is_null()) {
            Some(value) => match value.as_str().map(threshold) {
                Some(Ok(threshold)) => self.image_eviction = threshold,
                _ => fields.invalid.push(InvalidSetting {
                    field: format!("{EVICTION} {SIGNAL}"),
                    ..InvalidSetting::new(EVICTION, value.to_string(), THRESHOLD)
                }),
            },
            // One threshold replaces all defaults.
            None if !keeps_defaults && !eviction.is_empty() => self.image_eviction = None,
            None => {}
        }
    }

    fn set_flags(&mut self, arguments: &[String]) {
        for (name, setting, value) in [
            (HIGH_FLAG, HIGH, &mut self.image_gc_high_threshold_percent),
            (LOW_FLAG, LOW, &mut self.image_gc_low_threshold_percent),
        ] {
            let Some(text) = flag(arguments, name) else {
                continue;
            };
            self.flags.push(name);
            self.invalid.retain(|invalid| invalid.setting != setting);
            match text.parse().ok().filter(|percent| is_percent(*percent)) {
                Some(percent) => *value = percent,
                None => self
                    .invalid
                    .push(InvalidSetting::of_flag(setting, name, text, PERCENT)),
            }
        }
        let name = "--serialize-image-pulls";
        if let Some(text) = boolean(arguments, name) {
            self.flags.push(name);
            self.invalid.retain(|invalid| invalid.setting != SERIALIZE);
            match text {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => self.serialize_image_pulls = true,
                "0" | "f" | "F" | "false" | "FALSE" | "False" => self.serialize_image_pulls = false,
                _ => self
                    .invalid
                    .push(InvalidSetting::of_flag(SERIALIZE, name, text, BOOLEAN)),
            }
        }
        let name = "--eviction-hard";
        if let Some(eviction) = flag(arguments, name) {
            self.flags.push(name);
            self.invalid.retain(|invalid| invalid.setting != EVICTION);
            let signals = eviction.split(',').filter_map(|part| part.split_once('<'));
            let mut signals = signals.filter(|(signal, _)| *signal == SIGNAL);
            match signals.next().map(|(_, text)| (text, threshold(text))) {
                None => self.image_eviction = None,
                Some((_, Ok(threshold))) => self.image_eviction = threshold,
                Some((text, Err(NoThreshold))) => self.invalid.push(InvalidSetting::of_flag(
                    EVICTION,
                    &format!("{name} {SIGNAL}"),
                    text,
                    THRESHOLD,
                )),
            }
        }
    }

    /// Looks at values that are valid alone and not together.
    fn check_together(&mut self, config: &Value) {
        let high = self.image_gc_high_threshold_percent;
        let low = self.image_gc_low_threshold_percent;
        if self.invalid(&[HIGH, LOW]).is_none() && low >= high {
            let is_set = |field: &str, flag: &str| {
                let value = config.get(field).filter(|value| !value.is_null());
                value.is_some() || self.has_flag(flag)
            };
            // A default is not the value to correct.
            let invalid = match (is_set(LOW, LOW_FLAG), is_set(HIGH, HIGH_FLAG)) {
                (false, _) => {
                    let valid = format!("more than {LOW}, which is {low} by default");
                    InvalidSetting::new(HIGH, high.to_string(), valid)
                }
                (true, false) => {
                    let valid = format!("less than {HIGH}, which is {high} by default");
                    InvalidSetting::new(LOW, low.to_string(), valid)
                }
                (true, true) => {
                    let valid = format!("less than {HIGH}, which is {high}");
                    InvalidSetting::new(LOW, low.to_string(), valid)
                }
            };
            self.invalid.push(invalid);
        }
        let pulls = self.max_parallel_image_pulls;
        if let Some(pulls) = pulls.filter(|pulls| *pulls > 1 && self.serialize_image_pulls)
            && self.invalid(&[PARALLEL, SERIALIZE]).is_none()
        {
            let valid = format!("1, because {SERIALIZE} is true");
            self.invalid
                .push(InvalidSetting::new(PARALLEL, pulls.to_string(), valid));
        }
    }
}

/// The fields of a configuration file, and those that were invalid.
struct Fields<'a> {
    config: &'a Value,
    invalid: Vec<InvalidSetting>,
}

impl<'a> Fields<'a> {
    fn of(config: &'a Value) -> Self {
        Self {
            config,
            invalid: Vec::new(),
        }
    }

    /// The value of the field; `None` if it is not set, or not valid, which is recorded.
    fn read<T>(
        &mut self,
        field: &'static str,
        valid: &str,
        parse: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.config.get(field).filter(|value| !value.is_null())?;
        let parsed = parse(value);
        if parsed.is_none() {
            self.invalid
                .push(InvalidSetting::new(field, value.to_string(), valid));
        }
        parsed
    }
}

fn is_percent(number: i64) -> bool {
    (0..=100).contains(&number)
}

fn percent(value: &Value) -> Option<i64> {
    value.as_i64().filter(|percent| is_percent(*percent))
}

fn duration(value: &Value) -> Option<Duration> {
    let GoDuration(duration) = value.as_str()?.parse().ok()?;
    Some(duration)
}

/// The text of a boolean flag, whose value can only follow `=`.
fn boolean<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let mut values = arguments
        .iter()
        .filter_map(|argument| argument.strip_prefix(name));
    match values.find(|value| value.is_empty() || value.starts_with('='))? {
        "" => Some("true"),
        value => value.get(1..),
    }
}

/// A text that is no threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NoThreshold;

/// `15%`, or a quantity of Kubernetes such as `10Gi`. `None`: 0 % and 100 %, which turn the threshold off.
fn threshold(text: &str) -> Result<Option<EvictionThreshold>, NoThreshold> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent = percent.parse::<f64>().map_err(|_| NoThreshold)?;
        if !(0.0..=100.0).contains(&percent) {
            return Err(NoThreshold);
        }
        let is_off = text == "0%" || text == "100%";
        return Ok((!is_off).then_some(EvictionThreshold::Percent(percent)));
    }
    let bytes = quantity(text).filter(|bytes| *bytes > 0.0);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is positive; more bytes than a disk has are as good as the most"
    )]
    let bytes = bytes.map(|bytes| ByteSize::new(bytes.ceil() as u64));
    bytes
        .map(|bytes| Some(EvictionThreshold::Bytes(bytes)))
        .ok_or(NoThreshold)
}

/// The number of a quantity of Kubernetes.
fn quantity(text: &str) -> Option<f64> {
    let number = |text: &str| {
        let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
        let is_number = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        is_number.then(|| text.parse::<f64>().ok()).flatten()
    };
    let end = text.find(|c: char| c.is_ascii_alphabetic());
    let (digits, suffix) = text.split_at(end.unwrap_or(text.len()));
    let (base, power) = match suffix {
        "n" => (1000.0, -3),
        "u" => (1000.0, -2),
        "m" => (1000.0, -1),
        "" => (1000.0, 0),
        "k" => (1000.0, 1),
        "M" => (1000.0, 2),
        "G" => (1000.0, 3),
        "T" => (1000.0, 4),
        "P" => (1000.0, 5),
        "E" => (1000.0, 6),
        "Ki" => (1024.0, 1),
        "Mi" => (1024.0, 2),
        "Gi" => (1024.0, 3),
        "Ti" => (1024.0, 4),
        "Pi" => (1024.0, 5),
        "Ei" => (1024.0, 6),
        _ => (10.0, suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    let value = number(digits)? * f64::powi(base, power);
    value.is_finite().then_some(value)
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
        assert_eq!(found.process, Ok(()));
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
        let unseen = found.process.unwrap_err().to_string();
        assert!(
            unseen.contains("can be seen, so none of a kubelet"),
            "{unseen}"
        );
        assert!(!found.serialize_image_pulls);
        assert_eq!(found.image_eviction, None, "one threshold replaces all");
        let config = format!("{config}mergeDefaultEvictionSettings: true\n");
        let found = settings(&[("var/lib/kubelet/config.yaml", &config)]).unwrap();
        assert_eq!(found.image_eviction, Some(EvictionThreshold::Percent(15.0)));
    }

    #[test]
    fn unread_settings_name_the_file() {
        for (files, words) in [
            (vec![], "no process below /"),
            (
                vec![("proc/1/cmdline", "init\0")],
                "no kubelet runs here, and there is no /var/lib/kubelet/config.yaml",
            ),
            (
                vec![("var/lib/kubelet/config.yaml", "")],
                "cannot read /var/lib/kubelet/config.yaml: it is empty",
            ),
            (
                vec![("var/lib/kubelet/config.yaml", "---\n# nothing\n")],
                "cannot read /var/lib/kubelet/config.yaml: it is empty",
            ),
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
        let bytes = |bytes| Ok(Some(EvictionThreshold::Bytes(ByteSize::new(bytes))));
        for (text, expected) in [
            ("15%", Ok(Some(EvictionThreshold::Percent(15.0)))),
            ("0%", Ok(None)),
            ("100%", Ok(None)),
            ("10Gi", bytes(10 << 30)),
            ("1.5Gi", bytes(3 << 29)),
            ("500M", bytes(500_000_000)),
            ("1e3", bytes(1000)),
            ("1E", bytes(1_000_000_000_000_000_000)),
            ("1024", bytes(1024)),
            ("lots", Err(NoThreshold)),
            ("NaN%", Err(NoThreshold)),
            ("120%", Err(NoThreshold)),
            ("-1%", Err(NoThreshold)),
            ("-1Gi", Err(NoThreshold)),
            ("0", Err(NoThreshold)),
            ("", Err(NoThreshold)),
            ("inf", Err(NoThreshold)),
        ] {
            assert_eq!(threshold(text), expected, "{text}");
        }
    }

    #[test]
    fn invalid_values_are_named_with_what_is_valid() {
        for (config, setting, message) in [
            (
                "imageGCHighThresholdPercent: \"x\"",
                HIGH,
                "imageGCHighThresholdPercent is \"x\", which is invalid: it must be an integer from 0 to 100",
            ),
            (
                "imageGCLowThresholdPercent: 500",
                LOW,
                "imageGCLowThresholdPercent is 500, which is invalid: it must be an integer from 0 to 100",
            ),
            (
                "imageGCHighThresholdPercent: 79\nimageGCLowThresholdPercent: 90",
                LOW,
                "imageGCLowThresholdPercent is 90, which is invalid: it must be less than imageGCHighThresholdPercent, which is 79",
            ),
            (
                "imageGCHighThresholdPercent: 79",
                HIGH,
                "imageGCHighThresholdPercent is 79, which is invalid: it must be more than imageGCLowThresholdPercent, which is 80 by default",
            ),
            (
                "imageGCLowThresholdPercent: 90",
                LOW,
                "imageGCLowThresholdPercent is 90, which is invalid: it must be less than imageGCHighThresholdPercent, which is 85 by default",
            ),
            (
                "imageMaximumGCAge: 5d",
                MAXIMUM_AGE,
                "imageMaximumGCAge is \"5d\", which is invalid: it must be a Go duration such as 120h",
            ),
            (
                "imageMaximumGCAge: 1m",
                MAXIMUM_AGE,
                "imageMaximumGCAge is \"1m\", which is invalid: it must be 0s or more than imageMinimumGCAge, 2m",
            ),
            (
                "serializeImagePulls: \"false\"",
                SERIALIZE,
                "serializeImagePulls is \"false\", which is invalid: it must be true or false",
            ),
            (
                "maxParallelImagePulls: 0",
                PARALLEL,
                "maxParallelImagePulls is 0, which is invalid: it must be an integer from 1 on",
            ),
            (
                "serializeImagePulls: true\nmaxParallelImagePulls: 3",
                PARALLEL,
                "maxParallelImagePulls is 3, which is invalid: it must be 1, because serializeImagePulls is true",
            ),
            (
                "evictionHard:\n  imagefs.available: \"120%\"",
                EVICTION,
                "evictionHard imagefs.available is \"120%\", which is invalid: it must be a share from 0% to 100%",
            ),
            (
                "evictionHard: 5",
                EVICTION,
                "evictionHard is 5, which is invalid: it must be a table",
            ),
        ] {
            let found = settings(&[("var/lib/kubelet/config.yaml", config)]).unwrap();
            assert_eq!(found.invalid.len(), 1, "{config}: {found:?}");
            let invalid = found.invalid(&[setting]).unwrap().to_string();
            assert!(invalid.starts_with(message), "{invalid}");
        }
    }

    #[test]
    fn invalid_flags_are_named() {
        let found = settings(&[(
            "proc/12/cmdline",
            "kubelet\0--image-gc-high-threshold=x\0--serialize-image-pulls=no\0--eviction-hard=imagefs.available<120%\0",
        )])
        .unwrap();
        let fields: Vec<&str> = found.invalid.iter().map(|i| i.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "--image-gc-high-threshold",
                "--serialize-image-pulls",
                "--eviction-hard imagefs.available",
            ]
        );
        assert_eq!(found.invalid[0].value, "\"x\"");
        assert!(found.invalid(&[HIGH]).is_some() && found.invalid(&[LOW]).is_none());
        // A flag takes precedence over the file.
        let found = settings(&[
            (
                "proc/12/cmdline",
                "kubelet\0--config=/k\0--image-gc-high-threshold=90\0",
            ),
            ("k", "imageGCHighThresholdPercent: 500\n"),
        ])
        .unwrap();
        assert_eq!(found.invalid, []);
    }
}
