//! One command, measured: how long it took, and the most memory it held.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Between two looks at a process's peak: the kernel keeps the peak, so that only growth in the
/// last two milliseconds of a process can be missed.
const LOOK: Duration = Duration::from_millis(2);

/// What one run cost.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sample {
    /// Wall clock.
    pub(crate) seconds: f64,
    /// The most resident memory, in bytes; of several commands the largest. `None` where it was no
    /// process of its own.
    pub(crate) peak_rss: Option<u64>,
}

impl Sample {
    /// This run and another after it.
    pub(crate) fn then(self, next: Self) -> Self {
        Self {
            seconds: self.seconds + next.seconds,
            peak_rss: self.peak_rss.max(next.peak_rss),
        }
    }
}

/// Something that is done in this process.
///
/// # Errors
///
/// As it fails.
pub(crate) fn measure_here(work: impl FnOnce() -> Result<(), String>) -> Result<Sample, String> {
    let start = Instant::now();
    work()?;
    Ok(Sample {
        seconds: start.elapsed().as_secs_f64(),
        peak_rss: None,
    })
}

/// Runs a command to its end.
///
/// The peak is read from `/proc`: what `wait4` reports begins with the memory of this program, from
/// which the command was forked, and that held whole images a moment ago.
///
/// # Errors
///
/// When it can't be started or fails; says what it printed.
pub(crate) fn measure(mut command: Command) -> Result<Sample, String> {
    let shown = format!("{command:?}");
    let start = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot start {shown}: {e}"))?;
    let status = format!("/proc/{}/status", child.id());
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

/// `VmHWM`, in bytes (`proc_pid_status(5)`); nothing once the process has given its memory back.
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
    fn time_and_memory_are_those_of_the_command() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 0.2"]);
        let sample = measure(command).unwrap();
        assert!((0.2..5.0).contains(&sample.seconds), "{sample:?}");
        let peak = sample.peak_rss.unwrap();
        assert!((1..64 << 20).contains(&peak), "{sample:?}");
    }

    #[test]
    fn a_command_that_fails_is_an_error_with_its_words() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out of order >&2; exit 3"]);
        let error = measure(command).unwrap_err();
        assert!(error.contains("out of order"), "{error}");
        assert!(error.contains('3'), "{error}");
    }
}
