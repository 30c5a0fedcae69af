//! Programs that print credentials: run with a request on stdin, within a time limit, with bounded output.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

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
    #[error("did not finish within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    #[error("printed more than {OUTPUT_MAX} bytes")]
    TooMuchOutput,
    #[error("cannot be read: {0}")]
    Io(io::Error),
}

/// Runs a program to its end. It is killed after `limit`, and if the future is dropped.
pub(super) async fn run(
    command: &mut Command,
    input: &[u8],
    limit: Duration,
) -> Result<Finished, ProcessError> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let finished = async {
        let mut child = start(command).await?;
        finish(&mut child, input).await
    };
    match tokio::time::timeout(limit, finished).await {
        Ok(finished) => finished,
        Err(_) => Err(ProcessError::TimedOut(limit)),
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
        run(Command::new("sh").args(["-c", script]), input, limit).await
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
        let ended = run(&mut Command::new("/nonexistent/program"), b"", LONG).await;
        assert!(matches!(ended, Err(ProcessError::Start(_))));
    }
}
