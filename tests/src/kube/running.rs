//! Parts that run in the background of a test.

use std::future::Future;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A part that runs in the background; it is ended when it is dropped.
pub(super) struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), String>>,
}

impl Running {
    pub(super) fn start<F>(run: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(stop.clone()));
        Self { stop, task }
    }

    /// Asks it to end, and waits until it has.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        (&mut self.task).await.unwrap().unwrap();
    }

    /// Ends it as SIGKILL would: nothing more is written.
    pub(super) async fn kill(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}
