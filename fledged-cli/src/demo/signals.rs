//! What ends the demo from outside.

use std::io::{self, BufRead as _, IsTerminal as _};

use fledged_core::tokio::ShutdownSignal;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::DemoError;

/// SIGINT, SIGTERM, and SIGHUP: a terminal that is closed must not leave anything behind.
pub(super) struct Signals {
    shutdown: ShutdownSignal,
    hangup: Signal,
}

impl Signals {
    pub(super) fn catch() -> Result<Self, DemoError> {
        let hangup = signal(SignalKind::hangup());
        Ok(Self {
            shutdown: ShutdownSignal::listen().map_err(DemoError::Signals)?,
            hangup: hangup.map_err(DemoError::Signals)?,
        })
    }

    /// The number of the first that comes.
    pub(super) async fn requested(&mut self) -> u8 {
        let hangup = SignalKind::hangup().as_raw_value();
        tokio::select! {
            number = self.shutdown.recv() => number,
            _ = self.hangup.recv() => u8::try_from(hangup).unwrap_or_default(),
        }
    }
}

/// Resolves when somebody at the terminal presses Enter; never where standard input is none.
pub(super) async fn entered() {
    if !io::stdin().is_terminal() {
        return std::future::pending().await;
    }
    let (sender, receiver) = oneshot::channel();
    // A thread of its own: one of the async runtime's would have to be waited for at the end.
    std::thread::spawn(move || {
        let _ = io::stdin().lock().read_line(&mut String::new());
        let _ = sender.send(());
    });
    let _ = receiver.await;
}
