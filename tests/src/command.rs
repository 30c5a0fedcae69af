//! Runs the `fledged` binary and captures its output.

use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

/// Default deadline of a call, with a margin for a loaded machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// Finds the `fledged` binary of the same build: `FLEDGED_BIN`, or beside the running test or benchmark.
///
/// # Errors
///
/// A missing binary; the error names the command that builds it.
pub fn find_fledged() -> Result<PathBuf, String> {
    match std::env::var_os("FLEDGED_BIN") {
        Some(path) => Ok(path.into()),
        None => find_binary("fledged", "fledged-cli"),
    }
}

/// Finds a binary of the same build beside the running test or benchmark.
fn find_binary(name: &str, package: &str) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|e| format!("no path of this program: {e}"))?;
    // Tests are in TARGET/PROFILE/deps, binaries in TARGET/PROFILE.
    let folders = own.ancestors().skip(1).take(2);
    let found = folders
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    found.ok_or_else(|| {
        let flag = if cfg!(debug_assertions) {
            ""
        } else {
            " --release"
        };
        format!("the {name} binary is missing: run `cargo build{flag} -p {package}` first")
    })
}

/// Returns the `fledged` binary of the same build.
///
/// # Panics
///
/// When the binary is missing.
#[must_use]
pub fn fledged_binary() -> PathBuf {
    find_fledged().unwrap_or_else(|e| panic!("{e}"))
}

/// Finds the `fledged-operator` binary of the same build.
///
/// # Errors
///
/// A missing binary; the error names the command that builds it.
pub fn find_operator() -> Result<PathBuf, String> {
    find_binary("fledged-operator", "fledged-operator --features binary")
}

/// A builder for one call of `fledged` or `fledged-operator`.
///
/// The process gets an empty home folder and none of the caller's registry credentials, proxies and log
/// filter, so the machine's configuration does not influence a test.
#[derive(Debug)]
pub struct Fledged {
    program: Option<PathBuf>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
    deadline: Duration,
}

impl Default for Fledged {
    fn default() -> Self {
        Self::new()
    }
}

impl Fledged {
    /// Returns a call of `fledged` without arguments.
    #[must_use]
    pub fn new() -> Self {
        Self {
            program: None,
            args: Vec::new(),
            env: Vec::new(),
            folder: None,
            deadline: DEADLINE,
        }
    }

    /// Returns a call of `fledged-operator` without arguments.
    ///
    /// # Panics
    ///
    /// When the binary is missing.
    #[must_use]
    pub fn operator() -> Self {
        Self {
            program: Some(find_operator().unwrap_or_else(|e| panic!("{e}"))),
            ..Self::new()
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn current_dir(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Replaces the default deadline of two minutes. A process that exceeds it is killed, and the test fails.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs the process to its end.
    ///
    /// # Panics
    ///
    /// When the binary is missing, or the process exceeds the deadline.
    #[must_use]
    pub fn run(self) -> Output {
        let deadline = self.deadline;
        self.spawn().wait(deadline)
    }

    /// Starts the process and leaves it running.
    ///
    /// # Panics
    ///
    /// When the binary is missing.
    #[must_use]
    pub fn spawn(self) -> Running {
        let home = TempDir::with_prefix("home-").expect("a temporary folder");
        let mut command = Command::new(self.program.unwrap_or_else(fledged_binary));
        for name in [
            "DOCKER_CONFIG",
            "REGISTRY_AUTH_FILE",
            "RUST_LOG",
            "HTTP_PROXY",
            "http_proxy",
            "ALL_PROXY",
            "all_proxy",
        ] {
            command.env_remove(name);
        }
        command
            .env("HOME", home.path())
            // How fast a test is does not depend on what else the machine does.
            .env("FLEDGED_MAX_IO_PRESSURE", "100%")
            .env("FLEDGED_MAX_MEMORY_PRESSURE", "100%")
            .args(&self.args)
            .envs(self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start fledged: {e}"));
        Running {
            stdout: Captured::from(child.stdout.take().expect("a piped output")),
            stderr: Captured::from(child.stderr.take().expect("a piped output")),
            line: self
                .args
                .iter()
                .map(|arg| arg.to_string_lossy())
                .collect::<Vec<_>>()
                .join(" "),
            start: Instant::now(),
            child,
            _home: home,
        }
    }
}

/// A running process, killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Captured,
    stderr: Captured,
    line: String,
    start: Instant,
    _home: TempDir,
}

impl Running {
    /// Its standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Its standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Its process ID.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Sends SIGKILL and discards the output.
    pub fn kill(&mut self) {
        self.kill_group();
        let _ = self.child.wait();
    }

    /// Sends SIGKILL and waits for the end.
    #[must_use]
    pub fn kill9(mut self) -> Output {
        self.kill_group();
        self.wait(DEADLINE)
    }

    /// Waits for the end.
    ///
    /// # Panics
    ///
    /// When the process exceeds the deadline.
    #[must_use]
    pub fn wait(mut self, deadline: Duration) -> Output {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("waiting for fledged") {
                break status;
            }
            if start.elapsed() > deadline {
                self.kill_group();
                let output = self.output(None);
                panic!("still running after {deadline:?}: {output}");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        self.output(Some(status))
    }

    fn output(&mut self, status: Option<ExitStatus>) -> Output {
        let took = self.start.elapsed();
        Output {
            line: self.line.clone(),
            code: status.and_then(|status| status.code()),
            stdout: self.stdout.finish(),
            stderr: self.stderr.finish(),
            took,
        }
    }

    fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.child.id()).ok()?)
    }

    fn kill_group(&mut self) {
        if !self.has_ended() {
            if let Some(pid) = self.pid() {
                let _ = kill_process_group(pid, Signal::KILL);
            }
            let _ = self.child.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_group();
    }
}

/// The result of a call. `Display` shows exit code, stdout and stderr, for a test's message.
#[derive(Debug, Clone)]
pub struct Output {
    line: String,
    /// The exit code; `None` if a signal ended the process.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// Wall-clock time of the call.
    pub took: Duration,
}

impl Output {
    /// Parses standard output as JSON.
    ///
    /// # Panics
    ///
    /// When standard output is not JSON; the message shows it.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("not JSON ({e}): {self}"))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self
            .code
            .map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"));
        write!(
            f,
            "`fledged {}` ended with {code} after {:.1?}\n--- stdout\n{}\n--- stderr\n{}",
            self.line, self.took, self.stdout, self.stderr
        )
    }
}

/// A pipe that is read to its end on a thread, so that its writer never blocks.
#[derive(Debug)]
struct Captured {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Captured {
    fn from(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                sink.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend_from_slice(&buffer[..length]);
            }
        });
        Self {
            bytes,
            reader: Some(reader),
        }
    }

    fn text(&self) -> String {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn finish(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.text()
    }
}
