//! A part of the demo that runs in the background.

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest that a part may take to end once it was asked to; an agent takes 8 s at most.
const END_MAX: Duration = Duration::from_secs(10);

/// What went wrong with any part; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Troubles(Arc<watch::Sender<Option<String>>>);

impl Troubles {
    pub(super) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// The first trouble, once there is one.
    pub(super) async fn first(&self) -> String {
        let mut receiver = self.0.subscribe();
        match receiver.wait_for(Option::is_some).await {
            Ok(trouble) => trouble.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }
}

/// A part that runs in the background; it breaks off when it is dropped.
#[derive(Debug)]
pub(super) struct Part {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Part {
    /// Starts it. That it ends before it is asked to is a trouble.
    pub(super) fn start<F>(
        name: impl Display + Send + 'static,
        troubles: &Troubles,
        run: impl FnOnce(CancellationToken) -> F,
    ) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let stop = CancellationToken::new();
        let running = run(stop.clone());
        let (troubles, stopped) = (troubles.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let ended = running.await;
            if !stopped.is_cancelled() {
                let problem = ended.err();
                let problem = problem.unwrap_or_else(|| "nobody asked it to".to_owned());
                let trouble = Some(format!("{name} has ended: {problem}"));
                troubles.0.send_replace(trouble);
            }
        });
        Self { stop, task }
    }

    /// Asks it to end.
    pub(super) fn cancel(&self) {
        self.stop.cancel();
    }

    /// Asks it to end, and waits until it has.
    pub(super) async fn stop(mut self) {
        self.cancel();
        if tokio::time::timeout(END_MAX, &mut self.task).await.is_err() {
            self.task.abort();
            let _ = (&mut self.task).await;
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_ends_by_itself_is_a_trouble() {
        let troubles = Troubles::new();
        let quiet = Part::start("a quiet one", &troubles, |stop| async move {
            stop.cancelled().await;
            Ok(())
        });
        quiet.stop().await;
        let _broken = Part::start("the agent of node-1", &troubles, |_| async {
            Err("out of luck".to_owned())
        });
        let trouble = troubles.first().await;
        assert_eq!(trouble, "the agent of node-1 has ended: out of luck");
    }
}
