//! Polls a condition in an async test.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::poll::SOON;

/// Pause between two checks.
const INTERVAL: Duration = Duration::from_millis(25);

/// Longest wait for a state that keeps changing. Only a failing test waits that long.
const LONGEST: Duration = Duration::from_secs(300);

/// Polls until `look` succeeds, and returns its value. An error that changes is progress, so that much work takes as
/// long as the machine needs for it.
///
/// # Panics
///
/// If the error has not changed for [`SOON`], and after five minutes; the message contains `what` and the last error.
pub async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let start = Instant::now();
    let (mut last, mut changed) = (String::new(), start);
    loop {
        match look().await {
            Ok(seen) => return seen,
            Err(seen) if seen != last => (last, changed) = (seen, Instant::now()),
            Err(_) => {}
        }
        assert!(
            changed.elapsed() < SOON && start.elapsed() < LONGEST,
            "waited {:?} in vain for {what}; last seen: {last}",
            start.elapsed()
        );
        tokio::time::sleep(INTERVAL).await;
    }
}
