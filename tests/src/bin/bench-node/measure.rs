//! Measures time and peak memory of one command.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fledged_tests::leftovers;
use serde::Serialize;

/// Interval at which a process's peak is read. The kernel keeps the peak, so only growth in the last two milliseconds
/// of a process can be missed.
const LOOK: Duration = Duration::from_millis(2);

/// Time and memory of one run.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sample {
    /// Wall clock.
    pub(crate) seconds: f64,
    /// Peak resident memory in bytes, the largest of several commands. `None` if the work ran in this process.
    pub(crate) peak_rss: Option<u64>,
}

impl Sample {
    /// Adds a run that followed this one.
    pub(crate) fn then(self, next: Self) -> Self {
        Self {
            seconds: self.seconds + next.seconds,
            peak_rss: self.peak_rss.max(next.peak_rss),
        }
    }
}

/// Measures work in this process.
///
/// # Errors
///
/// The error of the work.
pub(crate) fn measure_here(work: impl FnOnce() -> Result<(), String>) -> Result<Sample, String> {
    let start = Instant::now();
    work()?;
    Ok(Sample {
        seconds: start.elapsed().as_secs_f64(),
        peak_rss: None,
    })
}

/// Runs and measures a command.
///
/// The peak is read from `/proc`. The peak from `wait4` includes the memory of this program at the time of the fork,
/// which has just held whole images.
///
/// # Errors
///
/// When the command can't be started or fails; the error shows its output.
pub(crate) fn measure(mut command: Command) -> Result<Sample, String> {
    let shown = format!("{command:?}");
    let start = Instant::now();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = leftovers::spawn(&mut command).map_err(|e| format!("cannot start {shown}: {e}"))?;
    let id = child.id();
    let status = format!("/proc/{id}/status");
    let (done, peak) = (AtomicBool::new(false), AtomicU64::new(0));
    let (output, took) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                if let Some(bytes) = peak_rss(&status) {
                    peak.fetch_max(bytes, Ordering::Relaxed);
                }
                std::thread::sleep(LOOK);
            }
        });
        let output = child.wait_with_output();
        let took = start.elapsed();
        leftovers::ended(id);
        done.store(true, Ordering::Relaxed);
        (output, took)
    });
    let output = output.map_err(|e| format!("cannot wait for {shown}: {e}"))?;
    if !output.status.success() {
        return Err(format!(
            "{shown} ended with {}:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(Sample {
        seconds: took.as_secs_f64(),
        peak_rss: Some(peak.into_inner()),
    })
}

/// Reads `VmHWM` in bytes (`proc_pid_status(5)`); nothing for a process that has ended.
fn peak_rss(status: &str) -> Option<u64> {
    let text = std::fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_memory_of_a_command_are_measured() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 0.2"]);
        let sample = measure(command).unwrap();
        assert!((0.2..5.0).contains(&sample.seconds), "{sample:?}");
        let peak = sample.peak_rss.unwrap();
        assert!((1..64 << 20).contains(&peak), "{sample:?}");
    }

    #[test]
    fn a_failed_command_is_an_error_with_its_output() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out of order >&2; exit 3"]);
        let error = measure(command).unwrap_err();
        assert!(error.contains("out of order"), "{error}");
        assert!(error.contains('3'), "{error}");
    }
}
