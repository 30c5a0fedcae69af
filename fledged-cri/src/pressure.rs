//! Pressure stall information of the kernel (`Documentation/accounting/psi.rst`).

use std::io;
use std::path::Path;

use crate::node_path::below;
use crate::text_file::read_text;

/// A pressure file has two lines.
const PRESSURE_MAX: u64 = 4096;
/// Most characters of a malformed file that an error has.
const SHOWN_MAX: usize = 120;

/// Shares of time in percent, over 10 and over 60 seconds.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
#[non_exhaustive]
pub struct PressureLine {
    /// Over the last 10 seconds.
    pub avg10: f64,
    /// Over the last 60 seconds.
    pub avg60: f64,
}

impl PressureLine {
    /// With these shares in percent.
    #[must_use]
    pub fn new(avg10: f64, avg60: f64) -> Self {
        Self { avg10, avg60 }
    }
}

/// How long tasks waited for a resource.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
#[non_exhaustive]
pub struct Pressure {
    /// Share of time in which at least one task waited.
    pub some: PressureLine,
    /// Share of time in which all tasks waited. Kernels before 5.13 do not have it for the processors.
    pub full: Option<PressureLine>,
}

impl Pressure {
    /// With these shares.
    #[must_use]
    pub fn new(some: PressureLine, full: Option<PressureLine>) -> Self {
        Self { some, full }
    }
}

/// Why pressure was not read, as a phrase that names the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PressureError {
    /// The kernel has none, or this process may not read it.
    #[error("{0}")]
    Unavailable(String),
    /// The file cannot be read, or has other content.
    #[error("{0}")]
    Malformed(String),
}

/// The pressure on `cpu`, `io` or `memory`. Blocks for some ten microseconds.
pub(crate) fn read(root: &Path, resource: &str) -> Result<Pressure, PressureError> {
    let name = format!("/proc/pressure/{resource}");
    let text = below(root, &name).and_then(|path| read_text(&path, PRESSURE_MAX));
    let text = text.map_err(|error| {
        match error.kind() {
            io::ErrorKind::NotFound if !has_proc(root) => PressureError::Unavailable(format!(
                "there is no {name}: no proc file system is mounted at {}",
                root.join("proc").display()
            )),
            io::ErrorKind::NotFound => PressureError::Unavailable(format!(
                "there is no {name}: this kernel is older than 4.20, was built without CONFIG_PSI, or has it off: by psi=0, or by CONFIG_PSI_DEFAULT_DISABLED without psi=1"
            )),
            _ if error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) => {
                PressureError::Unavailable(format!(
                    "cannot read {name}: the kernel has it off: by psi=0, or by CONFIG_PSI_DEFAULT_DISABLED without psi=1"
                ))
            }
            io::ErrorKind::PermissionDenied => {
                PressureError::Unavailable(format!("cannot read {name}: {error}"))
            }
            _ => PressureError::Malformed(format!("cannot read {name}: {error}")),
        }
    })?;
    parse(&text).ok_or_else(|| {
        let shown: String = text.chars().take(SHOWN_MAX).collect();
        PressureError::Malformed(format!(
            "cannot read {name}: it has no line that starts with some and has shares from 0 to 100: {shown:?}"
        ))
    })
}

fn has_proc(root: &Path) -> bool {
    below(root, "/proc/version").is_ok_and(|path| path.exists())
}

pub(crate) fn parse(text: &str) -> Option<Pressure> {
    let line = |kind: &str| {
        let line = text
            .lines()
            .find(|line| line.split_whitespace().next() == Some(kind))?;
        let share = |key: &str| {
            let values = line.split_whitespace();
            let value = values
                .filter_map(|part| part.split_once('='))
                .find(|(name, _)| *name == key);
            let share = value?.1.parse::<f64>().ok()?;
            Some(share).filter(|share| (0.0..=100.0).contains(share))
        };
        Some(PressureLine::new(share("avg10")?, share("avg60")?))
    };
    Some(Pressure::new(line("some")?, line("full")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_parsed_from_both_lines() {
        let text = "some avg10=1.11 avg60=0.91 avg300=0.38 total=3674376\nfull avg10=0.50 avg60=0.25 avg300=0.11 total=2\n";
        let expected = Pressure::new(
            PressureLine::new(1.11, 0.91),
            Some(PressureLine::new(0.5, 0.25)),
        );
        assert_eq!(parse(text), Some(expected));
        let old = parse("some avg10=0.00 avg60=3.00 avg300=0.38 total=3674376\n").unwrap();
        assert_eq!((old.some.avg60, old.full), (3.0, None));
        for text in [
            "",
            "some",
            "full avg10=1 avg60=1",
            "some avg10=NaN avg60=1",
            "some avg10=inf avg60=1",
            "some avg10=-0.01 avg60=1",
            "some avg10=100.01 avg60=1",
            "some avg10= avg60=1",
            "some avg10=1,5 avg60=1",
            "some avg60=1 avg300=1",
            "some avg10 5 avg60=1",
            "something avg10=1 avg60=1",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        for (text, avg10) in [
            ("some avg10=100.00 avg60=0", 100.0),
            ("  some\tavg60=7 new=x avg10=0", 0.0),
            ("full avg10=2 avg60=2\r\nsome avg10=3.5 avg60=1\r\n", 3.5),
        ] {
            assert_eq!(
                parse(text).map(|found| found.some.avg10),
                Some(avg10),
                "{text}"
            );
        }
    }

    #[test]
    fn a_kernel_without_it_is_named() {
        let root = tempfile::tempdir().unwrap();
        let unread = read(root.path(), "io").unwrap_err().to_string();
        assert!(unread.contains("/proc/pressure/io"), "{unread}");
        assert!(unread.contains("no proc file system"), "{unread}");
        std::fs::create_dir(root.path().join("proc")).unwrap();
        std::fs::write(root.path().join("proc/version"), "Linux").unwrap();
        let unread = read(root.path(), "io").unwrap_err().to_string();
        assert!(unread.contains("/proc/pressure/io"), "{unread}");
        assert!(unread.contains("psi=0"), "{unread}");
        assert!(unread.contains("CONFIG_PSI_DEFAULT_DISABLED"), "{unread}");
    }

    #[test]
    fn a_malformed_file_is_named_with_its_start() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("proc/pressure");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("io"), "some avg10=x\n".repeat(99)).unwrap();
        let error = read(root.path(), "io").unwrap_err();
        assert!(matches!(error, PressureError::Malformed(_)), "{error:?}");
        let error = error.to_string();
        assert!(error.contains("/proc/pressure/io"), "{error}");
        assert!(error.contains("\"some avg10=x\\n"), "{error}");
        assert!(error.len() < 300, "{error}");
        std::fs::write(folder.join("io"), "x".repeat(5_000)).unwrap();
        let error = read(root.path(), "io").unwrap_err();
        assert!(matches!(error, PressureError::Malformed(_)), "{error:?}");
    }
}
