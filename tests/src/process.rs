//! A child process in its own process group, stopped by PID even if the test panics.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::leftovers;
use crate::poll::poll_until;
use crate::require::find;

/// Time that a process has to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// A running child process, with its output in files.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
    stdout: PathBuf,
    stderr: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts a program, by name or path, in its own process group; its output is appended to `NAME.out` and
    /// `NAME.err` below `folder`.
    pub(crate) fn start<S: AsRef<str>>(program: &str, args: &[S], folder: &Path) -> Self {
        Self::start_with(program, args, &[], folder)
    }

    /// The same with more environment variables.
    pub(crate) fn start_with<S: AsRef<str>>(
        program: &str,
        args: &[S],
        variables: &[(String, String)],
        folder: &Path,
    ) -> Self {
        let path = find(program).unwrap_or_else(|| panic!("{program} is not installed"));
        let name = Path::new(program).file_name().unwrap_or_default();
        let name = name.to_string_lossy();
        let stdout = folder.join(format!("{name}.out"));
        let stderr = folder.join(format!("{name}.err"));
        let append = |path: &Path| {
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .unwrap_or_else(|e| panic!("cannot open {}: {e}", path.display()))
        };
        let mut command = Command::new(path);
        command
            .args(args.iter().map(AsRef::as_ref))
            .envs(variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(append(&stdout))
            .stderr(append(&stderr));
        let child = leftovers::spawn(&mut command)
            .unwrap_or_else(|e| panic!("cannot start {program}: {e}"));
        Self {
            child,
            name: program.to_owned(),
            stdout,
            stderr,
            ended: None,
        }
    }

    /// Polls until `ready` returns a value; panics with the process's last output if the process ends first.
    pub(crate) fn wait_ready<T>(&mut self, mut ready: impl FnMut(&Self) -> Option<T>) -> T {
        let what = format!("{} to become ready", self.name);
        poll_until(&what, crate::poll::SOON, || {
            if let Some(status) = self.try_wait() {
                panic!("{} ended with {status}: {}", self.name, self.last_output());
            }
            ready(self)
        })
    }

    /// What it has written to its standard output.
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stdout).unwrap_or_default()).into_owned()
    }

    /// What it has written to its standard error.
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// Its process ID.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn last_output(&self) -> String {
        let text = self.stderr();
        let lines: Vec<&str> = text.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// How it ended, if it has ended.
    pub(crate) fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = leftovers::try_wait(&mut self.child);
        }
        self.ended
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.child.id()).ok()?)
    }

    /// SIGSTOP to the whole group: it keeps its files and connections, and does nothing.
    pub(crate) fn pause(&self) {
        if let Some(pid) = self.pid() {
            let _ = kill_process_group(pid, Signal::STOP);
        }
    }

    /// SIGCONT to the whole group.
    pub(crate) fn resume(&self) {
        if let Some(pid) = self.pid() {
            let _ = kill_process_group(pid, Signal::CONT);
        }
    }

    /// SIGKILL to the whole group, then waits for the child.
    pub(crate) fn kill9(&mut self) {
        if self.try_wait().is_none() {
            self.ended = leftovers::kill(&mut self.child);
        }
    }

    /// Sends SIGTERM to the child, waits for [`GRACE`], then sends SIGKILL to the group.
    pub(crate) fn stop(&mut self) {
        if self.try_wait().is_some() {
            return;
        }
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, Signal::TERM);
        }
        let start = Instant::now();
        while self.try_wait().is_none() && start.elapsed() < GRACE {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill9();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}
