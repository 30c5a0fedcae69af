//! Waiting inside an async test.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::poll::SOON;

/// Between two looks at an API server.
const INTERVAL: Duration = Duration::from_millis(25);

/// Looks until there is something to see, and gives it back.
///
/// # Panics
///
/// When [`SOON`] passes first; says what was waited for, and what was seen last.
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
