//! Platforms, and which platforms a machine can run.

use std::fmt;
use std::str::FromStr;

/// Why a string is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid platform \"{value}\": must be os/architecture or os/architecture/variant")]
pub struct ParsePlatformError {
    value: String,
}

/// An operating system and CPU architecture, `linux/arm64` or `linux/arm/v7`.
///
/// Names are those of Go (`GOOS`, `GOARCH`), as in the OCI image index. Other common spellings
/// (`x86_64`, `aarch64`, `armhf`) are accepted. `linux/arm64/v8` is `linux/arm64`, and
/// `linux/arm` is `linux/arm/v7`, as in containerd.
///
/// ```
/// use fledged_cri::Platform;
///
/// let platform: Platform = "linux/aarch64/v8".parse()?;
/// assert_eq!(platform.to_string(), "linux/arm64");
/// # Ok::<(), fledged_cri::ParsePlatformError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: String,
}

impl Platform {
    /// The platform with these parts. An empty variant is the default one.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: &str) -> Self {
        let os = os.to_lowercase();
        let os = match os.as_str() {
            "macos" => "darwin".to_owned(),
            _ => os,
        };
        let (architecture, variant) = (architecture.to_lowercase(), variant.to_lowercase());
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
            ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            ("powerpc64" | "powerpc64le", variant) => ("ppc64le", variant),
            ("loongarch64", variant) => ("loong64", variant),
            parts => parts,
        };
        Self {
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
            os,
        }
    }

    /// The platform of containers on this machine: Linux, except on Windows. The variant of a 32-bit
    /// arm is that of the processor, as in containerd.
    #[must_use]
    pub fn host() -> Self {
        let os = if std::env::consts::OS == "windows" {
            "windows"
        } else {
            "linux"
        };
        let variant = match std::env::consts::ARCH {
            "arm" => std::fs::read_to_string("/proc/cpuinfo").ok(),
            _ => None,
        };
        let variant = variant.as_deref().and_then(arm_variant);
        Self::new(os, std::env::consts::ARCH, variant.unwrap_or_default())
    }

    /// The operating system, such as `linux`.
    #[must_use]
    pub fn os(&self) -> &str {
        &self.os
    }

    /// The CPU architecture, such as `amd64`.
    #[must_use]
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The variant of the architecture, or `None` for the default one.
    #[must_use]
    pub fn variant(&self) -> Option<&str> {
        (!self.variant.is_empty()).then_some(self.variant.as_str())
    }

    /// The platforms that this platform can run, best first, in containerd's order: arm64 also runs
    /// 32-bit arm, a newer arm or amd64 variant runs older ones, and amd64 runs 386.
    #[must_use]
    pub fn runnable(&self) -> Vec<Self> {
        let with = |architecture: &str, variant: &str| Self {
            os: self.os.clone(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        };
        let older = |architecture: &str, newest: u32, oldest: u32| -> Vec<Self> {
            (oldest..=newest)
                .rev()
                .map(|n| with(architecture, &format!("v{n}")))
                .collect()
        };
        let number = self.variant.strip_prefix('v').and_then(|n| n.parse().ok());
        let mut list = vec![self.clone()];
        match (self.architecture.as_str(), number) {
            ("amd64", level) => {
                if let Some(level @ 3..=9) = level {
                    list.extend(older("amd64", level - 1, 2));
                }
                if level.is_some() {
                    list.push(with("amd64", ""));
                }
                list.push(with("386", ""));
            }
            ("arm64", _) => {
                if !self.variant.is_empty() {
                    list.push(with("arm64", ""));
                }
                list.extend(older("arm", 8, 5));
            }
            ("arm", Some(version @ 6..=9)) => list.extend(older("arm", version - 1, 5)),
            _ => {}
        }
        list
    }

    /// The position of `other` in [`Platform::runnable`]; 0 is best. `None` if it cannot run.
    #[must_use]
    pub fn rank_of(&self, other: &Self) -> Option<usize> {
        self.runnable().iter().position(|known| known == other)
    }
}

