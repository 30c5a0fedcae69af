//! Programs that print credentials: run with a request on stdin, within a time limit, with bounded output.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, WeakShared};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// Time limit of a program: that of the kubelet for its plugins. Some helpers ask the user to unlock a store.
const LIMIT: Duration = Duration::from_secs(60);
/// Largest output of a program. Credentials take some kilobytes.
const OUTPUT_MAX: usize = 1 << 20;
/// Largest part of stderr that is kept.
const MESSAGE_MAX: usize = 8 << 10;
/// A program that is being replaced cannot be run until the new file is closed.
const BUSY_ATTEMPTS: usize = 10;
const BUSY_DELAY: Duration = Duration::from_millis(50);

/// How a program ended. `Debug` is left out: stdout holds credentials.
pub(super) struct Finished {
    pub(super) status: ExitStatus,
    pub(super) stdout: Vec<u8>,
    /// The start of stderr, as written.
    pub(super) stderr: String,
}

/// Why a program did not finish.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProcessError {
    #[error("cannot be run: {0}")]
    Start(io::Error),
    #[error("did not finish within {} s", (.0.as_secs_f64() * 10.0).round() / 10.0)]
    TimedOut(Duration),
    #[error("printed more than {OUTPUT_MAX} bytes")]
    TooMuchOutput,
    #[error("cannot be read: {0}")]
    Io(io::Error),
}

/// Runs in progress, each for all requests that wait for the same result.
pub(super) struct Runs<K, T>(Mutex<HashMap<K, Run<T>>>);

type Run<T> = WeakShared<BoxFuture<'static, Result<T, String>>>;

impl<K, T> Default for Runs<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, T: Clone + 'static> Runs<K, T> {
    /// The result of the run of a key, which is started unless it is in progress. A run ends with its last waiter.
    ///
    /// # Errors
    ///
    /// That of the run, or that it has not ended within `limit`.
    pub(super) async fn wait<F>(
        &self,
        key: K,
        limit: Option<Duration>,
        start: impl FnOnce() -> F,
    ) -> Result<T, String>
    where
        F: Future<Output = Result<T, String>> + Send + 'static,
    {
        let run = {
            let mut runs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            runs.retain(|_, run| run.upgrade().is_some());
            match runs.get(&key).and_then(WeakShared::upgrade) {
                Some(run) => run,
                None => {
                    let run = start().boxed().shared();
                    runs.extend(run.downgrade().map(|run| (key, run)));
                    run
                }
            }
        };
        within(limit.unwrap_or(LIMIT).min(LIMIT), run)
            .await
            .unwrap_or_else(|error| Err(error.to_string()))
    }
}

async fn within<T>(limit: Duration, run: impl Future<Output = T>) -> Result<T, ProcessError> {
    let ended = tokio::time::timeout(limit, run).await;
    ended.map_err(|_| ProcessError::TimedOut(limit))
}

/// Runs a program to its end. It and its children are killed after 60 s, and if the future is dropped.
pub(super) async fn run(command: &mut Command, input: &[u8]) -> Result<Finished, ProcessError> {
    run_within(LIMIT, command, input).await
}

async fn run_within(
    limit: Duration,
    command: &mut Command,
    input: &[u8],
) -> Result<Finished, ProcessError> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    #[cfg(unix)]
    command.process_group(0);
    let finished = async {
        let mut program = Program(start(command).await?);
        finish(&mut program.0, input).await
    };
    within(limit, finished).await?
}

/// A program in a process group of its own. The whole group is killed if it is dropped before the program's end.
struct Program(Child);

