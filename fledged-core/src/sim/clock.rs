//! A virtual clock that advances to the next timer when all tasks wait.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::port::Clock;

/// The error for a simulated program that would hang forever: all tasks wait and no timer is set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("deadlock at {at}: everything waits and no timer is set")]
#[non_exhaustive]
pub struct Deadlock {
    /// Simulated time of the deadlock.
    pub at: Timestamp,
}

/// A virtual clock and the executor that advances it. Clones share the time.
#[derive(Debug, Clone)]
pub struct SimClock(Arc<Mutex<ClockState>>);

#[derive(Debug)]
struct ClockState {
    start: Timestamp,
    now: Timestamp,
    next_timer: u64,
    timers: BTreeMap<(Timestamp, u64), Waker>,
}

impl Default for SimClock {
    fn default() -> Self {
        Self::new()
    }
}

impl SimClock {
    /// A clock that starts at 2026-01-01T00:00:00Z.
    #[must_use]
    pub fn new() -> Self {
        // The value does not matter; this one is easy to read in a trace.
        let start = Timestamp::from_second(1_767_225_600).unwrap_or(Timestamp::UNIX_EPOCH);
        Self(Arc::new(Mutex::new(ClockState {
            start,
            now: start,
            next_timer: 0,
            timers: BTreeMap::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, ClockState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Simulated time since the clock was created.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        let state = self.state();
        Duration::try_from(state.now.duration_since(state.start)).unwrap_or_default()
    }

    /// Runs a future to its end. Whenever all tasks wait, time advances to the next timer.
    ///
    /// # Errors
    ///
    /// [`Deadlock`] when all tasks wait and no timer is set.
    pub fn block_on<F: Future>(&self, future: F) -> Result<F::Output, Deadlock> {
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&flag));
        let mut context = Context::from_waker(&waker);
        let mut future = pin!(future);
        loop {
            while flag.0.swap(false, Ordering::SeqCst) {
                if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
                    return Ok(output);
                }
            }
            self.jump()?;
        }
    }

    /// Advances to the next timer and wakes its task.
    fn jump(&self) -> Result<(), Deadlock> {
        let waker = {
            let mut state = self.state();
            let Some(((at, _), waker)) = state.timers.pop_first() else {
                return Err(Deadlock { at: state.now });
            };
            state.now = state.now.max(at);
            waker
        };
        waker.wake();
        Ok(())
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A timer; unregisters when dropped, so that time never advances to an abandoned timer.
struct Sleep {
    clock: SimClock,
    at: Timestamp,
    id: u64,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.clock.state();
        if state.now >= self.at {
            return Poll::Ready(());
        }
        state
            .timers
            .insert((self.at, self.id), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.clock.state().timers.remove(&(self.at, self.id));
    }
}

#[async_trait]
impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.state().now
    }

    async fn sleep(&self, duration: Duration) {
        let sleep = {
            let mut state = self.state();
            state.next_timer += 1;
            Sleep {
                clock: self.clone(),
                at: state.now.checked_add(duration).unwrap_or(Timestamp::MAX),
                id: state.next_timer,
            }
        };
        sleep.await;
    }
}
