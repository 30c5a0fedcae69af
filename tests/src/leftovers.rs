//! What fixtures have started and made: processes, and folders with mounts in them. A program that ends without dropping
//! its fixtures, because of a signal, calls [`end_all`] before.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fledged_core::tokio::ShutdownSignal;
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpid};
use tempfile::TempDir;

/// Time that killed processes have to end.
const GRACE: Duration = Duration::from_secs(10);

/// What exists now. Locked while something is started or ended.
#[derive(Debug)]
struct Started {
    /// Process IDs, which are those of their groups, too.
    processes: BTreeSet<u32>,
    folders: BTreeSet<PathBuf>,
}

static STARTED: Mutex<Started> = Mutex::new(Started {
    processes: BTreeSet::new(),
    folders: BTreeSet::new(),
});

fn started() -> MutexGuard<'static, Started> {
    STARTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a process in a process group of its own. Its end must be noted by [`ended`].
///
/// # Errors
///
/// The operating system's error if the process cannot be started.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let mut started = started();
    let child = command.process_group(0).spawn()?;
    started.processes.insert(child.id());
    Ok(child)
}

/// How a process of [`spawn`] ended, if it has ended.
pub(crate) fn try_wait(child: &mut Child) -> Option<ExitStatus> {
    let mut started = started();
    let status = child.try_wait().ok().flatten()?;
    started.processes.remove(&child.id());
    Some(status)
}

/// Sends SIGKILL to the group of a process of [`spawn`], and waits for the process.
pub(crate) fn kill(child: &mut Child) -> Option<ExitStatus> {
    let mut started = started();
    kill_group(child.id());
    started.processes.remove(&child.id());
    drop(started);
    child.wait().ok()
}

/// Notes that the caller has waited for the end of a process of [`spawn`].
pub fn ended(id: u32) {
    started().processes.remove(&id);
}

/// Does something that [`end_all`] must wait for, such as a mount.
pub(crate) fn uninterrupted<T>(act: impl FnOnce() -> T) -> T {
    let _started = started();
    act()
}

fn kill_group(id: u32) {
    if let Some(group) = pid(id) {
        // The process may have ended already.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

fn pid(id: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(id).ok()?)
}

/// A temporary folder, which may have mounts in it. Dropping it unmounts them and deletes the folder.
#[derive(Debug)]
pub struct TemporaryFolder(TempDir);

impl TemporaryFolder {
    /// Makes a folder whose name begins with `prefix`.
    ///
    /// # Panics
    ///
    /// When it cannot be made.
    #[must_use]
    pub fn create(prefix: &str) -> Self {
        let mut started = started();
        let folder = TempDir::with_prefix(prefix).expect("a temporary folder");
        started.folders.insert(folder.path().to_owned());
        Self(folder)
    }

    /// The path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        unmount_below(self.path());
        started().folders.remove(self.path());
    }
}

/// Unmounts everything mounted at or below a folder, the innermost first, so that it can be deleted.
pub fn unmount_below(root: &Path) {
    for point in mounts_below(root).iter().rev() {
        let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
    }
}

/// The mount points at or below a folder, the outermost first.
fn mounts_below(root: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<PathBuf> = table
        .lines()
        // The fifth field is the mount point (proc_pid_mountinfo(5)); temporary folders have no
        // characters that it would escape.
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|point| point.starts_with(root))
        .collect();
    points.sort();
    points
}

/// Kills all processes that fixtures of this process have started, unmounts what is mounted in their folders, and deletes
/// these. Returns a command for each thing that could not be ended.
///
/// A fixture that would start something afterwards waits for ever: the caller must end this process.
#[must_use]
pub fn end_all() -> Vec<String> {
    let started = started();
    let mut left = Vec::new();
    started.processes.iter().copied().for_each(kill_group);
    let began = Instant::now();
    for id in &started.processes {
        while !has_ended(*id) {
            if began.elapsed() > GRACE {
                left.push(format!("kill -KILL -- -{id}"));
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    for folder in &started.folders {
        unmount_below(folder);
        let mounts = mounts_below(folder);
        let lazily = |point: &PathBuf| format!("umount --lazy {}", point.display());
        left.extend(mounts.iter().rev().map(lazily));
        // Nothing is deleted through a mount that is left.
        if !mounts.is_empty() || fs::remove_dir_all(folder).is_err() {
            left.push(format!("rm -r --one-file-system {}", folder.display()));
        }
    }
    std::mem::forget(started);
    left
}

/// Whether a child of this process has ended.
fn has_ended(id: u32) -> bool {
    let waited = pid(id).map(|pid| waitpid(Some(pid), WaitOptions::NOHANG));
    // An error: another thread has waited for it.
    !matches!(waited, Some(Ok(None)))
}

/// Calls `act` with the number of each SIGINT and SIGTERM, on a thread of its own. Neither signal ends this process any
/// more.
///
/// # Errors
///
/// The operating system's error if a handler cannot be installed.
pub fn on_signals(mut act: impl FnMut(u8) + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut signals = {
        let _inside = runtime.enter();
        ShutdownSignal::listen()?
    };
    std::thread::spawn(move || {
        loop {
            act(runtime.block_on(signals.recv()));
        }
    });
    Ok(())
}

/// Ends this process after a signal of this number: calls [`end_all`], and prints what is left to standard error.
pub fn exit_by_signal(number: u8) -> ! {
    for command in end_all() {
        eprintln!("left behind; remove it with: {command}");
    }
    std::process::exit(128 + i32::from(number))
}
