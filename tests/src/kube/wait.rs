//! Polls a condition in an async test.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::poll::SOON;

/// Pause between two checks.
const INTERVAL: Duration = Duration::from_millis(25);

/// Polls until `look` succeeds, and returns its value.
///
/// # Panics
///
/// After [`SOON`]; the message contains `what` and the last error.
pub async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let start = Instant::now();
    loop {
        let seen = match look().await {
            Ok(seen) => return seen,
            Err(seen) => seen,
        };
        assert!(
            start.elapsed() < SOON,
            "waited {SOON:?} in vain for {what}; last seen: {seen}"
        );
        tokio::time::sleep(INTERVAL).await;
    }
}