#[cfg(unix)]
impl Drop for Program {
    fn drop(&mut self) {
        // A program whose end was observed has no id. Until then, no other group has its number.
        let id = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(rustix::process::Pid::from_raw) {
            // It fails only if no process is left.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

async fn start(command: &mut Command) -> Result<Child, ProcessError> {
    let mut attempts = BUSY_ATTEMPTS;
    loop {
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && attempts > 1 => {
                attempts -= 1;
                tokio::time::sleep(BUSY_DELAY).await;
            }
            child => return child.map_err(ProcessError::Start),
        }
    }
}

async fn finish(child: &mut Child, input: &[u8]) -> Result<Finished, ProcessError> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A program that needs no request may end, or close its stdin, without reading it.
            match stdin.write_all(input).await {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        Ok(())
    };
    let output = async {
        let mut text = Vec::new();
        read_to(stdout, OUTPUT_MAX + 1, &mut text).await?;
        if text.len() > OUTPUT_MAX {
            return Err(ProcessError::TooMuchOutput);
        }
        Ok(text)
    };
    let message = async {
        let mut text = Vec::new();
        if let Some(mut stderr) = stderr {
            read_to(Some(&mut stderr), MESSAGE_MAX, &mut text).await?;
            // A program whose stderr is full would wait for ever.
            let rest = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
            rest.map_err(ProcessError::Io)?;
        }
        Ok(text)
    };
    let written = async { write.await.map_err(ProcessError::Io) };
    let ((), stdout, stderr) = tokio::try_join!(written, output, message)?;
    let status = child.wait().await.map_err(ProcessError::Io)?;
    Ok(Finished {
        status,
        stdout,
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

/// Reads at most `max` bytes.
async fn read_to(
    from: Option<impl AsyncRead + Unpin>,
    max: usize,
    into: &mut Vec<u8>,
) -> Result<(), ProcessError> {
    if let Some(from) = from {
        let read = from.take(max as u64).read_to_end(into).await;
        read.map_err(ProcessError::Io)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any program of these tests takes on a busy machine.
    const LONG: Duration = Duration::from_secs(60);

    async fn sh(script: &str, input: &[u8], limit: Duration) -> Result<Finished, ProcessError> {
        run_within(limit, Command::new("sh").args(["-c", script]), input).await
    }

    #[tokio::test]
    async fn input_output_and_status_are_passed_on() {
        let finished = sh("cat; echo problem >&2; exit 3", b"request", LONG)
            .await
            .unwrap();
        assert_eq!(finished.stdout, b"request");
        assert_eq!(finished.stderr, "problem\n");
        assert_eq!(finished.status.code(), Some(3));
    }

    #[tokio::test]
    async fn a_program_need_not_read_its_input() {
        let finished = sh("exec <&-; echo done", &vec![b'x'; 1 << 20], LONG)
            .await
            .unwrap();
        assert_eq!(finished.stdout, b"done\n");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed() {
        for script in ["exec sleep 600", "sleep 600 & exit 0"] {
            let ended = sh(script, b"", Duration::from_millis(300)).await;
            assert!(matches!(ended, Err(ProcessError::TimedOut(_))), "{script}");
        }
    }

    /// A script that hangs, and a pipe that it and its children keep open.
    struct Hanging {
        folder: tempfile::TempDir,
        pipe: tokio::net::unix::pipe::Receiver,
    }

    impl Hanging {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("pipe");
            let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU);
            rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
            let pipe = tokio::net::unix::pipe::OpenOptions::new().open_receiver(path);
            let pipe = pipe.unwrap();
            Self { folder, pipe }
        }

        fn script(&self, end: &str) -> String {
            let folder = self.folder.path().display();
            format!("exec 3>{folder}/pipe; : >{folder}/started; {end}")
        }

        async fn started(&self) {
            let started = async {
                while !self.folder.path().join("started").exists() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(LONG, started).await.unwrap();
        }

        /// Waits for the end of the last process.
        async fn ended(mut self) {
            let mut text = Vec::new();
            let read = tokio::time::timeout(LONG, self.pipe.read_to_end(&mut text)).await;
            assert_eq!(read.unwrap().unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn children_are_killed_too() {
        for end in ["exec sleep 600", "sleep 600 & exit 0", "sleep 600; true"] {
            let hanging = Hanging::new();
            let script = hanging.script(end);
            tokio::select! {
                ended = sh(&script, b"", LONG) => panic!("{:?}", ended.map(|_| script)),
                () = hanging.started() => {}
            }
            hanging.ended().await;
        }
    }

    #[tokio::test]
    async fn a_run_ends_with_its_last_waiter() {
        let hanging = Hanging::new();
        let runs = Runs::<(), ()>::default();
        let script = hanging.script("sleep 600; true");
        let run = || async move {
            let ended = sh(&script, b"", LONG).await;
            ended.map(|_| ()).map_err(|error| error.to_string())
        };
        let short = async {
            let shared = || -> std::future::Ready<_> { panic!("a second run") };
            let limit = Some(Duration::from_millis(200));
            let ended = runs.wait((), limit, shared).await;
            hanging.started().await;
            ended
        };
        tokio::select! {
            biased;
            ended = runs.wait((), None, run) => panic!("{ended:?}"),
            ended = short => assert_eq!(ended.unwrap_err(), "did not finish within 0.2 s"),
        }
        hanging.ended().await;
        let again = runs.wait((), None, || std::future::ready(Ok(())));
        assert_eq!(again.await, Ok(()));
    }

    #[tokio::test]
    async fn output_is_bounded() {
        let ended = sh("yes", b"", LONG).await;
        assert!(matches!(ended, Err(ProcessError::TooMuchOutput)));
        let script = "head -c 1048576 /dev/zero; head -c 2000000 /dev/zero >&2";
        let finished = sh(script, b"", LONG).await.unwrap();
        assert_eq!(finished.stdout.len(), OUTPUT_MAX);
        assert_eq!(finished.stderr.len(), MESSAGE_MAX);
    }

    #[tokio::test]
    async fn a_missing_program_is_an_error() {
        let ended = run(&mut Command::new("/nonexistent/program"), b"").await;
        assert!(matches!(ended, Err(ProcessError::Start(_))));
    }
}
