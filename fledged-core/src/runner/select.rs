//! Waits for the first of several operations, or for a delay.

use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::port::Clock;

/// The result of the first operation to end, or `None` if the pause ends before. Without a pause and
/// without operations, this waits forever.
pub(super) async fn first_of<T>(
    operations: &mut FuturesUnordered<BoxFuture<'static, T>>,
    clock: &dyn Clock,
    pause: Option<Duration>,
) -> Option<T> {
    let timer = async {
        match pause {
            Some(pause) => clock.sleep(pause).await,
            None => std::future::pending().await,
        }
    };
    let ended = async {
        if operations.is_empty() {
            return std::future::pending().await;
        }
        operations.next().await
    };
    futures_util::pin_mut!(timer, ended);
    futures_util::select_biased! {
        done = ended.fuse() => done,
        () = timer.fuse() => None,
    }
}
