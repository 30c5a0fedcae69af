//! Tasks of the demo that run in the background.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest time for a task to stop; an agent needs up to 8 s.
const STOP_MAX: Duration = Duration::from_secs(10);

/// The first unexpected end of a background task; clones share it.
#[derive(Debug, Clone)]
pub(super) struct TaskFailures(Arc<watch::Sender<Option<String>>>);

impl TaskFailures {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Waits for the first failure.
    pub(super) async fn first(&self) -> String {
        let mut receiver = self.0.subscribe();
        match receiver.wait_for(Option::is_some).await {
            Ok(failure) => failure.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }
}

/// A background task; aborted when dropped.
#[derive(Debug)]
pub(super) struct BackgroundTask {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl BackgroundTask {
    /// Starts a task. If it ends before it is cancelled, that is a failure.
    pub(super) fn start<F>(
        name: impl Display + Send + 'static,
        failures: &TaskFailures,
        run: impl FnOnce(CancellationToken) -> F,
    ) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let running = run(stop.clone());
        let (failures, stopped) = (failures.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let ended = running.await;
            if !stopped.is_cancelled() {
                let cause = ended
                    .err()
                    .unwrap_or_else(|| "no error was reported".to_owned());
                failures
                    .0
                    .send_replace(Some(format!("{name} ended unexpectedly: {cause}")));
            }
        });
        Self { stop, task }
    }

    /// Asks the task to stop.
    pub(super) fn cancel(&self) {
        self.stop.cancel();
    }

    /// Asks the task to stop, and waits until it has.
    pub(super) async fn stop(mut self) {
        self.cancel();
        if tokio::time::timeout(STOP_MAX, &mut self.task)
            .await
            .is_err()
        {
            self.task.abort();
            let _ = (&mut self.task).await;
        }
    }
}

impl Drop for BackgroundTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_unexpectedly_is_a_failure() {
        let failures = TaskFailures::new();
        let cancelled = BackgroundTask::start("a cancelled task", &failures, |stop| async move {
            stop.cancelled().await;
            Ok(())
        });
        cancelled.stop().await;
        let _failed = BackgroundTask::start("the agent of node-1", &failures, |_| async {
            Err("out of memory".to_owned())
        });
        assert_eq!(
            failures.first().await,
            "the agent of node-1 ended unexpectedly: out of memory"
        );
    }
}