/// The variant of a 32-bit arm processor, from the content of `/proc/cpuinfo`.
fn arm_variant(cpuinfo: &str) -> Option<&'static str> {
    let field = |name: &str| {
        cpuinfo.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    // The first Raspberry Pis state architecture 7 and have a version 6 processor.
    if field("model name").is_some_and(|name| name.starts_with("ARMv6-compatible")) {
        return Some("v6");
    }
    match field("CPU architecture")?.chars().next()? {
        '5' => Some("v5"),
        '6' => Some("v6"),
        '7' => Some("v7"),
        // `8`, or `AArch64`.
        '8' | 'A' => Some("v8"),
        _ => None,
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!("{}/{}", self.os, self.architecture);
        if let Some(variant) = self.variant() {
            text.push('/');
            text.push_str(variant);
        }
        f.pad(&text)
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        let mut parts = value.split('/');
        let (os, architecture, variant) = (parts.next(), parts.next(), parts.next());
        let valid = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        };
        match (os, architecture, parts.next()) {
            (Some(os), Some(architecture), None)
                if valid(os) && valid(architecture) && variant.is_none_or(valid) =>
            {
                Ok(Self::new(os, architecture, variant.unwrap_or_default()))
            }
            _ => Err(ParsePlatformError {
                value: value.chars().take(60).collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(platform: &str) -> Vec<String> {
        let platform: Platform = platform.parse().unwrap();
        platform
            .runnable()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn spellings_are_normalised() {
        for (written, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/arm/5", "linux/arm/v5"),
            ("linux/i686", "linux/386"),
            ("linux/riscv64", "linux/riscv64"),
            ("windows/amd64", "windows/amd64"),
        ] {
            let platform: Platform = written.parse().unwrap();
            assert_eq!(platform.to_string(), expected, "{written}");
        }
        for bad in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "linux/arm64/v8/x",
            "linux/a b",
            "linux/arm64/",
        ] {
            assert!(bad.parse::<Platform>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn fallbacks_are_those_of_containerd() {
        assert_eq!(names("linux/amd64"), ["linux/amd64", "linux/386"]);
        assert_eq!(
            names("linux/amd64/v3"),
            [
                "linux/amd64/v3",
                "linux/amd64/v2",
                "linux/amd64",
                "linux/386"
            ]
        );
        assert_eq!(
            names("linux/arm64"),
            [
                "linux/arm64",
                "linux/arm/v8",
                "linux/arm/v7",
                "linux/arm/v6",
                "linux/arm/v5"
            ]
        );
        assert_eq!(
            names("linux/arm/v7"),
            ["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]
        );
        assert_eq!(names("linux/arm/v5"), ["linux/arm/v5"]);
        assert_eq!(names("linux/s390x"), ["linux/s390x"]);
    }

    #[test]
    fn the_variant_of_an_arm_processor_is_read() {
        let pi_zero = "processor\t: 0\nmodel name\t: ARMv6-compatible processor rev 7 (v6l)\n\
            CPU architecture: 7\n";
        for (cpuinfo, expected) in [
            (pi_zero, Some("v6")),
            ("CPU architecture: 7\n", Some("v7")),
            ("CPU architecture: 6TEJ\n", Some("v6")),
            ("CPU architecture: 5TE\n", Some("v5")),
            ("CPU architecture: 8\n", Some("v8")),
            ("model name: x\n", None),
            ("", None),
        ] {
            assert_eq!(arm_variant(cpuinfo), expected, "{cpuinfo}");
        }
    }

    #[test]
    fn the_host_platform_parses() {
        let host = Platform::host();
        assert_eq!(host.to_string().parse::<Platform>().unwrap(), host);
        assert_eq!(host.rank_of(&host), Some(0));
    }
}
