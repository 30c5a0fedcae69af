//! Pressure stall information of the kernel (`Documentation/accounting/psi.rst`).

use std::io;
use std::path::Path;

use super::{Fact, Unread};
use crate::node_path::below;
use crate::text_file::read_text;

/// A pressure file has two lines.
const PRESSURE_MAX: u64 = 4096;

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

/// The pressure on `cpu`, `io` or `memory`.
pub(super) fn read(root: &Path, resource: &str) -> Fact<Pressure> {
    let name = format!("/proc/pressure/{resource}");
    let shown = Path::new(&name);
    let text = below(root, &name).and_then(|path| read_text(&path, PRESSURE_MAX));
    let text = text.map_err(|error| {
        match error.kind() {
            io::ErrorKind::NotFound if !has_proc(root) => Unread::new(format!(
                "there is no {name}: no proc file system is mounted at {}",
                root.join("proc").display()
            )),
            io::ErrorKind::NotFound => Unread::new(format!(
                "there is no {name}: this kernel is older than 4.20, was built without CONFIG_PSI, or has it off: by psi=0, or by CONFIG_PSI_DEFAULT_DISABLED without psi=1"
            )),
            _ if error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) => {
                Unread::new(format!(
                    "cannot read {name}: the kernel has it off: by psi=0, or by CONFIG_PSI_DEFAULT_DISABLED without psi=1"
                ))
            }
            _ => Unread::io(shown, &error),
        }
    })?;
    parse(&text).ok_or_else(|| Unread::file(shown, "it has no line that starts with some"))
}

fn has_proc(root: &Path) -> bool {
    below(root, "/proc/version").is_ok_and(|path| path.exists())
}

pub(super) fn parse(text: &str) -> Option<Pressure> {
    let line = |kind: &str| {
        let line = text
            .lines()
            .find(|line| line.split_whitespace().next() == Some(kind))?;
        let share = |key: &str| {
            let values = line.split_whitespace();
            let value = values
                .filter_map(|part| part.split_once('='))
                .find(|(name, _)| *name == key);
            value?
                .1
                .parse::<f64>()
                .ok()
                .filter(|share| share.is_finite())
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
        for text in ["", "some", "some avg10=NaN avg60=1", "full avg10=1 avg60=1"] {
            assert_eq!(parse(text), None, "{text}");
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
}
