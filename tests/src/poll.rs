//! Polls a condition until a deadline, instead of a sleep.

use std::time::{Duration, Instant};

/// Default deadline, with a margin for a loaded machine. Only a failing test waits that long.
pub const SOON: Duration = Duration::from_secs(60);

/// Pause between two checks, short compared with the awaited operations.
const INTERVAL: Duration = Duration::from_millis(20);

/// Polls until `look` returns a value, and returns this value.
///
/// # Panics
///
/// When the deadline passes first; the message contains `what`.
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
