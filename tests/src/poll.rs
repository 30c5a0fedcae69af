//! Waiting for a condition with a deadline: what tests do instead of sleeping.

use std::time::{Duration, Instant};

/// Long enough for anything that works, on a loaded machine; a test only waits for it when it fails.
pub const SOON: Duration = Duration::from_secs(60);

/// Between two looks; short against everything that is waited for here.
const INTERVAL: Duration = Duration::from_millis(20);

/// Looks until there is something to see, and gives it back.
///
/// # Panics
///
/// When the deadline passes first; says what was waited for.
pub fn poll_until<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(
            start.elapsed() < deadline,
            "waited {deadline:?} in vain for {what}"
        );
        std::thread::sleep(INTERVAL);
    }
}
