//! CPU time and memory of a process (proc(5)).

use serde::Serialize;

/// Memory and processor time of a process.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Usage {
    /// Peak resident memory in bytes.
    pub(crate) peak_rss: u64,
    /// Current resident memory in bytes.
    pub(crate) rss: u64,
    /// Processor time so far, in seconds.
    pub(crate) cpu: f64,
}

/// Reads the usage of a process so far.
pub(crate) fn usage(pid: u32) -> Result<Usage, String> {
    read(pid).ok_or_else(|| format!("process {pid} has ended"))
}

fn read(pid: u32) -> Option<Usage> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Fields after the name, which may hold blanks: user and system time are the 14th and 15th.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11);
    let mut next = || ticks.next()?.parse::<f64>().ok();
    Some(Usage {
        peak_rss: kib("VmHWM:")? * 1024,
        rss: kib("VmRSS:")? * 1024,
        // USER_HZ is 100 on every Linux platform that Rust supports.
        cpu: (next()? + next()?) / 100.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_of_a_running_process_is_read() {
        let used = usage(std::process::id()).unwrap();
        assert!(used.peak_rss >= used.rss && used.rss > 1 << 20, "{used:?}");
        let error = usage(0x7fff_ffff).unwrap_err();
        assert!(error.contains("2147483647"), "{error}");
    }
}
